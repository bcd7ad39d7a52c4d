"""The noised classifiers and the published weight: closed forms, and the way the paper itself writes them."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.denoisers import Space
from diffclass.denoisers.analytic import GaussianDenoiser
from diffclass.evidence import (
    EDMOfficialWeight,
    EDMWeight,
    Engine,
    NoisedApproximate,
    NoisedConditional,
    NoisedExact,
    Objective,
    PairedDifference,
    Target,
)
from diffclass.robust import NoisedRaces, copy_classifier

SHAPE = (1, 3, 4)
LOW, HIGH, STD, TAU = 0.002, 80.0, 0.4, 0.25


def gaussians(space: Space | None = None) -> GaussianDenoiser:
    means = torch.rand((2, *SHAPE), generator=torch.Generator().manual_seed(0))
    space = space or Space(channels=1, height=3, width=4, scale=1.0, offset=0.0, data_std=STD)
    return GaussianDenoiser(means, STD, space=space, sigma_range=(LOW, HIGH))


def noisy() -> torch.Tensor:
    random = torch.Generator().manual_seed(5)
    return torch.rand(SHAPE, generator=random) + TAU * torch.randn(SHAPE, generator=random)


def measure(target: Target, *, n: int = 16384) -> PairedDifference:
    model = gaussians()
    engine = Engine(
        denoiser=model, conditions=model.condition_on(model.classes), classes=model.classes, objective=Objective(),
        race=Exhaustive(n_draws=n, block=16), target=target, batch_size=4096,
    )  # fmt: skip
    return next(iter(engine.run([(0, noisy())]))).evidence.difference(0, 1)


def log_ratio(x: torch.Tensor, low: float) -> float:
    """Integrate the error difference at x over noise levels from `low` to `HIGH`, in closed form."""
    gaps = (x.double().flatten() - gaussians().means).square().sum(dim=1)
    return float(gaps[1] - gaps[0]) / 2 * (1 / (STD**2 + low**2) - 1 / (STD**2 + HIGH**2))


def test_apndc_is_the_clean_integral_at_the_denoised_image() -> None:
    """Chen et al., section 3.4: denoise once without a class, then classify from tau upwards."""
    model = gaussians()
    null = model.condition_on(model.classes).without_class(1)
    denoised = model(noisy()[None], torch.tensor([TAU]), null)[0]
    exact = log_ratio(denoised, TAU)
    difference = measure(NoisedApproximate(TAU))
    assert abs(difference.mean - exact) < 4 * difference.se
    assert difference.se < 0.1 * abs(exact)


def test_the_conditional_variant_is_its_closed_form() -> None:
    """E |D(y; sigma, c) - D(x_tau; tau, c)|^2 differs between classes by |x - mean|^2 of a known factor."""
    gaps = (noisy().double().flatten() - gaussians().means).square().sum(dim=1)

    def integrand(log_sigma: float) -> float:
        shrink = 1 / (STD**2 + np.exp(2 * log_sigma)) - 1 / (STD**2 + TAU**2)
        return float(np.exp(-2 * log_sigma) * STD**4 * shrink**2)

    exact = float(gaps[1] - gaps[0]) * quad(integrand, np.log(TAU), np.log(HIGH))[0]
    difference = measure(NoisedConditional(TAU))
    assert abs(difference.mean - exact) < 4 * difference.se
    assert difference.se < 0.1 * abs(exact)


@pytest.mark.parametrize("batch_size", [7, 500])
def test_class_targets_follow_their_class_through_batches(batch_size: int) -> None:
    model, images = gaussians(), torch.rand((5, *SHAPE), generator=torch.Generator().manual_seed(3))
    engine = Engine(
        denoiser=model, conditions=model.condition_on(("1", "0")), classes=("1", "0"), objective=Objective(),
        race=Exhaustive(n_draws=8), target=NoisedConditional(TAU), batch_size=batch_size,
    )  # fmt: skip
    for finished in engine.run(enumerate(images)):
        evidence, x = finished.evidence, images[finished.index][None]
        sigma = torch.from_numpy(evidence.draws.sigmas).float()
        added = (sigma**2 - TAU**2).sqrt().reshape(-1, 1, 1, 1)
        higher = x + added * evidence.draws.epsilon(range(8), SHAPE)
        for column, name in enumerate(("1", "0")):
            conditions = model.condition_on([name])
            target = model(x, torch.tensor([TAU]), conditions)
            denoised = model(higher, sigma, conditions[torch.zeros(8, dtype=torch.int64)])
            errors = (denoised - target).square().flatten(1).sum(dim=1)
            np.testing.assert_allclose(evidence.errors[:, column], errors.numpy(), rtol=1e-4, atol=1e-6)


def test_epndc_varies_more_than_apndc() -> None:
    """The target's own noise, tau^2 / sqrt(sigma^2 - tau^2) epsilon, is what makes EPNDC the weaker of the two."""
    exact, approximate = measure(NoisedExact(TAU), n=1024), measure(NoisedApproximate(TAU), n=1024)
    assert exact.se > 1.5 * approximate.se


@pytest.mark.parametrize("levels", [(0.3, 0.4), (0.5, 2.0), (1.0, 1.01)])
def test_epndc_is_the_published_regression_of_means(levels: tuple[float, float]) -> None:
    """p_mean - q_mean of Chen et al.'s theorem is ((A - B) / A) (D - target), with the target of `NoisedExact`."""
    random = torch.Generator().manual_seed(1)
    x, epsilon, denoised = (torch.randn((1, *SHAPE), generator=random, dtype=torch.float64) for _ in range(3))
    below, above = levels
    a, b, s = above**2, below**2, TAU**2
    higher, target = NoisedExact(TAU)(x, torch.tensor([above], dtype=torch.float64), epsilon)
    assert torch.allclose(higher, x + np.sqrt(a - s) * epsilon)
    q_mean = ((a - b) * x + (b - s) * higher) / (a - s)
    p_mean = ((a - b) * denoised + b * higher) / a
    assert torch.allclose(p_mean - q_mean, (a - b) / a * (denoised - target))


def test_the_published_weight_has_its_bug() -> None:
    """Values worked out by hand from the line exp(-(ln s - p_mean)**2 / 2 * p_std**2), against d sigma."""
    sigma = np.array([0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0])
    coded = [79, 264, 144, 42.7, 16.7, 4.42, 0.589, 0.054, 0.010]
    assert EDMOfficialWeight()(sigma) / sigma == pytest.approx(np.array(coded), rel=0.05)
    intended = [5935, 877, 227, 45.5, 16.7, 4.87, 1.008, 0.204, 0.073]
    assert EDMWeight()(sigma) / sigma == pytest.approx(np.array(intended), rel=0.01)
    line = np.exp(-((np.log(sigma) + 1.2) ** 2) / 2 * 1.2**2) / (1.2 * np.sqrt(2 * np.pi))
    assert EDMOfficialWeight()(sigma) == pytest.approx((sigma**2 + 0.25) / (0.5 * sigma) ** 2 * line)
    chosen = Objective.from_settings({"weight": "edm_official", "weight_std": 1.5}, sigma_data=0.4).weight
    assert chosen == EDMOfficialWeight(0.4, -1.2, 1.5)


@pytest.mark.parametrize(("scale", "patch"), [(1.0, 1), (2.0, 1), (2.0, 3)])
def test_sigma_becomes_tau_with_the_units_of_the_model(scale: float, patch: int) -> None:
    """An image plus noise of std sigma is, encoded, the encoded image plus noise of std tau."""
    space = Space(channels=1, height=3, width=12, scale=scale, offset=1 - scale, patch=patch, data_std=0.4)
    means = torch.rand((2, *space.shape), generator=torch.Generator().manual_seed(0))
    model = GaussianDenoiser(means, STD, space=space, sigma_range=(LOW, HIGH))
    classifier = DiffusionClassifier(denoiser=model, race=Exhaustive(n_draws=8))
    copies = copy_classifier(classifier, sigma=0.3, noised="epndc")
    assert isinstance(copies, NoisedRaces)
    assert copies.classifier.target == NoisedExact(0.3 * scale)
    noise = torch.randn((200, *space.image_shape), generator=torch.Generator().manual_seed(1))
    x = torch.rand((1, *space.image_shape), generator=torch.Generator().manual_seed(2))
    difference = model.encode(x + 0.3 * noise) - model.encode(x)
    assert float(difference.std()) == pytest.approx(0.3 * scale, rel=0.03)  # 7200 values: 3.6 standard errors
