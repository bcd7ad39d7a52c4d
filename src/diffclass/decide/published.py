"""Stopping rules of published diffusion classifiers, to compare with; none promises anything for a single image.

They say who goes on. What is compared (weight, noise levels) is the objective's, here as for any race.
"""

from dataclasses import dataclass
from math import gcd
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy.special import stdtrit

from diffclass.errors import InputError, RangeError
from diffclass.evidence.evidence import Evidence
from diffclass.evidence.race import Race
from diffclass.types import Survivors

__all__ = ["ClarkJaini", "SiftAndRefine", "SuccessiveHalving"]

PUBLISHED = {  # (draws measured so far, classes kept)
    "aircraft": ((20, 20), (50, 10), (100, 5), (500, 1)),
    "cifar10": ((50, 5), (500, 1)),
    "cifar100": ((20, 20), (50, 10), (100, 5), (500, 1)),
    "flowers102": ((20, 20), (50, 10), (100, 5), (500, 1)),
    "food101": ((20, 20), (50, 10), (100, 5), (500, 1)),
    "imagenet": ((50, 500), (100, 50), (500, 10), (1000, 1)),
    "objectnet": ((50, 25), (100, 10), (500, 5), (1000, 1)),
    "pets": ((25, 5), (250, 1)),
    "stl10": ((100, 5), (500, 1)),
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SuccessiveHalving(Race):
    """Fixed stages: after so many draws, so many classes with the largest log joints go on.

    It promises nothing for a single image. Stages are prefixes of one list of draws, so every class is compared on the
    same draws; classes tied at a cut all go on.

    Args:
        stages: pairs of (draws measured so far, classes kept). The last one ends the race.

    Source:
        Li et al. 2023, Algorithm 2 (arXiv:2303.16203); Karnin, Koren and Somekh 2013.
    """

    abstains: ClassVar[bool] = False
    stages: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        """Refuse stages that cannot be used."""
        draws, keeps = [d for d, _ in self.stages], [k for _, k in self.stages]
        if not draws or draws != sorted(set(draws)) or draws[0] < 1 or keeps != sorted(keeps, reverse=True):
            raise InputError(
                "The 'stages' of SuccessiveHalving must be pairs (draws, classes kept) with ascending draws and no "
                f"more classes kept at each. Got {self.stages}."
            )
        if keeps[-1] < 1:
            raise RangeError(f"A stage of SuccessiveHalving must keep at least 1 class. Got {keeps[-1]}.")

    @classmethod
    def published(cls, dataset: str) -> "SuccessiveHalving":
        """Return the stages that Li et al. used on a data set; see PUBLISHED for the names."""
        if dataset not in PUBLISHED:
            raise InputError(
                f"The 'dataset' of SuccessiveHalving.published must be one of {', '.join(PUBLISHED)}. Got {dataset!r}."
            )
        return cls(stages=PUBLISHED[dataset])

    @property
    def n_draws(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Draws after which the race ends."""
        return self.stages[-1][0]

    @property
    def block(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The largest block of which every stage is a multiple, so that every stage covers the noise range evenly."""
        return gcd(*(draws for draws, _ in self.stages))

    def next_look(self, n_draws: int) -> int:
        """Return the draws of the next stage."""
        return min((draws for draws, _ in self.stages if draws > n_draws), default=self.n_draws)

    def survivors(self, evidence: Evidence) -> Survivors:
        """Return the best classes of the last stage reached."""
        measured = evidence.n_measured
        n = int(measured.max())
        alive = measured == n
        reached = [keep for draws, keep in self.stages if draws <= n]
        if not reached or alive.sum() <= reached[-1]:
            return alive
        joint = np.full(len(alive), -np.inf)
        joint[alive] = evidence.log_prior[alive] - evidence.weighted()[:n, alive].mean(axis=0)
        return alive & (joint >= np.sort(joint)[-reached[-1]])


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SiftAndRefine(Race):
    """Sift all classes draw by draw with a fixed threshold, then measure the few that are left on every draw.

    It promises nothing for a single image. While more than `keep` classes are left and fewer than `n_sift` draws are
    measured, a class leaves when its weighted error, summed over the draws so far, exceeds the smallest such sum by
    more than the threshold. If the sift ends with more than `keep` classes, the best `keep` go on. A set of `keep`
    classes or fewer is not sifted at all.

    Two things differ from the published code: the sift visits stratified noise levels in random order, not a grid from
    the lowest to the highest, and its draws are the first ones of the refinement, where the code measures the classes
    that are left anew (`keep` x `n_sift` evaluations more at most).

    Args:
        threshold: of the summed gap, in the unit of the log joint (weight x squared error, summed over pixels).
        keep: classes at which the sift ends, and the most that are refined.
        n_sift: draws of the sift at most.
        n_draws: draws for the classes that are refined.

    Source:
        Chen et al. 2024, "Your diffusion model is secretly a certifiably robust classifier" (arXiv:2402.02316);
        numbers of draws and classes: the authors' code.
    """

    abstains: ClassVar[bool] = False
    threshold: float
    keep: int = 10
    n_sift: int = 50
    n_draws: int = 126
    block: int = 1

    def __post_init__(self) -> None:
        """Refuse settings that cannot be used."""
        if not 0 < self.threshold < np.inf:
            raise RangeError(f"The 'threshold' parameter of SiftAndRefine must be above 0. Got {self.threshold}.")
        if self.keep < 1:
            raise RangeError(f"The 'keep' parameter of SiftAndRefine must be at least 1. Got {self.keep}.")
        if not 1 <= self.n_sift <= self.n_draws:
            raise RangeError(
                f"The 'n_sift' parameter of SiftAndRefine must be from 1 to n_draws ({self.n_draws}). "
                f"Got {self.n_sift}."
            )
        _check_single("SiftAndRefine", self.block)

    @classmethod
    def published(cls, dimension: int, *, noised: bool = False) -> "SiftAndRefine":
        """Return the settings of the authors' code, for the EDM weight.

        The code adds up weight x error / dimension x range / 1000 over the draws of the sift, and compares the gap with
        5e-4 for clean images and 5e-5 for noised ones. The mean of weight x error here is the same integral over the
        noise range, so the sum here is 1000 x dimension times the code's.

        Args:
            dimension: number of values in an image.
            noised: the classifier of noised images.
        """
        return cls(threshold=(5e-5 if noised else 5e-4) * 1000 * dimension)

    def next_look(self, n_draws: int) -> int:
        """Return the next draw of the sift; after it, all draws."""
        return n_draws + 1 if n_draws < self.n_sift else self.n_draws

    def survivors(self, evidence: Evidence) -> Survivors:
        """Return the classes within the threshold, or the best few when the sift is over."""
        alive, n = evidence.alive, evidence.n_draws
        if n > self.n_sift or alive.sum() <= self.keep:
            return alive
        behind = _behind(evidence, n, alive)
        stays = n * behind <= self.threshold
        if n == self.n_sift and stays.sum() > self.keep:
            stays &= behind <= np.sort(behind)[self.keep - 1]
        survivors = alive.copy()
        survivors[alive] = stays
        return survivors


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ClarkJaini(Race):
    """A class leaves when a paired t-test finds it worse than the best one; the test is repeated after every draw.

    It promises nothing for a single image: the level of a test that is repeated is not the chance of an error, as the
    authors say. For a promise take `PairedRace`.

    Args:
        p_value: two-sided level of each test.
        n_first: draws before the first test (the paper's min_scores).
        n_draws: draws at most (max_scores).

    Source:
        Clark and Jaini 2023, Algorithm 1 (arXiv:2303.15233).
    """

    abstains: ClassVar[bool] = False
    p_value: float = 2e-3
    n_first: int = 20
    n_draws: int = 2000
    block: int = 1

    def __post_init__(self) -> None:
        """Refuse settings that cannot be used."""
        if not 0 < self.p_value < 1:
            raise RangeError(f"The 'p_value' parameter of ClarkJaini must be a float in (0, 1). Got {self.p_value}.")
        if not 2 <= self.n_first <= self.n_draws:
            raise RangeError(
                f"The 'n_first' parameter of ClarkJaini must be from 2 to n_draws ({self.n_draws}). Got {self.n_first}."
            )
        _check_single("ClarkJaini", self.block)

    def next_look(self, n_draws: int) -> int:
        """Return the next draw, but no fewer than `n_first`."""
        return max(n_draws + 1, self.n_first)

    def survivors(self, evidence: Evidence) -> Survivors:
        """Return the classes that the test does not tell from the best one."""
        alive, n = evidence.alive, evidence.n_draws
        if n < self.n_first or alive.sum() == 1:
            return alive
        weighted = evidence.weighted()[:n, alive]
        behind = _behind(evidence, n, alive)
        se = (weighted - weighted[:, [int(behind.argmin())]]).std(axis=0, ddof=1) / np.sqrt(n)
        survivors = alive.copy()
        survivors[alive] = ~(behind > -stdtrit(n - 1, self.p_value / 2) * se)
        return survivors


def _behind(evidence: Evidence, n: int, alive: Survivors) -> Float64[ndarray, " _"]:
    """Return how far the log joint of each class alive is behind the best one, over the first n draws."""
    joint = evidence.log_prior[alive] - evidence.weighted()[:n, alive].mean(axis=0)
    return joint.max() - joint


def _check_single(name: str, block: int) -> None:
    if block != 1:
        raise RangeError(f"The 'block' of {name} must be 1: it judges after every draw. Got {block}.")
