"""From log-odds, which saturate in high dimension, to probabilities that mean what they say."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from diffclass.errors import InputError, RangeError
from diffclass.stats.interval import Estimate, bootstrap

__all__ = ["Temperature", "against_rest", "best_temperature", "fit_temperature", "probabilities"]

LEAST_IMAGES = 20


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Temperature:
    """What log-odds are divided by before they are made probabilities.

    Args:
        value: the temperature; above 1 it says that raw log-odds are too sure of themselves.
        n: images it was fitted on.
        nll_before: [nats] mean of -log p(label) on images held out from the fit, at temperature 1.
        nll_after: [nats] the same at the fitted temperature.
    """

    value: float
    n: int
    nll_before: Estimate
    nll_after: Estimate


def probabilities(log_odds: Float[ndarray, "image class"], temperature: float) -> Float[ndarray, "image class"]:
    """Return softmax(log_odds / temperature); log-odds of -inf have probability 0.

    Raises:
        RangeError: the temperature is not positive.
        InputError: a log-odds is NaN or +inf, or every class of an image is at -inf.

    Source:
        Guo et al. 2017, equation 9 (arXiv:1706.04599).
    """
    from scipy.special import softmax

    if not 0 < temperature < np.inf:
        raise RangeError(f"The 'temperature' parameter of probabilities must be above 0. Got {temperature}.")
    largest = log_odds.max(axis=1, initial=-np.inf)
    if not np.isfinite(largest).all():
        worst = int(np.flatnonzero(~np.isfinite(largest))[0])
        raise InputError(
            f"Log-odds must be numbers, the largest of each image finite. Got {largest[worst]} for image {worst}."
        )
    return softmax((log_odds.astype(np.float64) - largest[:, None]) / temperature, axis=1)


def against_rest(log_odds: Float[ndarray, "image class"]) -> Float[ndarray, "image class"]:
    """Return the log-odds of each class against all others together, which rank images where posteriors saturate.

    Args:
        log_odds: of every class over any one of them.
    """
    n = log_odds.shape[1]
    from scipy.special import logsumexp

    rest = [logsumexp(np.delete(log_odds, c, axis=1), axis=1) for c in range(n)]
    return log_odds - np.stack(rest, axis=1)


def fit_temperature(
    log_odds: Float[ndarray, "image class"], labels: Int[ndarray, " image"], *, held_out: float = 0.5, seed: int = 0
) -> Temperature:
    """Fit the temperature on some labelled images and measure it on the others.

    Classes that left a race early were compared on fewer draws: fit on log-odds of the race that will be used, or
    measure every class in full.

    Args:
        log_odds: of every class over any one of them, before calibration.
        labels: the right class of each image.
        held_out: share of the images that the fit does not see.
        seed: of the split.

    Raises:
        InputError: too few images, one class only, or labels that no temperature fits.
        RangeError: `held_out` is not between 0 and 1.

    Source:
        Guo et al. 2017, section 4.2 (arXiv:1706.04599); Platt 1999.
    """
    _check_fit(log_odds, labels, held_out)
    order = np.random.default_rng(seed).permutation(len(labels))
    n = len(labels) - max(2, round(held_out * len(labels)))
    fit, rest = order[:n], order[n:]
    value = best_temperature(log_odds[fit], labels[fit])
    before, after = (
        bootstrap(lambda surprise: float(surprise.mean()), _surprise(log_odds[rest], labels[rest], t), seed=seed)
        for t in (1.0, value)
    )
    return Temperature(value=value, n=n, nll_before=before, nll_after=after)


def best_temperature(log_odds: Float[ndarray, "image class"], labels: Int[ndarray, " image"]) -> float:
    """Return the temperature under which labels are most probable, fitted on all images: measure it on others.

    Args:
        log_odds: of every class over any one of them, before calibration.
        labels: the right class of each image.

    Raises:
        InputError: every image is right already, or no temperature fits.

    Source:
        Guo et al. 2017, section 4.2 (arXiv:1706.04599); Platt 1999.
    """
    from scipy.optimize import minimize_scalar

    n = len(labels)
    if (log_odds.argmax(axis=1) == labels).all():
        raise InputError(
            f"No temperature can be fitted to images that are all classified rightly. Got {n}. Give more images, "
            "harder ones, or a smaller 'held_out'."
        )

    def mean_nll(log_temperature: float) -> float:
        return float(_surprise(log_odds, labels, float(np.exp(log_temperature))).mean())

    middle = float(np.log(np.ptp(log_odds, axis=1).mean()))
    low, high = middle - 14, middle + 7
    found: Any = minimize_scalar(mean_nll, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    best = float(found.x)
    if high - best < 1e-2 or best - low < 1e-2:
        raise InputError(
            f"No temperature fits: the log-odds of {n} images say nothing about their labels. Check that labels are in "
            "the order of the classes."
        )
    return float(np.exp(best))


def _surprise(
    log_odds: Float[ndarray, "image class"], labels: Int[ndarray, " image"], temperature: float
) -> Float[ndarray, " image"]:
    """Return -log p(label) of each image [nats], finite where the probability itself would underflow."""
    scaled = log_odds.astype(np.float64) / temperature
    return np.logaddexp.reduce(scaled, axis=1) - scaled[np.arange(len(labels)), labels]


def _check_fit(log_odds: Float[ndarray, "image class"], labels: Int[ndarray, " image"], held_out: float) -> None:
    n, n_classes = log_odds.shape
    if not 0 < held_out < 1:
        raise RangeError(f"The 'held_out' parameter of fit_temperature must be a float in (0, 1). Got {held_out}.")
    if n < LEAST_IMAGES:
        raise InputError(f"fit_temperature needs at least {LEAST_IMAGES} labelled images. Got {n}.")
    if not np.isfinite(log_odds).all():
        raise InputError("fit_temperature needs finite log-odds. Got NaN or infinity.")
    if labels.min() < 0 or labels.max() >= n_classes:
        raise InputError(f"Labels must be indices of the {n_classes} classes. Got {labels.min()} to {labels.max()}.")
    if len(np.unique(labels)) < 2:
        raise InputError(f"fit_temperature needs images of at least two classes. Got class {labels[0]} only.")
    if not np.ptp(log_odds, axis=1).any():
        raise InputError("fit_temperature needs log-odds that differ between classes. Got equal ones throughout.")
