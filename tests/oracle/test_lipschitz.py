"""The Lipschitz bound against closed forms and finite differences, and the certificate against the true radius."""

from dataclasses import replace
from math import pi, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.denoisers import Space
from diffclass.denoisers.analytic import GaussianDenoiser
from diffclass.errors import InputError, RangeError
from diffclass.evidence import EDMWeight, LogNormal, NoisedExact, Objective
from diffclass.robust import Clipped, lipschitz_bound, lipschitz_certificate, log_odds_gradients

SHAPE = (1, 2, 2)
PIXEL = Space(channels=1, height=1, width=1, scale=1.0, offset=0.0)


def gaussians(scale: float = 1.0, span: tuple[float, float] = (0.5, 3.0)) -> DiffusionClassifier:
    """Two classes of four pixels; the noise range is in image units."""
    space = Space(channels=1, height=2, width=2, scale=scale, offset=1 - scale, data_std=0.3)
    means = torch.stack([torch.full(SHAPE, 0.2), torch.full(SHAPE, 0.8)]) * scale + 1 - scale
    model = GaussianDenoiser(means, 0.1 * scale, space=space, classes=["a", "b"], sigma_range=(0.002, 80.0))
    objective = Objective(sigma_range=(span[0] * scale, span[1] * scale))
    return DiffusionClassifier(denoiser=model, objective=objective, race=Exhaustive(n_draws=4096, block=4))


def expected_error(x: np.ndarray, sigma: float, steps: list[float], levels: list[float]) -> np.ndarray:
    """Return E (h(x + sigma epsilon) - x)^2 of one pixel, exactly, for a denoiser that is constant between steps."""
    ends = np.array([-np.inf, *sorted(steps), np.inf])
    mass = np.diff(norm.cdf((ends[:, None] - x) / sigma), axis=0)
    return (mass * (np.array(levels)[:, None] - x) ** 2).sum(axis=0)


unit = st.floats(0.0, 1.0)


@given(
    sigma=st.floats(0.05, 2.0), steps=st.lists(st.floats(-1.0, 2.0), min_size=3, max_size=3),
    levels=st.lists(st.lists(unit, min_size=4, max_size=4), min_size=2, max_size=2),
)  # fmt: skip
def test_no_pair_of_clipped_denoisers_is_steeper(sigma: float, steps: list[float], levels: list[list[float]]) -> None:
    """Finite differences of closed forms, against the integrand of the bound at one noise level."""
    x = np.linspace(0, 1, 2001)
    one, other = (expected_error(x, sigma, steps, values) for values in levels)
    slope = np.abs(np.diff(one)).max() / (x[1] - x[0])
    assert slope <= 1 / (sqrt(2 * pi) * sigma) + 2
    slope = np.abs(np.diff(one - other)).max() / (x[1] - x[0])
    assert slope <= sqrt(2 / pi) / sigma + 2


def test_the_part_through_the_noise_is_attained() -> None:
    """A step from 0 to 1 just above x = 0: half of the space sees the largest error, so no smaller constant holds."""
    sigma = 0.01
    error = expected_error(np.array([0.0, 1e-6]), sigma, [0.0], [0.0, 1.0])
    assert (error[1] - error[0]) / 1e-6 == pytest.approx(1 / (sqrt(2 * pi) * sigma) - 1, rel=1e-3)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_integral_has_a_closed_form_for_the_likelihood(scale: float) -> None:
    space = Space(channels=3, height=4, width=5, scale=scale, offset=1 - scale)
    low, high, diameter = 0.3, 7.0, scale * sqrt(60)
    cubes, squares = (low**-3 - high**-3) / 3, (low**-2 - high**-2) / 2
    bound = lipschitz_bound(Objective(), space, (low, high))
    wanted = scale * (sqrt(2 / pi) * diameter**2 * cubes + 2 * diameter * squares)
    assert bound.log_odds == pytest.approx(wanted)
    wanted = scale * (diameter**2 / sqrt(2 * pi) * cubes + 2 * diameter * squares)
    assert bound.log_joint == pytest.approx(wanted)
    assert bound.log_odds <= 2 * bound.log_joint
    assert bound.probability == bound.log_odds / 4


def test_the_bound_is_the_same_in_any_units() -> None:
    """The likelihood of an image does not depend on the units of the model, and so neither does the bound."""
    one = lipschitz_bound(Objective(), Space(channels=1, height=2, width=2, scale=1.0, offset=0.0), (0.5, 3.0))
    two = lipschitz_bound(Objective(), Space(channels=1, height=2, width=2), (1.0, 6.0))
    assert one.log_odds == pytest.approx(two.log_odds)


def test_the_proposal_does_not_enter() -> None:
    by_proposal = [
        lipschitz_bound(Objective(weight=EDMWeight(), proposal=proposal), PIXEL, (0.1, 3.0)).log_odds
        for proposal in (LogNormal(), LogNormal(0.3, 2.0))
    ]
    assert by_proposal[0] == by_proposal[1]


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_gradients_are_those_of_the_closed_form(scale: float) -> None:
    """Two Gaussians: the log-odds are linear in the image, with a slope of |a - b| (1 / (s^2 + l^2) - 1 / (s^2 + h^2)).

    Their answers stay within [0, 1], so that clipping changes nothing.
    """
    classifier = gaussians(scale)
    images = torch.rand((3, *SHAPE), generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    found = log_odds_gradients(classifier, images, pairs=[("b", "a")] * 3, n_draws=2048)
    wanted = 0.6 * 2 * (1 / (0.1**2 + 0.5**2) - 1 / (0.1**2 + 3.0**2))
    assert found == pytest.approx(np.full(3, wanted), rel=0.02)
    bound = lipschitz_bound(classifier.objective, classifier.denoiser.space, classifier.engine().sigma_range())  # type: ignore[arg-type]
    assert (found < bound.log_odds).all()


def test_a_certificate_stays_within_the_true_radius() -> None:
    """The plane between the means is where the label changes; noise levels from 2 up make a bound that proves much."""
    classifier = replace(gaussians(span=(2.0, 20.0)), race=Exhaustive(n_draws=65_536, block=4), batch_size=4096)
    x = torch.full(SHAPE, 0.8)
    certificate = lipschitz_certificate(classifier, x)
    true = 0.3 * 2  # [image units] from 0.8 to 0.5 in each of four pixels
    assert certificate.label == "b"
    assert 0.02 < certificate.radius < true
    exact = 0.6**2 * 4 / 2 * (1 / (0.1**2 + 2.0**2) - 1 / (0.1**2 + 20.0**2))
    assert certificate.margin_lower < exact
    assert certificate.margin == pytest.approx(exact, rel=0.1)
    assert certificate.radius == pytest.approx(certificate.margin_lower / certificate.bound.log_odds)


def test_an_uncertain_margin_is_an_abstention() -> None:
    certificate = lipschitz_certificate(gaussians(), torch.full(SHAPE, 0.52))
    assert (certificate.label, certificate.radius) == (None, 0.0)
    assert certificate.margin > 0 > certificate.margin_lower


def test_clipping_is_to_the_range_of_images() -> None:
    model = gaussians(2.0).denoiser
    noisy = torch.full((1, *SHAPE), 90.0)
    conditions = Clipped(model).condition_on(["a"])
    assert float(model(noisy, torch.tensor([0.01]), conditions).max()) > 1
    assert float(Clipped(model)(noisy, torch.tensor([0.01]), conditions).max()) == 1
    assert float(Clipped(model)(-noisy, torch.tensor([0.01]), conditions).min()) == -1
    x = torch.full((1, *SHAPE), 0.25)
    assert torch.equal(Clipped(model).decode(Clipped(model).encode(x)), x)
    assert Clipped(model).classes == ("a", "b")


def test_what_the_bound_does_not_hold_for_is_refused() -> None:
    x = torch.full(SHAPE, 0.5)

    def sentence(classifier: DiffusionClassifier, alpha: float = 0.01) -> str:
        with pytest.raises((InputError, RangeError)) as caught:
            lipschitz_certificate(classifier, x, alpha=alpha)
        return str(caught.value)

    plain = gaussians()
    assert sentence(plain, alpha=0.0) == (
        "The 'alpha' parameter of lipschitz_certificate must be a float in (0, 1). Got 0.0."
    )
    assert sentence(replace(plain, target=NoisedExact(0.1))) == (
        "The Lipschitz bound is that of the plain classifier, with the target Clean()."
    )
    assert sentence(replace(plain, objective=Objective(antithetic=True))) == (
        "The error of draws in opposite pairs is not bounded here. Use an objective without them."
    )
    assert sentence(replace(plain, objective=Objective(distance="l1"))) == (
        "A Lipschitz bound needs the distance 'l2'. Got 'l1'."
    )
    with pytest.raises(InputError) as caught:
        log_odds_gradients(plain, x[None], pairs=[])
    assert str(caught.value) == "log_odds_gradients needs a pair of classes for each image. Got 0 for 1 images."
