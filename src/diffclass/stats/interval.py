"""Intervals for measured numbers: every number travels with its uncertainty and its n."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Int, Num
from numpy import ndarray

from diffclass.errors import InputError, RangeError

__all__ = [
    "Estimate",
    "bootstrap",
    "clopper_pearson",
    "clustered_mean",
    "clustered_proportion",
    "mean_interval",
    "wilson",
]


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


def clustered_mean(
    values: Num[ndarray, " image"], clusters: Num[ndarray, " image"], *, confidence: float = 0.95
) -> Estimate:
    """Estimate a mean of values that come in clusters, with Student's interval over clusters.

    Args:
        values: of each item.
        clusters: items with the same number are not independent of each other.
        confidence: of the interval.

    Source:
        Liang and Zeger 1986 (the variance); Cameron and Miller 2015, section 2 (one degree of freedom less than
        clusters).
    """
    from scipy.stats import t

    _check_confidence(confidence)
    mean, se, n_clusters = _clustered(values, clusters)
    half = float(t.isf((1 - confidence) / 2, n_clusters - 1) * se) if n_clusters > 1 else float("inf")
    return Estimate(
        value=mean,
        low=mean - half,
        high=mean + half,
        n=len(values),
        confidence=confidence,
        method=f"Student over {n_clusters} clusters",
    )


def clustered_proportion(
    credit: Num[ndarray, " image"], clusters: Num[ndarray, " image"], *, confidence: float = 0.95
) -> Estimate:
    """Estimate a proportion of items that come in clusters, with Wilson's interval at the effective number of items.

    That number is p (1 - p) over the variance of p between clusters, at most the items; it is the number of clusters
    where nothing varies, as when all are right.

    Args:
        credit: of each item, in [0, 1]; a fraction where a tie is shared.
        clusters: items with the same number are not independent of each other.
        confidence: of the interval.

    Source:
        Wilson 1927; Kish 1965, section 8.2 (effective size); Dean and Pagano 2015 (Wilson's interval with it).
    """
    from scipy.stats import norm

    _check_confidence(confidence)
    p, se, n_clusters = _clustered(credit, clusters)
    if not (credit.min() >= 0 and credit.max() <= 1):
        raise RangeError(f"The credit of items must lie in [0, 1]. Got {credit.min()} to {credit.max()}.")
    n = min(len(credit), p * (1 - p) / se**2) if 0 < se < float("inf") and 0 < p < 1 else n_clusters
    z = float(norm.isf((1 - confidence) / 2))
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * float(np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)))
    return Estimate(
        value=p,
        low=max(0.0, min(p, centre - half)),
        high=min(1.0, max(p, centre + half)),
        n=len(credit),
        confidence=confidence,
        method=f"Wilson over {n_clusters} clusters",
    )


def _clustered(values: Num[ndarray, " image"], clusters: Num[ndarray, " image"]) -> tuple[float, float, int]:
    """Return the mean, its standard error over clusters (infinite for one cluster), and how many clusters there are."""
    n = len(values)
    if n < 1 or len(clusters) != n or not np.isfinite(values).all():
        raise InputError(
            f"A clustered interval needs finite values and a cluster for each. Got {np.isfinite(values).sum()} finite "
            f"ones of {n} and {len(clusters)} clusters."
        )
    _, index = np.unique(clusters, return_inverse=True)
    mean = float(values.mean(dtype=np.float64))
    sums = np.bincount(index, weights=values - mean)
    m = len(sums)
    se = float(np.sqrt(m / (m - 1) * (sums**2).sum()) / n) if m > 1 else float("inf")
    return mean, se, m


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
