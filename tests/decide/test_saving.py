"""A classifier that is saved, or uploaded and downloaded, is the same classifier."""

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from diffclass import DiffusionClassifier
from diffclass.decide import ClarkJaini, Exhaustive, MajorityVote, PairedRace, Prompts, SiftAndRefine, SuccessiveHalving
from diffclass.decide.saving import push_directory
from diffclass.decide.settings import settings_of, stored_options
from diffclass.decide.stopping import Anchors, Calibrated
from diffclass.decide.voting import VoteRace
from diffclass.denoisers import EDM, X0, DiscreteSchedule, Epsilon, Flow, PixelDenoiser, Space, V, read_card
from diffclass.denoisers.card import front_matter
from diffclass.denoisers.compiled import CompiledNetwork
from diffclass.evidence import NoisedApproximate, NoisedExact, Objective, Race, TabulatedProposal, TabulatedWeight
from diffclass.evidence.objective import (
    EDMOfficialWeight,
    EDMWeight,
    LogNormal,
    SimpleWeight,
    UniformTimeWeight,
)
from fake_hub import Hub, serving
from tiny_mixture import tiny_mixture
from tiny_networks import CLASSES, SIZE, tiny_dit, tiny_unet
from tiny_pipelines import loaded

RULE = Calibrated(
    threshold=2.5, tightening=0.1, looks=(4, 8), unit=2, log_scale=0.3, slope=1.0, prior_units=3.0, n_draws=32, block=4,
    delta=0.05, confidence=0.9, n=100, disagreements=1.5,
    anchors=Anchors(stand_ins=(0, 0, 2), weights=((1.0, 0.0), (0.5, 0.5), (0.0, 1.0)), offset=(0.0, 0.1, 0.2),
                    threshold=1.0),
)  # fmt: skip
RACES: list[Race] = [
    PairedRace(n_draws=32, block=8),
    PairedRace(n_draws=32, block=4, delta=0.05, contract="population", growth=1.5, first_look=12),
    PairedRace(n_draws=32, block=4, bound="finite", value_range=3.0),
    PairedRace.calibrated(RULE),
    Exhaustive(n_draws=16, block=4),
    SuccessiveHalving(stages=((4, 2), (16, 1))),
    SiftAndRefine(threshold=0.5, keep=2),
    ClarkJaini(n_draws=40),
    VoteRace(n_draws=16, block=4, bound="finite"),
]
OBJECTIVES = [
    Objective(),
    Objective(weight=EDMWeight(0.5, -1.0, 1.1), proposal=LogNormal(-0.3, 0.9), sigma_range=(0.2, 8.0), antithetic=True),
    Objective(weight=EDMWeight(0.7)),
    Objective(weight=EDMOfficialWeight(0.4), distance="huber"),
    Objective(weight=UniformTimeWeight()),
    Objective(weight=SimpleWeight(), distance="l1"),
    Objective(
        weight=TabulatedWeight((-1.0, 0.1, 1.0), (0.1, 0.2, 1 / 3)), proposal=TabulatedProposal((-1.0, 2.0), (0.0, 0.3))
    ),
]
SCHEDULE = DiscreteSchedule(torch.linspace(-3, 3, 50, dtype=torch.float64).exp())


def network(**options: Any) -> PixelDenoiser:
    given: dict[str, Any] = {
        "network": tiny_unet(), "parametrisation": EDM(), "space": Space(channels=1, height=SIZE, width=SIZE),
        "sigma_range": (0.02, 20.0), "classes": CLASSES, "null_class": 3,
    }  # fmt: skip
    return PixelDenoiser(**(given | options))


def opened(path: str | Path, **options: Any) -> DiffusionClassifier:
    return DiffusionClassifier.from_pretrained(path, **({"device": "cpu", "dtype": "float32"} | options))


def assert_same(one: DiffusionClassifier, other: DiffusionClassifier) -> None:
    """Compare every setting, and what both networks answer bit for bit."""
    for name in [field.name for field in fields(one) if field.name != "denoiser"]:
        left, right = getattr(one, name), getattr(other, name)
        assert (list(left) == list(right)) if name == "prior" and left is not None else (left == right), name
    assert one.denoiser.space == other.denoiser.space
    assert one.denoiser.sigma_range == other.denoiser.sigma_range
    image = torch.rand(1, *one.denoiser.space.image_shape, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.7])
    with torch.inference_mode():
        answers = [c.denoiser(c.denoiser.encode(image), sigma, c.conditions()[torch.tensor([1])]) for c in (one, other)]
    assert torch.equal(*answers)


@pytest.mark.parametrize("race", RACES, ids=repr)
@pytest.mark.parametrize("objective", OBJECTIVES[:2], ids=["default", "edm"])
def test_settings_are_read_as_they_were_written(objective: Objective, race: Race) -> None:
    told = json.loads(json.dumps(settings_of(objective=objective, race=race, temperature=1.7, sigma_data=0.5)))
    assert Objective.from_settings(told, sigma_data=0.5) == objective
    found = stored_options(told, {}, same_model=True)
    assert found.get("race", PairedRace(n_draws=told["n_draws"], block=told["block"])) == race
    assert found["temperature"] == 1.7


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: type(objective.weight).__name__)
def test_objectives_are_read_as_they_were_written(objective: Objective) -> None:
    told = settings_of(objective=objective, race=RACES[0], temperature=None, sigma_data=0.5)
    assert Objective.from_settings(json.loads(json.dumps(told)), sigma_data=0.5) == objective


def test_stored_choices_give_way_to_those_that_are_made() -> None:
    told = settings_of(objective=Objective(), race=RACES[3], temperature=2.0, sigma_data=0.5)
    told |= {"prior": [1.0, 2.0], "seed": 3, "aggregate": "vote", "target": {"kind": "NoisedExact", "tau": 0.5}}
    whole = stored_options(told, {}, same_model=True)
    assert whole == {
        "prior": (1.0, 2.0), "seed": 3, "aggregate": MajorityVote(), "target": NoisedExact(0.5), "race": RACES[3],
        "temperature": 2.0,
    }  # fmt: skip
    assert not {"race", "temperature"} & stored_options(told, {}, same_model=False).keys()
    assert not {"prior", "race", "temperature"} & stored_options(told, {"classes": ("a", "b")}, same_model=True).keys()
    other = stored_options(told, {"race": Exhaustive(n_draws=64)}, same_model=True)
    assert not {"race", "temperature"} & other.keys()
    assert "race" not in stored_options(told, {"prior": [1.0, 1.0]}, same_model=True)


@pytest.mark.parametrize("model", ["digits", "digits-mixture", "textdigits"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bundled_models_are_saved_as_they_are(model: str, dtype: str, tmp_path: Path) -> None:
    before = opened(model, dtype=dtype)
    path = before.save_pretrained(tmp_path / "mine")
    assert_same(before, opened(path, dtype=dtype))
    bundled = Path(before.denoiser.metadata["name"])  # pyright: ignore[reportAttributeAccessIssue]
    told = json.loads((path / "diffclass.json").read_text())
    assert told["name"] == "mine"
    assert told["figures"], f"{bundled} was measured as it is"
    assert "## Measured" in (path / "README.md").read_text()


def test_figures_are_left_behind_by_another_classifier(tmp_path: Path) -> None:
    other = replace(opened("digits"), race=Exhaustive(n_draws=16))
    path = other.save_pretrained(tmp_path / "mine")
    assert "figures" not in json.loads((path / "diffclass.json").read_text())
    assert "## Measured" not in (path / "README.md").read_text()
    assert_same(other, opened(path))
    mixture: Any = opened(
        replace(opened("digits-mixture"), temperature=3.0).save_pretrained(tmp_path / "other")
    ).denoiser
    assert not mixture.metadata["figures"]


@pytest.mark.parametrize(
    "parametrisation",
    [EDM(0.4, 250.0, -1.0), Flow(1.0), Epsilon(SCHEDULE), V(SCHEDULE), X0(SCHEDULE)],
    ids=lambda value: type(value).__name__,
)
def test_networks_keep_everything(parametrisation: Any, tmp_path: Path) -> None:
    span = (0.06, 15.0)
    denoiser = network(parametrisation=parametrisation, sigma_range=span, clip=True)
    classifier = DiffusionClassifier(
        denoiser=denoiser, classes=("cat", "ant"), race=RACES[4], aggregate=MajorityVote(),
        target=NoisedApproximate(0.3), prior=[1.0, 3.0], temperature=1.5, seed=7, batch_size=12,
        objective=OBJECTIVES[1],
    )  # fmt: skip
    path = classifier.save_pretrained(tmp_path / "mine")
    found = opened(path)
    assert_same(classifier, found)
    assert isinstance(found.denoiser, PixelDenoiser)
    assert found.denoiser.clip
    assert found.denoiser.classes == CLASSES
    images = torch.rand(3, 1, SIZE, SIZE)
    assert [d.label for d in classifier.classify(images)] == [d.label for d in found.classify(images)]
    assert found.save_pretrained(path) == path  # in the place of itself
    assert_same(classifier, opened(path))


def test_compiled_and_other_networks_are_saved_under_their_own_names(tmp_path: Path) -> None:
    compiled = network(network=CompiledNetwork(tiny_unet(), 4, backend="eager"))
    classifier = DiffusionClassifier(denoiser=compiled)
    assert_same(classifier, opened(classifier.save_pretrained(tmp_path / "a")))
    dit = DiffusionClassifier(denoiser=network(network=tiny_dit()))
    assert_same(dit, opened(dit.save_pretrained(tmp_path / "b")))


def test_a_fitted_mixture_is_not_rounded(tmp_path: Path) -> None:
    classifier = DiffusionClassifier(denoiser=tiny_mixture(), temperature=2.0)
    assert_same(classifier, opened(classifier.save_pretrained(tmp_path / "mine")))


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3", "dit", "flux-dev"])
def test_pipelines_that_are_here_are_saved_with_their_parts(name: str, pipelines: Path, tmp_path: Path) -> None:
    denoiser = loaded(pipelines / name)
    told: dict[str, Any] = {} if name == "dit" else {"prompts": Prompts.from_templates(("cat", "dog"), ("a {}", "{}"))}
    classifier = DiffusionClassifier.from_pretrained(denoiser, temperature=2.0, race=RACES[3], **told)
    path = classifier.save_pretrained(tmp_path / name)
    found = DiffusionClassifier.from_pretrained(loaded(path))
    assert_same(classifier, found)
    other = DiffusionClassifier.from_pretrained(loaded(path, size=2 * denoiser.space.height))
    assert other.denoiser.space.height == 2 * denoiser.space.height
    with pytest.raises(Exception, match="without its weights"):
        classifier.save_pretrained(tmp_path / "other", weights=False)


# The hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving(monkeypatch, tmp_path / "cache") as hub:
        yield hub


def test_what_is_pushed_is_what_is_pulled(hub: Hub) -> None:
    before = replace(opened("digits"), race=PairedRace(n_draws=64, block=4, delta=0.05), seed=3)
    address = before.push_to_hub("owner/digits", private=True, licence="cc-by-4.0", datasets=["owner/data"])
    assert address.startswith(f"{hub.url}/owner/digits/commit/")
    assert hub.private == {"owner/digits": True}
    assert hub.commits["owner/digits"] == ["A classifier of diffclass"]
    assert_same(before, opened("owner/digits"))
    header = ModelCard(hub.files["owner/digits"]["README.md"].decode()).data.to_dict()
    assert header == {
        "library_name": "diffclass", "pipeline_tag": "image-classification", "license": "cc-by-4.0",
        "tags": ["diffclass", "image-classification", "diffusion"], "datasets": ["owner/data"],
    }  # fmt: skip
    assert "from_pretrained('owner/digits')" in hub.files["owner/digits"]["README.md"].decode()


def test_a_push_replaces_what_was_there(hub: Hub) -> None:
    opened("digits").push_to_hub("owner/model")
    hub.files["owner/model"]["notes.txt"] = b"mine"
    text = opened("textdigits")
    text.push_to_hub("owner/model", commit_message="A model that reads text")
    assert hub.commits["owner/model"][1] == "A model that reads text"
    assert "diffusion_pytorch_model.safetensors" not in hub.files["owner/model"]
    assert "notes.txt" in hub.files["owner/model"]
    assert_same(text, opened("owner/model"))


def test_directories_are_pushed_as_they_are(hub: Hub, tmp_path: Path) -> None:
    path = opened("digits-mixture").save_pretrained(tmp_path / "mine")
    push_directory(path, "owner/mixture")
    assert sorted(hub.files["owner/mixture"]) == ["README.md", "config.json", "diffclass.json", "model.safetensors"]
    assert_same(opened(path), opened("owner/mixture"))


def pushed_pipeline(hub: Hub, pipelines: Path, name: str) -> DiffusionClassifier:
    """Put a pipeline on the hub as others do, and open it there."""
    hub.put("owner/sd", pipelines / name)
    prompts = Prompts.from_templates(("cat", "dog"), ("a {}", "the {}"))
    return opened("owner/sd", prompts=prompts, race=RACES[3], temperature=1.5)


def test_models_of_the_hub_are_saved_as_references(hub: Hub, pipelines: Path, tmp_path: Path) -> None:
    classifier = pushed_pipeline(hub, pipelines, "sd1")
    path = classifier.save_pretrained(tmp_path / "mine", licence="MIT")
    assert sorted(file.name for file in path.iterdir()) == ["README.md", "diffclass.json"]
    told = json.loads((path / "diffclass.json").read_text())
    assert told["weights_of"] == {"model": "owner/sd", "revision": hub.sha("owner/sd")}
    assert front_matter(told)[3:] == ["tags: [diffclass, image-classification, diffusion]", "license: mit",
                                      'base_model: "owner/sd"', "---"]  # fmt: skip
    assert_same(classifier, opened(path))
    card = read_card(path)
    assert (card.kind, card.classes, card.size_bytes) == ("network", ("cat", "dog"), 0)
    again = opened(path).save_pretrained(tmp_path / "again")
    assert json.loads((again / "diffclass.json").read_text())["weights_of"] == told["weights_of"]
    classifier.push_to_hub("owner/cats", licence="MIT")
    assert_same(classifier, opened("owner/cats"))
    assert opened("owner/cats", size=32).temperature is None  # calibrated for another size


def test_references_keep_to_the_commit_that_they_were_made_with(
    hub: Hub, pipelines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = pushed_pipeline(hub, pipelines, "sd1")
    path = classifier.save_pretrained(tmp_path / "mine")
    hub.put("owner/sd", pipelines / "sd2-v")  # its owner changes the model
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "another machine's"))
    assert_same(classifier, opened(path))
    changed = opened("owner/sd", prompts=classifier.prompts)
    assert type(changed.denoiser.parametrisation) is V  # pyright: ignore[reportAttributeAccessIssue]


def test_models_of_the_hub_can_be_saved_with_their_parts(hub: Hub, pipelines: Path) -> None:
    classifier = pushed_pipeline(hub, pipelines, "sd1")
    classifier.push_to_hub("owner/whole", weights=True)
    assert "unet/diffusion_pytorch_model.safetensors" in hub.files["owner/whole"]
    assert_same(classifier, opened("owner/whole"))
