"""Selective measures against hand-computed values, every order of ties, closed forms and scikit-learn."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score, roc_curve

from diffclass.errors import InputError, RangeError
from diffclass.stats import (
    Estimate,
    augrc,
    aurc,
    brier,
    coverage_at_risk,
    failure_auc,
    filtering_curve,
    fpr_at_tpr,
    ood_auc,
    risk_at_coverage,
    risk_coverage,
)

# Surest first: right, right, wrong, right, wrong. Mistakes among the k surest: 0, 0, 1, 1, 2.
WRONG = np.array([False, False, True, False, True])
DOUBT = np.array([0.1, 0.2, 0.3, 0.4, np.inf])
FEW = {"n_resamples": 20}


def test_by_hand() -> None:
    curve = risk_coverage(WRONG, DOUBT)
    assert curve.coverage == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert curve.risk == pytest.approx([0, 0, 1 / 3, 1 / 4, 2 / 5])
    assert curve.usable.all()
    assert aurc(WRONG, DOUBT, **FEW).value == pytest.approx((1 / 3 + 1 / 4 + 2 / 5) / 5)
    # Trapezoids of mistakes / n over k / n: 0, 0, 1/2, 1, 3/2, all over 25.
    assert augrc(WRONG, DOUBT, **FEW).value == pytest.approx(3 / 25)
    assert coverage_at_risk(WRONG, DOUBT, risk=0.25, **FEW).value == pytest.approx(0.8)
    assert coverage_at_risk(WRONG, DOUBT, risk=0.05, **FEW).value == pytest.approx(0.4)
    assert risk_at_coverage(WRONG, DOUBT, coverage=0.8, **FEW).value == pytest.approx(0.25)
    assert failure_auc(WRONG, DOUBT).value == pytest.approx(5 / 6)  # five of six pairs are in order
    assert [e.value for e in filtering_curve(WRONG, DOUBT, (0.0, 0.2, 0.6))] == pytest.approx([0.6, 0.75, 1.0])
    assert [e.n for e in filtering_curve(WRONG, DOUBT, (0.0, 0.2, 0.6))] == [5, 4, 2]


def test_ties_are_the_mean_over_every_order() -> None:
    wrong, doubt = np.array([True, False, False, True, False, False]), np.array([1, 1, 1, 2, 2, 3.0])
    risks = []
    for order in permutations(range(6)):
        if list(doubt[list(order)]) == sorted(doubt):
            risks.append(np.cumsum(wrong[list(order)]) / np.arange(1, 7))
    curve = risk_coverage(wrong, doubt)
    assert curve.risk == pytest.approx(np.mean(risks, axis=0))
    assert curve.usable.tolist() == [False, False, True, False, True, True]
    assert aurc(wrong, doubt, **FEW).value == pytest.approx(np.mean(risks))


def test_a_threshold_cannot_cut_a_tie() -> None:
    wrong, doubt = np.array([False] * 9 + [True]), np.zeros(10)
    assert coverage_at_risk(wrong, doubt, risk=0.05, **FEW).value == 0
    assert coverage_at_risk(wrong, doubt, risk=0.1, **FEW).value == 1


@given(seed=st.integers(0, 500), levels=st.integers(1, 30))
def test_augrc_is_its_closed_form(seed: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    wrong, doubt = random.random(40) < 0.3, random.integers(0, levels, 40).astype(float)
    wrong[:2] = True, False
    a, area = 1 - wrong.mean(), roc_auc_score(wrong, doubt)
    assert failure_auc(wrong, doubt).value == pytest.approx(area)
    assert augrc(wrong, doubt, n_resamples=2).value == pytest.approx((1 - area) * a * (1 - a) + (1 - a) ** 2 / 2)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    # 60 samples of a world with a known curve: 95% intervals miss 3 on average, 10 or more with probability 1e-3.
    random = np.random.default_rng(0)

    def world(n: int) -> tuple[np.ndarray, np.ndarray]:
        doubt = random.random(n)
        return random.random(n) < 0.5 * doubt, doubt

    truth = {aurc: 0.125, augrc: 1 / 12, risk_at_coverage: 0.2}  # risk(c) = c / 4; integral of c^2 / 4; risk(0.8)
    for measure, value in truth.items():
        made = [measure(*world(300), n_resamples=100) for _ in range(60)]
        assert sum(not e.low <= value <= e.high for e in made) < 10, measure.__name__


def test_brier_of_two_classes_is_twice_scikit_learns() -> None:
    random = np.random.default_rng(0)
    p, labels = random.random(50), random.integers(0, 2, 50)
    made = brier(labels, np.stack([1 - p, p], axis=1), n_resamples=50)
    assert made.value == pytest.approx(2 * brier_score_loss(labels, p))
    assert made.low < made.value < made.high
    three = np.array([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]])
    assert brier(np.array([0, 0]), three, n_resamples=2).value == pytest.approx((0.25 + 0.0625 * 2 + 2.0) / 2)


def test_outside_scores() -> None:
    random = np.random.default_rng(0)
    inside, outside = random.normal(size=200), random.normal(1.5, size=100)
    foreign = np.repeat([0, 1], [200, 100])
    assert ood_auc(inside, outside).value == pytest.approx(roc_auc_score(foreign, np.append(inside, outside)))
    # The other way round of scikit-learn's curve: inside is positive, and passes where -score is large.
    passed, kept, _ = roc_curve(1 - foreign, -np.append(inside, outside), drop_intermediate=False)
    assert fpr_at_tpr(inside, outside).value == pytest.approx(passed[np.flatnonzero(kept >= 0.95)[0]])


@pytest.mark.parametrize("measure", [aurc, augrc, coverage_at_risk, risk_at_coverage])
def test_more_of_the_same_ranking_changes_nothing(measure: object) -> None:
    assert callable(measure)
    made, moved = (measure(WRONG, doubt, n_resamples=200, seed=3) for doubt in (DOUBT, np.exp(-1 / DOUBT)))
    assert isinstance(made, Estimate)
    assert (made.value, made.low, made.high) == (moved.value, moved.low, moved.high)


def test_bad_input_is_refused() -> None:
    cases = [
        (lambda: aurc(WRONG, DOUBT[:3]), InputError,
         "Selective measures need one uncertainty for each answer. Got 3 for 5 answers."),
        (lambda: augrc(WRONG, np.full(5, np.nan)), InputError,
         "Uncertainties must be numbers; infinity stands for an abstention. Got NaN for image 0."),
        (lambda: failure_auc(WRONG & False, DOUBT), InputError,
         "The failure AUC needs right answers and wrong ones. Got 0 wrong of 5."),
        (lambda: coverage_at_risk(WRONG, DOUBT, risk=1.0), RangeError,
         "The 'risk' parameter of coverage_at_risk must be a float in (0, 1). Got 1.0."),
        (lambda: filtering_curve(WRONG, DOUBT, (1.0,)), RangeError,
         "The 'dropped' parameter of filtering_curve must hold shares in [0, 1). Got 1.0."),
        (lambda: ood_auc(DOUBT, DOUBT[:0]), InputError, "Two sets of scores are needed. Got 5 inside and 0 outside."),
        (lambda: fpr_at_tpr(DOUBT, np.full(2, np.nan)), InputError, "Scores must be numbers. Got NaN."),
    ]  # fmt: skip
    for call, kind, sentence in cases:
        with pytest.raises(kind) as caught:
            call()
        assert str(caught.value) == sentence
