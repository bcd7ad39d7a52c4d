"""Uncertainty of one answer, by hand and against closed forms."""

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy

from diffclass.decide.uncertainty import MEASURES, entropy, mutual_information, uncertainty
from diffclass.errors import RangeError
from diffclass.evidence import Draws, Evidence


def evidence(errors: np.ndarray, *, block: int = 1) -> Evidence:
    n, k = errors.shape
    draws = Draws(sigmas=np.ones(n), weights=np.ones(n), block=block, seed=0, key=0)
    return Evidence(errors=errors.astype(np.float32), draws=draws, classes=tuple("abcd"[:k]), log_prior=np.zeros(k))


def test_by_hand() -> None:
    # Class 0 wins 3 of 4 draws; differences 1 - 0: 1, 1, 1, -1 with mean 0.5 and sd 1.
    found = uncertainty(evidence(np.array([[0, 1.0], [0, 1], [0, 1], [1, 0]])))
    assert (found.vote_share, found.n_votes, found.evaluations) == (0.75, 4, 8)
    assert found.vote_entropy == pytest.approx(scipy_entropy([0.75, 0.25]))
    assert (found.margin, found.margin_se, found.margin_z) == pytest.approx((0.5, 0.5, 1.0))
    p = 1 / (1 + np.exp(-1.0))
    mean = 0.75 * p + 0.25 * (1 - p)
    expected = scipy_entropy([mean, 1 - mean]) - scipy_entropy([p, 1 - p])
    assert found.mutual_information == pytest.approx(expected)


def test_votes_after_a_race_are_those_of_the_draws_that_all_classes_saw() -> None:
    errors = np.array([[0, 1, 2.0], [1, 0, 2], [0, 1, 2], [0, 1, np.nan], [0, np.nan, np.nan]])
    found = uncertainty(evidence(errors))
    assert (found.vote_share, found.n_votes) == (pytest.approx(2 / 3), 3)
    errors[:, 2] = np.nan  # never measured: no candidate
    assert uncertainty(evidence(errors)).n_votes == 4


def test_sure_blocks_that_disagree_have_the_entropy_of_their_votes() -> None:
    errors = 1000 * np.array([[0, 1.0], [0, 1], [1, 0], [0, 1]])
    assert mutual_information(evidence(errors)) == pytest.approx(scipy_entropy([0.75, 0.25]))
    assert mutual_information(evidence(errors[:2])) == pytest.approx(0, abs=1e-12)


def test_blocks_that_say_the_same_have_no_mutual_information() -> None:
    assert mutual_information(evidence(np.tile([0.0, 0.3, 0.1], (6, 1)))) == pytest.approx(0, abs=1e-7)
    assert mutual_information(evidence(np.array([[0.0, 0.3]] * 5), block=4)) is None


def test_entropy_is_largest_where_all_are_alike() -> None:
    assert entropy(np.full(4, 0.25)) == pytest.approx(np.log(4))
    assert entropy(np.array([1.0, 0.0])) == 0


def test_scores_are_larger_where_an_answer_is_less_sure() -> None:
    random = np.random.default_rng(0)
    sure, unsure = (uncertainty(evidence(random.normal([0, gap], 1, (64, 2)), block=4)) for gap in (3.0, 0.1))
    for name, value in sure.scores().items():
        assert name in MEASURES
        if name != "evaluations":
            assert value < unsure.scores()[name], name


def test_a_margin_without_spread_is_certain() -> None:
    found = uncertainty(evidence(np.tile([0.0, 1.0], (4, 1))))
    assert found.margin_z == np.inf
    assert found.row()["margin_z"] is None
    assert uncertainty(evidence(np.tile([1.0, 1.0], (4, 1)))).margin_z == 0


def test_a_temperature_must_be_positive() -> None:
    with pytest.raises(RangeError) as caught:
        mutual_information(evidence(np.ones((4, 2))), temperature=0.0)
    assert str(caught.value) == "The 'temperature' parameter of mutual_information must be above 0. Got 0.0."
