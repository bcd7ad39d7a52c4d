"""Anchor classes: a few that are measured first, from which it is foretold which of many others can win."""

from collections.abc import Iterator
from dataclasses import replace
from math import inf

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from diffclass.decide.stopping import Anchors, Calibrated
from diffclass.evidence.matrix import ErrorMatrices

__all__ = ["admitted", "anchored"]

SIZES = (1.0, 2.0, 3.0, 4.5, 7.0)  # numbers of anchors tried, in square roots of the number of classes
LOOKS = 4  # first looks tried
FOLDS = 5  # of the images, to measure how far predictions are off
SHARE = 0.25  # of delta that classes which never join may cost
RIDGE = 1e-3  # of the mean square of a predictor
DIGITS = 5  # that are kept of a weight

Values = Float64[ndarray, "_ _"]


def anchored(matrices: ErrorMatrices, rule: Calibrated) -> Iterator[Calibrated]:
    """Yield rules that start with anchors, for each of some first looks the cheapest up to it.

    The errors of classes are not independent: what an image has in common with one class says much about others. The
    mean log-likelihood of every class over all draws is regressed (ridge) on those of the anchors at the first look.
    Anchors are the pivots of a Cholesky factorisation of the classes' covariance over images, each the class that those
    before tell least about. A class joins if its prediction lags by at most a threshold behind the best; the threshold
    is the smallest that, over images that the regression had not seen, shuts out winners no more often than a quarter
    of delta.

    Args:
        matrices: images to fit to; others must test the rule.
        rule: whose looks and delta are used.

    Source:
        Pivoted Cholesky: Harbrecht, Peters and Schneider 2012. The shortcut is a heuristic of ours and promises nothing
        by itself; `learn_stopping` tests it together with the rest of a rule.
    """
    final = matrices.log_likelihood().mean(axis=1)
    final -= final.mean(axis=1, keepdims=True)
    n_classes = final.shape[1]
    sizes = sorted({min(n_classes - 1, max(2, round(size * n_classes**0.5))) for size in SIZES})
    pivots = _pivots(final, sizes[-1])
    for look in rule.looks[:LOOKS]:
        best, cheapest = None, inf
        for size in sizes:
            chosen = np.sort(pivots[:size])
            threshold, joined = _fit_threshold(matrices, final, chosen, look, SHARE * rule.delta)
            cost = look * (size + joined)
            if cost < min(cheapest, look * n_classes):
                best, cheapest = (chosen, threshold), cost
        if best is not None:
            weights, offset = _regress(_first(matrices, best[0], look), final)
            yield replace(
                rule,
                looks=rule.looks[rule.looks.index(look) :],
                anchors=Anchors(
                    stand_ins=_stand_ins(final, best[0]), weights=_rounded(weights), offset=_rounded(offset[None])[0],
                    threshold=float(f"{best[1]:.{DIGITS}g}"),
                ),
            )  # fmt: skip


def admitted(rule: Calibrated, matrices: ErrorMatrices) -> Bool[ndarray, "image class"]:
    """Return which classes are in a race after its first look: anchors, and those that joined."""
    assert rule.anchors is not None
    look, chosen = rule.looks[0], list(rule.anchors.classes)
    errors = matrices.errors[:, :look, chosen].astype(np.float64)
    inside = rule.anchors.admits(-(matrices.weights[:, :look, None] * errors).mean(axis=1))
    inside[:, chosen] = True
    return inside


def _first(matrices: ErrorMatrices, chosen: ndarray, look: int) -> Float64[ndarray, "image group _"]:
    """Return the anchors' mean log-likelihoods over every stretch of draws as long as the first look, centred."""
    groups = matrices.n_draws // look
    errors = matrices.errors[:, : groups * look, chosen].astype(np.float64)
    likelihood = -matrices.weights[:, : groups * look, None] * errors
    means = likelihood.reshape(len(matrices), groups, look, len(chosen)).mean(axis=2)
    return means - means.mean(axis=2, keepdims=True)


def _regress(first: Float64[ndarray, "image group _"], final: Values) -> tuple[Values, Float64[ndarray, " class"]]:
    """Regress the final log-likelihoods on those of the anchors; return weights [class, anchor] and offsets."""
    n_images, groups, n = first.shape
    centre, mean = first.mean(axis=(0, 1)), final.mean(axis=0)
    x = (first - centre).reshape(-1, n)
    gram = x.T @ x
    gram[np.diag_indices(n)] += RIDGE * np.trace(gram) / n
    weights = np.linalg.solve(gram, x.reshape(n_images, groups, n).sum(axis=1).T @ (final - mean)).T
    return weights, mean - weights @ centre


def _fit_threshold(
    matrices: ErrorMatrices, final: Values, chosen: ndarray, look: int, share: float
) -> tuple[float, float]:
    """Return the smallest threshold that shuts out few winners, and how many classes join on average."""
    first, winners = _first(matrices, chosen, look), final.argmax(axis=1)
    behind, lags = [], []
    for fold in range(FOLDS):
        rest = np.arange(len(final)) % FOLDS == fold
        weights, offset = _regress(first[~rest], final[~rest])
        predicted = first[rest] @ weights.T + offset
        lag = predicted.max(axis=2, keepdims=True) - predicted
        of_winner = np.take_along_axis(lag, winners[rest][:, None, None], axis=2)[:, :, 0]
        of_winner[np.isin(winners[rest], chosen)] = 0.0
        behind.append(of_winner.ravel())
        lag[:, :, chosen] = inf
        lags.append(lag[:, :: max(1, lag.shape[1] // 8)].reshape(-1, lag.shape[2]))
    threshold = float(np.quantile(np.concatenate(behind), 1 - share, method="higher"))
    return threshold, float((np.concatenate(lags) <= threshold).sum(axis=1).mean())


def _pivots(final: Values, n: int) -> ndarray:
    """Return the first pivots of a Cholesky factorisation of the classes' covariance."""
    centred = final - final.mean(axis=0)
    left, pivots = centred.copy(), []
    for _ in range(n):
        square = (left**2).sum(axis=0)
        square[pivots] = -1.0
        pivot = int(square.argmax())
        pivots.append(pivot)
        direction = left[:, pivot] / (np.linalg.norm(left[:, pivot]) + np.finfo(float).tiny)
        left -= np.outer(direction, direction @ left)
    return np.array(pivots)


def _stand_ins(final: Values, chosen: ndarray) -> tuple[int, ...]:
    """Return the anchor whose final log-likelihood is nearest to each class's; an anchor stands for itself."""
    square = (final**2).sum(axis=0)
    distance = square[:, None] + square[chosen] - 2 * final.T @ final[:, chosen]
    nearest = chosen[distance.argmin(axis=1)]
    nearest[chosen] = chosen
    return tuple(nearest.tolist())


def _rounded(values: Values) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(f"{value:.{DIGITS}g}") for value in row) for row in values.tolist())
