"""Attacks on a labelled set: a row an image on the disk, which a later run goes on from."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from diffclass.bench.attacked import Attacked
from diffclass.bench.recording import configuration, recording
from diffclass.data.datasets import Dataset, Progress
from diffclass.data.images import Resize
from diffclass.data.results import versions, write_json_atomic
from diffclass.errors import ConditionError, DiffclassError, InputError, RangeError
from diffclass.robust.attack import Attack, attack_image
from diffclass.robust.gradient import Defence

__all__ = ["attack_dataset"]


def attack_dataset(
    defence: Defence,
    dataset: Dataset,
    attack: Attack,
    *,
    other: Defence | None = None,
    limit: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    progress: Progress | None = None,
    resize: Resize = "refuse",
    convert: bool = False,
) -> Attacked:
    """Attack every labelled image of a set.

    The same call with the same `out` goes on where an earlier one was stopped, and ends with the very rows of an
    unbroken run. A picture that cannot be opened becomes a row with its "error".

    Args:
        defence: what is attacked; it knows the classes of the set.
        dataset: of which the truth is taken. Images without a label are left out.
        attack: what is tried.
        other: another model, whose gradients "transfer" climbs.
        limit: attack at most so many images, picked at random with each class in its proportion.
        seed: of that choice.
        out: folder of results.jsonl, run.json and summary.json; nothing is kept if None.
        progress: called with the images done, and of how many.
        resize: "refuse", "crop" or "stretch" pictures of another size than the model's.
        convert: allow grey to become colour and colour grey.

    Raises:
        ConditionError: the classifier does not know the classes of the set, or nothing in it is labelled.
        InputError, UnsupportedModel, MissingExtra: an attack cannot be run.
        ResultError: `out` holds another run, or cannot be written; it keeps what was finished.
    """
    classifier = defence.classifier
    part = _part(defence, dataset, limit, seed)
    pictures: dict[str, Any] = {"resize": resize, "convert": convert}
    chosen = {} if limit is None else {"limit": limit, "seed": seed}
    config = configuration(classifier) | {
        "dataset": {"name": part.name, "split": part.split, "n": len(part), "fingerprint": part.fingerprint, **chosen},
        "attack": asdict(attack) | {"threat": str(attack.threat)},
        "purifier": None if defence.purifier is None else asdict(defence.purifier),
        "transfer_from": None if other is None else configuration(other.classifier),
        "pictures": pictures,
    }
    shape = classifier.denoiser.space.image_shape
    with recording(out, config, versions(device=str(classifier.denoiser.device))) as results:
        for index, item in enumerate(part):
            assert item.label is not None
            if item.id not in results.done:
                head = {"id": item.id, "index": index}
                try:
                    prepared = item.prepare(shape, **pictures)
                except DiffclassError as error:
                    results.append([{**head, "error": str(error)}])
                else:
                    truth = part.classes[item.label]
                    attacked = attack_image(defence, prepared.image, truth, attack, other=other)
                    results.append([{**head, "changes": list(prepared.changes), **attacked.row()}])
            if progress is not None:
                progress(index + 1, len(part))
        attacked_set = Attacked.from_rows(results.rows(), attacks=attack.attacks, config=config)
        if out is not None:
            write_json_atomic(out / "summary.json", attacked_set.summary())
    return attacked_set


def _part(defence: Defence, dataset: Dataset, limit: int | None, seed: int) -> Dataset:
    """Return the labelled images to attack, after checking that their classes can be answered."""
    known = defence.classifier.classes_
    unknown = [name for name in dataset.classes if name not in known]
    if unknown:
        raise ConditionError(
            f"The classes of '{dataset.name}' must be among the classifier's ({', '.join(known[:10])}). "
            f"Got {unknown[0]!r}."
        )
    labelled = np.flatnonzero(dataset.labels >= 0)
    if not len(labelled):
        raise InputError(f"The data set '{dataset.name}' must have labels to be attacked on. Got none.")
    if limit is not None and limit < 1:
        raise RangeError(f"The 'limit' parameter of an attack must be at least 1. Got {limit}.")
    part = dataset if len(labelled) == len(dataset) else dataset.subset(labelled)
    return part if limit is None or limit >= len(part) else part.sample(limit, seed=seed)
