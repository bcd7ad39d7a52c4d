"""How two classifiers differ on the same images: each difference with its interval and its p-value."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from numpy import ndarray

from diffclass.errors import InputError
from diffclass.stats.interval import Estimate, bootstrap, clustered_proportion, wilson
from diffclass.stats.metric import macro_area

__all__ = ["Difference", "clustered_difference", "delong", "mcnemar", "paired_bootstrap"]

Answers = Num[ndarray, "image ..."]
Statistic = Callable[[ndarray, ndarray], float]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A figure of one classifier minus that of another on the same images.

    Args:
        first: figure of the one.
        second: figure of the other.
        low: lower end of the interval of first - second.
        high: upper end.
        p_value: how often equally good classifiers would differ so much or more, in either direction.
        n: images.
        confidence: how often such an interval holds the truth.
        method: how the interval and the p-value were made.

    Source:
        Neyman 1937 (confidence intervals); Fisher 1935 (tests).
    """

    first: float
    second: float
    low: float
    high: float
    p_value: float
    n: int
    confidence: float
    method: str

    @property
    def value(self) -> float:
        """First minus second."""
        return self.first - self.second


def mcnemar(first: Bool[ndarray, " image"], second: Bool[ndarray, " image"], *, confidence: float = 0.95) -> Difference:
    """Compare two accuracies on the same images.

    The p-value is exact: of the images that one classifier alone gets right, each is the first's with probability 1/2
    if both are equally good. The interval is Newcombe's, from Wilson's of either accuracy and their correlation.

    Args:
        first: whether the first classifier is right.
        second: whether the second is.
        confidence: of the interval.

    Source:
        McNemar 1947 (exact: Edwards 1948); Newcombe 1998, method 10 ("Improved confidence intervals for the difference
        between binomial proportions based on paired data").
    """
    from scipy.stats import binomtest

    n = _length(first, second)
    both, one, other = int((first & second).sum()), int((first & ~second).sum()), int((second & ~first).sum())
    neither = n - both - one - other
    a, b = (wilson(k, n, confidence=confidence) for k in (both + one, both + other))
    product = (both + one) * (other + neither) * (both + other) * (one + neither)
    covariance = both * neither - one * other
    covariance = max(covariance - n / 2, 0.0) if covariance > 0 else covariance
    phi = covariance / np.sqrt(product) if product else 0.0
    below = _joined(a.value - a.low, b.high - b.value, phi)
    above = _joined(b.value - b.low, a.high - a.value, phi)
    difference = a.value - b.value
    return Difference(
        first=a.value, second=b.value, low=difference - below, high=difference + above,
        p_value=float(binomtest(one, one + other).pvalue) if one + other else 1.0, n=n, confidence=confidence,
        method="exact McNemar, Newcombe's interval",
    )  # fmt: skip


def clustered_difference(
    first: Num[ndarray, " image"],
    second: Num[ndarray, " image"],
    clusters: Num[ndarray, " image"],
    *,
    confidence: float = 0.95,
) -> Estimate:
    """Estimate how much larger the second of two proportions of the same clustered items is: second - first.

    The interval joins those of both proportions by the correlation of clusters, less what one cluster can make of it,
    as `mcnemar` does for items. It has a width where all differences are alike, as when one is always right and the
    other never: an interval from the spread of differences would then be a point.

    Args:
        first: credit of each item, in [0, 1].
        second: the same of the other.
        clusters: items with the same number are not independent of each other.
        confidence: of the interval.

    Source:
        Newcombe 1998, method 10; Zou and Donner 2008 (any intervals of two proportions, joined by their correlation).
    """
    _length(first, second, clusters)
    a, b = (clustered_proportion(credit, clusters, confidence=confidence) for credit in (first, second))
    _, index = np.unique(clusters, return_inverse=True)
    x, y = (np.bincount(index, weights=credit - credit.mean()) for credit in (first, second))
    product, covariance = float((x**2).sum() * (y**2).sum()), float((x * y).sum())
    correction = float((np.bincount(index) ** 2).mean()) / 2
    covariance = max(covariance - correction, 0.0) if covariance > 0 else covariance
    phi = covariance / np.sqrt(product) if product > 0 else 0.0
    below = _joined(b.value - b.low, a.high - a.value, phi)
    above = _joined(a.value - a.low, b.high - b.value, phi)
    difference = b.value - a.value
    return Estimate(
        value=difference, low=max(-1.0, difference - below), high=min(1.0, difference + above), n=len(first),
        confidence=confidence, method=f"Newcombe over {len(x)} clusters",
    )  # fmt: skip


def _joined(one: float, other: float, phi: float) -> float:
    """Return the length of the difference of two deviations of correlation phi."""
    return float(np.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2)))


def delong(
    labels: Int[ndarray, " image"],
    first: Float[ndarray, "image class"],
    second: Float[ndarray, "image class"],
    *,
    confidence: float = 0.95,
) -> Difference:
    """Compare two areas under the ROC curve on the same images; of several classes, means over one against the rest.

    Args:
        labels: the right class of each image.
        first: scores of the first classifier, as `auc` takes them.
        second: scores of the second.
        confidence: of the interval.

    Source:
        DeLong, DeLong and Clarke-Pearson 1988, equations 4 to 9; LeDell, Petersen and van der Laan 2015, section 4.
    """
    from scipy.stats import norm

    n = _length(labels, first, second)
    (a, part_a, _), (b, part_b, _) = macro_area(labels, first), macro_area(labels, second)
    se = float(np.sqrt(((part_a - part_b) ** 2).sum()))
    half = float(norm.isf((1 - confidence) / 2)) * se
    p_value = float(2 * norm.sf(abs(a - b) / se)) if se > 0 else float(a == b)
    return Difference(
        first=a, second=b, low=a - b - half, high=a - b + half, p_value=p_value, n=n, confidence=confidence,
        method="DeLong",
    )  # fmt: skip


def paired_bootstrap(
    statistic: Statistic,
    labels: Int[ndarray, " image"],
    first: Answers,
    second: Answers,
    *,
    stratify: Int[ndarray, " image"] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Difference:
    """Compare any figure of two classifiers on the same images.

    The interval resamples images, each with both of its answers. The p-value exchanges the two answers of an image at
    random, which changes nothing in distribution if the classifiers are equally good.

    Args:
        statistic: called with labels and the answers of one classifier.
        labels: the right class of each image.
        first: answers of the first classifier, a row an image.
        second: answers of the second.
        stratify: a label of each image; every label keeps its count in every resample.
        n_resamples: of the bootstrap, and of the exchanges.
        seed: of both.
        confidence: of the interval.

    Source:
        Efron 1979 (bootstrap); Noreen 1989, chapter 2 (approximate randomization).
    """
    n = _length(labels, first, second)
    found = bootstrap(
        lambda y, a, b: statistic(y, a) - statistic(y, b), labels, first, second, n_resamples=n_resamples, seed=seed,
        stratify=stratify, confidence=confidence, method="basic",
    )  # fmt: skip
    random = np.random.default_rng((seed, 1))
    extreme, shape = 0, (n, *[1] * (first.ndim - 1))
    for _ in range(n_resamples):
        swapped = (random.random(n) < 0.5).reshape(shape)
        a, b = np.where(swapped, second, first), np.where(swapped, first, second)
        extreme += abs(statistic(labels, a) - statistic(labels, b)) >= abs(found.value) - 1e-12
    return Difference(
        first=float(statistic(labels, first)), second=float(statistic(labels, second)), low=found.low, high=found.high,
        p_value=(1 + extreme) / (1 + n_resamples), n=n, confidence=confidence, method="paired bootstrap, exchanges",
    )  # fmt: skip


def _length(*arrays: ndarray) -> int:
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1 or not lengths[0]:
        raise InputError(f"A comparison needs the answers of both classifiers to every image. Got lengths {lengths}.")
    return lengths[0]
