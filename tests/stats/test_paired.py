"""Paired comparisons against brute force: every test enumerates what the formula sums."""

from itertools import product
from math import comb

import numpy as np
import pytest

from diffclass.stats import auc, clustered_difference, clustered_mean, delong, mcnemar, paired_bootstrap, wilson


def counted(both: int, one: int, other: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.repeat([True, True, False, False], [both, one, other, neither])
    second = np.repeat([True, False, True, False], [both, one, other, neither])
    return first, second


@pytest.mark.parametrize(("one", "other"), [(0, 0), (1, 0), (5, 1), (3, 8), (10, 10)])
def test_mcnemar_counts_the_coins(one: int, other: int) -> None:
    """Of the coins of the discordant images, all results at most as probable as the one seen."""
    found = mcnemar(*counted(20, one, other, 4))
    m = one + other
    chances = [comb(m, k) / 2**m for k in range(m + 1)]
    assert found.p_value == pytest.approx(sum(c for c in chances if c <= chances[one] * (1 + 1e-9)))
    assert found.value == pytest.approx((one - other) / (24 + m))
    assert found.low <= found.value <= found.high


def test_newcombes_interval_holds_the_truth() -> None:
    """The chance of every table of 16 images, summed: at least 94%, and no more than a third wider than need be."""
    n, chances = 16, np.array([0.55, 0.2, 0.1, 0.15])
    covered = total = 0.0
    for both, one, other in product(range(n + 1), repeat=3):
        neither = n - both - one - other
        if neither < 0:
            continue
        counts = np.array([both, one, other, neither])
        ways = comb(n, both) * comb(n - both, one) * comb(n - both - one, other)
        chance = ways * float(np.prod(chances**counts))
        if chance < 1e-7:
            continue
        found = mcnemar(*counted(both, one, other, neither))
        covered += chance * (found.low <= 0.1 <= found.high)
        total += chance
    assert total > 0.999
    assert 0.94 <= covered / total <= 0.985


def test_newcombes_interval_by_hand() -> None:
    """Of 50 in 100, Wilson's half-width d is 0.0962; two of them join to d sqrt(2 - 2 phi), phi being corrected."""
    independent, alike = mcnemar(*counted(25, 25, 25, 25)), mcnemar(*counted(50, 0, 0, 50))
    assert independent.high == pytest.approx(0.0962 * np.sqrt(2), abs=1e-4)
    assert alike.high == -alike.low == pytest.approx(0.0962 * np.sqrt(2 - 2 * (2500 - 50) / 2500), abs=1e-4)


def scored(seed: int, n: int = 30, classes: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    shared, one = random.normal(size=(n, classes)), np.eye(classes)[labels]
    first = (one + shared).round(1)  # ties too
    return labels, first, (0.5 * one + shared + 0.3 * random.normal(size=(n, classes))).round(1)


def brute_covariance(labels: np.ndarray, scores: list[np.ndarray]) -> tuple[list[float], np.ndarray]:
    """DeLong's structural components, pair by pair."""
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    kernel = np.array([[[(s[i] > s[j]) + 0.5 * (s[i] == s[j]) for j in negative] for i in positive] for s in scores])
    by_positive, by_negative = kernel.mean(axis=2), kernel.mean(axis=1)
    covariance = np.cov(by_positive) / len(positive) + np.cov(by_negative) / len(negative)
    return kernel.mean(axis=(1, 2)).tolist(), covariance


@pytest.mark.parametrize("seed", range(3))
def test_delong_is_brute_force(seed: int) -> None:
    from scipy.stats import norm

    labels, first, second = scored(seed)
    found = delong(labels, first, second)
    (a, b), covariance = brute_covariance(labels, [s[:, 1] - s[:, 0] for s in (first, second)])
    se = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert (found.first, found.second) == pytest.approx((a, b))
    assert (found.low, found.high) == pytest.approx((a - b - 1.959964 * se, a - b + 1.959964 * se))
    assert found.p_value == pytest.approx(2 * norm.sf(abs(a - b) / se))
    assert found.first == pytest.approx(auc(labels, first).value)


def test_delong_of_several_classes_is_the_mean() -> None:
    labels, first, second = scored(5, n=60, classes=3)
    found = delong(labels, first, second)
    parts = [
        delong((labels == c).astype(np.int64), *(np.stack([-s[:, c], s[:, c]], axis=1) for s in (first, second)))
        for c in range(3)
    ]
    assert found.value == pytest.approx(np.mean([part.value for part in parts]))
    assert (found.high - found.low) < np.mean([part.high - part.low for part in parts])


def test_equal_classifiers_do_not_differ() -> None:
    labels, first, _ = scored(1)
    same = delong(labels, first, first)
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    right = first.argmax(axis=1) == labels
    assert mcnemar(right, right).p_value == 1


def mean(_: np.ndarray, values: np.ndarray) -> float:
    return float(values.mean())


def test_the_bootstrap_of_means_is_students() -> None:
    from scipy.stats import ttest_rel

    random = np.random.default_rng(0)
    first, second = random.normal(0.2, 1, 200), random.normal(0, 1, 200)
    second += 0.8 * first
    found = paired_bootstrap(mean, np.zeros(200, dtype=np.int64), first, second, n_resamples=4000)
    wanted = ttest_rel(first, second)
    interval = wanted.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.02)
    assert found.p_value == pytest.approx(wanted.pvalue, abs=0.02)  # 2.5 standard errors of 4,000 draws at most


def test_exchanges_are_all_of_them_for_few_images() -> None:
    """Of six images there are 64 exchanges; each is drawn equally often."""
    first, second = np.array([1.0, 2.0, 0.5, 3.0, 1.5, 2.5]), np.zeros(6)
    gap = first - second
    every = [abs(float((np.array(signs) * gap).mean())) for signs in product((1, -1), repeat=6)]
    exact = np.mean([value >= abs(gap.mean()) - 1e-12 for value in every])
    found = paired_bootstrap(mean, np.zeros(6, dtype=np.int64), first, second, n_resamples=4000)
    assert found.p_value == pytest.approx(exact, abs=5 * np.sqrt(exact / 4000))


@pytest.mark.parametrize("counts", [(30, 5, 1, 14), (150, 20, 30, 200), (2, 40, 3, 55), (50, 0, 0, 50)])
def test_a_difference_of_single_items_is_newcombes(counts: tuple[int, int, int, int]) -> None:
    first, second = counted(*counts)
    n = len(first)
    found, plain = clustered_difference(second * 1.0, first * 1.0, np.arange(n)), mcnemar(first, second)
    assert found.value == pytest.approx(plain.value)
    # n - 1 for n in the variance, as in `clustered_proportion`
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=0.5 / n)
    turned = clustered_difference(first * 1.0, second * 1.0, np.arange(n))
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_copies_of_items_add_nothing_to_a_difference() -> None:
    first, second = (answers * 1.0 for answers in counted(8, 5, 2, 6))
    clusters = np.arange(len(first))
    once = clustered_difference(first, second, clusters)
    often = clustered_difference(np.tile(first, 30), np.tile(second, 30), np.tile(clusters, 30))
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_differences_that_are_all_alike_are_not_certain() -> None:
    always, never = np.ones(6), np.zeros(6)
    clusters = np.repeat(np.arange(2), 3)
    assert clustered_difference(never, always, clusters).low < 0.2  # of two pictures
    assert clustered_difference(never, always, clusters).high == 1.0
    same = clustered_difference(always, always, clusters)
    assert (same.value, same.low, same.high) == (0.0, pytest.approx(-same.high), pytest.approx(1 - wilson(2, 2).low))


def test_differences_that_are_seldom_are_covered() -> None:
    # 20 clusters of 3 items, all alike within a cluster: the first is right with 0.9, the second where the first is and
    # in 3 of 10 of the others. At 95%, fewer than 360 of 400 intervals come up with probability below 1e-4; Student's
    # interval of the differences is a point where no cluster differs, as it happens in 54% of the cases.
    random = np.random.default_rng(0)
    clusters = np.repeat(np.arange(20), 3)
    held = np.zeros(2)
    for _ in range(400):
        first = random.random(20) < 0.9
        second = first | (random.random(20) < 0.3)
        a, b = (np.repeat(answers, 3) * 1.0 for answers in (first, second))
        found = clustered_difference(a, b, clusters), clustered_mean(b - a, clusters)
        held += [one.low <= 0.1 * 0.3 <= one.high for one in found]
    assert held[0] >= 360
    assert held[1] < 240
