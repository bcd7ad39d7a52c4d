"""A race on votes: the same contract as the race on means, for the answer that a majority gives."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from diffclass.decide.aggregate import draw_votes
from diffclass.decide.race import check_budget, planned_looks
from diffclass.errors import InputError, RangeError
from diffclass.evidence.evidence import Evidence
from diffclass.evidence.race import Race
from diffclass.stats.sequence import Betting, Sequence, StudentLooks
from diffclass.types import Survivors

__all__ = ["VoteRace"]

BOUNDS = ("student", "finite")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class VoteRace(Race):
    """Draws stop when it is certain who wins the vote; use it with `MajorityVote`.

    With probability at least 1 - delta over the order of the draws, the survivor is the class that wins the vote of all
    `n_draws`, every class measured on each of them. A vote still open when they are used up is counted, exactly, and
    classes with the very same number of votes all survive (a tie).

    No class leaves before the end: the draws that it would have won would go to others, and the vote would be another
    one. So the race saves draws, and with many classes less than a race on means, which drops them one by one.

    A rival i ends the race against the true winner w when a lower bound on the mean of its votes minus those of w is
    above 0, while the mean itself is not. At level delta / (K - 1) for each i that happens with probability at most
    delta. It also ends where the votes left cannot turn it, at no risk.

    | bound | holds |
    |---|---|
    | "student" | for Gaussian blocks of votes, and as blocks grow many |
    | "finite" | always: a block's votes lie between -1 and 1, and blocks are exchangeable; decides later |

    Args:
        n_draws: full budget of draws.
        block: draws in a block.
        delta: chance of another answer than the full budget's.
        bound: "student" or "finite".
        growth: factor between the draws at one look and the next.

    Source:
        Favero et al. 2025, section 3 (arXiv:2502.03687) for the vote. The stopping rule is that of `PairedRace`, on
        votes in the place of log-likelihoods.
    """

    abstains: ClassVar[bool] = True
    n_draws: int = 256
    block: int = 4
    delta: float = 0.01
    bound: str = "student"
    growth: float = 1.4

    def __post_init__(self) -> None:
        """Refuse parameters that cannot be used."""
        check_budget("VoteRace", self.n_draws, self.block)
        if not 0 < self.delta < 1:
            raise RangeError(f"The 'delta' parameter of VoteRace must be a float in (0, 1). Got {self.delta}.")
        if not 1 < self.growth < np.inf:
            raise RangeError(f"The 'growth' parameter of VoteRace must be above 1. Got {self.growth}.")
        if self.bound not in BOUNDS:
            raise InputError(f"The 'bound' parameter of VoteRace must be one of {BOUNDS}. Got {self.bound!r}.")

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of blocks at which the vote is judged; the last is the full budget."""
        return planned_looks(self.n_draws // self.block, self.block, growth=self.growth)

    def next_look(self, n_draws: int) -> int:
        """Return the draws of the next planned look."""
        return min((n * self.block for n in self.looks if n * self.block > n_draws), default=self.n_draws)

    def survivors(self, evidence: Evidence) -> Survivors:
        """Return the classes that can still win the vote, or the one that is certain to."""
        alive = evidence.alive
        seen = max((n * self.block for n in self.looks if n * self.block <= evidence.n_draws), default=0)
        if not seen or alive.sum() == 1:
            return alive
        votes = draw_votes(evidence.errors[:seen, alive])
        total = votes.sum(axis=0).round(9)
        if seen == self.n_draws:
            stays = total == total.max()
        else:
            leader = int(total.argmax())
            beaten = self._beaten(votes[:, [leader]] - votes)
            beaten[leader] = True
            stays = np.arange(len(total)) == leader if beaten.all() else np.ones(len(total), dtype=bool)
        survivors = alive.copy()
        survivors[alive] = stays
        return survivors

    def _beaten(self, lead: Float64[ndarray, "draw class"]) -> Bool[ndarray, " class"]:
        """Return which classes are certain to have fewer votes than the leader in the end."""
        seen, n_classes = lead.shape
        blocks = lead.reshape(seen // self.block, self.block, -1).mean(axis=1)
        share = self.delta / (n_classes - 1)
        low = self._sequence().lower(blocks, delta=share, n_total=self.n_draws // self.block)
        return (low > 0) | (lead.sum(axis=0) > self.n_draws - seen)

    def _sequence(self) -> Sequence:
        return StudentLooks(looks=self.looks) if self.bound == "student" else Betting(value_range=(-1.0, 1.0))
