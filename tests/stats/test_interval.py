"""Intervals against scipy, statsmodels-free closed forms and their own promise: coverage."""

import numpy as np
import pytest
from scipy import stats

from diffclass.errors import InputError, RangeError
from diffclass.stats import bootstrap, clopper_pearson, mean_interval, wilson


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (950, 1000)])
def test_wilson_is_where_the_score_test_turns(k: int, n: int) -> None:
    estimate = wilson(k, n)
    z = stats.norm.isf(0.025)
    ends = [p for p in (estimate.low, estimate.high) if 0 < p < 1]
    assert all(abs(k / n - p) == pytest.approx(z * np.sqrt(p * (1 - p) / n), rel=1e-9) for p in ends)
    assert (estimate.value, estimate.n, estimate.confidence, estimate.method) == (k / n, n, 0.95, "Wilson")


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10)])
def test_clopper_pearson_ends_have_the_tail_probability(k: int, n: int) -> None:
    estimate = clopper_pearson(k, n, confidence=0.9)
    assert k == 0 or stats.binom.sf(k - 1, n, estimate.low) == pytest.approx(0.05)
    assert k == n or stats.binom.cdf(k, n, estimate.high) == pytest.approx(0.05)


def test_clopper_pearson_covers_summed_over_the_binomial() -> None:
    n = 30
    ends = [clopper_pearson(k, n) for k in range(n + 1)]
    for p in np.linspace(0.01, 0.99, 50):
        coverage = sum(stats.binom.pmf(k, n, p) for k, e in enumerate(ends) if e.low <= p <= e.high)
        assert coverage >= 0.95


def test_mean_interval_is_students() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=40)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    estimate = mean_interval(values)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))
    assert mean_interval(np.array([1, 2, 3])).value == 2.0


def test_bootstrap_of_a_mean_agrees_with_students_interval() -> None:
    values = np.random.default_rng(0).normal(size=2000)
    student, resampled = mean_interval(values), bootstrap(lambda v: float(v.mean()), values, n_resamples=4000)
    # Quantiles of 4,000 resamples have a standard error of 4% of the standard error of the mean: 5 of them.
    tolerance = 0.2 * values.std() / np.sqrt(2000)
    assert (resampled.low, resampled.high) == pytest.approx((student.low, student.high), abs=tolerance)
    assert resampled.value == pytest.approx(values.mean())


def test_bootstrap_resamples_rows_together_and_repeats_with_its_seed() -> None:
    x = np.arange(50.0)
    paired = bootstrap(lambda a, b: float((a - b).mean()), x, x - 1, seed=3)
    assert (paired.low, paired.value, paired.high) == (1.0, 1.0, 1.0)
    first, second, other = (bootstrap(lambda a: float(a.mean()), x, seed=s) for s in (1, 1, 2))
    assert first == second != other


def test_stratified_bootstrap_keeps_the_count_of_every_label() -> None:
    label = np.repeat([4, 9, 2], [3, 20, 7])
    random = np.random.default_rng(0).permutation(label)
    counts = bootstrap(lambda v: float((v == 9).sum() * 100 + (v == 2).sum()), random, stratify=random)
    assert (counts.low, counts.high) == (2007.0, 2007.0)


def test_basic_interval_reflects_the_percentile_interval() -> None:
    values = np.random.default_rng(0).normal(size=(30, 20))

    def size_of_mean(rows: np.ndarray) -> float:
        return float(np.abs(rows.mean(axis=0)).sum())  # biased upward, and again by resampling

    percentile, basic = (bootstrap(size_of_mean, values, method=m) for m in ("percentile", "basic"))
    assert percentile.low > percentile.value
    assert basic.low == 2 * basic.value - percentile.high < basic.value == basic.high


def test_refusals() -> None:
    with pytest.raises(RangeError, match=r"0 <= k <= n and n >= 1\. Got k=3, n=2\."):
        wilson(3, 2)
    with pytest.raises(RangeError, match=r"must be a float in \(0, 1\)\. Got 95\.0\."):
        clopper_pearson(1, 2, confidence=95.0)
    with pytest.raises(InputError, match=r"at least 2 finite values\. Got 1 of 2\."):
        mean_interval(np.array([1.0, np.nan]))
    with pytest.raises(InputError, match=r"one length, at least 2 images\. Got lengths \[3, 4\]\."):
        bootstrap(lambda a, b: 0.0, np.zeros(3), np.zeros(4))
    with pytest.raises(InputError, match=r"'percentile' or 'basic'\. Got 'bca'\."):
        bootstrap(lambda a: 0.0, np.zeros(3), method="bca")
