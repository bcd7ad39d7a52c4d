"""When a class may leave a race, as it was learned on held-out images, and which classes start."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, final

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from diffclass.errors import ConfigError, InputError, RangeError

__all__ = ["Anchors", "Calibrated", "units_of"]

Values = Float64[ndarray, "..."]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """A few classes that start a race, and how they foretell which others join it after the first look.

    Args:
        stand_ins: the anchor that stands for each class; an anchor stands for itself.
        weights: of each anchor's log-likelihood in each class's, both about their mean over classes, [class, anchor].
        offset: [nats] of each class.
        threshold: [nats] how far a prediction may lag behind the best for the class to join.
    """

    stand_ins: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...]
    offset: tuple[float, ...]
    threshold: float

    def __post_init__(self) -> None:
        """Refuse anchors that cannot be used."""
        stand_ins, n = np.array(self.stand_ins), len(self.stand_ins)
        inside = n > 0 and stand_ins.min() >= 0 and stand_ins.max() < n
        if not inside or not (stand_ins[stand_ins] == stand_ins).all() or len(self.classes) < 2:
            raise InputError(
                "The 'stand_ins' of Anchors must name, for each class, a class that stands for itself, at least two of "
                f"them in all. Got {self.stand_ins[:10]}{'...' if n > 10 else ''}."
            )
        widths = {len(row) for row in self.weights}
        if len(self.weights) != n or widths != {len(self.classes)} or len(self.offset) != n:
            raise InputError(
                f"Anchors need weights of {n} classes by {len(self.classes)} anchors and {n} offsets. "
                f"Got {len(self.weights)} by {sorted(widths)} and {len(self.offset)}."
            )
        if not self.threshold >= 0:
            raise RangeError(f"The 'threshold' of Anchors must be at least 0. Got {self.threshold}.")

    @property
    def classes(self) -> tuple[int, ...]:
        """The anchors."""
        return tuple(sorted(set(self.stand_ins)))

    def admits(
        self, likelihood: Float64[ndarray, "image _"], log_prior: Float64[ndarray, " class"] | float = 0.0
    ) -> Bool[ndarray, "image class"]:
        """Return which classes join, from the anchors' mean log-likelihoods at the first look."""
        centred = likelihood - likelihood.mean(axis=1, keepdims=True)
        predicted = centred @ np.array(self.weights).T + self.offset + log_prior
        return predicted.max(axis=1, keepdims=True) - predicted <= self.threshold


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """A stopping rule whose error over images was measured: what `learn_stopping` returns.

    With confidence `confidence` over the images it was learned on, the answer of the race differs from that of the
    full budget with probability at most `delta` for a new image of the same kind. It says nothing of a single image:
    near ties are wrong more often and clear images less often.

    At a look after n of N units a class leaves when its paired difference to the leader, over its moderated standard
    error, exceeds threshold x (first look / n)^tightening. A unit is a draw, or a pair of opposite noise. Its variance
    is moderated in the manner of limma: the sample's, with n - 1 degrees of freedom, and a trend exp(log_scale)
    mean^slope that counts as `prior_units` degrees, so that a look after a single unit is usable. (The log-likelihood
    ratio of two Gaussians that differ in their mean has a variance proportional to its mean: slope 1.)

    Args:
        threshold: [standard errors] at the first look.
        tightening: how fast the threshold falls with the draws.
        looks: [draws] when the race is judged, whole units; the full budget comes after them.
        unit: draws in a unit.
        log_scale: log of the variance of a unit where the mean is 1.
        slope: of log variance against log mean.
        prior_units: degrees of freedom of the trend.
        n_draws: full budget of draws for a class.
        block: draws in a block.
        delta: share of new images whose answer differs from the full budget's, at most.
        confidence: that it does.
        n: images it was tested on; the others fitted the statistic.
        disagreements: of these images, each counted by the share of orders of its draws in which its answer differed.
        anchors: the classes that start, and which others join; None: all start.

    Source:
        Angelopoulos, Bates, Candès, Jordan and Lei 2021 (arXiv:2110.01052), section 3 (fixed sequences); Schuster et
        al. 2022 (arXiv:2207.07061), early exits; Smyth 2004, section 3 (moderated variance).
    """

    threshold: float
    tightening: float
    looks: tuple[int, ...]
    unit: int
    log_scale: float
    slope: float
    prior_units: float
    n_draws: int
    block: int
    delta: float
    confidence: float
    n: int
    disagreements: float
    anchors: Anchors | None = None

    def __post_init__(self) -> None:
        """Refuse a rule that cannot be used."""
        looks = self.looks
        if self.unit < 1 or self.block % self.unit:
            raise RangeError(f"The 'unit' of Calibrated must divide the block of {self.block} draws. Got {self.unit}.")
        ascend = list(looks) == sorted(set(looks)) and not any(look % self.unit for look in looks)
        if not looks or looks[0] < 1 or looks[-1] >= self.n_draws or not ascend:
            raise InputError(
                f"The 'looks' of Calibrated must ascend, in whole units of {self.unit} draws, to less than n_draws "
                f"({self.n_draws}). Got {looks}."
            )
        for name in ("threshold", "prior_units"):
            if not getattr(self, name) > 0:
                raise RangeError(f"The '{name}' of Calibrated must be above 0. Got {getattr(self, name)}.")
        for name in ("delta", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise RangeError(f"The '{name}' of Calibrated must be a float in (0, 1). Got {getattr(self, name)}.")

    def excludes(self, lead: Float64[ndarray, "draw class"], shift: Float64[ndarray, " class"]) -> ndarray:
        """Return which classes leave after a planned look.

        Args:
            lead: log-likelihood ratio of the leader over each class in each draw so far.
            shift: log prior of the leader minus that of each class.
        """
        return self.statistic(lead, shift) > self.limit(len(lead))

    def limit(self, n_draws: int) -> float:
        """Return the threshold [standard errors] after so many draws."""
        return self.threshold * (self.looks[0] / n_draws) ** self.tightening

    def statistic(self, lead: Values, shift: Values | float = 0.0) -> Values:
        """Return mean over moderated standard error, of draws along the last axis but one; 0 where it is not ahead."""
        units = units_of(lead, self.unit)
        n, n_total = units.shape[-2], self.n_draws // self.unit
        centre = units.mean(axis=-2)
        squares = ((units - centre[..., None, :]) ** 2).sum(axis=-2)
        mean = centre + shift
        trend = np.exp(self.log_scale + self.slope * np.log(np.maximum(mean, 1e-300)))
        variance = (self.prior_units * trend + squares) / (self.prior_units + n - 1)
        se = np.sqrt(variance * (1 - n / n_total) / n)
        return np.divide(mean, se, out=np.zeros_like(mean), where=(mean > 0) & (se > 0))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {"kind": "calibrated", **asdict(self), "looks": list(self.looks)}

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> "Calibrated":
        """Read what `as_dict` wrote.

        Raises:
            ConfigError: a key is missing or unknown.
        """
        names = {field.name for field in fields(cls)}
        found = set(mapping) - {"kind"} | {"anchors"}  # none in rules written before there were any
        if found != names or mapping.get("kind", "calibrated") != "calibrated":
            raise ConfigError(
                f"A calibrated stopping rule needs the keys {', '.join(sorted(names))}. "
                f"Missing: {', '.join(sorted(names - found)) or 'none'}; "
                f"unknown: {', '.join(sorted(found - names)) or 'none'}."
            )
        values: dict[str, Any] = {name: mapping.get(name) for name in names}
        values["looks"] = tuple(int(n) for n in values["looks"])
        if values["anchors"] is not None:
            values["anchors"] = _anchors(values["anchors"])
        return cls(**values)


def _anchors(mapping: Mapping[str, Any]) -> Anchors:
    """Read anchors from plain values."""
    names = {field.name for field in fields(Anchors)}
    if set(mapping) != names:
        raise ConfigError(f"Anchors need the keys {', '.join(sorted(names))}. Got {', '.join(sorted(mapping))}.")
    return Anchors(
        stand_ins=tuple(int(c) for c in mapping["stand_ins"]),
        weights=tuple(tuple(row) for row in mapping["weights"]),
        offset=tuple(mapping["offset"]),
        threshold=mapping["threshold"],
    )


def units_of(values: Values, unit: int) -> Values:
    """Return the means of every `unit` values along the last axis but one."""
    *first, draws, last = values.shape
    return values if unit == 1 else values.reshape(*first, draws // unit, unit, last).mean(axis=-2)
