"""The race on votes: its contract, its ties, and what it saves."""

import numpy as np
import pytest

from diffclass.decide import DiffusionClassifier, Exhaustive, MajorityVote, PairedRace, VoteRace
from diffclass.decide.replay import replay
from diffclass.errors import InputError, RangeError
from diffclass.evidence import ErrorMatrices
from tiny_mixture import digits, tiny_mixture

N_DRAWS = 128


def stored(shares: list[float], *, n: int, seed: int = 0) -> ErrorMatrices:
    """Errors under which each class wins just its share of the draws, in random order."""
    random = np.random.default_rng(seed)
    counts = np.round(np.array(shares) * N_DRAWS).astype(int)
    winners = np.stack([random.permutation(np.repeat(np.arange(len(shares)), counts)) for _ in range(n)])
    errors = 1.0 + random.random((n, N_DRAWS, len(shares)))
    np.put_along_axis(errors, winners[:, :, None], 0.5, axis=2)
    ones = np.ones((n, N_DRAWS))
    return ErrorMatrices(
        errors=errors.astype(np.float32), sigmas=ones, weights=ones, labels=np.zeros(n, dtype=np.int64),
        classes=tuple(map(str, range(len(shares)))), block=4, seed=0, keys=tuple(range(n)),
    )  # fmt: skip


@pytest.mark.parametrize(("bound", "n", "most"), [("student", 300, 26), ("finite", 80, 11)])
@pytest.mark.parametrize("shares", [[0.5625, 0.4375], [0.4375, 0.3125, 0.25]])
def test_answers_differ_from_the_full_vote_at_most_as_often_as_delta(
    bound: str, n: int, most: int, shares: list[float]
) -> None:
    # At delta 0.05 more errors than these have probability 3e-3 at the very most.
    matrices = stored(shares, n=n)
    played = replay(VoteRace(n_draws=N_DRAWS, delta=0.05, bound=bound), matrices, aggregate=MajorityVote())
    assert (played.answers != 0).sum() <= most


def test_clear_votes_stop_early_and_close_ones_do_not() -> None:
    race = VoteRace(n_draws=N_DRAWS)
    clear, close = (
        replay(race, stored(shares, n=40), aggregate=MajorityVote())
        for shares in ([0.96875, 0.03125], [0.515625, 0.484375])
    )  # fmt: skip
    assert (clear.answers == 0).all()
    assert clear.evaluations.mean() < 0.3 * 2 * N_DRAWS
    assert close.evaluations.mean() > 0.9 * 2 * N_DRAWS
    assert (close.answers == 0).mean() > 0.95


def test_a_tie_of_the_full_vote_is_an_abstention() -> None:
    played = replay(VoteRace(n_draws=N_DRAWS), stored([0.5, 0.5], n=20), aggregate=MajorityVote())
    assert (played.answers == -1).mean() > 0.9
    assert (played.survivors.sum(axis=1) == 2).mean() > 0.9


def test_no_class_leaves_before_the_vote_is_certain() -> None:
    # Class 2 never wins a draw: a race on means drops it, a race on votes measures it to the end.
    matrices = stored([0.5625, 0.4375, 0.0], n=10)
    voted = replay(VoteRace(n_draws=N_DRAWS), matrices, aggregate=MajorityVote())
    assert (np.ptp(voted.n_measured, axis=1) == 0).all()
    dropped = replay(PairedRace(n_draws=N_DRAWS), matrices)
    assert (np.ptp(dropped.n_measured, axis=1) > 0).all()


def test_the_votes_left_cannot_turn_a_certain_vote() -> None:
    # Whatever the bound says: all of 3/4 of the draws won, at a delta that no bound can reach.
    race = VoteRace(n_draws=N_DRAWS, delta=1e-300, bound="finite")
    played = replay(race, stored([1.0, 0.0], n=3), aggregate=MajorityVote())
    assert (played.answers == 0).all()
    assert played.evaluations.max() < 2 * N_DRAWS


def test_votes_have_their_race_by_default_and_give_the_full_votes_answers() -> None:
    data = digits().sample(20)
    images, _ = data.array((1, 8, 8))
    model = tiny_mixture()
    settings = {"denoiser": model, "aggregate": MajorityVote(), "seed": 3}
    assert isinstance(DiffusionClassifier(**settings).race, VoteRace)
    raced = DiffusionClassifier(**settings, race=VoteRace(n_draws=64)).classify(images)
    full = DiffusionClassifier(**settings, race=Exhaustive(n_draws=64)).classify(images)
    same = sum(a.label == b.label for a, b in zip(raced, full, strict=True))
    assert same >= 18  # of 20 at delta 0.01 each: 3 or more differ with probability 1e-3
    assert sum(d.evaluations for d in raced) < sum(d.evaluations for d in full)
    decided = next(d for d in raced if d.reason == "confidence")
    assert decided.vote_shares[decided.leader] == 1.0  # among the one survivor
    assert decided.uncertainty.n_votes == decided.n_draws  # of all classes


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"delta": 0.0}, RangeError, "The 'delta' parameter of VoteRace must be a float in (0, 1). Got 0.0."),
        ({"growth": 1.0}, RangeError, "The 'growth' parameter of VoteRace must be above 1. Got 1.0."),
        ({"n_draws": 10}, RangeError,
         "The 'n_draws' parameter of VoteRace must be a positive multiple of 'block'. Got n_draws=10, block=4."),
        ({"bound": "hoeffding"}, InputError,
         "The 'bound' parameter of VoteRace must be one of ('student', 'finite'). Got 'hoeffding'."),
    ],
)  # fmt: skip
def test_bad_parameters_are_refused(options: dict, kind: type, sentence: str) -> None:
    with pytest.raises(kind) as caught:
        VoteRace(**options)
    assert str(caught.value) == sentence
