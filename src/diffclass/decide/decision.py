"""What the classifier says about one image."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from diffclass.decide.certainty import certainty
from diffclass.decide.uncertainty import Uncertainty, uncertainty
from diffclass.evidence import Evidence

__all__ = ["Decision"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decision:
    """An answer with its evidence.

    Raw posteriors of images saturate at 0 and 1; read the log-odds with their standard error first, and the probability
    only where the classifier was calibrated.

    Args:
        label: the class, or None for an abstention (several classes survived, or a tie).
        leader: the class in front, abstention or not.
        runner_up: the best of the others.
        log_odds: of the leader over the runner-up, paired over the draws both saw.
        log_odds_se: their standard error.
        probabilities: calibrated; None without a temperature.
        vote_shares: share of draws in which each survivor denoised best.
        survivors: classes the race ended with.
        evaluations: network evaluations spent.
        n_draws: draws of the survivors.
        reason: "confidence", "budget" or "undecided".
        seed: of the noise.
        evidence: the errors themselves.
        temperature: that the probabilities were calibrated with.
    """

    label: str | None
    leader: str
    runner_up: str
    log_odds: float
    log_odds_se: float
    probabilities: Mapping[str, float] | None
    vote_shares: Mapping[str, float]
    survivors: tuple[str, ...]
    evaluations: int
    n_draws: int
    reason: str
    seed: int
    evidence: Evidence
    temperature: float | None = None

    @property
    def decided(self) -> bool:
        """Whether there is a label."""
        return self.label is not None

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Classes that were never measured.

        Either a first look left them out, and the race's guarantee says nothing of them, or the anchors of a learned
        rule foretold that they lose, which the rule was tested with.
        """
        measured = self.evidence.n_measured
        return tuple(name for name, n in zip(self.evidence.classes, measured, strict=True) if n == 0)

    @property
    def probability(self) -> float | None:
        """Calibrated probability of the leader."""
        return None if self.probabilities is None else self.probabilities[self.leader]

    @property
    def scores(self) -> Mapping[str, float]:
        """Return a number in [0, 1] for every class that sums to 1: calibrated probabilities, or else `certainty`."""
        if self.probabilities is not None:
            return self.probabilities
        return dict(zip(self.evidence.classes, certainty(self.evidence).tolist(), strict=True))

    @property
    def uncertainty(self) -> Uncertainty:
        """How uncertain the answer is, in several ways."""
        leader = self.evidence.classes.index(self.leader)
        return uncertainty(self.evidence, leader=leader, temperature=self.temperature or 1.0)

    def row(self) -> dict[str, Any]:
        """Return everything but the evidence as plain values, for JSON."""
        return {
            "label": self.label,
            "leader": self.leader,
            "runner_up": self.runner_up,
            "log_odds": self.log_odds,
            "log_odds_se": self.log_odds_se if math.isfinite(self.log_odds_se) else None,
            "probability": self.probability,
            "score": self.scores[self.leader],
            "probabilities": None if self.probabilities is None else dict(self.probabilities),
            "vote_shares": dict(self.vote_shares),
            "survivors": list(self.survivors),
            "unmeasured": list(self.unmeasured),
            "evaluations": self.evaluations,
            "n_draws": self.n_draws,
            "reason": self.reason,
            "seed": self.seed,
            "uncertainty": self.uncertainty.row(),
        }
