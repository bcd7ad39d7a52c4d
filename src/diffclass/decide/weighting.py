"""Learn from labels how much the error at each noise level should count."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float64, Int
from numpy import ndarray

from diffclass.errors import InputError
from diffclass.evidence.matrix import ErrorMatrices
from diffclass.evidence.objective import TabulatedWeight, Weight
from diffclass.stats.interval import Estimate, mean_interval

__all__ = ["LearnedWeight", "learn_weight", "weight_ratio"]

LEAST_IMAGES = 20
PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # tried, of the squared steps between knots
_FLAT = 4.0  # [nats] log-temperature above that of a margin, from where on the loss hardly changes
_FINE = 4  # pieces of the table between two knots, so that the model's own weight is followed closely

Basis = Float64[ndarray, "image draw _"]
Evidence = Float64[ndarray, "image draw class"]  # weight x error over the number of draws, mean over classes removed
Values = Float64[ndarray, " _"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedWeight:
    """A weight learned from labelled images, or the model's own where learning did not help.

    Args:
        weight: to be used.
        learned: whether it is another than the model's own.
        penalty: of the squared steps between knots, chosen by cross-validation.
        log_sigma: knots of the correction.
        log_ratio: log of the learned over the own weight at each, whether it is used or not.
        nll_own: [nats] cross-validated mean of -log p(label) under the own weight, at its best temperature.
        nll_learned: [nats] the same under the learned weight.
        gain: [nats] their difference, image by image.
    """

    weight: Weight
    learned: bool
    penalty: float
    log_sigma: tuple[float, ...]
    log_ratio: tuple[float, ...]
    nll_own: Estimate
    nll_learned: Estimate
    gain: Estimate

    @property
    def told(self) -> str:
        """Say what became of the weight, and why."""
        gain = f"{self.gain.value:.4f} nats ({self.gain.low:.4f} to {self.gain.high:.4f})"
        end = "it is used" if self.learned else "the model's own weight is kept"
        return f"a learned weight gains {gain} an image by cross-validation on {self.gain.n} images: {end}"


def learn_weight(
    matrices: ErrorMatrices,
    *,
    weight: Weight,
    sigma_range: tuple[float, float],
    n_knots: int = 8,
    n_folds: int = 5,
    seed: int = 0,
) -> LearnedWeight:
    """Learn a weight under which the labels of some images are most probable.

    The logarithm of its ratio to the model's own weight is linear in log(sigma) between evenly spaced knots. What is
    minimised is the mean of -log p(label), p = softmax(-mean over draws of weight x error / temperature), plus a
    penalty on the squared steps of that logarithm, so that a large penalty leaves the own weight. Cross-validation
    chooses the penalty. A weight changes answers, so that the learned one is used only if its gain on images that it
    was not fitted to is above 0 with its whole 95% interval.

    Args:
        matrices: images to learn from; measure the gain on others.
        weight: that the matrices hold, the model's own.
        sigma_range: [model units] noise range of the draws.
        n_knots: of the correction.
        n_folds: of the cross-validation.
        seed: of the folds.

    Raises:
        InputError: too few images, or all of one class.

    Source:
        Jeong et al. 2025 (one weight a timestep, fitted by cross-entropy to half of the images); Clark and Jaini 2023,
        section 3 (arXiv:2303.15233).
    """
    n = len(matrices)
    if n < max(LEAST_IMAGES, 2 * n_folds):
        raise InputError(f"learn_weight needs at least {max(LEAST_IMAGES, 2 * n_folds)} labelled images. Got {n}.")
    if len(np.unique(matrices.labels)) < 2:
        only = matrices.classes[matrices.labels[0]]
        raise InputError(f"learn_weight needs images of two classes or more. Got {only!r} only.")
    evidence, labels = _centred(matrices), matrices.labels
    knots = np.linspace(np.log(sigma_range[0]), np.log(sigma_range[1]), n_knots)
    own, hats = np.ones((*matrices.sigmas.shape, 1)), _hats(np.log(matrices.sigmas), knots)
    fold = np.random.default_rng(seed).permutation(n) % n_folds
    losses = np.empty((len(PENALTIES) + 1, n))
    for k in range(n_folds):
        fit, rest = fold != k, fold == k
        path = _path(evidence[fit], labels[fit], own[fit], hats[fit])
        for row, (basis, theta) in enumerate(zip([own, *[hats] * len(PENALTIES)], path, strict=True)):
            losses[row, rest] = _losses(_scores(evidence[rest], basis[rest] @ theta), labels[rest])
    best = int(losses[1:].mean(axis=1).argmin())
    path = _path(evidence, labels, own, hats)
    ratio = path[1 + best] - path[0]
    gain = mean_interval(losses[0] - losses[1 + best])
    learned = gain.low > 0
    return LearnedWeight(
        weight=_table(weight, knots, ratio) if learned else weight,
        learned=learned,
        penalty=PENALTIES[best],
        log_sigma=tuple(knots.tolist()),
        log_ratio=tuple(ratio.tolist()),
        nll_own=mean_interval(losses[0]),
        nll_learned=mean_interval(losses[1 + best]),
        gain=gain,
    )


def weight_ratio(sigmas: Float64[ndarray, "image draw"], old: Weight, new: Weight) -> Float64[ndarray, "image draw"]:
    """Return new over old at every draw: what the weights of matrices are multiplied by when the weight changes."""
    flat = sigmas.reshape(-1)
    return (new(flat) / old(flat)).reshape(sigmas.shape)


def _centred(matrices: ErrorMatrices) -> Evidence:
    """Return weight x error over the number of draws; what all classes of a draw share has no part in a softmax."""
    errors = matrices.errors.astype(np.float64)
    errors -= errors.mean(axis=2, keepdims=True)
    errors *= matrices.weights[:, :, None] / matrices.n_draws
    return errors


def _hats(log_sigma: Float64[ndarray, "image draw"], knots: Values) -> Basis:
    """Return the piecewise linear functions that are 1 at one knot and 0 at the others."""
    return np.stack([np.interp(log_sigma, knots, row) for row in np.eye(len(knots))], axis=2)


def _scores(evidence: Evidence, log_ratio: Float64[ndarray, "image draw"]) -> Float64[ndarray, "image class"]:
    """Return minus the mean over draws of weight x error, the weight multiplied by exp(log_ratio)."""
    return -np.einsum("idc,id->ic", evidence, np.exp(log_ratio))


def _losses(scores: Float64[ndarray, "image class"], labels: Int[ndarray, " image"]) -> Float64[ndarray, " image"]:
    """Return -log p(label) of each image [nats]."""
    return np.logaddexp.reduce(scores, axis=1) - scores[np.arange(len(labels)), labels]


def _path(evidence: Evidence, labels: Int[ndarray, " image"], own: Basis, hats: Basis) -> Sequence[Values]:
    """Return the temperature of the own weight (as minus its logarithm), then the solution for every penalty.

    Where the own weight is worse than guessing, its best temperature is infinite, and there the loss is flat: then
    each solution is sought from a temperature of one margin.
    """
    margin = np.ptp(_scores(evidence, np.zeros(evidence.shape[:2])), axis=1).mean()
    first = np.array([-np.log(margin)])
    theta = _minimise(_loss(evidence, labels, own, 0.0), first)
    path, flat = [theta], theta[0] < first[0] - _FLAT
    theta = np.full(hats.shape[2], first[0] if flat else theta[0])
    for penalty in PENALTIES:  # each from the one before: smoother first
        found = _minimise(_loss(evidence, labels, hats, penalty), theta)
        theta = theta if flat else found
        path.append(found)
    return path


def _minimise(loss: Callable[[Values], tuple[float, Values]], start: Values) -> Values:
    from scipy.optimize import minimize

    found: Any = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200, "ftol": 1e-10})
    return np.asarray(found.x, dtype=np.float64)


def _loss(
    evidence: Evidence, labels: Int[ndarray, " image"], basis: Basis, penalty: float
) -> Callable[[Values], tuple[float, Values]]:
    """Return the penalised cross-entropy of log-weights theta, and its gradient.

    A share 1 / (n + 2) of each label is given to the other classes, or images that are all right would ask for a
    temperature of 0 (Platt 1999, section 2.2).
    """
    n, n_classes = len(labels), evidence.shape[2]
    target = np.full((n, n_classes), 1 / (n + 2) / (n_classes - 1))
    target[np.arange(n), labels] = 1 - 1 / (n + 2)

    def loss(theta: Values) -> tuple[float, Values]:
        factor = np.exp(basis @ theta)
        scores = -np.einsum("idc,id->ic", evidence, factor)
        total = np.logaddexp.reduce(scores, axis=1, keepdims=True)
        steps = np.diff(theta)
        value = ((total - scores) * target).sum() / n + penalty * float(steps @ steps)
        slope = (np.exp(scores - total) - target) / n
        by_draw = -np.einsum("idc,ic->id", evidence, slope) * factor
        gradient = np.einsum("id,idk->k", by_draw, basis)
        gradient[:-1] -= 2 * penalty * steps
        gradient[1:] += 2 * penalty * steps
        return float(value), gradient

    return loss


def _table(weight: Weight, knots: Values, log_ratio: Values) -> TabulatedWeight:
    """Tabulate the own weight times the ratio, on knots four times as close."""
    fine = np.interp(np.arange((len(knots) - 1) * _FINE + 1) / _FINE, np.arange(len(knots)), knots)
    logarithms = np.log(weight(np.exp(fine))) + np.interp(fine, knots, log_ratio)
    return TabulatedWeight(tuple(fine.tolist()), tuple(logarithms.tolist()))
