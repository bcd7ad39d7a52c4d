"""Fitting mixtures: known densities are found again, digits are told apart, and what cannot be fitted is refused."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import diffclass
from diffclass.data.datasets import open_dataset
from diffclass.denoisers import fit_mixture, load
from diffclass.denoisers.fit import _maximise
from diffclass.denoisers.mixture import MixtureDenoiser
from diffclass.errors import ConditionError, DiffclassError, RangeError

MODELS = Path(diffclass.__file__).parent / "models"
SHAPE = (1, 4, 4)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def truth(floor: float = 0.03) -> MixtureDenoiser:
    """Two classes of two components each, well inside [0, 1]."""
    return MixtureDenoiser(
        0.3 + 0.4 * rand(4, *SHAPE),
        0.06 * (rand(4, 1, *SHAPE, seed=1) - 0.5),
        floors=torch.full((4,), floor**2),
        sizes=[2, 2],
        weights=torch.tensor([0.7, 0.3, 0.5, 0.5]),
        classes=["a", "b"],
        data_std=0.1,
    )


def sample(model: MixtureDenoiser, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw n images of each class from a mixture."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(model.classes)).repeat_interleave(n)
    weights = torch.stack(model.log_weights.exp().split(model.sizes))
    component = torch.multinomial(weights[labels], 1, generator=random)[:, 0] + 2 * labels
    along = torch.randn(len(labels), model.loadings.shape[1], generator=random)
    images = model.means[component] + torch.einsum("nr,nrxyz->nxyz", along, model.loadings[component])
    floors = model.floors[component].sqrt().float()[:, None, None, None]
    return images + floors * torch.randn(images.shape, generator=random), labels


def digits(split: str, n: int | None = None) -> tuple[Tensor, Tensor]:
    return open_dataset("digits", split=split).array((1, 8, 8), None if n is None else range(n))


def constant(classes: int = 2, n: int = 12) -> tuple[Tensor, Tensor]:
    labels = torch.arange(classes).repeat_interleave(n)
    return (labels / classes)[:, None, None, None].expand(-1, *SHAPE).contiguous(), labels


def test_known_mixture_is_found_again() -> None:
    model, names = truth(), ["a", "b"]
    images, labels = sample(model, 1500, seed=2)
    fresh, kinds = sample(model, 1500, seed=3)
    fitted = fit_mixture(images, labels, classes=names, n_components=2, rank=1)
    single = fit_mixture(images, labels, classes=names, n_components=1, rank=1)
    true, found, one = (
        float(m.log_likelihood(fresh).gather(1, kinds[:, None]).mean()) for m in (model, fitted, single)
    )
    # What 66 fitted numbers a class cost on average is 66 / (2 * 1500) = 0.02 nats, and a floor off by half a step of
    # its grid (a factor 2^(1/4) either way) 15 * 0.03 = 0.45; one component lacks several nats.
    assert true - 0.5 < found < true + 0.1
    assert one < found - 2
    assert fitted.metadata["fit"]["floor"] in (0.0283, 0.04)
    shares = fitted.log_weights.exp().split(fitted.sizes)[0]
    assert float(shares.max()) == pytest.approx(0.7, abs=0.06)  # 5 standard errors of a share of 1,500


def test_one_component_is_principal_component_analysis() -> None:
    images, labels = sample(truth(), 300, seed=2)
    model = fit_mixture(images, labels, classes=["a", "b"], n_components=1, rank=3, floor=0.03)
    x = images[labels == 0].flatten(1).double()
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    covariance = model.loadings[0].flatten(1).double().T @ model.loadings[0].flatten(1).double()
    covariance += model.floors[0] * torch.eye(16, dtype=torch.float64)
    expected = torch.where(torch.arange(16) >= 13, values, 0.03**2)  # the three largest eigenvalues, and the floor
    torch.testing.assert_close(covariance, vectors @ torch.diag(expected) @ vectors.T, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.means[0].flatten().double(), x.mean(0), rtol=0, atol=1e-6)
    # what the basis leaves out is the floor of the expectation step
    parts = _maximise(x.float(), torch.ones(300, 1), 3, 0)
    assert parts.residual == pytest.approx(float(values[:13].mean()), rel=1e-4)


def test_floor_given_is_kept_and_found_to_be_best() -> None:
    images, labels = sample(truth(), 400, seed=2)
    fresh, kinds = sample(truth(), 400, seed=3)
    score = {}
    for floor in (0.01, 0.03, 0.1):
        fitted = fit_mixture(images, labels, classes=["a", "b"], n_components=2, rank=1, floor=floor)
        assert float(fitted.floors.sqrt().max()) == pytest.approx(floor)
        assert "were not chosen" in fitted.metadata["fit"]["choice"]
        score[floor] = float(fitted.log_likelihood(fresh).gather(1, kinds[:, None]).mean())
    assert max(score, key=lambda floor: score[floor]) == 0.03


def test_digits_are_told_apart() -> None:
    images, labels = digits("train")
    model = fit_mixture(images, labels, classes=[str(i) for i in range(10)])
    fresh, truth = digits("test")
    accuracy = (model.log_likelihood(fresh).argmax(1) == truth).float().mean()
    assert accuracy >= 0.98  # 0.992 (n=500) when this was written
    noised = fresh + 0.25 * torch.randn(fresh.shape, generator=torch.Generator().manual_seed(0))
    assert (model.log_likelihood(noised, tau=0.25).argmax(1) == truth).float().mean() >= 0.95  # 0.972


@pytest.mark.parametrize("settings", [{}, {"rank": 1}, {"n_components": 2, "rank": 1, "floor": 0.1}], ids=str)
def test_progress_ends_where_it_said_it_would(settings: dict) -> None:
    seen: list[tuple[int, int]] = []
    fit_mixture(*sample(truth(), 30, seed=0), classes=["a", "b"], **settings, progress=lambda *step: seen.append(step))
    assert seen == [(done, len(seen)) for done in range(1, len(seen) + 1)]


def test_same_seed_same_model() -> None:
    images, labels = digits("train", 400)
    settings = {"classes": [str(i) for i in range(10)], "n_components": 2, "rank": 4}
    first, second = (fit_mixture(images, labels, **settings, seed=3) for _ in range(2))
    assert torch.equal(first.means, second.means)
    assert torch.equal(first.loadings, second.loadings)
    other = fit_mixture(images, labels, **settings, seed=4)
    assert not torch.equal(first.means, other.means)


def test_global_random_numbers_are_left_alone() -> None:
    before = torch.get_rng_state()
    fit_mixture(*sample(truth(), 50, seed=0), classes=["a", "b"], n_components=2, rank=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_prior_is_the_share_of_each_class() -> None:
    images, labels = sample(truth(), 60, seed=0)
    model = fit_mixture(images[:80], labels[:80], classes=["a", "b"], n_components=1, rank=1, floor=0.1)
    torch.testing.assert_close(model.log_prior.exp(), torch.tensor([0.75, 0.25], dtype=torch.float64))


def test_small_classes_get_fewer_components() -> None:
    images, labels = sample(truth(), 300, seed=0)
    chosen = torch.cat([torch.arange(300), torch.arange(300, 340)])
    model = fit_mixture(images[chosen], labels[chosen], classes=["a", "b"], n_components=8, rank=2, floor=0.05)
    assert model.sizes[0] > 4
    assert model.sizes[1] <= 2


def test_two_images_are_enough() -> None:
    images = torch.stack([torch.full(SHAPE, level) for level in (0.1, 0.2, 0.8, 0.9)])
    model = fit_mixture(images, torch.tensor([0, 0, 1, 1]), classes=["dark", "light"])
    assert model.log_likelihood(images).argmax(1).tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(model.means.mean((1, 2, 3)), torch.tensor([0.15, 0.85]))


def test_constant_images_and_pixels_are_fine() -> None:
    images, labels = constant()
    model = fit_mixture(images, labels, classes=["black", "grey"])
    assert model.log_likelihood(images).isfinite().all()
    assert model.log_likelihood(images).argmax(1).equal(labels)
    framed, labels = sample(truth(), 100, seed=0)
    framed[:, :, 0], framed[:, :, -1] = 0, 1
    assert fit_mixture(framed, labels, classes=["a", "b"], rank=20).log_likelihood(framed).isfinite().all()


def test_moved_images_are_learnt_too() -> None:
    images = torch.zeros(40, 1, 6, 6)
    images[:, :, 2:4, 2:4] = 0.8 + 0.2 * rand(40, 1, 2, 2)
    labels = torch.arange(2).repeat(20)
    moved = images.roll(1, dims=3)
    settings = {"classes": ["a", "b"], "n_components": 1, "rank": 4, "floor": 0.1}
    still, loose = (fit_mixture(images, labels, **settings, shift=shift) for shift in (0, 1))
    assert float(loose.log_likelihood(moved).mean()) > float(still.log_likelihood(moved).mean()) + 10
    assert "up to 1 pixels" in loose.metadata["fit"]["shift"]


def test_classifies_by_draws_with_its_own_settings() -> None:
    images, labels = digits("train", 400)
    model = fit_mixture(images, labels, classes=[str(i) for i in range(10)], n_components=2, rank=4)
    classifier = diffclass.DiffusionClassifier(denoiser=model)
    fresh, _ = digits("test", 12)
    exact = [model.classes[index] for index in model.log_likelihood(fresh).argmax(1)]
    told = [decision.label for decision in classifier.classify(fresh)]
    assert [a == b for a, b in zip(told, exact, strict=True) if a is not None].count(True) >= 11


IMAGES, LABELS = constant()
BAD: dict[str, tuple[dict, type[DiffclassError], str]] = {
    "one image": (
        {"labels": torch.tensor([0] * 23 + [1])},
        ConditionError,
        "fit_mixture needs at least two images of every class. Got 1 of 'b'.",
    ),
    "no image": (
        {"classes": ["a", "b", "c"]},
        ConditionError,
        "fit_mixture needs at least two images of every class. Got 0 of 'c'.",
    ),
    "label": (
        {"labels": LABELS + 1},
        ConditionError,
        "The 'labels' parameter of fit_mixture must lie in 0..1. Got 1..2.",
    ),
    "one class": (
        {"classes": ["a"]},
        ConditionError,
        "The 'classes' parameter of fit_mixture must be two or more names. Got ['a'].",
    ),
    "bytes": (
        {"images": IMAGES * 255},
        RangeError,
        "The 'images' parameter of fit_mixture must have pixels in [0, 1]. Got 0 to 127.5. "
        "Try dividing 8-bit pixels by 255.",
    ),
    "not a number": (
        {"images": IMAGES * math.nan},
        RangeError,
        "The 'images' parameter of fit_mixture must have pixels in [0, 1]. Got nan to nan. "
        "Try dividing 8-bit pixels by 255.",
    ),
    "components": (
        {"n_components": 0},
        RangeError,
        "The 'n_components' parameter of fit_mixture must be an integer of at least 1. Got 0.",
    ),
    "rank": (
        {"rank": -1},
        RangeError,
        "The 'rank' parameter of fit_mixture must be an integer of at least 1. Got -1.",
    ),
    "floor": ({"floor": 0.0}, RangeError, "The 'floor' parameter of fit_mixture must be above 0. Got 0.0."),
    "shift": ({"shift": 4}, RangeError, "The 'shift' parameter of fit_mixture must be in [0, 4). Got 4."),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case: str) -> None:
    change, error, sentence = BAD[case]
    given = {"images": IMAGES, "labels": LABELS, "classes": ["a", "b"]} | change
    with pytest.raises(error) as caught:
        fit_mixture(given.pop("images"), given.pop("labels"), **given)
    assert str(caught.value) == sentence


# The bundled mixtures hold what their cards say


@pytest.mark.parametrize(("name", "limit"), [("digits", 0.5e6), ("mnist", 7.5e6), ("pneumonia", 1.5e6)])
def test_bundled_mixtures_are_small(name: str, limit: float) -> None:
    directory = MODELS / f"{name}-mixture"
    assert sum(path.stat().st_size for path in directory.iterdir()) <= limit
    metadata = json.loads((directory / "diffclass.json").read_text())
    assert {"licence", "data", "figures", "fit", "classifier"} <= set(metadata)


@pytest.mark.parametrize(
    ("name", "source", "shape", "least"),
    [
        ("digits", "digits", (1, 8, 8), 0.98),
        ("mnist", "mnist", (1, 28, 28), 0.98),
        ("pneumonia", "pneumoniamnist.npz", (1, 28, 28), 0.85),
    ],
)
def test_bundled_mixtures_are_as_good_as_they_say(
    name: str, source: str, shape: tuple[int, int, int], least: float, data_root: Path
) -> None:
    model = load(f"{name}-mixture", device="cpu")
    assert isinstance(model, MixtureDenoiser)
    test = open_dataset(source if name == "digits" else data_root / source, split="test")
    images, labels = test.array(shape)
    assert test.classes == model.classes
    right = int((model.log_likelihood(images).argmax(1) == labels).sum())
    stated = model.metadata["figures"]["test"]["accuracy"]
    assert stated["n"] == len(labels)
    assert abs(right - stated["value"] * len(labels)) <= 2  # rounding may turn a tie
    assert right / len(labels) >= least
