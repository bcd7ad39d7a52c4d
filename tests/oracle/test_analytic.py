"""The closed forms, against Monte Carlo integrals, automatic differentiation and quadrature.

Monte Carlo results are compared at 5 standard errors: false-alarm rate 6e-7 each, and seeds are fixed.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from diffclass.denoisers import Space, check_denoiser
from diffclass.denoisers.analytic import EmpiricalDenoiser, ExactDenoiser, GaussianDenoiser, GaussianMixtureDenoiser
from diffclass.errors import ConditionError, DiffclassError, RangeError, ShapeError
from diffclass.evidence.draws import Draws
from diffclass.evidence.objective import LogUniform, Objective

SHAPE = (1, 3, 4)
N_SE = 5


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussians() -> GaussianDenoiser:
    return GaussianDenoiser(0.5 + 0.2 * normal(2, *SHAPE), 0.3, classes=["a", "b"])


def mixtures() -> GaussianMixtureDenoiser:
    weights = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.4, 0.0]])
    means, stds = 0.5 + 0.3 * normal(2, 3, *SHAPE), 0.1 + 0.3 * normal(2, 3, *SHAPE, seed=1).abs()
    prior = torch.tensor([0.7, 0.3])
    return GaussianMixtureDenoiser(means, stds, weights=weights, classes=["a", "b"], prior=prior)


def empirical() -> EmpiricalDenoiser:
    images = normal(40, *SHAPE, seed=2).mul(0.2).add(0.5)
    return EmpiricalDenoiser(images, torch.arange(40) % 3, classes=["a", "b", "c"])


MODELS = [gaussians, mixtures, empirical]
every_model = pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)


def denoise(model: ExactDenoiser, noisy: Tensor, sigma: float | Tensor, name: str) -> Tensor:
    sigma = torch.as_tensor(sigma, dtype=torch.float64).expand(len(noisy))
    return model(noisy, sigma, model.condition_on([name] * len(noisy)))


def paired_integral(model: ExactDenoiser, x: Tensor, span: tuple[float, float], n: int = 32768) -> tuple[float, float]:
    """Return the integral of sigma^-2 (E|D_b - x|^2 - E|D_a - x|^2) over log(sigma), with its standard error."""
    draws = Draws.place(Objective(proposal=LogUniform()), span, n=n, block=8, seed=1, key=2)
    sigma = torch.from_numpy(draws.sigmas)
    noisy = x + sigma[:, None, None, None] * draws.epsilon(range(n), SHAPE).double()
    errors = [(denoise(model, noisy, sigma, name) - x).square().flatten(1).sum(1).numpy() for name in ("a", "b")]
    blocks = (draws.weights * (errors[1] - errors[0])).reshape(-1, 8).mean(1)
    return float(blocks.mean()), float(blocks.std(ddof=1) / np.sqrt(len(blocks)))


# Oracles O1, O2 and O3


@pytest.mark.parametrize("span", [(0.01, 50.0), (0.2, 2.0)])
def test_o1_log_ratio_of_gaussians(span: tuple[float, float]) -> None:
    model, s2 = gaussians(), 0.3**2
    a, b = model.means
    x = a.reshape(SHAPE) + 0.2 * normal(*SHAPE, seed=3)
    delta = float((x.flatten() - a).square().sum() - (x.flatten() - b).square().sum())
    exact = -delta / 2 * (1 / (s2 + span[0] ** 2) - 1 / (s2 + span[1] ** 2))
    value, se = paired_integral(model, x, span)
    assert abs(exact) > 20 * se  # the test has power
    assert abs(value - exact) < N_SE * se
    # and the densities say the same, without draws
    lower, upper = (model.log_likelihood(x[None], tau=tau)[0] for tau in span)
    assert float((lower[0] - lower[1]) - (upper[0] - upper[1])) == pytest.approx(exact, rel=1e-9)


def test_o1_full_range_is_the_log_ratio() -> None:
    model = gaussians()
    x = model.means[0].reshape(SHAPE) + 0.2 * normal(*SHAPE, seed=3)
    clean = model.log_likelihood(x[None])[0]
    value, se = paired_integral(model, x, (1e-3, 100.0))
    # what the range leaves out: 1e-5 of the ratio below, Delta / 2e4 above
    assert abs(value - float(clean[0] - clean[1])) < N_SE * se + 2e-3


def test_o2_log_ratio_of_mixtures_off_their_means() -> None:
    model = mixtures()
    x = 0.5 + 0.4 * normal(*SHAPE, seed=4)
    clean = model.log_likelihood(x[None])[0]
    value, se = paired_integral(model, x, (1e-3, 100.0))
    exact = float(clean[0] - clean[1])
    assert abs(exact) > 20 * se  # the test has power
    assert abs(value - exact) < N_SE * se + 2e-3


@pytest.mark.parametrize("sigma", [0.05, 0.3, 2.0])
def test_o3_expected_error(sigma: float) -> None:
    model, s2, n = gaussians(), 0.3**2, 100_000
    x = 0.3 + 0.4 * normal(*SHAPE, seed=3)
    errors = (denoise(model, x + sigma * normal(n, *SHAPE, seed=5), sigma, "a") - x).square().flatten(1).sum(1)
    distance = float((x.flatten() - model.means[0]).square().sum())
    exact = (sigma**2 / (s2 + sigma**2)) ** 2 * distance + x.numel() * s2**2 * sigma**2 / (s2 + sigma**2) ** 2
    assert abs(float(errors.mean()) - exact) < N_SE * float(errors.std()) / math.sqrt(n)


# What every exact denoiser promises


@every_model
def test_conforms(build: type) -> None:
    images = empirical().points[:4].reshape(4, *SHAPE).clamp(0, 1)
    report = check_denoiser(build(), images=images)
    assert report.passed, str(report)


@every_model
@pytest.mark.parametrize("sigma", [0.1, 0.7, 5.0])
def test_posterior_mean_is_the_slope_of_the_density(build: type, sigma: float) -> None:
    model = build()
    noisy = (0.5 + 0.5 * normal(6, *SHAPE, seed=6)).requires_grad_()
    densities = model.log_density(noisy, torch.full((6,), sigma, dtype=torch.float64))
    for index, name in enumerate(model.classes):
        (slope,) = torch.autograd.grad(densities[:, index].sum(), noisy, retain_graph=True)
        torch.testing.assert_close(
            denoise(model, noisy, sigma, name), noisy + sigma**2 * slope, rtol=1e-9, atol=1e-9
        )  # fmt: skip


@every_model
def test_null_class_is_the_mixture_under_the_prior(build: type) -> None:
    model = build()
    noisy, sigma = 0.5 + 0.5 * normal(5, *SHAPE, seed=7), torch.tensor([0.1, 0.2, 0.4, 1.0, 3.0])
    null = model(noisy, sigma, model.condition_on(model.classes[:1]).without_class(5))
    posterior = (model.log_density(noisy, sigma) + model.log_prior).softmax(1)
    means = torch.stack([denoise(model, noisy, sigma, name) for name in model.classes], dim=1)
    torch.testing.assert_close(null, torch.einsum("bc,bcxyz->bxyz", posterior, means), rtol=1e-9, atol=1e-9)


@every_model
def test_density_integrates_to_one(build: type) -> None:
    flat = {
        gaussians: lambda: GaussianDenoiser(torch.tensor([[[[0.2, 0.6]]], [[[0.5, 0.1]]]]), 0.2),
        mixtures: lambda: GaussianMixtureDenoiser(
            torch.tensor([[0.2, 0.6], [0.9, 0.4], [0.5, 0.1], [0.0, 0.3]]).reshape(2, 2, 1, 1, 2),
            torch.tensor([[0.2, 0.1], [0.3, 0.15], [0.12, 0.2], [0.25, 0.2]]).reshape(2, 2, 1, 1, 2),
            weights=torch.tensor([[3.0, 1.0], [0.5, 0.5]]),
        ),
        empirical: lambda: EmpiricalDenoiser(
            torch.tensor([[0.2, 0.6], [0.9, 0.4], [0.5, 0.1]]).reshape(3, 1, 1, 2),
            torch.tensor([0, 1, 1]),
            classes="ab",
        ),
    }[build]()
    axis = torch.linspace(-3, 4, 281, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis).reshape(-1, 1, 1, 2)
    mass = flat.log_likelihood(grid, tau=0.2).exp().sum(0) * (axis[1] - axis[0]) ** 2
    torch.testing.assert_close(mass, torch.ones(2, dtype=torch.float64), rtol=1e-9, atol=0)


@every_model
def test_classes_and_levels_mix_in_a_batch(build: type) -> None:
    model = build()
    noisy, sigma = 0.5 + normal(5, *SHAPE, seed=8), torch.tensor([0.1, 2.0, 0.5, 0.3, 7.0])
    names = [model.classes[index] for index in (1, 0, 1, len(model.classes) - 1, 0)]
    together = model(noisy, sigma, model.condition_on(names))
    for i, name in enumerate(names):
        torch.testing.assert_close(
            together[i : i + 1], denoise(model, noisy[i : i + 1], sigma[i], name), rtol=1e-9, atol=1e-12
        )  # fmt: skip


@every_model
def test_large_noise_leaves_the_mean(build: type) -> None:
    model = build()
    noisy = 0.5 + normal(2, *SHAPE, seed=9)
    components, log_weights = model._components(0)
    points = model.points if build is empirical else model.means
    mean = (log_weights.exp()[:, None] * points[components]).sum(0).reshape(SHAPE)
    torch.testing.assert_close(denoise(model, noisy, 1e6, "a"), mean.expand(2, *SHAPE), rtol=0, atol=1e-5)


# One at a time


def test_mixture_of_one_is_the_gaussian() -> None:
    model = gaussians()
    single = GaussianMixtureDenoiser(model.means.reshape(2, 1, *SHAPE), 0.3, classes=["a", "b"])
    x = normal(4, *SHAPE, seed=10)
    torch.testing.assert_close(single.log_likelihood(x, tau=0.2), model.log_likelihood(x, tau=0.2))
    torch.testing.assert_close(denoise(single, x, 0.4, "b"), denoise(model, x, 0.4, "b"))


def test_training_set_is_a_mixture_of_points() -> None:
    model = empirical()
    points = torch.full((3, 14, model.space.dimension), 9.0, dtype=torch.float64)
    weights = torch.zeros(3, 14)
    for index, part in enumerate(model.points.split(model.sizes)):
        points[index, : len(part)], weights[index, : len(part)] = part, 1.0
    mixture = GaussianMixtureDenoiser(points.reshape(3, 14, *SHAPE), 1e-6, weights=weights, classes=["a", "b", "c"])
    x = 0.5 + 0.3 * normal(4, *SHAPE, seed=11)
    torch.testing.assert_close(model.log_likelihood(x, tau=0.3), mixture.log_likelihood(x, tau=0.3), rtol=1e-8, atol=0)
    torch.testing.assert_close(denoise(model, x, 0.3, "b"), denoise(mixture, x, 0.3, "b"), rtol=1e-8, atol=0)


def test_training_set_snaps_to_the_nearest_image() -> None:
    model = empirical()
    image = model.points[2].reshape(1, *SHAPE)  # of class "a"
    torch.testing.assert_close(denoise(model, image + 1e-3, 0.01, "a"), image, rtol=0, atol=1e-12)


def test_units_are_those_of_the_model() -> None:
    space = Space(channels=1, height=4, width=4, scale=2.0, offset=-1.0, patch=2)
    means = normal(2, *space.shape, seed=12)
    patched = GaussianDenoiser(means, 0.6, space=space)
    plain = GaussianDenoiser(patched.decode(means), 0.3)
    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    jacobian = 16 * math.log(2)
    torch.testing.assert_close(
        patched.log_likelihood(images, tau=0.4), plain.log_likelihood(images, tau=0.2) - jacobian
    )  # fmt: skip
    torch.testing.assert_close(
        patched.decode(denoise(patched, patched.encode(images), 0.4, "1")), denoise(plain, images, 0.2, "1")
    )


def test_data_std_is_the_spread_of_the_mixture() -> None:
    model = GaussianDenoiser(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1), 0.5)
    assert model.space.data_std == pytest.approx(math.sqrt(0.25 + 0.25))


def test_float32_stays_float32() -> None:
    model, noisy = mixtures(), normal(2, *SHAPE).float()
    answer = denoise(model, noisy, 0.3, "a")
    assert answer.dtype == torch.float32
    torch.testing.assert_close(answer.double(), denoise(model, noisy.double(), 0.3, "a"), rtol=1e-6, atol=1e-6)


BAD = {
    "tau": (
        lambda: gaussians().log_likelihood(torch.zeros(1, *SHAPE), tau=-0.1),
        RangeError,
        "The 'tau' parameter of log_likelihood must be a finite number of at least 0. Got -0.1.",
    ),
    "points": (
        lambda: empirical().log_likelihood(torch.zeros(1, *SHAPE)),
        RangeError,
        "EmpiricalDenoiser has a density only under noise: sigma and tau must be above 0. Got 0.",
    ),
    "unknown class": (
        lambda: gaussians().condition_on(["a", "z"]),
        ConditionError,
        "The 'prompts' parameter of condition_on must name classes of the model: a, b. Got 'z'.",
    ),
    "no class": (
        lambda: gaussians().condition_on([]),
        ConditionError,
        "The 'prompts' parameter of condition_on must name classes of the model: a, b. Got none.",
    ),
    "names": (
        lambda: GaussianDenoiser(torch.zeros(2, *SHAPE), 0.3, classes=["a", "a"]),
        ConditionError,
        "The 'classes' parameter must be 2 different names. Got ['a', 'a'].",
    ),
    "std": (
        lambda: GaussianDenoiser(torch.zeros(2, *SHAPE), 0.0),
        RangeError,
        "The 'std' parameter of GaussianDenoiser must be finite and above 0. Got 0.0.",
    ),
    "range": (
        lambda: GaussianDenoiser(torch.zeros(2, *SHAPE), 1.0, sigma_range=(1.0, 0.5)),
        RangeError,
        "The 'sigma_range' of a denoiser must be 0 < low < high. Got (1.0, 0.5).",
    ),
    "space": (
        lambda: GaussianDenoiser(torch.zeros(2, 1, 4, 4), 1.0, space=Space(channels=1, height=4, width=4, patch=2)),
        ShapeError,
        "Means must have the shape of the space, (4, 2, 2). Got (1, 4, 4).",
    ),
    "class without images": (
        lambda: EmpiricalDenoiser(torch.zeros(2, *SHAPE), torch.tensor([0, 0]), classes=["a", "b"]),
        ConditionError,
        "EmpiricalDenoiser needs labels in 0..1 and an image of every class. Got [2, 0] images of the classes and 2 "
        "labels.",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case: str) -> None:
    call, error, sentence = BAD[case]
    assert issubclass(error, DiffclassError)
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == sentence
