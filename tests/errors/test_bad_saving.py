"""Classifiers that cannot be saved or uploaded, and stored settings that nobody wrote: each is one sentence."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, final

import pytest
import torch
from click.testing import CliRunner

from diffclass import DiffusionClassifier
from diffclass.cli import main
from diffclass.decide import FirstLook
from diffclass.decide.aggregate import Aggregate, Tally
from diffclass.decide.settings import stored_options
from diffclass.denoisers import GaussianDenoiser, PixelDenoiser, load
from diffclass.denoisers.parametrisation import Parametrisation
from diffclass.denoisers.scheduler import parametrisation_settings, read_parametrisation
from diffclass.errors import ConfigError, DiffclassError, InputError, ResultError, UnsupportedModel, WeightsMissing
from diffclass.evidence import Evidence, Objective, Race, Target, Weight
from fake_hub import serving
from tiny_mixture import save_mixture


@final
class MyWeight(Weight):
    def __call__(self, sigma: Any) -> Any:
        return sigma

    def __repr__(self) -> str:
        return "MyWeight()"


@final
@dataclass(frozen=True)
class MyRace(Race):
    abstains: ClassVar[bool] = False
    n_draws: int = 8
    block: int = 4

    def next_look(self, n_draws: int) -> int:
        return self.n_draws

    def survivors(self, evidence: Evidence) -> Any:
        return evidence.alive


@final
class MyTarget(Target):
    tau = 0.0

    def __call__(self, x: Any, sigma: Any, epsilon: Any) -> Any:
        return x, x


@final
class MyAggregate(Aggregate):
    def __call__(self, evidence: Evidence, survivors: Any) -> Tally:
        raise NotImplementedError


@final
class MyParametrisation(Parametrisation):
    def prepare(self, noisy: Any, sigma: Any) -> Any:
        return noisy, sigma

    def denoised(self, noisy: Any, sigma: Any, output: Any) -> Any:
        return output


def digits() -> DiffusionClassifier:
    return DiffusionClassifier.from_pretrained("digits", device="cpu", dtype="float32")


def gaussian() -> DiffusionClassifier:
    means = torch.stack([torch.full((1, 4, 4), 0.2), torch.full((1, 4, 4), 0.8)])
    return DiffusionClassifier(denoiser=GaussianDenoiser(means, 0.1, classes=["dark", "bright"]))


def with_network(**changes: Any) -> DiffusionClassifier:
    classifier = digits()
    assert isinstance(classifier.denoiser, PixelDenoiser)
    return replace(classifier, denoiser=replace(classifier.denoiser, **changes))


LOOK = FirstLook(name="clip", model=None, tokenizer=None, size=8, mean=(0.5,) * 3, std=(0.5,) * 3)
RACES = "PairedRace, Exhaustive, SuccessiveHalving, SiftAndRefine, ClarkJaini, VoteRace"
TARGETS = "Clean, NoisedExact, NoisedApproximate, NoisedConditional"
READER = "which no reader of the directory would know."
SAVED: dict[str, tuple[Callable[[], DiffusionClassifier], dict[str, Any], type[DiffclassError], str]] = {
    "weight": (
        lambda: replace(digits(), objective=Objective(weight=MyWeight())), {}, InputError,
        "An objective can be saved if its weight and proposal are diffclass's own, likelihood, edm, edm_official, "
        "ddpm, simple and log-uniform, log-normal or tables of them. Got MyWeight() and LogUniform(). Tabulate them "
        "(TabulatedWeight, TabulatedProposal).",
    ),
    "race": (
        lambda: replace(digits(), race=MyRace()), {}, InputError,
        f"A classifier can be saved if its race is one of {RACES}. Got MyRace, {READER}",
    ),
    "target": (
        lambda: replace(digits(), target=MyTarget()), {}, InputError,
        f"A classifier can be saved if its target is one of {TARGETS}. Got MyTarget, {READER}",
    ),
    "aggregate": (
        lambda: replace(digits(), aggregate=MyAggregate()), {}, InputError,
        f"A classifier can be saved if its aggregate is one of Mean, MajorityVote. Got MyAggregate, {READER}",
    ),
    "first look": (
        lambda: replace(digits(), first_look=LOOK), {}, InputError,
        "A classifier with a first look cannot be saved, because the look is a model of its own. Save it without "
        "(dataclasses.replace(classifier, first_look=None)) and give the first look when it is opened.",
    ),
    "denoiser": (
        gaussian, {}, UnsupportedModel,
        "A model can be saved if it is a mixture, a network on pixels or a text-to-image model. Got GaussianDenoiser. "
        "Keep what built it instead.",
    ),
    "network": (
        lambda: with_network(network=torch.nn.Linear(2, 2)), {}, UnsupportedModel,
        "A network can be saved if diffclass.load opens its kind, as a UNet2DModel of diffusers. Got Linear. Save its "
        "weights yourself, and keep what builds it.",
    ),
    "parametrisation": (
        lambda: with_network(parametrisation=MyParametrisation()), {}, UnsupportedModel,
        "A model can be saved if its parametrisation is one of edm, flow, epsilon, v, x0. Got MyParametrisation.",
    ),
    "reference": (
        digits, {"weights": False}, InputError,
        "A model can be saved without its weights if it is a text-to-image model opened by its name on the Hugging "
        "Face hub, with nothing local added. Got a PixelDenoiser of another origin: leave 'weights' out.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SAVED)
def test_what_cannot_be_saved_is_refused(case: str, tmp_path: Path) -> None:
    build, facts, error, sentence = SAVED[case]
    with pytest.raises(error) as caught:
        build().save_pretrained(tmp_path / "model", **facts)
    assert type(caught.value) is error
    assert str(caught.value) == sentence
    assert not list(tmp_path.iterdir())


def test_directories_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    for model in ("digits", "digits-mixture", "textdigits"):
        with pytest.raises(ResultError) as caught:
            DiffusionClassifier.from_pretrained(model, device="cpu").save_pretrained(tmp_path)
        assert str(caught.value) == (
            f"The model directory '{tmp_path}' must be new or hold only a model. It holds 'thesis.tex'."
        )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


STORED: dict[str, tuple[Mapping[str, Any], str]] = {
    "race": ({"race": {"kind": "Marathon"}}, f"The stored race must be one of {RACES}. Got 'Marathon'."),
    "race is a name": ({"race": "Sprint"}, f"The stored race must be one of {RACES}. Got 'Sprint'."),
    "keys of a race": (
        {"race": {"kind": "Exhaustive", "n_draws": 8, "speed": 3}},
        "A stored Exhaustive needs the keys block, n_draws. Got n_draws, speed.",
    ),
    "kind of a race": (
        {"race": {"kind": ["Exhaustive"]}},
        f"The stored race must be one of {RACES}. Got ['Exhaustive'].",
    ),
    "numbers of a race": (
        {"race": {"kind": "Exhaustive", "n_draws": 9, "block": 4}},
        "A stored Exhaustive cannot be read: The 'n_draws' parameter of Exhaustive must be a positive multiple of "
        "'block'. Got n_draws=9, block=4.",
    ),
    "stages of a race": (
        {"race": {"kind": "SuccessiveHalving", "stages": [1, 2]}},
        "A stored SuccessiveHalving cannot be read: one of its values is of another kind in {'stages': [1, 2]}.",
    ),
    "noise of a target": (
        {"target": {"kind": "NoisedExact"}},
        "A stored NoisedExact needs a 'tau', the noise in the input. Got None.",
    ),
    "target": ({"target": {"kind": "Moon", "tau": 1}}, f"The stored target must be one of {TARGETS}. Got 'Moon'."),
}


@pytest.mark.parametrize("case", STORED)
def test_stored_settings_that_nobody_wrote(case: str) -> None:
    stored, sentence = STORED[case]
    with pytest.raises(ConfigError) as caught:
        stored_options(stored, {}, same_model=True)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("sigmas", [[1.0], [2.0, 1.0], [0.0, 1.0], [1.0, float("inf")], ["a", "b"], 3])
def test_stored_schedules_must_be_tables(sigmas: Any) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        read_parametrisation({"kind": "epsilon", "schedule": {"sigmas": sigmas}})
    assert str(caught.value) == "The 'sigmas' of a schedule must be two or more positive numbers, ascending."
    good = {"kind": "epsilon", "schedule": {"sigmas": [0.5, 1.0]}}
    assert parametrisation_settings(read_parametrisation(good)) == good


def referring(directory: Path, **values: Any) -> Path:
    """A directory that takes its weights from elsewhere."""
    told = json.loads((save_mixture(directory) / "diffclass.json").read_text())
    for name in ("config.json", "model.safetensors"):
        (directory / name).unlink()
    (directory / "diffclass.json").write_text(json.dumps(told | values))
    return directory


@pytest.mark.parametrize("told", [{"model": "no-owner"}, {"model": 3}, "owner/name", {}])
def test_references_name_a_model_of_the_hub(told: Any, tmp_path: Path) -> None:
    model = referring(tmp_path / "model", weights_of=told)
    with pytest.raises(UnsupportedModel) as caught:
        load(model, device="cpu")
    assert str(caught.value) == (
        f"The 'weights_of' of '{model}/diffclass.json' must hold the 'model' as 'owner/name' on the Hugging Face hub. "
        f"Got {told!r}."
    )


def test_references_to_what_is_not_there(tmp_path: Path) -> None:
    model = referring(tmp_path / "model", weights_of={"model": "owner/gone", "revision": "abc"})
    with pytest.raises(WeightsMissing) as caught:
        load(model, device="cpu")
    assert str(caught.value) == (
        f"The model in '{model}' takes its weights from 'owner/gone', which is no text-to-image model on the Hugging "
        "Face hub, or cannot be reached. Check the connection, or download it first."
    )


def test_options_that_nobody_stored(pipelines: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for path in (pipelines / "sd1").iterdir():
        (model / path.name).symlink_to(path)
    (model / "diffclass.json").write_text(json.dumps({"opened_with": {"colour": "blue"}}))
    with pytest.raises(UnsupportedModel) as caught:
        load(model, device="cpu")
    assert str(caught.value) == f"The 'opened_with' of '{model}' has 'colour', which is unknown."


# The hub


def test_repositories_have_owners() -> None:
    with pytest.raises(InputError) as caught:
        gaussian().push_to_hub("digits")
    assert str(caught.value) == "A repository on the Hugging Face hub is named 'owner/name'. Got 'digits'."


def test_without_a_connection_nothing_is_uploaded() -> None:
    with pytest.raises(ResultError) as caught:
        digits().push_to_hub("owner/digits")
    said = str(caught.value)
    assert said.startswith("The model could not be uploaded to 'owner/digits': Cannot reach https://huggingface.co/")
    assert said.endswith(". Check the connection, and that the token (`hf auth login`) may write there.")
    assert "\n" not in said


def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with serving(monkeypatch, tmp_path / "cache") as hub:
        url = hub.url
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)  # where nobody listens any more
    with pytest.raises(ResultError) as caught:
        digits().push_to_hub("owner/digits")
    said = str(caught.value)
    assert said.startswith("The model could not be uploaded to 'owner/digits': ")
    assert said.endswith(". Check the connection, and that the token (`hf auth login`) may write there.")
    assert "\n" not in said


def test_the_command_uploads_and_says_why_it_cannot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = save_mixture(tmp_path / "tiny")
    with serving(monkeypatch, tmp_path / "cache") as hub:
        done = CliRunner().invoke(main, ["push", str(model), "owner/tiny", "--private", "--message", "first", "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["commit"].startswith(f"{hub.url}/owner/tiny/commit/")
        assert hub.private == {"owner/tiny": True}
        assert hub.commits == {"owner/tiny": ["first"]}
        assert hub.files["owner/tiny"]["model.safetensors"] == (model / "model.safetensors").read_bytes()
        tuned = tmp_path / "tuned"  # whose diffclass.json says less
        tuned.mkdir()
        (tuned / "diffclass.json").write_text('{"format": 1, "name": "tuned"}')
        assert CliRunner().invoke(main, ["push", str(tuned), "owner/tuned"]).exit_code == 0
        assert list(hub.files["owner/tuned"]) == ["diffclass.json"]
        assert hub.private["owner/tuned"] is False
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        refused = CliRunner().invoke(main, ["push", str(model), "owner/tiny"])
    assert refused.exit_code == 1
    assert "The model could not be uploaded to 'owner/tiny':" in refused.stderr
    assert "Traceback" not in refused.stderr
