"""Mean, vote, likelihood and learned weights compared on the same stored errors, for every number of draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from diffclass.decide.aggregate import draw_votes
from diffclass.errors import InputError, RangeError
from diffclass.evidence import ErrorMatrices
from diffclass.stats.interval import Estimate, mean_interval

__all__ = ["AccuracyCurve", "accuracy_curves"]

Scores = Float64[ndarray, "image draw class"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AccuracyCurve:
    """How often a rule is right with so many draws.

    Args:
        rule: "vote", or the name of a weight.
        n_draws: draws of each image.
        accuracy: over images, each by the share of the random choices of draws in which it is right.
        against: the same minus that of the first rule, image by image.
        right: that share itself, of each image, [image, number of draws].
    """

    rule: str
    n_draws: tuple[int, ...]
    accuracy: tuple[Estimate, ...]
    against: tuple[Estimate, ...]
    right: Float64[ndarray, "image _"]


def accuracy_curves(
    matrices: ErrorMatrices,
    n_draws: Sequence[int],
    *,
    weights: Mapping[str, Float64[ndarray, "image draw"]] | None = None,
    n_orders: int = 20,
    seed: int = 0,
) -> list[AccuracyCurve]:
    """Compare the rules on every number of draws, chosen at random from the stored ones.

    All rules see the same choices, made without replacement. A tie of k classes is right with probability 1/k. With
    all stored draws there is one choice, and it covers the noise range evenly; with fewer, draws are as good as
    independent, as those of Favero et al. are. The blocks of a race improve on that.

    Args:
        matrices: of images that no weight was learned on.
        n_draws: numbers of draws, ascending, at most those stored.
        weights: by name, w(sigma) / q(sigma) of every draw; the matrices' own as "mean" if None. The vote comes first.
        n_orders: random choices that are averaged over.
        seed: of the choices.

    Raises:
        RangeError: a number of draws is not stored, or they do not ascend.
        InputError: there are fewer than two images, or a rule is named "vote".

    Source:
        Favero et al. 2025, section 4 (arXiv:2502.03687): accuracy against the number of draws, mean and vote.
    """
    wanted = list(n_draws)
    if not wanted or wanted != sorted(set(wanted)) or wanted[0] < 1 or wanted[-1] > matrices.n_draws:
        raise RangeError(
            f"The 'n_draws' parameter of accuracy_curves must ascend from 1 or more to at most {matrices.n_draws}. "
            f"Got {wanted}."
        )
    weights = {"mean": matrices.weights} if weights is None else weights
    if "vote" in weights or len(matrices) < 2:
        raise InputError(
            f"accuracy_curves needs two images or more, and no weight may be named 'vote'. Got {len(matrices)} images "
            f"and {', '.join(map(repr, weights))}."
        )
    rules = ["vote", *weights]
    right = np.zeros((len(rules), len(matrices), len(wanted)))
    random, upto = np.random.default_rng(seed), np.array(wanted) - 1
    for image in range(len(matrices)):
        errors = matrices.errors[image].astype(np.float64)
        errors -= errors.mean(axis=1, keepdims=True)  # nothing that classes share
        scores = [draw_votes(matrices.errors[image]), *(-w[image][:, None] * errors for w in weights.values())]
        stacked = np.stack(scores)
        for _ in range(n_orders):
            order = random.permutation(matrices.n_draws)
            sums = stacked[:, order].cumsum(axis=1)[:, upto].round(9)
            best = sums == sums.max(axis=2, keepdims=True)
            right[:, image] += best[:, :, matrices.labels[image]] / best.sum(axis=2) / n_orders
    return [
        AccuracyCurve(
            rule=rule, n_draws=tuple(wanted), right=right[row],
            accuracy=tuple(mean_interval(right[row, :, k]) for k in range(len(wanted))),
            against=tuple(mean_interval(right[row, :, k] - right[0, :, k]) for k in range(len(wanted))),
        )
        for row, rule in enumerate(rules)
    ]  # fmt: skip
