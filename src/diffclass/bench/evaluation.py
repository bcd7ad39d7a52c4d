"""A classifier measured on a data set: a row an image on the disk, then metrics with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import torch

from diffclass.bench.answers import answer_items
from diffclass.bench.groups import answer_groups, group_metrics, group_names
from diffclass.bench.recording import configuration, record, recording
from diffclass.bench.scores import Scores
from diffclass.bench.shards import Elsewhere, Shard, adopt, gather
from diffclass.data.datasets import Dataset, Progress
from diffclass.data.images import Resize
from diffclass.data.results import versions, write_json_atomic
from diffclass.decide.classifier import DiffusionClassifier
from diffclass.errors import ConditionError, RangeError
from diffclass.robust.supervised import SupervisedNetwork
from diffclass.stats.interval import Estimate

__all__ = ["Evaluation", "answer_rows", "evaluate"]

_FORMAT = 1


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """What was measured.

    Args:
        metrics: by name, each with its 95% interval; None where it could not be measured.
        notes: by the name of a metric, why it is missing or what it rests on.
        n_images: of the set, or of the part that was asked for.
        n_failed: pictures that could not be opened. They are in no metric.
        failures: id and reason of the first of them.
        temperature: by which the probabilities of the metrics were calibrated.
        seconds: of wall time spent on answers, earlier starts of the run included.
        config: everything that the answers depend on.
        versions: of the packages, and the machine.
        out: the folder of the results.
    """

    metrics: Mapping[str, Estimate | None]
    notes: Mapping[str, str]
    n_images: int
    n_failed: int
    failures: tuple[tuple[str, str], ...]
    temperature: float | None
    seconds: float
    config: Mapping[str, Any]
    versions: Mapping[str, Any]
    out: Path | None

    @property
    def images_per_second(self) -> float | None:
        """Answers by the time they took."""
        return (self.n_images - self.n_failed) / self.seconds if self.seconds > 0 else None

    def with_groups(self, metrics: Mapping[str, Estimate | None], notes: Mapping[str, str]) -> "Evaluation":
        """Return the same with metrics of groups beside."""
        return replace(self, metrics={**self.metrics, **metrics}, notes={**self.notes, **notes})

    def summary(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "format": _FORMAT,
            "metrics": {name: None if e is None else asdict(e) for name, e in self.metrics.items()},
            "notes": dict(self.notes),
            "n_images": self.n_images,
            "n_failed": self.n_failed,
            "failures": [{"id": name, "error": error} for name, error in self.failures],
            "temperature": self.temperature,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "config": dict(self.config),
            "versions": dict(self.versions),
        }


def evaluate(
    classifier: DiffusionClassifier | SupervisedNetwork,
    dataset: Dataset,
    *,
    out: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    resize: Resize = "refuse",
    convert: bool = False,
    save_errors: bool = False,
    shard: Shard | None = None,
    elsewhere: Elsewhere | None = None,
    group_by: str | None = None,
) -> Evaluation:
    """Classify a labelled set and measure how good the answers are, and what they cost.

    Rows reach the disk as they are measured. The same call with the same `out` goes on where an earlier one was
    stopped, and ends with the answers that an unbroken run gives. A picture that cannot be opened becomes a row with
    its "error".

    Args:
        classifier: whose noise has a seed of its own; or a supervised network, to be compared with such.
        dataset: whose classes the classifier knows, in any order.
        out: folder of results.jsonl, run.json and summary.json; nothing is kept if None.
        limit: measure at most so many images, picked at random with each class in its proportion.
        seed: of that choice, and of the intervals that resample.
        progress: called with the images done, and of how many.
        resize: "refuse", "crop" or "stretch" pictures of another size than the model's.
        convert: allow grey to become colour and colour grey.
        save_errors: keep every error of every draw in out/errors, to be replayed.
        shard: answer these of the images alone, into a folder of their own within `out`. The same call without it takes
            over what shards have answered, and answers the rest.
        elsewhere: who answers the images that have no row yet; this process if None.
        group_by: column of the set that says which images belong together, as those of a patient: there is one more
            answer for each group, from all of its images, in out/groups.json and in metrics of their own.

    Raises:
        ConditionError: the classifier does not know the classes of the set, nothing in it is labelled, or a group
            holds images of two classes.
        InputError: the set has no such column.
        ResultError: `out` holds another run, or cannot be written; it keeps what was finished.
    """
    part = _part(classifier, dataset, limit, seed)
    if save_errors and out is None:
        raise RangeError("The 'save_errors' parameter of evaluate needs a folder to save in. Give 'out'.")
    if isinstance(classifier, SupervisedNetwork):
        _check_network(save_errors, group_by)
    pictures: dict[str, Any] = {"resize": resize, "convert": convert}
    config = configuration(classifier) | {"dataset": _described_set(part, limit, seed), "pictures": pictures}
    if shard is not None:
        part, out = part.subset(shard.indices(len(part))), None if out is None else shard.folder(out)
        config |= {"shard": str(shard)}
    produced = versions(device=str(_device(classifier)))
    groups = None if group_by is None or shard is not None else group_names(part, group_by)  # of whole groups
    source = {"path": part.source, "split": part.split, "group_by": group_by}
    with recording(out, config, produced, source) as results:
        adopt(results)
        if elsewhere is None:
            answered = record(classifier, part, results, names=part.classes, save_errors=save_errors, **pictures)
        else:
            todo = [index for index, name in enumerate(part.ids) if name not in results.done]
            answered = gather(elsewhere, todo, results)
        for done in answered:
            if progress is not None:
                progress(done, len(part))
        scores = Scores.from_rows(results.rows(), classifier.classes_)
        evaluation = _measured(scores, classifier.temperature, seed, config, produced, out)
        if groups is not None and isinstance(classifier, DiffusionClassifier):
            answers = answer_groups(results.rows(), groups, classifier)
            evaluation = evaluation.with_groups(*group_metrics(answers, classifier.classes_, seed=seed))
            if out is not None:
                write_json_atomic(out / "groups.json", {"group_by": group_by, "groups": [a.row() for a in answers]})
        if out is not None:
            write_json_atomic(out / "summary.json", evaluation.summary())
    return evaluation


def answer_rows(
    classifier: DiffusionClassifier,
    dataset: Dataset,
    indices: Sequence[int],
    *,
    resize: Resize = "refuse",
    convert: bool = False,
) -> list[dict[str, Any]]:
    """Return the rows of some images of a set, as `evaluate` writes them: for processes that answer `elsewhere`."""
    items = (dataset[index] for index in indices)
    answered = answer_items(classifier, items, names=dataset.classes, resize=resize, convert=convert)
    return [answer.row() for answers in answered for answer in answers]


def _measured(
    scores: Scores, temperature: float | None, seed: int, config: Mapping[str, Any], produced: Mapping[str, Any],
    out: Path | None,
) -> Evaluation:  # fmt: skip
    metrics, notes, used = scores.metrics(temperature, seed=seed)
    return Evaluation(
        metrics=metrics, notes=notes, n_images=scores.n_images, n_failed=scores.n_failed, failures=scores.failures,
        temperature=used, seconds=scores.seconds, config=config, versions=produced, out=out,
    )  # fmt: skip


def _check_network(save_errors: bool, group_by: str | None) -> None:
    """Refuse what rests on draws."""
    if save_errors:
        raise RangeError("A supervised network has no errors of draws to save. Leave 'save_errors' out.")
    if group_by is not None:
        raise RangeError("A supervised network has no evidence of groups to add up. Leave 'group_by' out.")


def _device(classifier: DiffusionClassifier | SupervisedNetwork) -> torch.device:
    return classifier.device if isinstance(classifier, SupervisedNetwork) else classifier.denoiser.device


def _part(
    classifier: DiffusionClassifier | SupervisedNetwork, dataset: Dataset, limit: int | None, seed: int
) -> Dataset:
    """Return the images to measure, after checking that their classes can be answered."""
    classes = classifier.classes_
    unknown = [name for name in dataset.classes if name not in classes]
    if unknown:
        known = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
        raise ConditionError(
            f"The classes of '{dataset.name}' must be among the classifier's ({known}). Got {unknown[0]!r}."
        )
    if not (dataset.labels >= 0).any():
        raise ConditionError(f"The data set '{dataset.name}' must have labels to be measured on. Got none.")
    if limit is not None and limit < 1:
        raise RangeError(f"The 'limit' parameter of evaluate must be at least 1. Got {limit}.")
    return dataset.at_most(limit, seed=seed)


def _described_set(part: Dataset, limit: int | None, seed: int) -> dict[str, Any]:
    chosen = {} if limit is None else {"limit": limit, "seed": seed}
    return {"name": part.name, "split": part.split, "n": len(part), "fingerprint": part.fingerprint, **chosen}
