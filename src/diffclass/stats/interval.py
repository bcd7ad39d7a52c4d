"""Intervals for measured numbers: every number travels with its uncertainty and its n."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Int, Num
from numpy import ndarray

from diffclass.errors import InputError, RangeError

__all__ = ["Estimate", "bootstrap", "clopper_pearson", "mean_interval", "wilson"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number measured on n items, with an interval for what it would be on infinitely many.

    Args:
        value: what was measured.
        low: lower end of the interval.
        high: upper end of the interval.
        n: items it was measured on.
        confidence: how often such an interval holds the truth.
        method: how the interval was made.

    Source:
        Neyman 1937 (confidence intervals).
    """

    value: float
    low: float
    high: float
    n: int
    confidence: float
    method: str


def wilson(k: int, n: int, *, confidence: float = 0.95) -> Estimate:
    """Estimate a proportion from k successes in n trials, with Wilson's score interval.

    Source:
        Wilson 1927; Brown, Cai and DasGupta 2001, section 3.1.1.
    """
    return _proportion(k, n, confidence=confidence, method="wilson")


def clopper_pearson(k: int, n: int, *, confidence: float = 0.95) -> Estimate:
    """Estimate a proportion from k successes in n trials, with the exact interval.

    With probability at least `confidence` the interval holds the true proportion, for every n.

    Source:
        Clopper and Pearson 1934.
    """
    return _proportion(k, n, confidence=confidence, method="exact")


def _proportion(k: int, n: int, *, confidence: float, method: str) -> Estimate:
    from scipy.stats import binomtest

    _check_confidence(confidence)
    if n < 1 or not 0 <= k <= n:
        raise RangeError(f"A proportion needs k successes in n trials with 0 <= k <= n and n >= 1. Got k={k}, n={n}.")
    interval = binomtest(k, n).proportion_ci(confidence, method=method)
    name = {"wilson": "Wilson", "exact": "Clopper-Pearson"}[method]
    return Estimate(
        value=k / n, low=float(interval.low), high=float(interval.high), n=n, confidence=confidence, method=name
    )


def mean_interval(values: Num[ndarray, " image"], *, confidence: float = 0.95) -> Estimate:
    """Estimate a mean, with Student's interval.

    Source:
        Student 1908.
    """
    from scipy.stats import t

    _check_confidence(confidence)
    n = len(values)
    if n < 2 or not np.isfinite(values).all():
        raise InputError(
            f"The interval of a mean needs at least 2 finite values. Got {np.isfinite(values).sum()} of {n}."
        )
    mean = float(values.mean(dtype=np.float64))
    half = float(t.isf((1 - confidence) / 2, n - 1) * values.std(ddof=1, dtype=np.float64) / np.sqrt(n))
    return Estimate(value=mean, low=mean - half, high=mean + half, n=n, confidence=confidence, method="Student")


def bootstrap(
    statistic: Callable[..., float],
    *arrays: ndarray,
    n_resamples: int = 1000,
    seed: int = 0,
    stratify: Int[ndarray, " image"] | None = None,
    confidence: float = 0.95,
    method: str = "percentile",
) -> Estimate:
    """Estimate a statistic of some images, with an interval from resampling the images.

    Args:
        statistic: called with the arrays, each resampled along its first axis by the same images.
        arrays: what the statistic needs, one row an image.
        n_resamples: how often the images are resampled.
        seed: of the resampling.
        stratify: a label of each image; every label keeps its count in every resample.
        confidence: how often such an interval should hold the truth.
        method: "percentile", or "basic" for a statistic that resampling biases once more.

    Source:
        Efron 1979; Davison and Hinkley 1997, sections 5.2 and 5.3.
    """
    _check_confidence(confidence)
    if method not in ("percentile", "basic"):
        raise InputError(f"The 'method' parameter of bootstrap must be 'percentile' or 'basic'. Got {method!r}.")
    n = len(arrays[0]) if arrays else 0
    if n < 2 or any(len(array) != n for array in arrays):
        raise InputError(
            f"A bootstrap needs arrays of one length, at least 2 images. Got lengths {[len(a) for a in arrays]}."
        )
    order, start, count = _strata(n, stratify)
    random = np.random.default_rng(seed)
    resampled = np.empty(n_resamples)
    for i in range(n_resamples):
        chosen = order[start + (random.random(n) * count).astype(np.int64)]
        resampled[i] = statistic(*(array[chosen] for array in arrays))
    value = float(statistic(*arrays))
    tail = (1 - confidence) / 2
    low, high = (float(q) for q in np.quantile(resampled, [tail, 1 - tail], method="inverted_cdf"))
    if method == "basic":
        low, high = min(2 * value - high, value), max(2 * value - low, value)
    return Estimate(value=value, low=low, high=high, n=n, confidence=confidence, method=f"{method} bootstrap")


def _strata(n: int, stratify: Int[ndarray, " image"] | None) -> tuple[ndarray, ndarray, ndarray]:
    """Return the images sorted by stratum, and of each place its stratum's first place and size."""
    if stratify is None:
        return np.arange(n), np.zeros(n, dtype=np.int64), np.full(n, n)
    order = np.argsort(stratify, kind="stable")
    _, start, stratum, count = np.unique(stratify[order], return_index=True, return_inverse=True, return_counts=True)
    return order, start[stratum], count[stratum]


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise RangeError(f"The 'confidence' parameter of an interval must be a float in (0, 1). Got {confidence}.")
