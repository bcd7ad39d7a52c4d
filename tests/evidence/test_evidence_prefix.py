"""Comparing classes that left a race within its first blocks."""

import numpy as np
import pytest

from diffclass.evidence import Draws, Evidence


def test_classes_that_left_before_two_blocks_are_compared_draw_by_draw() -> None:
    errors = np.random.default_rng(0).random((12, 4), dtype=np.float32)
    errors[1:, 1], errors[6:, 2], errors[11:, 3] = np.nan, np.nan, np.nan
    weights = np.linspace(1, 2, 12)
    draws = Draws(sigmas=np.ones(12), weights=weights, block=4, seed=0, key=0)
    evidence = Evidence(errors=errors, draws=draws, classes=tuple("abcd"), log_prior=np.log([0.1, 0.2, 0.3, 0.4]))
    ratios = weights[:, None] * (errors.astype(float) - errors[:, :1])  # of class 0 over each
    one, six, eleven = (evidence.difference(0, c) for c in (1, 2, 3))
    assert (one.n_draws, six.n_draws, eleven.n_draws) == (1, 6, 11)
    assert (one.mean, one.se) == (pytest.approx(ratios[0, 1] + np.log(0.5)), np.inf)
    assert six.mean == pytest.approx(ratios[:6, 2].mean() + np.log(1 / 3))
    assert six.se == pytest.approx(ratios[:6, 2].std(ddof=1) / np.sqrt(6))
    assert eleven.mean == pytest.approx(ratios[:11, 3].mean() + np.log(0.25))
    assert eleven.se == pytest.approx(ratios[:8, 3].reshape(2, 4).mean(axis=1).std(ddof=1) / np.sqrt(2))
    assert np.isfinite(evidence.log_odds()).all()
