"""How sure the draws leave it which class the model prefers: scores without calibration."""

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy.stats import norm

from diffclass.evidence import Evidence

__all__ = ["certainty"]


def certainty(evidence: Evidence) -> Float64[ndarray, " class"]:
    """Return a share for each class: how likely more draws would put it in front, if pairs of classes are compared.

    With z the log-odds of a class over the leader in standard errors, the chance that its true mean is ahead is Phi(z)
    under a flat prior and a normal mean. Shares are proportional to the odds Phi(z) / (1 - Phi(z)), so that with two
    classes they are the two chances. They say how far the draws have decided, and not how often such answers are
    right, which takes labelled images to know (`fit_temperature`). A class that was never measured has none.

    Source:
        Bradley and Terry 1952, equation 1 (strengths whose ratios are the odds of pairs).
    """
    leader = evidence.leader()
    log_odds = np.full(len(evidence.classes), -np.inf)
    log_odds[leader] = 0.0
    for c in np.flatnonzero(evidence.n_measured > 0):
        if c != leader:
            pair = evidence.difference(int(c), leader)
            # As for a difference of nothing that is always the same: identical classes, at 1 to 1.
            z = min(0.0, pair.mean / pair.se) if pair.se > 0 else (0.0 if pair.mean >= 0 else -np.inf)
            log_odds[c] = norm.logcdf(z) - norm.logsf(z)
    shares = np.exp(log_odds)
    return shares / shares.sum()
