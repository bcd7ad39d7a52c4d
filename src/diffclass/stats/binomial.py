"""Bounds on a probability from counted successes, at one look or at several planned ones."""

from dataclasses import dataclass
from math import ceil, floor, isfinite, log
from typing import final

from diffclass.errors import RangeError

__all__ = ["LookPlan", "lower_bound", "upper_bound"]

GROWTH, EARLY_GROWTH = 1.25, 2.0  # factor between looks, and between those that can only refute
FIRST_LOOK = 16
LAST_SHARE = 0.3  # of alpha, for the last look


def lower_bound(k: int, n: int, alpha: float) -> float:
    """Return what a probability exceeds, unless k of n trials were a success by a chance of at most alpha.

    With probability at least 1 - alpha over the trials, the bound is at most the true probability.

    Source:
        Clopper and Pearson 1934.
    """
    from scipy.stats import beta

    _check_counts(k, n, alpha)
    return 0.0 if k == 0 or alpha == 0 else float(beta.ppf(alpha, k, n - k + 1))


def upper_bound(k: int, n: int, alpha: float) -> float:
    """Return what a probability stays below, unless k of n trials were a success by a chance of at most alpha.

    Source:
        Clopper and Pearson 1934.
    """
    return 1.0 - lower_bound(n - k, n, alpha)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LookPlan:
    """When a count is judged, and what chance of an error is spent at each look.

    The Clopper-Pearson bounds of all looks hold together with probability at least 1 - alpha, where alpha is the sum
    of the levels (Bonferroni's inequality), whatever rule decides after which look to stop.

    Args:
        looks: [trials] ascending; the last is the budget.
        proof: level of the lower bound at each look; 0 where nothing is claimed.
        refutation: level of the upper bound at each look; 0 where nothing is claimed.

    Source:
        Lan and DeMets 1983 (spending alpha over looks); Clopper and Pearson 1934.
    """

    looks: tuple[int, ...]
    proof: tuple[float, ...]
    refutation: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse a plan that is none."""
        ascend = bool(self.looks) and list(self.looks) == sorted(set(self.looks)) and self.looks[0] >= 1
        if not ascend or not len(self.looks) == len(self.proof) == len(self.refutation):
            raise RangeError(
                f"The 'looks' of LookPlan must ascend from 1 or more, with a level of each kind. Got {self.looks}, "
                f"{len(self.proof)} and {len(self.refutation)} levels."
            )

    @classmethod
    def fixed(cls, n: int, *, alpha: float) -> "LookPlan":
        """Plan a single look, after n trials."""
        return cls(looks=(n,), proof=(alpha,), refutation=(0.0,))

    @classmethod
    def sequential(cls, n: int, *, alpha: float, threshold: float) -> "LookPlan":
        """Plan looks for the question whether a probability is above a threshold, within n trials.

        Looks that can prove it begin where n successes of n trials first would, and each is a quarter further than the
        one before; together they spend 70% of alpha in equal parts, and the last, at n, the rest. Looks before them
        can only refute. Refuting has an alpha of its own, so that being wrong either way has at most that chance.

        Args:
            n: the most trials.
            alpha: chance of a false proof, and of a false refutation.
            threshold: in (0, 1).
        """
        if not 0 < threshold < 1:
            raise RangeError(f"The 'threshold' parameter of LookPlan must be a float in (0, 1). Got {threshold}.")
        proving, shares = (n,), 1
        while True:  # more looks have smaller levels, and the first one is later
            level = (1 - LAST_SHARE) * alpha / shares
            found = _spaced(floor(log(level) / log(threshold)) + 1, n, GROWTH)
            if len(found) - 1 <= shares:
                proving = found
                break
            shares += 1
        early = _spaced(FIRST_LOOK, proving[0], EARLY_GROWTH)[:-1]
        looks = (*early, *proving)
        parts = len(proving) - 1
        proof = [(1 - LAST_SHARE) * alpha / parts] * parts + [LAST_SHARE * alpha] if parts else [alpha]
        return cls(looks=looks, proof=(*[0.0] * len(early), *proof), refutation=(alpha / len(looks),) * len(looks))

    def lower(self, counts: tuple[int, ...]) -> float:
        """Return the largest lower bound of the looks so far, given the successes at each of them."""
        looks = zip(counts, self.looks, self.proof, strict=False)
        return max((lower_bound(k, n, level) for k, n, level in looks), default=0.0)

    def upper(self, counts: tuple[int, ...]) -> float:
        """Return the smallest upper bound of the looks so far."""
        looks = zip(counts, self.looks, self.refutation, strict=False)
        return min((upper_bound(k, n, level) for k, n, level in looks), default=1.0)

    def can_exceed(self, counts: tuple[int, ...], threshold: float) -> bool:
        """Return whether later looks would prove the threshold if every trial from here on were a success."""
        done = self.looks[len(counts) - 1] if counts else 0
        k = counts[-1] if counts else 0
        later = zip(self.looks[len(counts) :], self.proof[len(counts) :], strict=True)
        return any(lower_bound(k + n - done, n, level) > threshold for n, level in later)


def _spaced(first: int, last: int, growth: float) -> tuple[int, ...]:
    """Return numbers from the first to the last, each so many times the one before."""
    looks, n = [], first
    while n < last / growth**0.5:
        looks.append(n)
        n = max(n + 1, ceil(n * growth))
    return (*looks, last)


def _check_counts(k: int, n: int, alpha: float) -> None:
    if n < 1 or not 0 <= k <= n:
        raise RangeError(f"A bound needs k successes in n trials with 0 <= k <= n and n >= 1. Got k={k}, n={n}.")
    if not (isfinite(alpha) and 0 <= alpha < 1):
        raise RangeError(f"The 'alpha' of a bound must be a float in [0, 1). Got {alpha}.")
