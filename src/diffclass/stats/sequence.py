"""Confidence sequences: lower bounds on a mean that hold at every look at once.

They read a matrix of numbers, blocks[block, class], one stream a class, and bound the mean that the stream has in the
long run, or, given `n_total`, the mean of a finite list that is visited in random order, every block once. Named apart
by what they promise:

| sequence | when it may be looked at | holds |
|---|---|---|
| StudentLooks | at planned looks | for Gaussian blocks exactly, for others as blocks grow many |
| AsymptoticSequence | at every block | the same |
| EmpiricalBernstein | at every block | always, for blocks within a known range |
| Betting | at every block | the same, and tighter |
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy.special import stdtrit

from diffclass.errors import InputError, RangeError

__all__ = ["AsymptoticSequence", "Betting", "EmpiricalBernstein", "Sequence", "StudentLooks"]

Blocks = Float64[ndarray, "block class"]
Bounds = Float64[ndarray, " class"]


class Sequence(ABC):
    """A lower bound on the mean of each stream.

    With probability at least 1 - delta for each class, no look ever finds the bound above the mean.

    Source:
        Darling and Robbins 1967; Howard, Ramdas, McAuliffe and Sekhon 2021 (arXiv:1810.08240).
    """

    @abstractmethod
    def lower(self, blocks: Blocks, *, delta: float, n_total: int | None = None) -> Bounds:
        """Return the bound after the blocks seen so far.

        Args:
            blocks: every block seen so far, in the order of the visit.
            delta: chance that the bound of a class is ever above its mean.
            n_total: length of the list whose mean is bounded; None: the mean of the stream in the long run.
        """

    def interval(self, blocks: Blocks, *, delta: float, n_total: int | None = None) -> tuple[Bounds, Bounds]:
        """Return a lower and an upper bound that both hold at every look with probability at least 1 - delta."""
        low = self.lower(blocks, delta=delta / 2, n_total=n_total)
        return low, -self.lower(-blocks, delta=delta / 2, n_total=n_total)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StudentLooks(Sequence):
    """Student's bound at planned looks that share delta equally; between looks it is the bound of the last one.

    After n of N blocks, t = mean / (sd sqrt((1 - n/N) / n)) about the mean of the list has Student's distribution with
    n - 1 degrees of freedom when the list is itself a Gaussian sample, and the union over the looks costs no more than
    delta. Blocks that are not Gaussian are met by two corrections that only widen the bound: Cornish and Fisher's
    first term for a left tail that is the longer, and no more degrees of freedom than the blocks not yet seen have,
    because the error is theirs as much as that of the blocks seen.

    Args:
        looks: numbers of blocks at which the bound may be used, ascending. With `n_total` the look at the whole list
            is exact and takes no share.

    Source:
        Student 1908; Cochran 1977, section 2.6 (finite list); Dunn 1961 (union over looks); Hall 1992, section 2.6 and
        Johnson 1978 (skewness). The skewness term for a finite list is derived in `_skewness_margin`.
    """

    looks: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse looks that cannot be used."""
        if not self.looks or self.looks[0] < 3 or any(b <= a for a, b in zip(self.looks, self.looks[1:], strict=False)):
            raise InputError(f"The 'looks' of StudentLooks must ascend from at least 3 blocks. Got {self.looks}.")

    def lower(self, blocks: Blocks, *, delta: float, n_total: int | None = None) -> Bounds:
        """Return the bound of the last planned look."""
        if n_total is not None and len(blocks) >= n_total:
            return blocks.mean(axis=0)
        planned = [n for n in self.looks if n_total is None or n < n_total]
        n = max((look for look in planned if look <= len(blocks)), default=0)
        degrees = n - 1 if n_total is None else min(n, n_total - n) - 1
        if degrees < 1:
            return np.full(blocks.shape[1], -np.inf)
        share = delta / len(planned)
        mean, squares, skewness = _moments(blocks[:n])
        left = 0.0 if n_total is None else 1 - n / n_total
        se = np.sqrt(squares / (n - 1) * (left or 1.0) / n)
        quantile = -float(stdtrit(degrees, share))
        return mean - se * (quantile + _skewness_margin(skewness, quantile, n=n, left=left or 1.0))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AsymptoticSequence(Sequence):
    """The normal mixture with an estimated variance, in its form that is exact for Gaussian blocks of any number.

    The likelihood ratio of a mean of unknown size against the bound, averaged over Gaussian sizes of the effect (mean
    over sd) and over scales, is a nonnegative martingale; Ville's inequality bounds its maximum. The one-sided bound
    averages over positive effects only. As blocks grow many the radius tends to the asymptotic confidence sequence of
    Waudby-Smith et al. for any distribution with a finite variance; while they are too few it is infinite.

    Without replacement, X_i minus the mean of the blocks not yet seen before it, times sqrt((N - i + 1) / (N - i)), are
    independent Gaussians of one variance (Helmert's contrasts) if the list is a Gaussian sample. A shift of the mean
    by m shifts them by m a_i with a_i^2 = N^2 / ((N - i)(N - i + 1)), whose sum over n blocks is n N / (N - n). So the
    bound is the one with replacement after n / (1 - n/N) blocks. In the last eighth of the list it stands still, since
    the mean of the few blocks left need not be near normal; with the last block it becomes exact.

    Args:
        prior_blocks: effects (mean over sd of a block) are expected to be about 1 / sqrt(prior_blocks). It changes how
            soon the bound is tight, never whether it holds.

    Source:
        Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2021, proposition 2.2 (arXiv:2103.06476); Wang and Ramdas 2025,
        theorem 4.7 (arXiv:2310.03722); without replacement: derived above, tested against simulation.
    """

    prior_blocks: float = 4.0

    def __post_init__(self) -> None:
        """Refuse a prior that cannot be used."""
        if not 0 < self.prior_blocks < np.inf:
            raise RangeError(f"The 'prior_blocks' of AsymptoticSequence must be above 0. Got {self.prior_blocks}.")

    def lower(self, blocks: Blocks, *, delta: float, n_total: int | None = None) -> Bounds:
        """Return the bound after all blocks seen so far."""
        if n_total is not None and len(blocks) >= n_total:
            return blocks.mean(axis=0)
        n = len(blocks) if n_total is None else min(len(blocks), n_total - n_total // 8)
        prior = self.prior_blocks
        seen = n if n_total is None else n / (1 - n / n_total)
        # P(effect > 0 | blocks) >= 1 - 1 / (2 Q) at the boundary: adding 1/2 pays for averaging over one side.
        level = np.sqrt((seen + prior) / prior) / (2 * delta) + 0.5
        ratio, shrink = level ** (2 / n), prior / (seen + prior)
        if n < 2 or ratio * shrink >= 1:
            return np.full(blocks.shape[1], -np.inf)
        mean, squares, skewness = _moments(blocks[:n])
        boundary = np.sqrt((n - 1) * (ratio - 1) / (1 - ratio * shrink))  # of mean / se
        margin = _skewness_margin(skewness, boundary, n=n, left=1.0 if n_total is None else 1 - n / n_total)
        return mean - np.sqrt(squares / (n - 1) / seen) * (boundary + margin)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EmpiricalBernstein(Sequence):
    """A bound that holds for every number of blocks, given a range that no block leaves, and adapts to their variance.

    Args:
        value_range: every block lies between these two.

    Source:
        Waudby-Smith and Ramdas 2024, theorem 2 (arXiv:2010.09686); without replacement: Waudby-Smith and Ramdas 2020,
        theorem 3.2 (arXiv:2006.04347).
    """

    value_range: tuple[float, float]

    def __post_init__(self) -> None:
        """Refuse a range that cannot be used."""
        _check_range(self.value_range)

    def lower(self, blocks: Blocks, *, delta: float, n_total: int | None = None) -> Bounds:
        """Return the largest bound of all looks so far."""
        if n_total is not None and len(blocks) >= n_total:
            return blocks.mean(axis=0)
        x = _unit(blocks, self.value_range)
        mean, bet = _plug_in(x, delta)
        bet = np.minimum(bet, 0.5)
        before, unseen = _remaining(x, n_total)
        growth = 1.0 if n_total is None else n_total / unseen
        offset = 0.0 if n_total is None else before / unseen
        cost = (x - mean) ** 2 * (-np.log1p(-bet) - bet)
        bound = np.cumsum(bet * (x + offset), axis=0) - np.cumsum(cost, axis=0) + np.log(delta)
        return _original((bound / np.cumsum(bet * growth, axis=0)).max(axis=0).clip(0, 1), self.value_range)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Betting(Sequence):
    """A bound that holds for every number of blocks, given a range that no block leaves: bet against each mean.

    The wealth of a gambler who bets that blocks are above a mean m cannot grow, in expectation, if the mean is m or
    less; m is refuted when the wealth has reached 1 / delta. Without replacement the fair price of the next block is
    the mean of the blocks not yet seen, if m is the mean of them all.

    Args:
        value_range: every block lies between these two.

    Source:
        Waudby-Smith and Ramdas 2024, theorem 3 and section 5 (arXiv:2010.09686).
    """

    value_range: tuple[float, float]

    def __post_init__(self) -> None:
        """Refuse a range that cannot be used."""
        _check_range(self.value_range)

    def lower(self, blocks: Blocks, *, delta: float, n_total: int | None = None) -> Bounds:
        """Return the largest mean that has been refuted."""
        if n_total is not None and len(blocks) >= n_total:
            return blocks.mean(axis=0)
        x = _unit(blocks, self.value_range)
        _, bet = _plug_in(x, delta)
        refuted, open_ = np.zeros(x.shape[1]), np.ones(x.shape[1])
        for _ in range(40):  # wealth falls as m rises
            m = (refuted + open_) / 2
            won = _log_wealth(x, bet, m, n_total).max(axis=0) >= -np.log(delta)
            refuted, open_ = np.where(won, m, refuted), np.where(won, open_, m)
        return _original(refuted, self.value_range)

    def log_wealth(self, blocks: Blocks, mean: Bounds, *, delta: float, n_total: int | None = None) -> Blocks:
        """Return, after each block, the logarithm of an e-value against "the mean of the stream is `mean` or less".

        If that is true, the e-values of a stream are at most a nonnegative martingale that starts at 1, and so is any
        average of the e-values of several streams, however they depend on each other: it ever reaches 1 / delta with
        probability at most delta (Ville's inequality).

        Args:
            blocks: every block seen so far, in the order of the visit.
            mean: to be refuted, of each stream.
            delta: level at which the gambler aims; it changes how fast the wealth grows, never whether it is fair.
            n_total: length of the list whose mean is in question, which is not seen to its end yet.

        Source:
            Vovk and Wang 2021, proposition 3.1 (arXiv:1912.06116), for averages of e-values.
        """
        x = _unit(blocks, self.value_range)
        low, high = self.value_range
        return _log_wealth(x, _plug_in(x, delta)[1], (mean - low) / (high - low), n_total)


def _log_wealth(x: Blocks, bet: Blocks, m: Bounds, n_total: int | None) -> Blocks:
    """Return the log wealth after each block of a gambler who bets that blocks in [0, 1] are above their fair price."""
    before, unseen = _remaining(x, n_total)
    fair = np.broadcast_to(m, x.shape) if n_total is None else (n_total * m - before) / unseen
    impossible = np.logical_or.accumulate(fair < 0, axis=0)  # the blocks seen add up to more than n_total m already
    fair = fair.clip(1e-12)
    return np.where(impossible, np.inf, np.cumsum(np.log1p(np.minimum(bet, 0.75 / fair) * (x - fair)), axis=0))


def _moments(blocks: Blocks) -> tuple[Bounds, Bounds, Bounds]:
    """Return the mean, the sum of squares about it, and the skewness (0 where nothing varies)."""
    mean = blocks.mean(axis=0)
    centred = blocks - mean
    square = centred * centred
    squares = square.sum(axis=0)
    spread = (squares / len(blocks)) ** 1.5
    cubes = (square * centred).mean(axis=0)
    return mean, squares, np.divide(cubes, spread, out=np.zeros_like(cubes), where=spread > 0)


def _skewness_margin(skewness: Bounds, quantile: float, *, n: int, left: float) -> Bounds:
    """Return how much farther out the quantile of t lies when the left tail is the longer one; never negative.

    With a share `left` = 1 - f of the list unseen, t has to first order the mean -skewness sqrt(1-f) / (2 sqrt(n)) and
    the third cumulant skewness ((1 - 2f) - 3 (1 - f)) / sqrt(n (1-f)): the first part is the mean's, the second comes
    from its covariance with the variance. Cornish and Fisher's expansion adds the mean and (q^2 - 1) / 6 times the
    third cumulant to the quantile; for f = 0 that is Johnson's -skewness (2 q^2 + 1) / (6 sqrt(n)).
    """
    term = left / 2 + (1 + left) * (quantile**2 - 1) / 6
    return np.maximum(-skewness, 0.0) * term / np.sqrt(n * left)


def _plug_in(x: Blocks, delta: float) -> tuple[Blocks, Blocks]:
    """Return, before each block, the estimated mean and the bet sqrt(2 log(1 / delta) / (variance n log(1 + n)))."""
    count = np.arange(1, len(x) + 1)[:, None]
    after = (0.5 + np.cumsum(x, axis=0)) / (count + 1)
    spread = (0.25 + np.cumsum((x - after) ** 2, axis=0)) / (count + 1)
    mean = np.concatenate([np.full_like(x[:1], 0.5), after[:-1]])
    variance = np.concatenate([np.full_like(x[:1], 0.25), spread[:-1]])
    return mean, np.sqrt(-2 * np.log(delta) / (variance * count * np.log1p(count)))


def _remaining(x: Blocks, n_total: int | None) -> tuple[Blocks, Float64[ndarray, "block 1"]]:
    """Return, before each block, the sum of those seen and the number of those not yet seen."""
    before = np.concatenate([np.zeros_like(x[:1]), np.cumsum(x, axis=0)[:-1]])
    return before, (n_total or 0) - np.arange(len(x), dtype=np.float64)[:, None]


def _unit(blocks: Blocks, value_range: tuple[float, float]) -> Blocks:
    low, high = value_range
    if blocks.size and not (low <= blocks.min() and blocks.max() <= high):
        raise RangeError(
            f"The 'value_range' must hold every block, or the bound is void. Got blocks from {blocks.min():.6g} to "
            f"{blocks.max():.6g} outside [{low:.6g}, {high:.6g}]. Try a wider range."
        )
    return (blocks - low) / (high - low)


def _original(bound: Bounds, value_range: tuple[float, float]) -> Bounds:
    return value_range[0] + bound * (value_range[1] - value_range[0])


def _check_range(value_range: tuple[float, float]) -> None:
    low, high = value_range
    if not -np.inf < low < high < np.inf:
        raise RangeError(f"The 'value_range' must be two finite numbers, the lower one first. Got {value_range}.")
