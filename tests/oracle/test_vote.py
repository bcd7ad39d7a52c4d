"""O9: a majority vote of m draws, each right with probability p, is right as often as the binomial tail says."""

import numpy as np
import pytest
from scipy import stats

from diffclass.decide.aggregate import MajorityVote
from diffclass.evidence import Draws, Evidence

BOTH = np.ones(2, dtype=bool)


def evidence(right: np.ndarray) -> Evidence:
    """Errors under which class 0 denoises best in just the draws that are right."""
    random = np.random.default_rng(len(right))
    best = random.gamma(2.0, size=len(right)) + 0.1
    worse = best + random.gamma(2.0, size=len(right)) + 0.1
    errors = np.where(right[:, None], np.stack([best, worse], axis=1), np.stack([worse, best], axis=1))
    weights = random.gamma(1.0, size=len(right)) + 1e-3
    draws = Draws(sigmas=np.ones(len(right)), weights=weights, block=1, seed=0, key=0)
    return Evidence(errors=errors.astype(np.float32), draws=draws, classes=("right", "wrong"), log_prior=np.zeros(2))


@pytest.mark.parametrize("m", [1, 2, 5, 8, 11])
@pytest.mark.parametrize("p", [0.5, 0.6, 0.9])
def test_vote_is_the_binomial_tail_exactly(m: int, p: float) -> None:
    # Summed over every pattern of right and wrong draws, with its probability: nothing is sampled.
    won = tied = 0.0
    for pattern in range(2**m):
        right = np.array([pattern >> i & 1 for i in range(m)], dtype=bool)
        tally = MajorityVote()(evidence(right), BOTH)
        probability = p ** right.sum() * (1 - p) ** (~right).sum()
        assert tally.shares[0] == pytest.approx(right.mean())
        won += probability * (tally.winner == 0)
        tied += probability * (tally.winner is None)
    assert won == pytest.approx(stats.binom.sf(m // 2, m, p), abs=1e-12)
    assert tied == pytest.approx(stats.binom.pmf(m / 2, m, p), abs=1e-12)


def test_vote_of_many_draws_is_the_binomial_tail() -> None:
    # 2,000 votes of 51 draws: the count is binomial, and 5 standard deviations are passed with probability 6e-7.
    m, p, n = 51, 0.55, 2000
    random = np.random.default_rng(0)
    won = sum(MajorityVote()(evidence(random.random(m) < p), BOTH).winner == 0 for _ in range(n))
    expected = stats.binom.sf(m // 2, m, p)
    assert won / n == pytest.approx(expected, abs=5 * np.sqrt(expected * (1 - expected) / n))
