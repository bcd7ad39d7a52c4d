"""Stopping rules learned on held-out images instead of assumed: Learn then Test."""

from dataclasses import replace
from math import ceil, inf, log, log1p

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from diffclass.decide.anchoring import admitted, anchored
from diffclass.decide.stopping import Calibrated, units_of
from diffclass.errors import InputError, RangeError
from diffclass.evidence.matrix import ErrorMatrices

__all__ = ["images_needed", "learn_stopping"]

COARSE = tuple(20 * 0.92**i for i in range(50))  # thresholds from the safest down to 0.34 standard errors
FINE = tuple(1.4 * 0.98**i for i in range(55))  # the same, as shares of the one that passed on the fitted images
PRIORS = (2.0, 16.0)  # units that the fitted variance may count as
TIGHTENINGS = (0.0, 0.1)
STAKES = tuple(0.05 * i for i in range(1, 20))  # shares of the most that a gambler may stake on the promise
TRIAL_ORDERS = 2  # of the draws of each image, to choose the two above
GROWTH = 1.2  # of the looks
RIVALS = 5  # nearest classes to which the trend of the variance is fitted
CHUNK = 4_000_000  # numbers held at once
MANY = 30  # classes from which anchors are tried

Values = Float64[ndarray, "..."]


def learn_stopping(
    matrices: ErrorMatrices,
    *,
    delta: float = 0.01,
    confidence: float = 0.9,
    seed: int = 0,
    held_out: float = 0.75,
    n_orders: int = 8,
    many: int = MANY,
) -> Calibrated:
    """Learn when classes may leave, so that answers seldom differ from the full budget's.

    With probability at least `confidence` over the images given, P(answer differs from the full budget's) <= delta for
    new images exchangeable with them, whatever their distribution.

    Some of the images fit the statistic; the others test thresholds, from the safest down, and the first that fails
    ends the sequence: a fixed sequence costs nothing for its length. Fitting and testing on the same images would void
    the promise. An image's loss is the share of `n_orders` orders of its draws in which the answer differs, each as
    likely as the order it was measured in: its mean over images is the very probability that is promised, and it
    varies less than a single answer. The p-value of "the mean loss is above delta" is one over the wealth
    prod(1 + c (delta - loss)) of a gambler, whose stake c was fixed on the images that fit the statistic: if the
    mean loss is delta or more, the wealth has an expectation of at most 1 (Markov's inequality).

    Where there are many classes, only a few start a race and foretell which others join (`anchored`), if that is
    cheaper: this too is fitted with the statistic and tested with the thresholds, and if that fails the rule without it
    is tested, each at half of 1 - confidence.

    Args:
        matrices: drawn with the objective, block and budget of the race that will be run; not rearranged in pairs.
        delta: share of images whose answer may differ.
        confidence: that the share is kept.
        seed: of the split and the orders.
        held_out: share of the images that test the threshold.
        n_orders: orders of the draws of each image.
        many: classes from which anchors are tried.

    Raises:
        InputError: too few images for the promise, or no two classes differ.
        RangeError: delta, confidence or held_out is not in (0, 1), or n_orders is below 1.

    Source:
        Angelopoulos et al. 2021 (arXiv:2110.01052), theorem 1, proposition 1 and section 3.2; Waudby-Smith and Ramdas
        2024 (arXiv:2010.09686), section 4 (betting).
    """
    for name, value in (("delta", delta), ("confidence", confidence), ("held_out", held_out)):
        if not 0 < value < 1:
            raise RangeError(f"The '{name}' parameter of learn_stopping must be a float in (0, 1). Got {value}.")
    if n_orders < 1:
        raise RangeError(f"The 'n_orders' parameter of learn_stopping must be at least 1. Got {n_orders}.")
    n_tested, needed = round(held_out * len(matrices)), images_needed(delta=delta, confidence=confidence)
    if n_tested < needed or len(matrices) - n_tested < 2:
        raise InputError(
            f"learn_stopping needs at least {needed} images to test for delta={delta} at confidence {confidence}, "
            f"{ceil(needed / held_out)} in all. Got {len(matrices)}. Try more images or a larger delta."
        )
    order = np.random.default_rng(seed).permutation(len(matrices))
    tested, fitted = matrices.part(order[:n_tested]), matrices.part(order[n_tested:])
    orders = range(seed * n_orders, (seed + 1) * n_orders)
    draft = _draft(fitted, delta=delta, confidence=confidence)
    goal = -log(1 - confidence) / n_tested
    starts = [draft]
    if len(matrices.classes) >= many and n_tested >= images_needed(delta=delta, confidence=(1 + confidence) / 2):
        goal = -log((1 - confidence) / 2) / n_tested
        start = _start(fitted, draft, goal=goal, orders=orders)
        starts = [draft] if start is draft else [start, draft]
    differ = 0.0
    for start in starts:
        rule, thresholds, stakes = _fit_rule(fitted, start, goal=goal, orders=orders)
        _, losses = _sweep(tested, rule, thresholds, orders=orders)
        best = _last(np.log1p(stakes[:, None] * (delta - losses)).mean(axis=1) >= goal)
        if best >= 0:
            return replace(rule, threshold=thresholds[best], n=n_tested, disagreements=float(losses[best].sum()))
        differ = float(losses[0].sum())
    raise InputError(
        "learn_stopping found no threshold that keeps the promise: even the safest differs from the full budget on "
        f"{differ:.1f} of {n_tested} images. Try a larger delta."
    )


def images_needed(*, delta: float, confidence: float) -> int:
    """Return how many images a threshold must be tested on if none of their answers differs."""
    return ceil(-log(1 - confidence) / log1p(STAKES[-1] / (1 - delta) * delta))


def _plan(n_draws: int, unit: int) -> tuple[int, ...]:
    """Return the looks: after 1, 2, 3, 4, 5, 6, 8, 10, 12 ... units, the last well before the budget."""
    looks, n, total = [], 1, n_draws // unit
    while total - n >= max(1, total // 16):
        looks.append(n * unit)
        n = max(n + 1, ceil(n * GROWTH))
    return tuple(looks)


def _draft(matrices: ErrorMatrices, *, delta: float, confidence: float) -> Calibrated:
    """Return a rule with the trend of the variance fitted, and nothing else."""
    unit = 2 if matrices.antithetic else 1
    scale, slope = _fit_trend(matrices, unit)
    return Calibrated(
        threshold=1.0,
        tightening=0.0,
        looks=_plan(matrices.n_draws, unit),
        unit=unit,
        log_scale=scale,
        slope=slope,
        prior_units=1.0,
        n_draws=matrices.n_draws,
        block=matrices.block,
        delta=delta,
        confidence=confidence,
        n=0,
        disagreements=0.0,
    )


def _fit_rule(
    matrices: ErrorMatrices, draft: Calibrated, *, goal: float, orders: range
) -> tuple[Calibrated, tuple[float, ...], Float64[ndarray, " _"]]:
    """Choose the rule that costs least where the test will just pass, the thresholds to test, and a stake for each.

    Args:
        goal: mean log growth of the wealth that the test needs.
    """
    cheapest, passing, chosen, stakes = inf, COARSE[0], draft, np.array(STAKES) / (1 - draft.delta)
    for prior in PRIORS:
        for tightening in TIGHTENINGS:
            rule = replace(draft, prior_units=prior, tightening=tightening)
            spent, losses = _sweep(matrices, rule, COARSE, orders=orders[:TRIAL_ORDERS])
            last = _last(_growth(losses, stakes, draft.delta).max(axis=0) >= goal)
            if last >= 0 and spent[last] < cheapest:
                cheapest, passing, chosen = spent[last], COARSE[last], rule
    fine = tuple(passing * share for share in FINE)
    thresholds = (*(threshold for threshold in COARSE if threshold > fine[0]), *fine)
    _, losses = _sweep(matrices, chosen, thresholds, orders=orders)
    return chosen, thresholds, stakes[_growth(losses, stakes, draft.delta).argmax(axis=0)]


def _start(matrices: ErrorMatrices, draft: Calibrated, *, goal: float, orders: range) -> Calibrated:
    """Return the draft with the anchors under which it costs least where the test will just pass, or without any."""
    stakes, cheapest, chosen = np.array(STAKES) / (1 - draft.delta), inf, draft
    for tried in (draft, *anchored(matrices, draft)):
        spent, losses = _sweep(matrices, replace(tried, prior_units=PRIORS[-1]), COARSE, orders=orders[:TRIAL_ORDERS])
        last = _last(_growth(losses, stakes, draft.delta).max(axis=0) >= goal)
        if last >= 0 and spent[last] < cheapest:
            cheapest, chosen = spent[last], tried
    return chosen


def _last(passed: Bool[ndarray, " _"]) -> int:
    """Return the last threshold before the first that failed; -1 if there is none."""
    return int(np.append(passed, False).argmin()) - 1


def _growth(losses: ndarray, stakes: ndarray, delta: float) -> Float64[ndarray, "_ _"]:
    """Return the mean log growth of the wealth by stake and threshold."""
    return np.stack([np.log1p(stake * (delta - losses)).mean(axis=1) for stake in stakes])


def _sweep(
    matrices: ErrorMatrices, rule: Calibrated, thresholds: tuple[float, ...], *, orders: range
) -> tuple[Float64[ndarray, " _"], Float64[ndarray, "_ image"]]:
    """Return mean evaluations, and the share of orders in which each image's answer differs, for every threshold."""
    spent, losses = np.zeros(len(thresholds)), np.zeros((len(thresholds), len(matrices)))
    end = len(thresholds)
    for seed in orders:
        replays = _Replays(matrices.reordered(seed=seed), rule)
        for i, threshold in enumerate(thresholds[:end]):
            evaluations, wrong = replays.play(threshold)
            spent[i] += evaluations.mean() / len(orders)
            losses[i] += wrong / len(orders)
            if wrong.mean() > 5 * rule.delta:  # far beyond what can pass
                end = i
                break
    losses[end:] = 1.0
    return spent, losses


def _fit_trend(matrices: ErrorMatrices, unit: int) -> tuple[float, float]:
    """Regress the log variance of a unit's difference to the winner on its log mean, over images and rivals.

    Near rivals only: among a hundred classes most are far off, and a trend fitted to them holds back the near ones.
    """
    means, variances = [], []
    for image in range(len(matrices)):
        likelihood = _likelihood(matrices, np.array([image]))[0]
        joint = likelihood.mean(axis=0)
        best = np.argsort(-joint, kind="stable")[: RIVALS + 1]
        lead = units_of(likelihood[:, best[:1]] - likelihood[:, best[1:]], unit)
        mean, variance = lead.mean(axis=0), lead.var(axis=0, ddof=1)
        apart = (mean > 0) & (variance > 0)
        means.append(mean[apart])
        variances.append(variance[apart])
    mean, variance = np.concatenate(means), np.concatenate(variances)
    if len(mean) == 0:
        raise InputError("learn_stopping needs classes that differ. Got the same errors for all of them.")
    x, y = np.log(mean), np.log(variance)
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / spread) if spread > 0 else 1.0
    slope = min(max(slope, 0.0), 2.0)
    return float(y.mean() - slope * x.mean()), slope


def _likelihood(matrices: ErrorMatrices, images: ndarray) -> Float64[ndarray, "image draw class"]:
    return -matrices.weights[images][:, :, None] * matrices.errors[images].astype(np.float64)


class _Replays:
    """Races of many images under one statistic, replayed for any threshold."""

    def __init__(self, matrices: ErrorMatrices, rule: Calibrated) -> None:
        self.matrices, self.rule = matrices, rule
        n, n_classes, looks = len(matrices), len(matrices.classes), rule.looks
        self.joint = np.empty((len(looks) + 1, n, n_classes))
        self.statistic = np.empty((len(looks), n, n_classes))
        self.entered: Bool[ndarray, "image class"] = np.ones((n, n_classes), dtype=bool)
        if rule.anchors is not None:
            self.entered = admitted(rule, matrices)
        step = max(1, CHUNK // (matrices.n_draws * n_classes))
        for start in range(0, n, step):
            chunk = np.arange(start, min(start + step, n))
            likelihood = _likelihood(matrices, chunk)
            for j, look in enumerate((*looks, matrices.n_draws)):
                joint = self.joint[j, chunk] = likelihood[:, :look].mean(axis=1)
                if j < len(looks):
                    self.statistic[j, chunk] = self._judge(likelihood[:, :look], joint.argmax(axis=1))
        self.winners: Bool[ndarray, "image class"] = self.joint[-1] == self.joint[-1].max(axis=1, keepdims=True)

    def _judge(self, likelihood: ndarray, leader: ndarray) -> ndarray:
        return self.rule.statistic(np.take_along_axis(likelihood, leader[:, None, None], axis=2) - likelihood)

    def play(self, threshold: float) -> tuple[ndarray, Bool[ndarray, " image"]]:
        """Return the evaluations of each image, and whether its answer differs from the full budget's."""
        rule = replace(self.rule, threshold=threshold)
        alive = self.entered.copy()
        spent, before = np.zeros(len(alive), dtype=np.int64), 0
        for j, look in enumerate(rule.looks):
            open_ = np.flatnonzero(alive.sum(axis=1) > 1)
            spent[open_] += alive[open_].sum(axis=1) * (look - before)
            before = look
            joint = np.where(alive[open_], self.joint[j, open_], -np.inf)
            leader, statistic = joint.argmax(axis=1), self.statistic[j, open_]
            gone = np.flatnonzero(~alive[open_, self.joint[j, open_].argmax(axis=1)])  # the leader had left before
            if len(gone):
                likelihood = _likelihood(self.matrices, open_[gone])[:, :look]
                statistic[gone] = self._judge(likelihood, leader[gone])
            alive[open_] &= ~(statistic > rule.limit(look))
        open_ = np.flatnonzero(alive.sum(axis=1) > 1)
        spent[open_] += alive[open_].sum(axis=1) * (rule.n_draws - before)
        joint = np.where(alive[open_], self.joint[-1, open_], -np.inf)
        alive[open_] = joint == joint.max(axis=1, keepdims=True)
        return spent, (alive != self.winners).any(axis=1)
