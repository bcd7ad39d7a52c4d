"""From the paired errors of the classes that survived to one answer."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Float64
from numpy import ndarray

from diffclass.evidence.evidence import Evidence
from diffclass.types import Survivors

__all__ = ["Aggregate", "MajorityVote", "Mean", "Tally", "draw_votes", "vote_shares"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tally:
    """How the survivors stand.

    Args:
        scores: what the rule ranks by, larger is better; -inf for classes that had left the race.
        shares: share of the draws in which each survivor denoised best; 0 for classes that had left, sum 1.
        winner: the class with the largest score; None on a tie.
        tied: the classes that share the largest score, the winner alone if there is one.
        n_draws: draws that every survivor has seen, the only ones that count.
    """

    scores: Float64[ndarray, " class"]
    shares: Float64[ndarray, " class"]
    winner: int | None
    tied: tuple[int, ...]
    n_draws: int


class Aggregate(ABC):
    """A rule that ranks the survivors of a race over the draws that all of them share."""

    @abstractmethod
    def __call__(self, evidence: Evidence, survivors: Survivors) -> Tally:
        """Rank the survivors; classes that had left the race get neither a score nor a vote."""


@final
@dataclass(frozen=True, slots=True)
class Mean(Aggregate):
    """The largest log joint: log prior minus the mean of weight x error.

    Source:
        Li et al. 2023, equation 6 (arXiv:2303.16203).
    """

    def __call__(self, evidence: Evidence, survivors: Survivors) -> Tally:
        """Rank by the log joint."""
        n = _shared(evidence, survivors)
        scores = np.full(len(survivors), -np.inf)
        errors = evidence.draws.weights[:n, None] * evidence.errors[:n, survivors].astype(np.float64)
        scores[survivors] = evidence.log_prior[survivors] - errors.mean(axis=0)
        return _tally(scores, _votes(evidence, survivors) / n, n)


@final
@dataclass(frozen=True, slots=True)
class MajorityVote(Aggregate):
    """The most votes, one a draw, for the class of least error; k classes tied in a draw get 1/k of its vote each.

    A positive weight of a draw scales its errors alike, so the vote does not depend on the weight, nor on whether
    errors are those of the noise, the image or the velocity. The prior has no part in it.

    Source:
        Favero et al. 2025, section 3 (arXiv:2502.03687).
    """

    def __call__(self, evidence: Evidence, survivors: Survivors) -> Tally:
        """Rank by votes, counted anew among the survivors."""
        n = _shared(evidence, survivors)
        votes = _votes(evidence, survivors)
        return _tally(np.where(survivors, votes, -np.inf), votes / n, n)


def _shared(evidence: Evidence, survivors: Survivors) -> int:
    """Return how many draws every survivor has seen."""
    return int(evidence.n_measured[survivors].min())


def draw_votes(errors: Float[ndarray, "draw class"]) -> Float64[ndarray, "draw class"]:
    """Return the vote of each draw: 1 for the class of least error, 1/k for each of k that tie.

    Source:
        Favero et al. 2025, section 3 (arXiv:2502.03687).
    """
    best: Bool[ndarray, "draw class"] = errors == errors.min(axis=1, keepdims=True)
    return best / best.sum(axis=1, keepdims=True)


def vote_shares(evidence: Evidence, among: Survivors) -> tuple[Float64[ndarray, " class"], int]:
    """Return the share of the votes of each class, counted among some classes, and how many draws voted.

    Args:
        evidence: in which each of these classes was measured.
        among: classes that are voted for; the others have a share of 0.
    """
    return _votes(evidence, among) / _shared(evidence, among), _shared(evidence, among)


def _votes(evidence: Evidence, survivors: Survivors) -> Float64[ndarray, " class"]:
    """Return the votes of each class; a tied draw is shared out."""
    votes = np.zeros(len(survivors))
    votes[survivors] = draw_votes(evidence.errors[: _shared(evidence, survivors), survivors]).sum(axis=0)
    return votes.round(9)  # or thirds of a vote would not add up to one


def _tally(scores: Float64[ndarray, " class"], shares: Float64[ndarray, " class"], n: int) -> Tally:
    tied = tuple(np.flatnonzero(scores == scores.max()).tolist())
    return Tally(scores=scores, shares=shares, winner=tied[0] if len(tied) == 1 else None, tied=tied, n_draws=n)
