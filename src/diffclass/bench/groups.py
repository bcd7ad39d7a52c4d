"""One answer for several images that belong together, as the views of a patient or the slices of a scan."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from diffclass.data.datasets import Dataset
from diffclass.decide.aggregate import MajorityVote
from diffclass.decide.calibration import against_rest
from diffclass.decide.classifier import DiffusionClassifier
from diffclass.errors import ConditionError, InputError
from diffclass.stats.interval import Estimate
from diffclass.stats.metric import accuracy, auc, balanced_accuracy

__all__ = ["GroupAnswer", "answer_groups", "group_metrics", "group_names", "pool_evidence", "pool_votes"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupAnswer:
    """What all images of a group say together.

    Args:
        name: of the group.
        truth: the class of its images.
        label: the class that wins; None on a tie.
        n_images: that were answered.
        scores: of each class: log-odds over the winner summed over images, or votes.
    """

    name: str
    truth: str
    label: str | None
    n_images: int
    scores: Mapping[str, float]

    def row(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "group": self.name, "truth": self.truth, "label": self.label, "n_images": self.n_images,
            "scores": dict(self.scores),
        }  # fmt: skip


def pool_evidence(
    log_odds: Float64[ndarray, "view class"], log_prior: Float64[ndarray, " class"]
) -> Float64[ndarray, " class"]:
    """Return the log-odds of each class over the best, of several views of one thing, independent given its class.

    Log joints add; the prior, which is in each of them, counts once.

    Args:
        log_odds: of each view and class, over any one class of the view; -inf for a class that was left out.
        log_prior: of each class.

    Source:
        Bayes' rule for independent evidence: Good 1950, chapter 6.
    """
    joint = log_odds.sum(axis=0) - (len(log_odds) - 1) * log_prior
    return joint - joint.max()


def pool_votes(shares: Float64[ndarray, "view class"]) -> Float64[ndarray, " class"]:
    """Return the votes of each class: a view has one, which it divides as its own draws voted.

    Source:
        Favero et al. 2025, section 3 (arXiv:2502.03687), over views.
    """
    return shares.sum(axis=0).round(9)


def group_names(part: Dataset, column: str) -> dict[str, str]:
    """Return the group of each image by id; an image of which the column says nothing is a group of its own.

    Raises:
        InputError: the set has no such column.
        ConditionError: a group holds images of two classes.
    """
    values = part.column(column)
    groups = {i: f"image {i}" if v is None else str(v) for i, v in zip(part.ids, values, strict=True)}
    truth: dict[str, int] = {}
    for name, label in zip(groups.values(), part.labels.tolist(), strict=True):
        if label >= 0 and truth.setdefault(name, label) != label:
            first, second = part.classes[truth[name]], part.classes[label]
            raise ConditionError(
                f"A group must be of one class. Got {name!r} of column '{column}' with images of {first!r} and "
                f"{second!r}. Choose another column, or leave the groups out."
            )
    return groups


def answer_groups(
    rows: Iterable[Mapping[str, Any]], groups: Mapping[str, str], classifier: DiffusionClassifier
) -> list[GroupAnswer]:
    """Return one answer a group from the rows of its images, in the order of the groups' names.

    Log-odds are summed, or votes where the classifier votes; pictures that failed have no part in it.
    """
    names = classifier.classes_
    prior = np.full(len(names), 1.0) if classifier.prior is None else np.asarray(classifier.prior, dtype=np.float64)
    log_prior = np.log(prior / prior.sum())
    voting = isinstance(classifier.aggregate, MajorityVote)
    members: dict[str, list[tuple[str, ndarray]]] = {}
    for row in rows:
        if "error" in row or row["truth"] is None:
            continue
        found = row["vote_shares"] if voting else row["class_log_odds"]
        values = np.array([-np.inf if found[name] is None else found[name] for name in names], dtype=np.float64)
        members.setdefault(groups[row["id"]], []).append((row["truth"], values))
    answers = []
    for name in sorted(members):
        views = np.stack([values for _, values in members[name]])
        scores = pool_votes(views) if voting else pool_evidence(views, log_prior)
        best = np.flatnonzero(scores == scores.max())
        answers.append(
            GroupAnswer(
                name=name, truth=members[name][0][0], label=names[best[0]] if len(best) == 1 else None,
                n_images=len(views), scores=dict(zip(names, scores.tolist(), strict=True)),
            )
        )  # fmt: skip
    return answers


def group_metrics(
    answers: Sequence[GroupAnswer], classes: Sequence[str], *, seed: int = 0
) -> tuple[dict[str, Estimate | None], dict[str, str]]:
    """Return how good the answers for groups are, and why a measure is missing."""
    index = {name: i for i, name in enumerate(classes)}
    labels = np.array([index[a.truth] for a in answers], dtype=np.int64)
    named = np.array([-1 if a.label is None else index[a.label] for a in answers], dtype=np.int64)
    scores = np.array([[a.scores[name] for name in classes] for a in answers]).reshape(len(answers), len(classes))
    if len(classes) > 2 and np.isfinite(scores).all() and (scores <= 0).all():
        scores = against_rest(scores)  # log-odds; votes are compared as they are
    wanted = {
        "group_accuracy": lambda: accuracy(labels, named),
        "group_balanced_accuracy": lambda: balanced_accuracy(labels, named, seed=seed),
        "group_auc": lambda: auc(labels, np.where(np.isfinite(scores), scores, np.nan)),
    }
    metrics: dict[str, Estimate | None] = {}
    notes: dict[str, str] = {}
    for name, measure in wanted.items():
        try:
            metrics[name] = measure()
        except InputError as error:
            metrics[name], notes[name] = None, str(error)
    return metrics, notes
