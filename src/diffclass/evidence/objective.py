"""What is estimated (the weight) and where it is measured (the proposal), kept apart.

Everything is a density against d log(sigma). The weight changes the answer; the proposal changes only its variance.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy.stats import norm

from diffclass.errors import InputError, RangeError

__all__ = [
    "DISTANCES",
    "EDMOfficialWeight",
    "EDMWeight",
    "LikelihoodWeight",
    "LogNormal",
    "LogUniform",
    "Objective",
    "Proposal",
    "SimpleWeight",
    "TabulatedProposal",
    "TabulatedWeight",
    "UniformTimeWeight",
    "Weight",
    "as_table",
]

DISTANCES = ("l2", "l1", "huber")
_FLAT = 1e-6  # rises of a log-density below this are taken as the first terms of their series
Values = Float64[ndarray, " draw"]
Knots = tuple[float, ...]
_Knots = Float64[ndarray, " _"]


def _check_table(name: str, log_sigma: Knots, logarithms: Knots) -> None:
    """Refuse a table that is no function of log(sigma)."""
    finite = np.isfinite([*log_sigma, *logarithms]).all()
    if len(log_sigma) < 2 or len(log_sigma) != len(logarithms) or not finite or not (np.diff(log_sigma) > 0).all():
        raise RangeError(
            f"A {name} needs two or more finite knots, log(sigma) ascending, and a logarithm at each. "
            f"Got {len(log_sigma)} knots and {len(logarithms)} logarithms."
        )


class Weight(ABC):
    """w(sigma): how much the squared error at a noise level counts, against d log(sigma)."""

    @abstractmethod
    def __call__(self, sigma: Values) -> Values:
        """Return w at each sigma [model units]."""


@final
@dataclass(frozen=True, slots=True)
class LikelihoodWeight(Weight):
    """sigma^-2: the integral of the error is -log p(x | class) up to a constant that no class changes.

    Source:
        Kingma et al. 2021, equation 17 (arXiv:2107.00630); Guo, Shamai and Verdu 2005 (I-MMSE).
    """

    def __call__(self, sigma: Values) -> Values:
        """Return sigma^-2."""
        return sigma**-2.0


@final
@dataclass(frozen=True, slots=True)
class EDMWeight(Weight):
    """The EDM training loss: lambda(sigma) times a log-normal density.

    Args:
        sigma_data: [model units] standard deviation of the data.
        p_mean: mean of log(sigma).
        p_std: standard deviation of log(sigma).

    Source:
        Karras et al. 2022, Table 1, "Training" (arXiv:2206.00364); Chen et al. 2024, section 3 (arXiv:2402.02316).
    """

    sigma_data: float = 0.5
    p_mean: float = -1.2
    p_std: float = 1.2

    def __call__(self, sigma: Values) -> Values:
        """Return (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 N(ln sigma; p_mean, p_std^2)."""
        scale = (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2
        return scale * norm.pdf(np.log(sigma), self.p_mean, self.p_std)


@final
@dataclass(frozen=True, slots=True)
class EDMOfficialWeight(Weight):
    """The EDM weight as the code of Chen et al. computes it, to compare with their figures and for nothing else.

    The code writes the exponent of the log-normal density as -(ln sigma - p_mean)^2 / 2 * p_std**2, which multiplies by
    the variance where the paper divides by it: small noise counts less, and the density integrates to p_std^-2.

    Args:
        sigma_data: [model units] standard deviation of the data.
        p_mean: mean of log(sigma).
        p_std: what the paper calls the standard deviation of log(sigma).

    Source:
        The code published with Chen et al. 2024 (arXiv:2402.02316), file EDMDC.py.
    """

    sigma_data: float = 0.5
    p_mean: float = -1.2
    p_std: float = 1.2

    def __call__(self, sigma: Values) -> Values:
        """Return the EDM weight of a density whose standard deviation is 1 / p_std, over p_std^2."""
        return EDMWeight(self.sigma_data, self.p_mean, 1 / self.p_std)(sigma) / self.p_std**2


@final
@dataclass(frozen=True, slots=True)
class UniformTimeWeight(Weight):
    """The error of the predicted noise, uniform over the times of the linear DDPM schedule (L_simple).

    Args:
        beta_start: first beta of the schedule.
        beta_end: last beta.
        n_times: how many times it has.

    Source:
        Ho et al. 2020, equation 14 (arXiv:2006.11239); Li et al. 2023, equation 6 (arXiv:2303.16203).
    """

    beta_start: float = 1e-4
    beta_end: float = 0.02
    n_times: int = 1000

    def __call__(self, sigma: Values) -> Values:
        """Return sigma^-2 times the density of log(sigma) when the time is uniform."""
        abar = np.cumprod(1 - np.linspace(self.beta_start, self.beta_end, self.n_times))
        log_sigma = 0.5 * np.log((1 - abar) / abar)
        density = np.gradient(np.linspace(0.0, 1.0, self.n_times), log_sigma)
        return np.interp(np.log(sigma), log_sigma, density) * sigma**-2.0


@final
@dataclass(frozen=True, slots=True)
class SimpleWeight(Weight):
    """The error of the predicted image, uniform over the times of the cosine schedule ("Simple").

    Source:
        Clark and Jaini 2023, section 3 (arXiv:2303.15233); sigma = tan(pi t / 2) (Nichol and Dhariwal 2021).
    """

    def __call__(self, sigma: Values) -> Values:
        """Return the density of log(sigma) when the time is uniform: 2 sigma / (pi (1 + sigma^2))."""
        return 2 / np.pi * sigma / (1 + sigma**2)


@final
@dataclass(frozen=True, slots=True)
class TabulatedWeight(Weight):
    """A weight that was learned: its logarithm is linear in log(sigma) between knots, and constant beyond them.

    Args:
        log_sigma: ascending knots.
        log_weight: log w at each knot.

    Source:
        Jeong et al. 2025 (one weight a timestep, positive by an exponential); Clark and Jaini 2023, section 3
        (arXiv:2303.15233; one weight for each of 20 ranges of noise).
    """

    log_sigma: Knots
    log_weight: Knots

    def __post_init__(self) -> None:
        """Refuse a table that is no function."""
        _check_table("TabulatedWeight", self.log_sigma, self.log_weight)

    def __call__(self, sigma: Values) -> Values:
        """Return exp of the interpolated logarithm."""
        return np.exp(np.interp(np.log(sigma), self.log_sigma, self.log_weight))


class Proposal(ABC):
    """q(sigma): where noise levels are drawn, a density against d log(sigma) on a range."""

    @abstractmethod
    def sigma(self, quantile: Values, low: float, high: float) -> Values:
        """Return the sigma at each quantile of the proposal restricted to [low, high]."""

    @abstractmethod
    def density(self, sigma: Values, low: float, high: float) -> Values:
        """Return q at each sigma; it integrates to 1 over log(sigma) in [log low, log high]."""


@final
@dataclass(frozen=True, slots=True)
class LogUniform(Proposal):
    """Every octave of noise is drawn equally often."""

    def sigma(self, quantile: Values, low: float, high: float) -> Values:
        """Return low (high / low)^quantile."""
        return low * (high / low) ** quantile

    def density(self, sigma: Values, low: float, high: float) -> Values:
        """Return 1 / log(high / low)."""
        return np.full_like(sigma, 1 / np.log(high / low))


@final
@dataclass(frozen=True, slots=True)
class LogNormal(Proposal):
    """log(sigma) is Gaussian, truncated to the range: measure most where classes differ most.

    Args:
        mean: mean of log(sigma).
        std: standard deviation of log(sigma).
    """

    mean: float = -0.5
    std: float = 1.0

    def _mass(self, low: float, high: float) -> tuple[float, float]:
        below, above = norm.cdf(np.log([low, high]), self.mean, self.std)
        return float(below), float(above)

    def sigma(self, quantile: Values, low: float, high: float) -> Values:
        """Return the quantile of the truncated log-normal."""
        below, above = self._mass(low, high)
        return np.exp(norm.ppf(below + quantile * (above - below), self.mean, self.std))

    def density(self, sigma: Values, low: float, high: float) -> Values:
        """Return the truncated Gaussian density of log(sigma)."""
        below, above = self._mass(low, high)
        return norm.pdf(np.log(sigma), self.mean, self.std) / (above - below)


@final
@dataclass(frozen=True, slots=True)
class TabulatedProposal(Proposal):
    """A density that was fitted: its logarithm is linear in log(sigma) between knots, and constant beyond them.

    Integral and quantiles are exact: a piece of width h between log-densities a and b has the mass
    h e^a (e^(b - a) - 1) / (b - a).

    Args:
        log_sigma: ascending knots.
        log_density: logarithm of the density at each knot, up to a constant.
    """

    log_sigma: Knots
    log_density: Knots

    def __post_init__(self) -> None:
        """Refuse a table that is no function."""
        _check_table("TabulatedProposal", self.log_sigma, self.log_density)

    def _pieces(self, low: float, high: float) -> tuple[_Knots, _Knots, _Knots]:
        """Return the knots within a range, ends included, the log-density at each, and the mass between them."""
        first, last = np.log(low), np.log(high)
        inside = [knot for knot in self.log_sigma if first < knot < last]
        knots = np.array([first, *inside, last])
        height = np.interp(knots, self.log_sigma, self.log_density)
        rise = np.diff(height)
        flat = np.abs(rise) < _FLAT
        slope = np.where(flat, 1.0, rise)
        mass = np.diff(knots) * np.exp(height[:-1]) * np.where(flat, 1 + rise / 2, np.expm1(slope) / slope)
        return knots, height, mass

    def sigma(self, quantile: Values, low: float, high: float) -> Values:
        """Return the exact inverse of the integral of the density."""
        knots, height, mass = self._pieces(low, high)
        total = np.concatenate([[0.0], np.cumsum(mass)])
        wanted = quantile * total[-1]
        piece = np.clip(np.searchsorted(total, wanted, side="right") - 1, 0, len(mass) - 1)
        rise = np.diff(height)[piece]
        flat = np.abs(rise) < _FLAT
        part = (wanted - total[piece]) / (np.diff(knots)[piece] * np.exp(height[:-1][piece]))
        slope = np.where(flat, 1.0, rise)
        step = np.where(flat, part * (1 - rise * part / 2), np.log1p(np.where(flat, 0.0, part * slope)) / slope)
        return np.exp(knots[piece] + np.clip(step, 0.0, 1.0) * np.diff(knots)[piece])

    def density(self, sigma: Values, low: float, high: float) -> Values:
        """Return the interpolated density over its integral."""
        _, _, mass = self._pieces(low, high)
        return np.exp(np.interp(np.log(sigma), self.log_sigma, self.log_density)) / mass.sum()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The quantity by which classes are compared.

    Args:
        weight: w(sigma). Changes the answer.
        proposal: where sigmas are drawn. Changes only the variance.
        sigma_range: [model units] restricts the integral further than the model and the target do.
        distance: "l2" (the only one with a likelihood behind it), or the heuristics "l1" and "huber".
        antithetic: draws of neighbouring noise levels share a noise vector with opposite signs (see `Draws`). Changes
            only the variance.
    """

    weight: Weight = field(default_factory=LikelihoodWeight)
    proposal: Proposal = field(default_factory=LogUniform)
    sigma_range: tuple[float, float] | None = None
    distance: str = "l2"
    antithetic: bool = False

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise InputError(f"The distance must be one of {', '.join(DISTANCES)}. Got {self.distance!r}.")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], *, sigma_data: float) -> "Objective":
        """Build an objective from the names that model directories and the command line use.

        Args:
            settings: weight, weight_mean, weight_std, weight_sigma_data, proposal, proposal_mean, proposal_std,
                sigma_range, distance, antithetic; all optional. A weight or proposal is a name, or a table as
                `as_table` makes it.
            sigma_data: [model units] standard deviation of the data, for the EDM weight.

        Raises:
            InputError: a name is unknown, or a table is none.
        """
        span = settings.get("sigma_range")
        return cls(
            weight=_weight(settings, sigma_data),
            proposal=_proposal(settings),
            sigma_range=None if span is None else (float(span[0]), float(span[1])),
            distance=settings.get("distance", "l2"),
            antithetic=bool(settings.get("antithetic", False)),
        )


def as_table(part: TabulatedWeight | TabulatedProposal) -> dict[str, Any]:
    """Return a tabulated weight or proposal as plain values, for JSON; `Objective.from_settings` reads it."""
    values: dict[str, Any] = {name: list(getattr(part, name)) for name in part.__slots__}
    return {"kind": "tabulated", **values}


def _weight(settings: Mapping[str, Any], sigma_data: float) -> Weight:
    """Build a weight from its name or its table."""
    chosen, sigma_data = settings.get("weight", "likelihood"), settings.get("weight_sigma_data", sigma_data)
    if isinstance(chosen, Mapping):
        return TabulatedWeight(*_columns(chosen, "weight", "log_weight"))
    weights = {
        "likelihood": LikelihoodWeight(),
        "edm": EDMWeight(sigma_data, settings.get("weight_mean", -1.2), settings.get("weight_std", 1.2)),
        "edm_official": EDMOfficialWeight(
            sigma_data, settings.get("weight_mean", -1.2), settings.get("weight_std", 1.2)
        ),
        "ddpm": UniformTimeWeight(),
        "simple": SimpleWeight(),
    }
    if chosen not in weights:
        raise InputError(f"The weight must be one of {', '.join(weights)}. Got {chosen!r}.")
    return weights[chosen]


def _proposal(settings: Mapping[str, Any]) -> Proposal:
    """Build a proposal from its name or its table."""
    chosen = settings.get("proposal", "log-uniform")
    if isinstance(chosen, Mapping):
        return TabulatedProposal(*_columns(chosen, "proposal", "log_density"))
    proposals = {
        "log-uniform": LogUniform(),
        "log-normal": LogNormal(settings.get("proposal_mean", -0.5), settings.get("proposal_std", 1.0)),
    }
    if chosen not in proposals:
        raise InputError(f"The proposal must be one of {', '.join(proposals)}. Got {chosen!r}.")
    return proposals[chosen]


def _columns(table: Mapping[str, Any], name: str, column: str) -> tuple[Knots, Knots]:
    """Read the two columns of a table."""
    wanted = {"kind", "log_sigma", column}
    try:
        if table.keys() != wanted or table["kind"] != "tabulated":
            raise ValueError
        log_sigma, values = (tuple(float(value) for value in table[key]) for key in ("log_sigma", column))
    except (TypeError, ValueError) as error:
        raise InputError(
            f'The table of a {name} must hold kind ("tabulated"), and log_sigma and {column} as lists of numbers. '
            f"Got {dict(table)!r}."
        ) from error
    return log_sigma, values
