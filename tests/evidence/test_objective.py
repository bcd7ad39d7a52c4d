"""Weights and proposals: densities that integrate as they say."""

import json
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import simpson

from diffclass.errors import InputError, RangeError
from diffclass.evidence import (
    EDMWeight,
    LikelihoodWeight,
    LogNormal,
    LogUniform,
    Objective,
    SimpleWeight,
    TabulatedProposal,
    TabulatedWeight,
    UniformTimeWeight,
    as_table,
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
        ({"weight": "elbo"}, "The weight must be one of likelihood, edm, edm_official, ddpm, simple. Got 'elbo'."),
        ({"proposal": "flat"}, "The proposal must be one of log-uniform, log-normal. Got 'flat'."),
        ({"distance": "l3"}, "The distance must be one of l2, l1, huber. Got 'l3'."),
    ],
)
def test_unknown_names(settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        Objective.from_settings(settings, sigma_data=0.5)
    assert str(caught.value) == sentence


# Tables

KNOTS = (np.log(0.05), np.log(0.2), np.log(0.7), np.log(3.0), np.log(20.0))
PROPOSALS = [
    TabulatedProposal(KNOTS, (-1.0, 2.0, 2.0, -3.0, 0.5)),
    TabulatedProposal(KNOTS, (0.0, 1e-9, 2e-7, 5e-6, 1e-4)),  # pieces that are flat, or nearly
    TabulatedProposal((np.log(0.5), np.log(0.6)), (0.0, 3.0)),  # knots that do not reach the range's ends
    TabulatedProposal((np.log(30.0), np.log(60.0)), (1.0, 2.0)),  # all of them beyond it
]


def pieces(proposal: TabulatedProposal, low: float, high: float) -> list[float]:
    """Points between which the density has no kinks."""
    inside = [float(np.exp(knot)) for knot in proposal.log_sigma if np.log(low) < knot < np.log(high)]
    return [low, *inside, high]


@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize("span", [(0.1, 9.0), (0.25, 0.3), (0.01, 50.0)])
def test_tabulated_proposals_integrate_to_one(proposal: TabulatedProposal, span: tuple[float, float]) -> None:
    edges = pieces(proposal, *span)
    parts = [integral(lambda s: proposal.density(s, *span), a, b) for a, b in pairwise(edges)]
    assert sum(parts) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize("span", [(0.1, 9.0), (0.01, 50.0)])
def test_quantiles_of_tables_invert_the_density(proposal: TabulatedProposal, span: tuple[float, float]) -> None:
    quantiles = np.array([0.0, 0.003, 0.1, 0.5, 0.93, 1.0])
    found = proposal.sigma(quantiles, *span)
    assert found[[0, -1]] == pytest.approx(span, rel=1e-12)
    for q, sigma in zip(quantiles[1:-1], found[1:-1], strict=True):
        edges = [*[edge for edge in pieces(proposal, *span) if edge < sigma], sigma]
        parts = [integral(lambda s: proposal.density(s, *span), a, b) for a, b in pairwise(edges)]
        assert sum(parts) == pytest.approx(q, abs=1e-9)


def test_a_tabulated_weight_goes_through_its_knots() -> None:
    weight = TabulatedWeight((0.0, 1.0, 3.0), (2.0, -1.0, 0.0))
    at = np.exp(np.array([-5.0, 0.0, 0.5, 1.0, 2.0, 3.0, 9.0]))
    assert np.log(weight(at)) == pytest.approx([2.0, 2.0, 0.5, -1.0, -0.5, 0.0, 0.0])
    power = TabulatedWeight((np.log(0.1), np.log(10.0)), (-2 * np.log(0.1), -2 * np.log(10.0)))
    at = np.array([0.1, 0.3, 2.0, 10.0])
    assert power(at) == pytest.approx(LikelihoodWeight()(at))


def test_tables_survive_json() -> None:
    weight, proposal = TabulatedWeight((0.1, 0.2), (1.5, 1e-17)), TabulatedProposal((0.1, 0.2), (1.0, -2.0))
    settings = json.loads(json.dumps({"weight": as_table(weight), "proposal": as_table(proposal)}))
    assert settings["weight"] == {"kind": "tabulated", "log_sigma": [0.1, 0.2], "log_weight": [1.5, 1e-17]}
    objective = Objective.from_settings(settings, sigma_data=0.5)
    assert (objective.weight, objective.proposal) == (weight, proposal)


@pytest.mark.parametrize("knots", [((0.0,), (1.0,)), ((0.0, 0.0), (1.0, 1.0)), ((0.0, 1.0), (1.0, np.nan))])
def test_tables_that_are_no_functions_are_refused(knots: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
    for kind in (TabulatedWeight, TabulatedProposal):
        with pytest.raises(RangeError, match=f"A {kind.__name__} needs two or more finite knots"):
            kind(*knots)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"weight": {"kind": "spline", "log_sigma": [0, 1], "log_weight": [0, 1]}},
            'The table of a weight must hold kind ("tabulated"), and log_sigma and log_weight as lists of numbers. '
            "Got {'kind': 'spline', 'log_sigma': [0, 1], 'log_weight': [0, 1]}.",
        ),
        (
            {"proposal": {"kind": "tabulated", "log_sigma": [0, "a"], "log_density": [0, 1]}},
            'The table of a proposal must hold kind ("tabulated"), and log_sigma and log_density as lists of numbers. '
            "Got {'kind': 'tabulated', 'log_sigma': [0, 'a'], 'log_density': [0, 1]}.",
        ),
        (
            {"proposal": {}},
            'The table of a proposal must hold kind ("tabulated"), and log_sigma and log_density as lists of numbers. '
            "Got {}.",
        ),
    ],
)
def test_tables_that_cannot_be_read(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        Objective.from_settings(settings, sigma_data=0.5)
    assert str(caught.value) == sentence
