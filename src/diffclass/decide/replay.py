"""Run a race on errors that were measured in full and kept: the engine's answers, without the network."""

from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray

from diffclass.decide.aggregate import Aggregate, Mean
from diffclass.errors import InputError
from diffclass.evidence import ErrorMatrices, Evidence, Race
from diffclass.stats.interval import Estimate, mean_interval, wilson
from diffclass.stats.metric import ABSTAINED, accuracy

__all__ = ["Replay", "full_answers", "replay"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replay:
    """What a race would have answered and spent on stored images.

    Args:
        answers: index of the class named for each image, `stats.ABSTAINED` where none was.
        evaluations: network evaluations of each image.
        n_measured: draws that each class was measured on.
        survivors: classes the race ended with.
        looks: [draws] every look that some image reached.
        alive: classes still in the race after each look, of images still running before it; 0 for the others.
        labels: the truth.
    """

    answers: Int64[ndarray, " image"]
    evaluations: Int64[ndarray, " image"]
    n_measured: Int64[ndarray, "image class"]
    survivors: Bool[ndarray, "image class"]
    looks: tuple[int, ...]
    alive: Int64[ndarray, "image _"]
    labels: Int64[ndarray, " image"]

    @property
    def mean_evaluations(self) -> Estimate:
        """Evaluations an image, with Student's interval."""
        return mean_interval(self.evaluations)

    @property
    def accuracy(self) -> Estimate:
        """How often the answer is the label; abstaining is a mistake."""
        return accuracy(self.labels, self.answers)

    def agreement(self, answers: Int64[ndarray, " image"]) -> Estimate:
        """Estimate how often the answer is the one given, such as that of `full_answers`."""
        return wilson(int((self.answers == answers).sum()), len(answers))

    def spent_between_looks(self) -> list[tuple[int, float]]:
        """Return evaluations an image before each look (after the one before it), to see where they go."""
        looks = np.array((0, *self.looks))
        spent = []
        for before, look in pairwise(looks):
            new = np.clip(self.n_measured, before, look) - before
            spent.append((int(look), float(new.sum(axis=1).mean())))
        return spent


def replay(race: Race, matrices: ErrorMatrices, *, aggregate: Aggregate | None = None) -> Replay:
    """Run a race on stored images: on the same draws, the engine gives the same answers.

    The race may want fewer draws than are stored: then it sees the first ones, and its full budget is that part. Note
    that only a list of the race's own length covers the noise range as evenly as its draws do.

    Args:
        race: its blocks must be those of the matrices where it takes standard errors over them.
        matrices: of a uniform prior.
        aggregate: how survivors are ranked; the mean error if None.

    Raises:
        InputError: the race wants more draws than are stored.
    """
    if race.n_draws > matrices.n_draws:
        raise InputError(
            f"The race wants {race.n_draws} draws of each class. Got matrices of {matrices.n_draws}. "
            "Measure more draws, or give the race a smaller n_draws."
        )
    aggregate = Mean() if aggregate is None else aggregate
    shape = (len(matrices), len(matrices.classes))
    answers, measured = np.full(shape[0], ABSTAINED, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    kept, counts = np.ones(shape, dtype=bool), {}
    for image in range(shape[0]):
        evidence, survivors, alive = _run(race, matrices.evidence(image))
        undecided = race.abstains and evidence.n_draws >= race.n_draws and survivors.sum() > 1
        winner = None if undecided else aggregate(evidence, survivors).winner
        answers[image] = ABSTAINED if winner is None else winner
        measured[image], kept[image] = evidence.n_measured, survivors
        for look, count in alive.items():
            counts.setdefault(look, np.zeros(shape[0], dtype=np.int64))[image] = count
    looks = tuple(sorted(counts))
    return Replay(
        answers=answers,
        evaluations=measured.sum(axis=1),
        n_measured=measured,
        survivors=kept,
        looks=looks,
        alive=np.stack([counts[look] for look in looks], axis=1),
        labels=matrices.labels,
    )


def _run(race: Race, full: Evidence) -> tuple[Evidence, Bool[ndarray, " class"], dict[int, int]]:
    """Show a race what an engine would, look by look; return what was measured, who is left, and how many were when."""
    shown, stand_ins = np.full_like(full.errors, np.nan), race.stand_ins
    evidence = Evidence(
        errors=shown, draws=full.draws, classes=full.classes, log_prior=full.log_prior, stand_ins=stand_ins
    )
    alive, n, counts = np.ones(len(full.classes), dtype=bool), 0, {}
    waiting = np.zeros_like(alive) if stand_ins is None else stand_ins.wait
    alive &= ~waiting
    while n < race.n_draws and (alive.sum() > 1 or not n):
        upto = min(race.next_look(n), race.n_draws)
        shown[n:upto, alive] = full.errors[n:upto, alive]
        if waiting.any():
            joining = waiting & race.joins(evidence)
            shown[:upto, joining] = full.errors[:upto, joining]
            waiting[:] = False
        n, alive = upto, race.survivors(evidence)
        counts[n] = int(alive.sum())
    return evidence, alive, counts


def full_answers(matrices: ErrorMatrices, n_draws: int | None = None) -> Int64[ndarray, " image"]:
    """Return the class of least mean error over the first draws, all of them if None; ABSTAINED on a tie."""
    likelihood = matrices.log_likelihood()[:, :n_draws]
    joint = likelihood.mean(axis=1)
    best = joint == joint.max(axis=1, keepdims=True)
    return np.where(best.sum(axis=1) == 1, joint.argmax(axis=1), ABSTAINED).astype(np.int64)
