"""Bounds on a probability: their tails, their coverage summed exactly over the binomial, and plans of looks."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from diffclass.errors import RangeError
from diffclass.stats import LookPlan, clopper_pearson, lower_bound, upper_bound


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (950, 1000)])
def test_bounds_have_the_tail_probability(k: int, n: int) -> None:
    low, high = lower_bound(k, n, 0.01), upper_bound(k, n, 0.01)
    assert low == 0 if k == 0 else stats.binom.sf(k - 1, n, low) == pytest.approx(0.01)
    assert high == 1 if k == n else stats.binom.cdf(k, n, high) == pytest.approx(0.01)
    both = clopper_pearson(k, n, confidence=0.98)
    assert (both.low, both.high) == pytest.approx((low, high))


def test_no_level_is_no_claim() -> None:
    assert (lower_bound(5, 5, 0.0), upper_bound(0, 5, 0.0)) == (0.0, 1.0)


@given(n=st.integers(2, 300), k=st.integers(0, 300), alpha=st.floats(1e-6, 0.5))
def test_bounds_are_monotone_in_the_counts(n: int, k: int, alpha: float) -> None:
    k = min(k, n - 1)
    assert lower_bound(k, n, alpha) < lower_bound(k + 1, n, alpha)  # one more success
    assert lower_bound(k, n + 1, alpha) <= lower_bound(k, n, alpha)  # one more failure
    assert lower_bound(n, n, alpha) < lower_bound(n + 1, n + 1, alpha)  # more of the same


def error(plan: LookPlan, p: float, wrong: Callable[[int, tuple[int, ...]], bool]) -> float:
    """Sum the probability of all paths on which a claim is made at some look that is wrong for p: nothing is sampled.

    Args:
        wrong: (look, counts with the last one) -> whether a wrong claim is made at it; it may not look further back.
    """
    alive, before, total = np.array([1.0]), 0, 0.0
    for look, n in enumerate(plan.looks):
        alive = np.convolve(alive, stats.binom.pmf(np.arange(n - before + 1), n - before, p))
        for k in range(n + 1):
            if alive[k] > 0 and wrong(look, (*[0] * look, k)):
                total += alive[k]
                alive[k] = 0.0
        before = n
    return total


PLANS = [LookPlan.fixed(60, alpha=0.05), LookPlan.sequential(60, alpha=0.05, threshold=0.6)]


def overstates(plan: LookPlan, p: float) -> Callable[[int, tuple[int, ...]], bool]:
    """Return whether the lower bound of a look is above a probability."""
    return lambda look, counts: lower_bound(counts[-1], plan.looks[look], plan.proof[look]) > p


def understates(plan: LookPlan, p: float) -> Callable[[int, tuple[int, ...]], bool]:
    """Return whether the upper bound of a look is below a probability."""
    return lambda look, counts: upper_bound(counts[-1], plan.looks[look], plan.refutation[look]) < p


@pytest.mark.parametrize("plan", PLANS, ids=["fixed", "sequential"])
def test_o4_the_lower_bound_of_all_looks_covers(plan: LookPlan) -> None:
    for p in np.linspace(0.05, 0.95, 19):
        assert error(plan, p, overstates(plan, p)) <= 0.05


def test_o4_a_plan_that_forgot_to_share_its_alpha_would_not_cover() -> None:
    plan = LookPlan.sequential(60, alpha=0.05, threshold=0.6)
    full = LookPlan(looks=plan.looks, proof=(0.05,) * len(plan.looks), refutation=plan.refutation)
    assert max(error(full, p, overstates(full, p)) for p in (0.5, 0.6)) > 0.05


@pytest.mark.parametrize("threshold", [0.55, 0.7, 0.9])
def test_o4_proving_and_refuting_err_at_most_as_often_as_promised(threshold: float) -> None:
    plan = LookPlan.sequential(80, alpha=0.02, threshold=threshold)
    assert 0 < error(plan, threshold, overstates(plan, threshold)) <= 0.02
    assert error(plan, threshold, understates(plan, threshold)) <= 0.02


@given(n=st.integers(1, 20_000), threshold=st.floats(0.5, 0.999), alpha=st.floats(1e-6, 0.3))
def test_plans_spend_alpha_once_and_end_at_the_budget(n: int, threshold: float, alpha: float) -> None:
    plan = LookPlan.sequential(n, alpha=alpha, threshold=threshold)
    assert plan.looks[-1] == n
    assert sum(plan.proof) == pytest.approx(alpha)
    assert sum(plan.refutation) == pytest.approx(alpha)
    proving = [look for look, level in zip(plan.looks, plan.proof, strict=True) if level > 0]
    if len(proving) > 1:  # the first look that claims something can prove it
        assert lower_bound(proving[0], proving[0], plan.proof[plan.looks.index(proving[0])]) > threshold


def test_can_exceed_is_decided_by_the_best_case() -> None:
    plan = LookPlan.sequential(100, alpha=0.01, threshold=0.6)
    assert plan.can_exceed((), 0.6)
    assert not plan.can_exceed((), 0.99)
    last = len(plan.looks) - 2
    left = plan.looks[-1] - plan.looks[last]
    enough = next(k for k in range(plan.looks[last] + 1) if lower_bound(k + left, 100, plan.proof[-1]) > 0.6)
    assert plan.can_exceed((*[0] * last, enough), 0.6)
    assert not plan.can_exceed((*[0] * last, enough - 1), 0.6)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(RangeError) as caught:
        call()
    return str(caught.value)


def test_what_is_no_count_or_plan_is_refused() -> None:
    assert refused(lambda: lower_bound(3, 2, 0.1)) == (
        "A bound needs k successes in n trials with 0 <= k <= n and n >= 1. Got k=3, n=2."
    )
    assert refused(lambda: lower_bound(1, 2, 1.0)) == "The 'alpha' of a bound must be a float in [0, 1). Got 1.0."
    assert refused(lambda: LookPlan.sequential(10, alpha=0.1, threshold=1.0)) == (
        "The 'threshold' parameter of LookPlan must be a float in (0, 1). Got 1.0."
    )
    assert refused(lambda: LookPlan(looks=(3, 2), proof=(0.1, 0.1), refutation=(0.1, 0.1))) == (
        "The 'looks' of LookPlan must ascend from 1 or more, with a level of each kind. Got (3, 2), 2 and 2 levels."
    )
