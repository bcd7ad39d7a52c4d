"""Mixtures of probabilistic PCA, against dense Gaussian conditioning in float64."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributions import MultivariateNormal

import diffclass
from diffclass.data.datasets import open_dataset
from diffclass.denoisers import check_denoiser, load
from diffclass.denoisers.card import card_of
from diffclass.denoisers.mixture import LowRankGaussians, MixtureDenoiser, mixture_card
from diffclass.errors import (
    DiffclassError,
    RangeError,
    ResultError,
    ShapeError,
    UnsupportedModel,
    WeightsMismatch,
    WeightsMissing,
)
from diffclass.evidence.draws import Draws
from diffclass.evidence.objective import LogNormal, Objective
from diffclass.evidence.target import Clean, NoisedExact, Target
from diffclass.noise import epsilon

MODELS = Path(diffclass.__file__).parent / "models"
SHAPE = (1, 3, 4)
SIZES = (3, 1, 2)
CLASSES = ("a", "b", "c")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(shape: tuple[int, ...] = SHAPE, rank: int = 2, seed: int = 0) -> MixtureDenoiser:
    n = sum(SIZES)
    return MixtureDenoiser(
        0.5 + 0.2 * normal(n, *shape, seed=seed),
        0.3 * normal(n, rank, *shape, seed=seed + 1),
        floors=0.01 + 0.02 * normal(n, seed=seed + 2).square(),
        sizes=SIZES,
        weights=1 + normal(n, seed=seed + 3).square(),
        classes=CLASSES,
        data_std=0.4,
        prior=torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64),
    )


def dense(model: MixtureDenoiser, y: Tensor, sigma: float, index: int) -> tuple[Tensor, Tensor]:
    """Return the posterior mean and the log density of a class, by dense matrices."""
    means, floors = model.means.double().flatten(1).split(model.sizes)[index], model.floors.split(model.sizes)[index]
    loadings = model.loadings.double().flatten(2).split(model.sizes)[index]
    y, eye = y.double().flatten(1), torch.eye(means.shape[1], dtype=torch.float64)
    joint, answers = [], []
    weights = model.log_weights.split(model.sizes)[index]
    for mean, rows, floor, weight in zip(means, loadings, floors, weights, strict=True):
        covariance = rows.T @ rows + floor * eye
        total = covariance + sigma**2 * eye
        joint.append(MultivariateNormal(mean, total).log_prob(y) + weight)
        answers.append(mean + (y - mean) @ torch.linalg.solve(total, covariance))
    joint = torch.stack(joint, dim=1)
    mean = torch.einsum("bm,bmd->bd", joint.softmax(1), torch.stack(answers, dim=1))
    return mean.reshape(-1, *model.space.shape), joint.logsumexp(1)


def denoise(model: MixtureDenoiser, noisy: Tensor, sigma: float, name: str) -> Tensor:
    levels = torch.full((len(noisy),), sigma, dtype=noisy.dtype)
    return model(noisy, levels, model.condition_on([name] * len(noisy)))


@pytest.mark.parametrize("rank", [1, 2, 12, 15])
@pytest.mark.parametrize("sigma", [1e-3, 0.1, 1.0, 20.0])
def test_agrees_with_dense_conditioning(rank: int, sigma: float) -> None:
    model, y = build(rank=rank), 0.5 + 0.7 * normal(7, *SHAPE, seed=9)
    densities = model.log_density(y, torch.full((7,), sigma, dtype=torch.float64))
    for index, name in enumerate(CLASSES):
        mean, density = dense(model, y, sigma, index)
        torch.testing.assert_close(densities[:, index], density, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(denoise(model, y, sigma, name), mean, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(denoise(model, y.float(), sigma, name), mean.float(), rtol=1e-4, atol=1e-4)


def test_clean_images_have_a_density() -> None:
    model, x = build(), 0.5 + 0.3 * normal(5, *SHAPE, seed=9)
    exact = torch.stack([dense(model, x, 0.0, index)[1] for index in range(3)], dim=1)
    torch.testing.assert_close(model.log_likelihood(x), exact, rtol=1e-9, atol=1e-9)
    noised = torch.stack([dense(model, x, 0.3, index)[1] for index in range(3)], dim=1)
    torch.testing.assert_close(model.log_likelihood(x, tau=0.3), noised, rtol=1e-9, atol=1e-9)


def test_loadings_without_length_are_allowed() -> None:
    model = build(rank=3)
    loadings = model.loadings.clone()
    loadings[0], loadings[1, 2], loadings[2, 1] = 0, 0, loadings[2, 0]  # none, one missing, one twice
    flat = MixtureDenoiser(
        model.means, loadings, floors=model.floors, sizes=SIZES, weights=model.log_weights.exp(),
        classes=CLASSES, data_std=0.4,
    )  # fmt: skip
    y = 0.5 + 0.4 * normal(5, *SHAPE, seed=10)
    mean, density = dense(flat, y, 0.2, 0)
    torch.testing.assert_close(denoise(flat, y, 0.2, "a"), mean, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(flat.log_likelihood(y, tau=0.2)[:, 0], density, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.01, 0.2, 3.0])
def test_posterior_mean_is_the_slope_of_the_density(sigma: float) -> None:
    model = build()
    noisy = (0.5 + 0.5 * normal(6, *SHAPE, seed=11)).requires_grad_()
    densities = model.log_likelihood(noisy, tau=sigma)
    for index, name in enumerate(CLASSES):
        (slope,) = torch.autograd.grad(densities[:, index].sum(), noisy, retain_graph=True)
        answer = denoise(model, noisy, sigma, name)
        torch.testing.assert_close(answer, noisy + sigma**2 * slope, rtol=1e-9, atol=1e-9)


def test_limits() -> None:
    model, y = build(), 0.5 + 0.5 * normal(4, *SHAPE, seed=12)
    torch.testing.assert_close(denoise(model, y, 1e-6, "a"), y, rtol=0, atol=1e-9)
    weights = model.log_weights.exp().split(SIZES)[0]
    mean = torch.einsum("m,mxyz->xyz", weights, model.means.split(SIZES)[0])
    torch.testing.assert_close(denoise(model, y, 1e6, "a"), mean.expand_as(y), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 2)])
def test_density_integrates_to_one(shape: tuple[int, ...]) -> None:
    model = build(shape, rank=1)
    axis = torch.linspace(-4, 5, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * shape[-1]).reshape(-1, *shape)
    for tau in (0.0, 0.2):
        mass = model.log_likelihood(grid, tau=tau).exp().sum(0) * (axis[1] - axis[0]) ** shape[-1]
        torch.testing.assert_close(mass, torch.ones(3, dtype=torch.float64), rtol=1e-6, atol=0)


def test_null_class_is_the_mixture_under_the_prior() -> None:
    model, y, sigma = build(), 0.5 + 0.5 * normal(5, *SHAPE, seed=13), torch.tensor([0.01, 0.1, 0.4, 1.0, 9.0]).double()
    null = model(y, sigma, model.condition_on(["a"]).without_class(5))
    posterior = (model.log_density(y, sigma) + torch.tensor([0.5, 0.2, 0.3]).log()).softmax(1)
    means = torch.stack([model(y, sigma, model.condition_on([name] * 5)) for name in CLASSES], dim=1)
    torch.testing.assert_close(null, torch.einsum("bc,bcxyz->bxyz", posterior, means), rtol=1e-6, atol=1e-8)


def test_answers_do_not_depend_on_the_batch() -> None:
    model, y = build((1, 28, 28), rank=9), 0.5 + 0.5 * normal(7, 1, 28, 28, seed=14).float()
    sigma, names = torch.tensor([0.005, 20.0, 0.1, 0.3, 2.0, 0.02, 1.0]), ["a", "b", "c", "b", "a", "c", "a"]
    together = model(y, sigma, model.condition_on(names))
    alone = [model(y[i : i + 1], sigma[i : i + 1], model.condition_on([names[i]])) for i in range(7)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together[1], denoise(model, y[1:2].double(), 20.0, "b")[0].float(), rtol=1e-5, atol=1e-5)
    many = y[[0] * 1100]  # more than a chunk
    torch.testing.assert_close(model.log_likelihood(many)[[0, -1]], model.log_likelihood(y[[0, 0]]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("sigma", [0.005, 0.1, 1.0, 20.0])
def test_float32_is_precise_enough_in_784_dimensions(sigma: float) -> None:
    model = build((1, 28, 28), rank=20, seed=5)
    close = model.means[0] + 0.1 * normal(6, 1, 28, 28, seed=15)
    noisy = close + sigma * normal(6, 1, 28, 28, seed=16)
    exact, quick = denoise(model, noisy, sigma, "a"), denoise(model, noisy.float(), sigma, "a")
    assert quick.dtype == torch.float32
    error, scale = float((exact - quick).square().sum()), float((exact - close).square().sum())
    assert error < 1e-6 * scale  # of the squared error that classifies


def test_conforms() -> None:
    report = check_denoiser(build())
    assert report.passed, str(report)


def test_basis_is_orthonormal_after_rounding() -> None:
    loadings = (0.3 * normal(4, 5, 30)).to(torch.bfloat16)
    gaussians = LowRankGaussians.from_loadings(normal(4, 30), loadings, torch.full((4,), 0.1))
    gram = gaussians.basis @ gaussians.basis.mT
    torch.testing.assert_close(gram, torch.eye(5, dtype=torch.float64).expand(4, 5, 5), rtol=0, atol=1e-12)
    rebuilt = torch.einsum("mr,mrd,mre->mde", gaussians.spectrum, gaussians.basis, gaussians.basis)
    torch.testing.assert_close(rebuilt, loadings.double().mT @ loadings.double(), rtol=0, atol=1e-12)


# On disk


def test_saved_model_is_the_exact_density_of_its_rounded_parameters(tmp_path: Path) -> None:
    model = build()
    directory = model.save(tmp_path / "m", metadata={"name": "m", "licence": "CC0", "figures": {}})
    loaded, stored = load(directory), load_file(directory / "model.safetensors")
    assert isinstance(loaded, MixtureDenoiser)
    assert stored["means"].dtype == stored["loadings"].dtype == torch.bfloat16
    rounded = MixtureDenoiser(
        model.means.bfloat16().double(), model.loadings.bfloat16().double(), floors=model.floors, sizes=SIZES,
        weights=model.log_weights.exp(), classes=CLASSES, data_std=0.4, prior=model.log_prior.exp(),
    )  # fmt: skip
    x = 0.5 + 0.3 * normal(5, *SHAPE, seed=17)
    exact = torch.stack([dense(rounded, x, 0.0, index)[1] for index in range(3)], dim=1)
    torch.testing.assert_close(loaded.log_likelihood(x), exact, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(loaded.log_prior, model.log_prior, rtol=1e-12, atol=0)
    assert not torch.allclose(loaded.log_likelihood(x), model.log_likelihood(x), rtol=1e-5, atol=1e-5)  # it was rounded
    assert (loaded.classes, loaded.sigma_range, loaded.space) == (model.classes, model.sigma_range, model.space)


def test_saving_again_changes_nothing(tmp_path: Path) -> None:
    first = build().save(tmp_path / "m", metadata={"figures": {"test": {}}, "command": "fit"})
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    MixtureDenoiser.load(first).save(first)
    assert {path.name: path.read_bytes() for path in first.iterdir()} == before
    assert set(before) == {"config.json", "model.safetensors", "diffclass.json", "README.md"}


@pytest.mark.parametrize("name", ["digits", "mnist", "pneumonia"])
def test_bundled_mixtures_are_as_they_were_saved(name: str, tmp_path: Path) -> None:
    model = load(f"{name}-mixture", device="cpu")
    assert isinstance(model, MixtureDenoiser)
    again = model.save(tmp_path / f"{name}-mixture")
    for path in again.iterdir():
        assert path.read_bytes() == (MODELS / f"{name}-mixture" / path.name).read_bytes(), path.name


def test_card_tells_what_was_measured(tmp_path: Path) -> None:
    accuracy = {"value": 0.985, "low": 0.98, "high": 0.99, "n": 1000}
    metadata = {"data": "dots", "licence": "CC0", "figures": {"test": {"accuracy": accuracy}}}
    metadata |= {"command": "make it", "calibration": "none yet"}
    text = mixture_card(json.loads((build().save(tmp_path / "m", metadata=metadata) / "diffclass.json").read_text()))
    assert text == (tmp_path / "m" / "README.md").read_text()
    assert "| test | accuracy | 0.985 | 0.98 to 0.99 | 1000 |" in text
    assert all(words in text for words in ("# m\n", "dots", "CC0", "a, b, c", "make it", "none yet"))
    card = card_of(tmp_path / "m")
    assert (card.kind, card.classes, card.shape) == ("mixture", CLASSES, SHAPE)


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def swap(directory: Path, **tensors: Tensor) -> None:
    save_file(load_file(directory / "model.safetensors") | tensors, directory / "model.safetensors")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


MISFIT = "do not fit the model's other files: {} must be finite and of shape {} (-1: any). Got {}."
BROKEN: dict[str, tuple[Callable[[Path], object], type[DiffclassError], str]] = {
    "no weights": (lambda d: (d / "model.safetensors").unlink(), WeightsMissing, "holds no 'model.safetensors'."),
    "no config": (lambda d: (d / "config.json").unlink(), WeightsMissing, "holds no 'config.json'."),
    "truncated": (lambda d: cut(d / "model.safetensors"), WeightsMismatch, "is truncated or altered."),
    "network": (
        lambda d: edit(d / "config.json", lambda c: c.update(_class_name="UNet2DModel")),
        UnsupportedModel,
        "is not a MixtureDenoiser. Try diffclass.load.",
    ),
    "sizes": (
        lambda d: edit(d / "config.json", lambda c: c.update(sizes=[3, 1, 3])),
        WeightsMismatch,
        MISFIT.format("'means'", (7, 1, 3, 4), (6, 1, 3, 4)),
    ),
    "tensor": (
        lambda d: swap(d, floors=torch.ones(5)),
        WeightsMismatch,
        MISFIT.format("'floors'", (6,), (5,)),
    ),
    "not a number": (
        lambda d: swap(d, prior=torch.tensor([0.5, 0.5, math.nan])),
        WeightsMismatch,
        MISFIT.format("'prior'", (3,), (3,)),
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_damaged_models_are_refused(case: str, tmp_path: Path) -> None:
    damage, error, sentence = BROKEN[case]
    directory = build().save(tmp_path / "m")
    damage(directory)
    with pytest.raises(error) as caught:
        MixtureDenoiser.load(directory)
    assert sentence in str(caught.value)


def test_bad_parameters_are_refused(tmp_path: Path) -> None:
    model = build()
    settings = {"sizes": SIZES, "weights": model.log_weights.exp(), "classes": CLASSES, "data_std": 0.4}
    with pytest.raises(RangeError, match=r"^The 'floors' parameter must be above 0. Got 0.0.$"):
        MixtureDenoiser(model.means, model.loadings, floors=model.floors * 0, **settings)
    with pytest.raises(
        ShapeError, match=r"^Loadings must have the means' shape \(6, 1, 3, 4\). Got \(6, 2, 1, 4, 3\).$"
    ):
        MixtureDenoiser(model.means, model.loadings.mT, floors=model.floors, **settings)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="could not be saved"):
        model.save(tmp_path / "file" / "m")


# The bundled mixtures


@pytest.mark.parametrize("target", [Clean(), NoisedExact(0.25)], ids=["clean", "noised"])
def test_integral_of_errors_is_the_likelihood_ratio_of_digits(target: Target) -> None:
    """Draws on real images add up to the exact log-ratio between the ends of the noise range."""
    model = load("digits-mixture")
    assert isinstance(model, MixtureDenoiser)
    images, labels = open_dataset("digits", split="test").array((1, 8, 8), range(4))
    images = images + target.tau * epsilon(3, 4, range(4), (1, 8, 8))
    assert_ratios(model, images, labels, target, n=4096)


@pytest.mark.parametrize("target", [Clean(), NoisedExact(0.25)], ids=["clean", "noised"])
def test_integral_of_errors_is_the_likelihood_ratio_of_mnist(target: Target, data_root: Path) -> None:
    model = load("mnist-mixture")
    assert isinstance(model, MixtureDenoiser)
    images, labels = open_dataset(data_root / "mnist", split="test").array((1, 28, 28), range(2))
    images = images + target.tau * epsilon(3, 4, range(2), (1, 28, 28))
    assert_ratios(model, images, labels, target, n=1024)


def assert_ratios(model: MixtureDenoiser, images: Tensor, labels: Tensor, target: Target, *, n: int) -> None:
    """Hold the integral of true class against runner-up to the densities at both ends of the range, at 5 SE."""
    low, high = max(model.sigma_range[0], target.sigma_floor), model.sigma_range[1]
    objective = Objective(proposal=LogNormal(math.log(max(0.12, 1.5 * low)), 1.1))
    exact = model.log_likelihood(images, tau=target.tau)
    for index, (x, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        rival = int(exact[index].index_fill(0, torch.tensor(label), -math.inf).argmax())
        draws = Draws.place(objective, (low, high), n=n, block=8, seed=0, key=index)
        sigma, noise = torch.from_numpy(draws.sigmas).float(), draws.epsilon(range(n), model.space.shape)
        noisy, wanted = target(x.expand(n, *x.shape), sigma, noise)
        errors = [
            (model(noisy, sigma, model.condition_on([model.classes[c]] * n)) - wanted).double().square().sum((1, 2, 3))
            for c in (label, rival)
        ]
        blocks = (torch.from_numpy(draws.weights) * (errors[1] - errors[0])).reshape(-1, 8).mean(1)
        ends = []
        for level in (low, high):  # the expected log-ratio at the end of the range, also by draws
            added = math.sqrt(level**2 - target.tau**2) * epsilon(1, index, range(256), model.space.shape)
            densities = model.log_density(x + added, torch.full((256,), level, dtype=torch.float64))
            ends.append(densities[:, label] - densities[:, rival])
        ratio = ends[0].mean() - ends[1].mean()
        se = math.sqrt(blocks.var() / len(blocks) + ends[0].var() / 256 + ends[1].var() / 256)
        assert abs(float(ratio)) > 10 * se  # the test has power
        assert abs(float(blocks.mean() - ratio)) < 5 * se  # false-alarm rate 6e-7 an image
        if target.tau == 0:  # and the range leaves out hardly anything
            assert abs(float(blocks.mean() - exact[index, label] + exact[index, rival])) < 5 * se + 0.02 * abs(ratio)
