"""Temperatures: found again where they are known, and refused where there is none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffclass.decide.calibration import against_rest, fit_temperature, probabilities
from diffclass.errors import InputError, RangeError


def problem(n: int, *, temperature: float, n_classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from softmax(log_odds / temperature), and the log-odds over the leader."""
    random = np.random.default_rng(seed)
    log_odds = temperature * 2.0 * random.standard_normal((n, n_classes))
    p = probabilities(log_odds, temperature)
    labels = (random.random((n, 1)) < p.cumsum(axis=1)).argmax(axis=1)
    return log_odds - log_odds.max(axis=1, keepdims=True), labels


@pytest.mark.parametrize("temperature", [0.02, 1.0, 300.0])
def test_the_temperature_is_found_again(temperature: float) -> None:
    # The information about log T in an image is about 0.9 here: 5 standard errors at 2,000 images are 0.12.
    fitted = fit_temperature(*problem(4000, temperature=temperature))
    assert np.log(fitted.value / temperature) == pytest.approx(0.0, abs=0.12)
    assert (fitted.n, fitted.nll_after.n) == (2000, 2000)
    entropy = problem_entropy(temperature)
    assert fitted.nll_after.low - 0.05 < entropy < fitted.nll_after.high + 0.05


def problem_entropy(temperature: float) -> float:
    p = probabilities(problem(4000, temperature=temperature)[0], temperature)
    return float(-(p * np.log(p)).sum(axis=1).mean())


def test_log_odds_that_saturate_have_a_finite_nll() -> None:
    fitted = fit_temperature(*problem(400, temperature=2000.0))
    assert 300 < fitted.nll_before.value < np.inf
    assert fitted.nll_after.value < 1.0


def test_images_held_out_do_not_touch_the_fit() -> None:
    log_odds, labels = problem(200, temperature=5.0)
    order = np.random.default_rng(3).permutation(200)
    fit, rest = order[:150], order[150:]
    wrong = labels.copy()
    wrong[rest] = (labels[rest] + 1) % 4
    first, second = (fit_temperature(log_odds, ys, held_out=0.25, seed=3) for ys in (labels, wrong))
    assert first.value == second.value
    assert first.nll_after.value < second.nll_after.value
    assert first.n == len(fit)


def test_a_constant_on_all_classes_changes_nothing() -> None:
    log_odds, labels = problem(200, temperature=5.0)
    shifted = log_odds + np.random.default_rng(0).normal(size=(200, 1)) * 100
    assert fit_temperature(shifted, labels).value == pytest.approx(fit_temperature(log_odds, labels).value, rel=1e-4)


@given(seed=st.integers(0, 100), temperature=st.floats(0.01, 1e6))
def test_probabilities_are_softmax(seed: int, temperature: float) -> None:
    log_odds = np.random.default_rng(seed).normal(size=(5, 3)) * 1000
    p = probabilities(log_odds, temperature)
    assert p.sum(axis=1) == pytest.approx(1.0)
    assert (p.argmax(axis=1) == log_odds.argmax(axis=1)).all()
    sure = (p[:, :2] > 1e-200).all(axis=1)
    log_ratio = (log_odds[sure, 0] - log_odds[sure, 1]) / temperature
    assert np.log(p[sure, 0]) - np.log(p[sure, 1]) == pytest.approx(log_ratio, rel=1e-6, abs=1e-9)


def test_a_class_at_minus_infinity_has_no_probability() -> None:
    p = probabilities(np.array([[0.0, -np.inf, np.log(0.5)]]), 1.0)
    assert p[0] == pytest.approx([2 / 3, 0, 1 / 3])


def test_log_odds_against_the_rest_are_those_of_the_posterior() -> None:
    log_odds = np.random.default_rng(0).normal(size=(20, 4))
    p = probabilities(log_odds, 1.0)
    assert against_rest(log_odds) == pytest.approx(np.log(p / (1 - p)))
    saturated = against_rest(np.array([[0.0, -2000.0], [0.0, -3000.0]]))
    assert saturated.tolist() == [[2000.0, -2000.0], [3000.0, -3000.0]]


def test_refusals() -> None:
    log_odds, labels = problem(100, temperature=1.0)
    with pytest.raises(RangeError, match=r"must be above 0\. Got -1\.0\."):
        probabilities(log_odds, -1.0)
    with pytest.raises(InputError, match=r"the largest of each image finite\. Got nan for image 1\."):
        probabilities(np.array([[0.0, 1.0], [np.nan, 1.0]]), 1.0)
    with pytest.raises(RangeError, match=r"must be a float in \(0, 1\)\. Got 1\.0\."):
        fit_temperature(log_odds, labels, held_out=1.0)
    with pytest.raises(InputError, match=r"at least 20 labelled images\. Got 19\."):
        fit_temperature(log_odds[:19], labels[:19])
    with pytest.raises(InputError, match=r"needs finite log-odds\. Got NaN or infinity\."):
        fit_temperature(np.where(log_odds < -3, -np.inf, log_odds), labels)
    with pytest.raises(InputError, match=r"indices of the 4 classes\. Got 1 to 4\."):
        fit_temperature(log_odds, labels + 1)
    with pytest.raises(InputError, match=r"at least two classes\. Got class 0 only\."):
        fit_temperature(log_odds, labels * 0)
    with pytest.raises(InputError, match=r"that differ between classes\. Got equal ones throughout\."):
        fit_temperature(log_odds * 0, labels)
    with pytest.raises(InputError, match=r"all classified rightly\. Got 50\."):
        fit_temperature(log_odds, log_odds.argmax(axis=1))
    with pytest.raises(InputError, match=r"log-odds of 50 images say nothing about their labels"):
        fit_temperature(log_odds, log_odds.argmin(axis=1))
