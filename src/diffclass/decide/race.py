"""Rules that say, while errors are being measured, which classes go on."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from diffclass.decide.published import SuccessiveHalving
from diffclass.decide.stopping import Calibrated
from diffclass.errors import InputError, RangeError
from diffclass.evidence.evidence import Evidence, StandIns
from diffclass.evidence.race import Race
from diffclass.stats.sequence import AsymptoticSequence, Betting, Sequence, StudentLooks
from diffclass.types import Survivors

__all__ = ["Exhaustive", "PairedRace", "SuccessiveHalving", "check_budget", "planned_looks"]

BOUNDS = ("student", "asymptotic", "finite", "calibrated")
CONTRACTS = ("budget", "population")
FIRST_BLOCKS, FIRST_DRAWS = 4, 24  # at least, before the first look: fewer seldom decide, and know too little to


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Exhaustive(Race):
    """No class ever leaves: every class is measured on every draw.

    Args:
        n_draws: draws for every class.
        block: draws in a block, the unit over which standard errors are taken.
    """

    abstains: ClassVar[bool] = False
    n_draws: int = 256
    block: int = 4

    def __post_init__(self) -> None:
        """Refuse a budget that cannot be used."""
        check_budget("Exhaustive", self.n_draws, self.block)

    def next_look(self, n_draws: int) -> int:
        """Return the full budget: there is nothing to judge before."""
        return self.n_draws

    def survivors(self, evidence: Evidence) -> Survivors:
        """Return every class that has been measured throughout."""
        return evidence.alive


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PairedRace(Race):
    """A class leaves when its paired difference to the leader is certain to be negative.

    Contract "budget": with probability at least 1 - delta over the order of the draws, the survivor is the class that
    would win if every class were measured on all `n_draws`. The bound is one for sampling blocks without replacement
    from that list; a race still open when the list is used up is decided by it, exactly, and classes with the very same
    log joint all survive (a tie).
    Contract "population": with probability at least 1 - delta, the class that would win with unlimited draws is among
    the survivors; a race still open at the budget ends with several.

    What delta is the chance of, and when that holds, depends on the bound:

    | bound | an error | holds |
    |---|---|---|
    | "student" | in each image, the hardest included | exactly for Gaussian blocks, else as blocks grow many |
    | "asymptotic" | the same, however often one looks | the same; decides later |
    | "finite" | the same | for blocks within `value_range`, contract "budget"; decides much later |
    | "calibrated" | in a new image like those it was learned on | for any distribution, with `stopping.confidence` |

    "calibrated" promises nothing for one image: near ties err more often than delta, clear images less, and images of
    another kind as they please. In return it costs a fraction, because errors are spent where they save most. It
    judges by the rule `stopping`, which sets the looks as well, and serves the model, objective and classes that it
    was learned with. "finite" takes blocks to be exchangeable, as stratified ones are, not independent.

    For the bounds that hold for a single image only one event is an error: that the true winner w is dropped. A class i
    drops w when a lower bound on the mean of L_i - L_w (the log joints of a block) rises above 0, while the mean itself
    is not above 0. A bound of level delta / (K - 1) makes that happen, at any look, with probability at most delta / (K
    - 1); summed over the K - 1 classes i it is at most delta. The sum covers every possible leader, so it does not
    matter that the leader is chosen by the same draws; and other classes may leave at will, because they can only take
    themselves away. "finite" does not sum: it averages the e-values of all rivals of w, which asks for less.

    Args:
        n_draws: full budget of draws for a class.
        block: draws in a block. More cover the noise range more evenly, fewer leave more blocks to learn from.
        delta: chance of an error: in one image, or for "calibrated" in a new image.
        contract: "budget" or "population".
        bound: "student", "asymptotic", "finite" or "calibrated".
        value_range: [nats] for "finite": no block's log-likelihood ratio of two classes is larger in size.
        first_look: draws before the first look, a multiple of the block; None: 24 draws and at least 4 blocks.
        growth: factor between the draws at one look and the next.
        stopping: for "calibrated": what `learn_stopping` returned, for the same delta, draws and block.

    Source:
        Paulson 1964 and Even-Dar, Mannor and Mansour 2002 (elimination); Maron and Moore 1993 (races); Kim and Nelson
        2001 (common random numbers); Vovk and Wang 2021 (averages of e-values). For the bounds see `stats.sequence`.
    """

    abstains: ClassVar[bool] = True
    n_draws: int = 256
    block: int = 4
    delta: float = 0.01
    contract: str = "budget"
    bound: str = "student"
    value_range: float | None = None
    first_look: int | None = None
    growth: float = 1.4
    stopping: Calibrated | None = None

    @classmethod
    def calibrated(cls, stopping: Calibrated) -> "PairedRace":
        """Return the race that a stopping rule was learned for."""
        return cls(
            n_draws=stopping.n_draws,
            block=stopping.block,
            delta=stopping.delta,
            bound="calibrated",
            stopping=stopping,
        )

    def __post_init__(self) -> None:
        """Refuse parameters that cannot be used."""
        check_budget("PairedRace", self.n_draws, self.block)
        if not 0 < self.delta < 1:
            raise RangeError(f"The 'delta' parameter of PairedRace must be a float in (0, 1). Got {self.delta}.")
        if not 1 < self.growth < np.inf:
            raise RangeError(f"The 'growth' parameter of PairedRace must be above 1. Got {self.growth}.")
        first = self.first_look
        if first is not None and (first % self.block or not 3 * self.block <= first <= self.n_draws):
            raise RangeError(
                f"The 'first_look' parameter of PairedRace must be a multiple of the block ({self.block}) from "
                f"{3 * self.block} to n_draws ({self.n_draws}). Got {first}."
            )
        for name, value, choices in (("contract", self.contract, CONTRACTS), ("bound", self.bound, BOUNDS)):
            if value not in choices:
                raise InputError(f"The '{name}' parameter of PairedRace must be one of {choices}. Got {value!r}.")
        if self.contract == "population" and self.n_draws < 3 * self.block:
            raise RangeError(
                f"The 'n_draws' parameter of PairedRace must hold at least 3 blocks of {self.block} draws for the "
                f"contract 'population'. Got {self.n_draws}."
            )
        if self.bound == "finite":
            self._check_finite()
        if (self.bound == "calibrated") != (self.stopping is not None):
            raise InputError(
                "The bound 'calibrated' of PairedRace needs a 'stopping' rule, and no other bound takes one. "
                f"Got bound={self.bound!r} and {'no' if self.stopping is None else 'a'} rule. "
                "Try PairedRace.calibrated(learn_stopping(matrices))."
            )
        if self.stopping is not None:
            self._check_stopping(self.stopping)

    def _check_stopping(self, rule: Calibrated) -> None:
        given = (self.n_draws, self.block, self.delta, self.contract, self.first_look)
        if given != (rule.n_draws, rule.block, rule.delta, "budget", None):
            raise InputError(
                f"A calibrated PairedRace must be the race its rule was learned for: n_draws={rule.n_draws}, "
                f"block={rule.block}, delta={rule.delta}, contract='budget', first_look=None. Got {given}. "
                "Try PairedRace.calibrated(stopping)."
            )

    def _check_finite(self) -> None:
        if self.value_range is None or not 0 < self.value_range < np.inf:
            raise RangeError(
                "The 'value_range' parameter of PairedRace must be a positive number of nats for the bound 'finite'. "
                f"Got {self.value_range}. Try bound='student', which needs none."
            )
        if self.contract == "population":
            raise InputError(
                "The bound 'finite' of PairedRace holds for the contract 'budget' only, because stratified draws are "
                "not independent. Got contract='population'. Try bound='student'."
            )

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of blocks at which the race is judged; the last is the full budget."""
        first = None if self.first_look is None else self.first_look // self.block
        return planned_looks(self.n_draws // self.block, self.block, first=first, growth=self.growth)

    @property
    def stand_ins(self) -> StandIns | None:
        """The anchor of each class, where the rule has anchors."""
        anchors = None if self.stopping is None else self.stopping.anchors
        return None if anchors is None else StandIns(classes=anchors.stand_ins, lag=anchors.threshold)

    def joins(self, evidence: Evidence) -> Survivors:
        """Return the classes that the anchors foretell to be near the best."""
        if self.stopping is None or self.stopping.anchors is None:
            return np.zeros(len(evidence.classes), dtype=bool)
        likelihood = _log_likelihood(evidence, evidence.n_draws, evidence.alive).mean(axis=0)
        return self.stopping.anchors.admits(likelihood[None], evidence.log_prior)[0]

    def next_look(self, n_draws: int) -> int:
        """Return the draws of the next planned look."""
        planned = self._planned()
        return min((n for n in planned if n > n_draws), default=self.n_draws)

    def _planned(self) -> tuple[int, ...]:
        """Return the draws at every look, the full budget included."""
        if self.stopping is not None:
            return (*self.stopping.looks, self.n_draws)
        return tuple(n * self.block for n in self.looks)

    def survivors(self, evidence: Evidence) -> Survivors:
        """Return the classes that the leader does not exclude at the last planned look."""
        measured = evidence.n_measured
        n = int(measured.max())
        alive = measured == n
        seen = max((look for look in self._planned() if look <= n), default=0)
        if not seen or alive.sum() == 1:
            return alive
        prior = evidence.log_prior[alive]
        likelihood = _log_likelihood(evidence, seen, alive)
        joint = prior + likelihood.mean(axis=0)
        leader = int(joint.argmax())
        lead, shift = likelihood[:, leader, None] - likelihood, prior[leader] - prior
        if seen == self.n_draws and self.contract == "budget":
            stays = joint == joint[leader]
        elif self.stopping is not None:
            stays = ~self.stopping.excludes(lead, shift)
        elif self.bound == "finite":
            blocks = likelihood.reshape(seen // self.block, self.block, -1).mean(axis=1)
            stays = ~self._refuted(blocks, prior, _rivals(evidence)[alive])
        else:
            blocks = lead.reshape(seen // self.block, self.block, -1).mean(axis=1)
            share = self.delta * _rivals(evidence)[alive][leader]
            n_total = self.n_draws // self.block if self.contract == "budget" else None
            stays = ~(self._sequence().lower(blocks, delta=share, n_total=n_total) + shift > 0)
        survivors = alive.copy()
        survivors[alive] = stays
        return survivors

    def _sequence(self) -> Sequence:
        if self.bound == "student":
            return StudentLooks(looks=self.looks)
        assert self.bound == "asymptotic", self.bound
        return AsymptoticSequence()

    def _refuted(
        self,
        blocks: Float64[ndarray, "block class"],
        prior: Float64[ndarray, " class"],
        rivals: Float64[ndarray, " class"],
    ) -> Survivors:
        """Return which classes cannot be the winner: the average of their e-values has reached 1 / delta.

        "Class w is the winner" means that no rival's mean is above its own. Each rival's paired difference gives an
        e-value against that, and so does their average, weighted by `rivals` and with those that have left counting as
        0. It is never below the largest of them times its weight, which is what a union bound over the rivals would
        ask for.
        """
        assert self.value_range is not None
        betting = Betting(value_range=(-self.value_range, self.value_range))
        n_total = self.n_draws // self.block
        refuted = np.zeros(blocks.shape[1], dtype=bool)
        for w in range(len(refuted)):
            ahead = np.delete(blocks - blocks[:, [w]], w, axis=1)
            mean = prior[w] - np.delete(prior, w)
            wealth = betting.log_wealth(ahead, mean, delta=self.delta * float(rivals.min()), n_total=n_total)
            average = np.logaddexp.reduce(wealth + np.log(np.delete(rivals, w)), axis=1)
            refuted[w] = average.max() >= -np.log(self.delta)
        if refuted.all():  # only where e-values went wrong, with a chance below delta: keep the best
            refuted[int((blocks.mean(axis=0) + prior).argmax())] = False
        return refuted


def _rivals(evidence: Evidence) -> Float64[ndarray, " class"]:
    """Return the part of delta with which each class may drop any other: over all rivals of a class, at most 1.

    The parts are equal, or what was believed before the first draw; they must not depend on the draws.
    """
    if evidence.foresight is not None:
        return evidence.foresight.weights
    return np.full(len(evidence.classes), 1 / (len(evidence.classes) - 1))


def _log_likelihood(evidence: Evidence, n: int, alive: Survivors) -> Float64[ndarray, "draw _"]:
    """Return minus weight x error of the first n draws and the classes alive; its mean estimates log p(x | class)."""
    return -evidence.draws.weights[:n, None] * evidence.errors[:n, alive].astype(np.float64)


def planned_looks(total: int, block: int, *, first: int | None = None, growth: float = 1.4) -> tuple[int, ...]:
    """Return numbers of blocks at which a race of `total` blocks is judged; the last is the full budget.

    Args:
        total: blocks of the full budget.
        block: draws in a block.
        first: blocks before the first look; 24 draws and at least 4 blocks if None.
        growth: factor between one look and the next.
    """
    looks, n = [], max(FIRST_BLOCKS, ceil(FIRST_DRAWS / block)) if first is None else first
    while total - n >= max(3, total // 8):  # nearer to the end a look saves little
        looks.append(n)
        n = max(n + 1, ceil(n * growth))
    return (*looks, total)


def check_budget(name: str, n_draws: int, block: int) -> None:
    """Refuse a budget that is no whole number of blocks."""
    if n_draws < 1 or block < 1 or n_draws % block:
        raise RangeError(
            f"The 'n_draws' parameter of {name} must be a positive multiple of 'block'. "
            f"Got n_draws={n_draws}, block={block}."
        )
