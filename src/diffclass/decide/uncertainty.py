"""How uncertain one answer is, read off its evidence in several ways."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, final

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy.special import softmax

from diffclass.decide.aggregate import vote_shares
from diffclass.errors import RangeError
from diffclass.evidence import Evidence

__all__ = ["MEASURES", "Uncertainty", "entropy", "mutual_information", "uncertainty"]

MEASURES = {  # name in result files: name for people
    "margin_z": "log-odds in standard errors",
    "margin": "log-odds",
    "vote_share": "vote share",
    "vote_entropy": "vote entropy",
    "evaluations": "evaluations spent",
    "mutual_information": "mutual information",
    "probability": "calibrated probability",
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertainty:
    """How uncertain an answer is.

    Votes are those of all classes that were measured, over the draws that all of them saw: after a race these are the
    first draws, and a class that was dropped keeps the votes it won.

    Args:
        vote_share: of the class that leads; 1 minus it is the variation ratio.
        vote_entropy: [nats] of the vote shares.
        n_votes: draws that voted.
        margin: log-odds of the leader over the runner-up.
        margin_se: their standard error; infinite for a single draw.
        evaluations: network evaluations spent.
        mutual_information: [nats] between the class and the block of draws that judges it; None for one block.

    Source:
        Favero et al. 2025, section 4 (arXiv:2502.03687) for votes; Gal 2016, section 3.3 (variation ratio, mutual
        information).
    """

    vote_share: float
    vote_entropy: float
    n_votes: int
    margin: float
    margin_se: float
    evaluations: int
    mutual_information: float | None

    @property
    def margin_z(self) -> float:
        """The margin in its standard errors; 0 where nothing is known of them."""
        if self.margin_se > 0:
            return self.margin / self.margin_se
        return 0.0 if self.margin == 0 else float(np.copysign(np.inf, self.margin))

    def scores(self) -> Mapping[str, float]:
        """Return each measure under its name in `MEASURES` so that larger is less sure."""
        found = {
            "margin_z": -self.margin_z,
            "margin": -self.margin,
            "vote_share": 1 - self.vote_share,
            "vote_entropy": self.vote_entropy,
            "evaluations": float(self.evaluations),
        }
        return found if self.mutual_information is None else found | {"mutual_information": self.mutual_information}

    def row(self) -> dict[str, Any]:
        """Return what a decision does not say itself, as plain values for JSON."""
        z = self.margin_z
        return {
            "vote_share": self.vote_share,
            "vote_entropy": self.vote_entropy,
            "n_votes": self.n_votes,
            "margin_z": z if isfinite(z) else None,
            "mutual_information": self.mutual_information,
        }


def uncertainty(evidence: Evidence, *, leader: int | None = None, temperature: float = 1.0) -> Uncertainty:
    """Return how uncertain the answer to one image is.

    Args:
        evidence: with two classes or more that were measured.
        leader: the class that is answered; the one of the largest log joint if None.
        temperature: that log-odds are divided by for the mutual information. Uncalibrated ones are so large that every
            block is sure, and the mutual information is the entropy of the blocks' votes.

    Raises:
        RangeError: the temperature is not positive.
    """
    leader = evidence.leader() if leader is None else leader
    measured = evidence.n_measured > 0
    shares, n_votes = vote_shares(evidence, measured)
    odds = evidence.log_odds()
    rivals = [c for c in np.flatnonzero(measured) if c != leader]
    margin = evidence.difference(leader, int(max(rivals, key=lambda c: odds[c])))
    return Uncertainty(
        vote_share=float(shares[leader]),
        vote_entropy=entropy(shares),
        n_votes=n_votes,
        margin=margin.mean,
        margin_se=margin.se,
        evaluations=evidence.evaluations,
        mutual_information=mutual_information(evidence, temperature=temperature),
    )


def entropy(shares: Float64[ndarray, " class"]) -> float:
    """Return -sum p log p [nats], from 0 (one class has all) to log K (all alike).

    Source:
        Shannon 1948, section 6.
    """
    some = shares[shares > 0]
    return float(max(0.0, -(some * np.log(some)).sum()))


def mutual_information(evidence: Evidence, *, temperature: float = 1.0) -> float | None:
    """Return H(mean over blocks of p) - mean over blocks of H(p) [nats], p the posterior of one block of draws.

    It is 0 where every block says the same, however unsure, and at most log K. Blocks cover the noise range, so that
    they differ by their noise more than by the level of it. None where all measured classes share less than two blocks.

    Args:
        evidence: of the classes that were measured.
        temperature: that log-odds are divided by.

    Raises:
        RangeError: the temperature is not positive.

    Source:
        Houlsby et al. 2011, equation 2 (arXiv:1112.5745), with blocks of draws in the place of posterior samples.
    """
    if not 0 < temperature < np.inf:
        raise RangeError(f"The 'temperature' parameter of mutual_information must be above 0. Got {temperature}.")
    measured = evidence.n_measured > 0
    block = evidence.draws.block
    n = int(evidence.n_measured[measured].min()) // block * block
    if n < 2 * block:
        return None
    likelihood = -evidence.draws.weights[:n, None] * evidence.errors[:n, measured].astype(np.float64)
    joint = likelihood.reshape(n // block, block, -1).mean(axis=1) + evidence.log_prior[measured]
    p = softmax(joint / temperature, axis=1)
    return max(0.0, entropy(p.mean(axis=0)) - float(np.mean([entropy(row) for row in p])))
