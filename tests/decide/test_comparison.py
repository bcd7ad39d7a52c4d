"""The rules compared on stored errors: against the rules themselves, the binomial, and a world where votes win."""

import numpy as np
import pytest
from scipy import stats

from diffclass.decide import MajorityVote, full_answers
from diffclass.decide.comparison import accuracy_curves
from diffclass.decide.race import Exhaustive
from diffclass.decide.replay import replay
from diffclass.errors import InputError, RangeError
from diffclass.evidence import ErrorMatrices


def stored(lead: np.ndarray, labels: np.ndarray | None = None) -> ErrorMatrices:
    """Errors of two classes whose difference, the wrong class minus the right one, is `lead` [image, draw]."""
    n, draws = lead.shape
    labels = np.zeros(n, dtype=np.int64) if labels is None else labels
    errors = np.full((n, draws, 2), 5.0)
    np.put_along_axis(errors, (1 - labels)[:, None, None], (5.0 + lead)[:, :, None], axis=2)
    ones = np.ones((n, draws))
    return ErrorMatrices(
        errors=errors.astype(np.float32), sigmas=ones, weights=ones, labels=labels, classes=("a", "b"), block=1,
        seed=0, keys=tuple(range(n)),
    )  # fmt: skip


def test_all_draws_give_the_answers_of_the_rules_themselves() -> None:
    random = np.random.default_rng(0)
    matrices = stored(random.normal(0.1, 1, (60, 31)), random.integers(0, 2, 60))
    vote, mean = accuracy_curves(matrices, [31], n_orders=2)
    played = replay(Exhaustive(n_draws=31, block=1), matrices, aggregate=MajorityVote())
    assert (vote.rule, mean.rule) == ("vote", "mean")
    assert (vote.right[:, 0] == (played.answers == matrices.labels)).all()
    assert (mean.right[:, 0] == (full_answers(matrices) == matrices.labels)).all()
    assert mean.against[0].value == pytest.approx(mean.accuracy[0].value - vote.accuracy[0].value)
    assert vote.against[0].value == 0


def test_the_vote_of_few_draws_is_the_hypergeometric_tail() -> None:
    # 20 of 31 stored draws are right; 5 of them are chosen without replacement.
    lead = np.tile(np.repeat([1.0, -1.0], [20, 11]), (40, 1))
    vote, mean = accuracy_curves(stored(lead), [5], n_orders=50)
    expected = stats.hypergeom.sf(2, 31, 20, 5)
    assert vote.accuracy[0].value == pytest.approx(expected, abs=5 * np.sqrt(0.25 / 2000))
    assert (mean.right == vote.right).all()  # leads of one size: the mean is the vote


def test_one_draw_is_the_same_for_every_rule() -> None:
    lead = np.random.default_rng(0).normal(0.2, 1, (30, 16))
    weights = {"a": np.ones((30, 16)), "b": np.random.default_rng(1).random((30, 16)) + 0.1}
    curves = accuracy_curves(stored(lead), [1], weights=weights, n_orders=5)
    for curve in curves[1:]:
        assert (curve.right == curves[0].right).all()


def test_votes_win_where_rare_draws_are_large_and_weights_can_win_back() -> None:
    # A tenth of the draws is noise of sd 40, told by its weight; votes bound what each can do (Favero et al.).
    random = np.random.default_rng(0)
    loud = random.random((200, 101)) < 0.1
    lead = np.where(loud, random.normal(0, 40, loud.shape), random.normal(0.5, 1, loud.shape))
    weights = {"mean": np.ones(loud.shape), "quiet": np.where(loud, 1e-3, 1.0)}
    vote, mean, quiet = accuracy_curves(stored(lead), [101], weights=weights, n_orders=1)
    assert mean.against[0].high < -0.1
    assert abs(quiet.accuracy[0].value - vote.accuracy[0].value) < 0.05


def test_ties_are_shared() -> None:
    vote, _ = accuracy_curves(stored(np.tile([1.0, -1.0], (4, 1))), [2], n_orders=3)
    assert vote.right == pytest.approx(0.5)


def test_bad_input_is_refused() -> None:
    matrices = stored(np.ones((3, 8)))
    for wanted in ([3, 1], [0], [9], []):
        with pytest.raises(RangeError) as caught:
            accuracy_curves(matrices, wanted)
        assert str(caught.value) == (
            f"The 'n_draws' parameter of accuracy_curves must ascend from 1 or more to at most 8. Got {wanted}."
        )
    with pytest.raises(InputError) as caught:
        accuracy_curves(matrices, [1], weights={"vote": matrices.weights})
    assert str(caught.value) == (
        "accuracy_curves needs two images or more, and no weight may be named 'vote'. Got 3 images and 'vote'."
    )
