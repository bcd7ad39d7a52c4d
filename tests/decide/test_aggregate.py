"""How survivors are ranked: by the mean, or by votes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffclass.decide.aggregate import Aggregate, MajorityVote, Mean
from diffclass.evidence import Draws, Evidence


def evidence(errors: np.ndarray, *, weights: np.ndarray | None = None, log_prior: np.ndarray | None = None) -> Evidence:
    n_draws, n_classes = errors.shape
    weights = np.ones(n_draws) if weights is None else weights
    return Evidence(
        errors=errors.astype(np.float32),
        draws=Draws(sigmas=np.ones(n_draws), weights=weights, block=1, seed=0, key=0),
        classes=tuple(map(str, range(n_classes))),
        log_prior=np.zeros(n_classes) if log_prior is None else log_prior,
    )


def everyone(n: int) -> np.ndarray:
    return np.ones(n, dtype=bool)


SPLIT = np.array([[1, 2, 3], [1, 2, 3], [1, 2, 3], [90, 2, 3], [90, 2, 1]])  # class 0 wins 3 draws, class 1 the mean


def test_mean_and_vote_can_differ() -> None:
    mean, vote = Mean()(evidence(SPLIT), everyone(3)), MajorityVote()(evidence(SPLIT), everyone(3))
    assert (mean.winner, mean.tied) == (1, (1,))
    assert mean.scores == pytest.approx([-36.6, -2.0, -2.6])
    assert (vote.winner, vote.tied) == (0, (0,))
    assert vote.scores.tolist() == [3, 1, 1]
    assert vote.shares.tolist() == mean.shares.tolist() == [0.6, 0.2, 0.2]
    assert mean.n_draws == vote.n_draws == 5


def test_mean_is_the_leader_of_the_evidence() -> None:
    random = np.random.default_rng(0)
    made = evidence(
        random.gamma(9.0, size=(40, 6)),
        weights=random.gamma(2.0, size=40),
        log_prior=np.log(random.dirichlet(np.ones(6))),
    )
    tally = Mean()(made, everyone(6))
    assert tally.winner == made.leader()
    log_odds = made.log_odds()
    assert tally.scores - tally.scores.max() == pytest.approx(log_odds)


def test_votes_are_counted_anew_among_survivors() -> None:
    # Class 2 wins most draws but has left; its votes go to whom each of its draws puts next, not to nobody.
    errors = np.array([[5, 6, 1.0], [5, 6, 1], [6, 5, 1], [5, 6, 9]])
    errors[3, 2] = np.nan
    made, survivors = evidence(errors), np.array([True, True, False])
    for aggregate in (MajorityVote(), Mean()):
        tally = aggregate(made, survivors)
        assert tally.shares.tolist() == [0.75, 0.25, 0.0]
        assert tally.scores[2] == -np.inf
        assert tally.winner == 0


def test_only_draws_that_all_survivors_share_count() -> None:
    errors = np.array([[1.0, 2.0], [1.0, 2.0], [3.0, np.nan]])
    for aggregate in (MajorityVote(), Mean()):
        tally = aggregate(evidence(errors), everyone(2))
        assert tally.n_draws == 2
        assert tally.shares.tolist() == [1.0, 0.0]
    assert Mean()(evidence(errors), everyone(2)).scores.tolist() == [-1.0, -2.0]


@pytest.mark.parametrize("aggregate", [Mean(), MajorityVote()])
def test_a_tie_has_no_winner(aggregate: Aggregate) -> None:
    errors = np.random.default_rng(0).gamma(2.0, size=(7, 3))
    errors[:, 1] = errors[:, 0]
    errors[:, 2] += 9
    tally = aggregate(evidence(errors), everyone(3))
    assert tally.winner is None
    assert tally.tied == (0, 1)
    assert tally.shares.tolist() == [0.5, 0.5, 0.0]


def test_thirds_of_a_vote_add_up() -> None:
    errors = np.concatenate([np.ones((3, 3)), np.full((1, 3), 2.0)])
    errors[3, 0] = 1.0
    tally = MajorityVote()(evidence(errors), everyone(3))
    assert tally.scores.tolist() == [2.0, 1.0, 1.0]
    tie = MajorityVote()(evidence(np.array([[1, 1, 1], [1, 1, 1], [1, 1, 1], [2, 1, 2], [1, 2, 2.0]])), everyone(3))
    assert tie.tied == (0, 1)


def test_prior_has_a_part_in_the_mean_alone() -> None:
    errors = np.array([[1.0, 2.0]] * 3)
    prior = np.array([-5.0, 0.0])
    assert Mean()(evidence(errors, log_prior=prior), everyone(2)).winner == 1
    assert MajorityVote()(evidence(errors, log_prior=prior), everyone(2)).winner == 0


@given(seed=st.integers(0, 1000))
def test_votes_do_not_depend_on_the_weight_nor_on_the_prediction_space(seed: int) -> None:
    # |eps - eps^|^2 = |x - x^|^2 / sigma^2 and |v - v^|^2 = |x - x^|^2 (1 + 1 / sigma^2): a positive factor a draw.
    random = np.random.default_rng(seed)
    errors, sigma = random.gamma(2.0, size=(31, 4)), random.gamma(1.0, size=(31, 1))
    plain = MajorityVote()(evidence(errors), everyone(4))
    weighted = MajorityVote()(evidence(errors, weights=random.gamma(0.3, size=31) + 1e-6), everyone(4))
    assert (plain.shares == weighted.shares).all()
    for factor in (sigma**-2, 1 + sigma**-2):
        other = MajorityVote()(evidence(errors.astype(np.float32) * factor.astype(np.float32)), everyone(4))
        assert (other.shares == plain.shares).all()


@given(seed=st.integers(0, 1000), order=st.permutations(range(4)))
def test_permuting_classes_permutes_the_tally(seed: int, order: list[int]) -> None:
    errors = np.random.default_rng(seed).integers(0, 5, size=(9, 4)).astype(float)
    for aggregate in (Mean(), MajorityVote()):
        tally, permuted = (aggregate(evidence(e), everyone(4)) for e in (errors, errors[:, order]))
        assert (permuted.scores == tally.scores[order]).all()
        assert (permuted.shares == tally.shares[order]).all()
        assert {order[c] for c in permuted.tied} == set(tally.tied)


@given(seed=st.integers(0, 1000))
def test_a_constant_on_every_error_of_a_draw_changes_no_vote(seed: int) -> None:
    random = np.random.default_rng(seed)
    errors = random.integers(0, 100, size=(20, 3)).astype(float)
    moved = errors + random.integers(0, 1000, size=(20, 1))
    assert (
        MajorityVote()(evidence(errors), everyone(3)).shares == MajorityVote()(evidence(moved), everyone(3)).shares
    ).all()
