"""Published experiments: what the table says, the objectives made of it, and which images are measured."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import published_sets
import tiny_pipelines
from diffclass.bench.experiments import Certified, ZeroShot, experiments, find_experiment
from diffclass.bench.preparing import even_in_sigma, weight_over_time
from diffclass.bench.published_data import open_published, select, spoken
from diffclass.data.datasets import open_dataset
from diffclass.decide.prompts import Prompts
from diffclass.denoisers.analytic import GaussianDenoiser
from diffclass.evidence import EDMOfficialWeight

# Li et al. 2023, appendix: total evaluations an image, as the paper counts them (Pets: 37 x 25 + 5 x 225)
PAPER = {"pets": 2050, "flowers": 5140, "food": 5120, "aircraft": 5100, "stl10": 3000, "cifar10": 2750,
         "imagenet": 100_000, "objectnet": 13_400}  # fmt: skip


@pytest.mark.parametrize("name", PAPER)
def test_the_cost_is_the_papers(name: str) -> None:
    one = find_experiment(f"zeroshot-{name}")
    assert isinstance(one.settings, ZeroShot)
    assert one.settings.evaluations(one.data.classes) == PAPER[name]
    assert one.evaluations == one.images * PAPER[name]


@pytest.mark.parametrize("name", experiments())
def test_every_row_can_be_run(name: str) -> None:
    one = find_experiment(name)
    assert 2 <= one.images <= one.data.images
    assert one.figures
    for figure in one.figures:
        estimate = figure.estimate(one.images)
        assert estimate.low < figure.value < estimate.high
        assert (figure.radius is None) == isinstance(one.settings, ZeroShot)
    if isinstance(one.settings, ZeroShot):
        assert one.settings.template.count("{}") == 1
        assert one.model.id is not None
    else:
        assert {figure.sigma for figure in one.figures} <= set(one.settings.sigmas)
        assert one.model.make is not None


def test_the_documentation_has_every_figure(repository: Path) -> None:
    rows = (repository / "docs" / "reproduce.md").read_text(encoding="utf-8").splitlines()
    for name, one in experiments().items():
        (row,) = [row for row in rows if row.startswith(f"| `{name}` |")]
        cells = [cell.strip() for cell in row.split("|")]
        marks = [f"{f.value:.1%}{'?' if f.read == 'recalled' else ''}" for f in one.figures if f.radius != 0]
        assert [cell for cell in cells if "%" in cell] == marks
        assert f"{one.images:,}" in cells
        if isinstance(one.settings, ZeroShot) and one.settings.stages is not None:
            assert {one.settings.template, one.settings.distance} <= set(cells)
            assert f"{one.settings.evaluations(one.data.classes):,}" in cells


def test_certificates_cost_what_their_races_do() -> None:
    one = find_experiment("certified-cifar10")
    assert one.settings.evaluations(10) == 10_100 * (10 * 1000 + 1)


# published networks, as their configurations say
NETWORKS: dict[str, dict[str, Any]] = {
    "sd14": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd20": {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_weights_of_stable_diffusion_are_counted(name: str) -> None:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        network = UNet2DConditionModel(
            sample_size=64, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, **NETWORKS[name]
        )
    found = {one.model.weights for one in experiments().values() if (one.model.id or "").endswith(("2-base", "v1-4"))}
    assert sum(p.numel() for p in network.parameters()) in found


def test_the_weights_of_edm_are_counted() -> None:
    from diffclass.denoisers.adm_unet import ADMUNet
    from diffclass.denoisers.song_unet import SongUNet

    shared: dict[str, Any] = {"in_channels": 3, "out_channels": 3}
    with torch.device("meta"):
        small = SongUNet(sample_size=32, num_classes=10, base_channels=128, channel_mult=[2, 2, 2], blocks_per_level=4,
                         attention_sizes=[16], **shared)  # fmt: skip
        large = ADMUNet(sample_size=64, num_classes=1000, base_channels=192, channel_mult=[1, 2, 3, 4],
                        blocks_per_level=3, attention_sizes=[32, 16, 8], **shared)  # fmt: skip
    counts = [sum(p.numel() for p in network.parameters()) for network in (small, large)]
    assert counts == [find_experiment(f"certified-{name}").model.weights for name in ("cifar10", "imagenet64")]


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny Stable Diffusion, whose schedule is the real one's."""
    return tiny_pipelines.loaded(tiny_pipelines.save("sd1", tmp_path_factory.mktemp("experiments")))


@pytest.mark.parametrize("settings", [
    ZeroShot(template="{}", distance="l2"), ZeroShot(template="{}", distance="l1"),
    ZeroShot(template="{}", space="x", decay=7.0),
])  # fmt: skip
def test_errors_are_averaged_over_the_times_of_the_schedule(settings: ZeroShot, diffusion: Any) -> None:
    """Against the plain mean over all times of the error that the paper takes."""
    objective = weight_over_time(diffusion, settings)
    low, high = diffusion.sigma_range

    def error_of_x(sigma: Any) -> Any:
        return sigma**1.5 / (1 + sigma)  # any smooth function

    grid = np.exp(np.linspace(np.log(low), np.log(high), 20_001))
    integral = np.trapezoid(objective.weight(grid) * error_of_x(grid), np.log(grid))
    sigmas = diffusion.parametrisation.schedule.sigmas.numpy()
    if settings.space == "x":
        terms = np.exp(-settings.decay * np.linspace(0, 1, len(sigmas))) * error_of_x(sigmas)
    else:
        terms = error_of_x(sigmas) / sigmas ** {"l2": 2, "l1": 1}[settings.distance]
    assert integral == pytest.approx(terms.mean(), rel=0.01)
    density = np.trapezoid(objective.proposal.density(grid, low, high), np.log(grid))
    assert density == pytest.approx(1, rel=1e-3)


def test_noise_levels_of_certificates_are_even_in_sigma() -> None:
    denoiser = GaussianDenoiser(torch.zeros(2, 3, 4, 4), 0.5, classes=["a", "b"], sigma_range=(0.002, 80.0))
    settings = find_experiment("certified-cifar10").settings
    assert isinstance(settings, Certified)
    objective = even_in_sigma(denoiser, settings, "edm_official")
    assert objective.sigma_range == (0.002, 3.0)
    assert objective.weight == EDMOfficialWeight(denoiser.space.data_std)
    quantile = np.linspace(0, 1, 11)
    for low in (0.002, 0.5, 1.0, 2.0):
        assert np.allclose(objective.proposal.sigma(quantile, low, 3.0), low + quantile * (3 - low))


def test_images_are_selected_as_asked(tmp_path: Path) -> None:
    data = open_dataset(published_sets.cifar(tmp_path, n=9), split="test")
    assert select(data, 4, "first").ids == data.ids[:4]
    assert select(data, 4, "every").ids == tuple(data.ids[i] for i in (0, 2, 4, 6))
    picked = select(data, 3, "stratified", seed=1)
    assert sorted(picked.labels.tolist()) == [0, 1, 2]
    assert select(data, None, "first") is data
    assert select(data, 9, "every") is data


def test_a_published_layout_alone_does_not_make_data_comparable(tmp_path: Path) -> None:
    """The tiny copies have too few images, or other bytes: each difference is said."""
    pets = find_experiment("zeroshot-pets")
    small = open_published(pets, published_sets.pets(tmp_path / "pets"))
    assert small.differences == (
        "data: 3 images, where the published set has 3,669", "data: 2 classes, where the published set has 37"
    )  # fmt: skip
    as_large = replace(pets, data=replace(pets.data, images=3, classes=2))
    assert open_published(as_large, tmp_path / "pets").differences == ()
    cifar = find_experiment("zeroshot-cifar10")
    other = open_published(cifar, published_sets.cifar(tmp_path / "cifar")).differences
    assert other[0] == "data: the test images are not those of CIFAR-10 (the MD5 of their file differs)"


def test_folders_of_pictures_are_another_set(tmp_path: Path) -> None:
    for name in ("Abyssinian", "Bengal"):
        published_sets.picture(tmp_path / "mine" / name / "a.png")
    pets = find_experiment("zeroshot-pets")
    told = open_published(replace(pets, data=replace(pets.data, images=2, classes=2)), tmp_path / "mine").differences
    assert told == (
        "data: Oxford-IIIT Pets is wanted as its authors publish it (annotations/ and images/); 'mine' is another set, "
        "or a copy whose pictures nobody has compared",
    )


def test_cifar10_of_jpegs_is_not_cifar10(data_root: Path) -> None:
    told = open_published(find_experiment("zeroshot-cifar10"), data_root / "cifar10-jpeg").differences
    assert len(told) == 1
    assert "'cifar10-jpeg' is another set, or a copy whose pictures nobody has compared" in told[0]


def test_classes_of_imagenet_are_named_by_a_list_or_by_prompts(tmp_path: Path) -> None:
    one = find_experiment("zeroshot-imagenet")
    opened = open_published(one, published_sets.imagenet_kaggle(tmp_path))
    data, prompts = spoken(opened, "a photo of a {}.", None)
    assert prompts.texts[0][:2] == ("a photo of a tench.", "a photo of a crane bird.")
    assert [data.classes[label] for label in data.labels] == ["construction crane", "crane bird", "tench"]
    listed = Prompts.from_templates(("tench", "crane", "derrick"))
    assert spoken(opened, "{}", listed)[0].classes == ("tench", "crane", "derrick")


def test_prompt_files_may_spell_and_order_classes_in_their_way(tmp_path: Path) -> None:
    opened = open_published(find_experiment("zeroshot-pets"), published_sets.pets(tmp_path))
    data, prompts = spoken(opened, "{}", Prompts.from_templates(("cat", "american_bulldog", "abyssinian")))
    assert data.classes == ("abyssinian", "american_bulldog")
    assert prompts.classes == ("cat", "american_bulldog", "abyssinian")
    assert data.labels.tolist() == opened.dataset.labels.tolist()
