"""Weights and proposals: densities that integrate as they say."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.integrate import simpson

from diffclass.errors import InputError
from diffclass.evidence import (
    EDMWeight,
    LikelihoodWeight,
    LogNormal,
    LogUniform,
    Objective,
    SimpleWeight,
    UniformTimeWeight,
)


def integral(function: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> float:
    grid = np.linspace(np.log(low), np.log(high), 20_001)
    return float(simpson(function(np.exp(grid)), x=grid))


@pytest.mark.parametrize("proposal", [LogUniform(), LogNormal(), LogNormal(1.0, 0.3)])
def test_proposals_integrate_to_one(proposal: LogUniform | LogNormal) -> None:
    assert integral(lambda s: proposal.density(s, 0.1, 9.0), 0.1, 9.0) == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("proposal", [LogUniform(), LogNormal(), LogNormal(1.0, 0.3)])
def test_quantiles_invert_the_density(proposal: LogUniform | LogNormal) -> None:
    quantiles = np.array([0.0, 0.1, 0.5, 0.93, 1.0])
    for q, sigma in zip(quantiles, proposal.sigma(quantiles, 0.1, 9.0), strict=True):
        assert integral(lambda s: proposal.density(s, 0.1, 9.0), 0.1, sigma) == pytest.approx(q, abs=1e-6)


def test_edm_weight_holds_a_density_of_log_sigma() -> None:
    # the published code multiplies by P_std^2 where it should divide: this integral would then not be 1
    edm = EDMWeight(sigma_data=0.5)
    scale = lambda s: (s**2 + 0.25) / (s * 0.5) ** 2  # noqa: E731
    assert integral(lambda s: edm(s) / scale(s), 1e-5, 1e4) == pytest.approx(1, abs=1e-6)


def test_uniform_times_hold_a_density_of_log_sigma() -> None:
    assert integral(lambda s: UniformTimeWeight()(s) * s**2, 0.0101, 157.0) == pytest.approx(1, abs=5e-3)
    assert integral(SimpleWeight(), 1e-6, 1e6) == pytest.approx(1, abs=1e-4)


def test_likelihood_weight() -> None:
    assert LikelihoodWeight()(np.array([0.5, 2.0])) == pytest.approx([4.0, 0.25])


def test_settings() -> None:
    objective = Objective.from_settings({"weight": "edm", "weight_mean": 0.5, "proposal": "log-normal"}, sigma_data=0.3)
    assert objective.weight == EDMWeight(0.3, 0.5, 1.2)
    assert objective.proposal == LogNormal(-0.5, 1.0)
    assert Objective.from_settings({}, sigma_data=0.5) == Objective()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"weight": "elbo"}, "The weight must be one of likelihood, edm, ddpm, simple. Got 'elbo'."),
        ({"proposal": "flat"}, "The proposal must be one of log-uniform, log-normal. Got 'flat'."),
        ({"distance": "l3"}, "The distance must be one of l2, l1, huber. Got 'l3'."),
    ],
)
def test_unknown_names(settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        Objective.from_settings(settings, sigma_data=0.5)
    assert str(caught.value) == sentence
