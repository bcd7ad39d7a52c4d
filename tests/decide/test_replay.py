"""Replays give the engine's own answers on the same draws."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffclass.decide import DiffusionClassifier, Exhaustive, MajorityVote, PairedRace, SuccessiveHalving, full_answers
from diffclass.decide.measure import measure
from diffclass.decide.replay import replay
from diffclass.decide.stopping import Calibrated
from diffclass.denoisers import Space
from diffclass.denoisers.analytic import GaussianDenoiser
from diffclass.errors import InputError, RangeError, ShapeError
from diffclass.evidence import ErrorMatrices, Race
from diffclass.stats import ABSTAINED

SHAPE = (1, 4, 4)
SPACE = Space(channels=1, height=4, width=4, scale=1.0, offset=0.0, data_std=0.4)
N, N_DRAWS = 25, 64
RULE = Calibrated(
    threshold=1.5,
    tightening=0.1,
    looks=(1, 2, 5, 8, 20, 40),
    unit=1,
    log_scale=1.0,
    slope=1.0,
    prior_units=4.0,
    n_draws=N_DRAWS,
    block=4,
    delta=0.05,
    confidence=0.9,
    n=100,
    disagreements=0.0,
)


@pytest.fixture(scope="module")
def classifier() -> DiffusionClassifier:
    means = torch.rand((5, *SHAPE), generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
    model = GaussianDenoiser(means, 0.15, space=SPACE, sigma_range=(0.01, 10.0))
    return DiffusionClassifier(denoiser=model, race=Exhaustive(n_draws=N_DRAWS, block=4), seed=7)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand((N, *SHAPE), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def matrices(classifier: DiffusionClassifier, images: torch.Tensor) -> ErrorMatrices:
    done: list[int] = []
    labels = np.arange(N) % 5
    made = measure(classifier, images, labels, n_draws=N_DRAWS, progress=done.append)
    assert done == list(range(1, N + 1))
    assert (made.seed, made.block, made.n_draws, len(made)) == (7, 4, N_DRAWS, N)
    assert made.labels.tolist() == labels.tolist()
    return made


@pytest.mark.parametrize(
    "race",
    [
        Exhaustive(n_draws=N_DRAWS, block=4),
        PairedRace(n_draws=N_DRAWS, block=4),
        PairedRace(n_draws=N_DRAWS, block=4, delta=0.3, first_look=12),
        PairedRace(n_draws=N_DRAWS, block=4, contract="population"),
        PairedRace(n_draws=N_DRAWS, block=4, bound="asymptotic"),
        PairedRace.calibrated(RULE),
        SuccessiveHalving(stages=((4, 3), (16, 2), (64, 1))),
    ],
    ids=repr,
)
def test_a_replay_is_what_the_engine_does(
    race: Race, classifier: DiffusionClassifier, images: torch.Tensor, matrices: ErrorMatrices
) -> None:
    decisions = replace(classifier, race=race).classify(images)
    replayed = replay(race, matrices)
    names = [None if answer == ABSTAINED else classifier.classes_[answer] for answer in replayed.answers]
    assert names == [decision.label for decision in decisions]
    assert replayed.evaluations.tolist() == [decision.evaluations for decision in decisions]
    for i, decision in enumerate(decisions):
        assert replayed.n_measured[i].tolist() == decision.evidence.n_measured.tolist()
        kept = [name for name, kept in zip(classifier.classes_, replayed.survivors[i], strict=True) if kept]
        assert kept == list(decision.survivors)
    spent = sum(amount for _, amount in replayed.spent_between_looks())
    assert spent == pytest.approx(replayed.mean_evaluations.value)


def test_survivors_are_counted_look_by_look(matrices: ErrorMatrices) -> None:
    replayed = replay(SuccessiveHalving(stages=((4, 3), (16, 2), (64, 1))), matrices)
    assert replayed.looks == (4, 16, 64)
    assert (replayed.alive == [3, 2, 1]).all()
    assert (replayed.evaluations == 5 * 4 + 3 * 12 + 2 * 48).all()


def test_agreement_and_accuracy(matrices: ErrorMatrices) -> None:
    full = full_answers(matrices)
    replayed = replay(Exhaustive(n_draws=N_DRAWS, block=4), matrices)
    assert replayed.answers.tolist() == full.tolist()
    assert replayed.agreement(full).value == 1
    assert replayed.accuracy.value == pytest.approx((full == matrices.labels).mean())
    assert full_answers(matrices, 4).tolist() == matrices.log_likelihood()[:, :4].mean(axis=1).argmax(axis=1).tolist()


def test_twins_tie_and_votes_are_another_aggregate(matrices: ErrorMatrices) -> None:
    errors = matrices.errors.copy()
    errors[:, :, 1] = errors[:, :, 0] = errors.min(axis=2)
    twins = replace(matrices, errors=errors)
    assert (full_answers(twins) == ABSTAINED).all()
    assert (replay(PairedRace(n_draws=N_DRAWS, block=4), twins).answers == ABSTAINED).all()
    votes = replay(Exhaustive(n_draws=N_DRAWS, block=4), matrices, aggregate=MajorityVote())
    counts = np.stack([np.bincount(row.argmin(axis=1), minlength=5) for row in matrices.errors])
    clear = (np.sort(counts, axis=1)[:, -1] > np.sort(counts, axis=1)[:, -2]).nonzero()[0]
    assert votes.answers[clear].tolist() == counts[clear].argmax(axis=1).tolist()


def test_what_cannot_be_replayed_or_measured(
    classifier: DiffusionClassifier, images: torch.Tensor, matrices: ErrorMatrices
) -> None:
    with pytest.raises(InputError, match=r"wants 256 draws of each class\. Got matrices of 64"):
        replay(PairedRace(), matrices)
    with pytest.raises(ShapeError, match="Got 2 for 3 images"):
        measure(classifier, images[:3], np.zeros(2, dtype=np.int64), n_draws=8)
    with pytest.raises(RangeError, match=r"Labels must be from 0 to 4\. Got 0 to 9"):
        measure(classifier, images[:2], np.array([0, 9]), n_draws=8)
    with pytest.raises(RangeError, match="must be a positive multiple of 'block'"):
        measure(classifier, images[:2], np.array([0, 1]), n_draws=9)
