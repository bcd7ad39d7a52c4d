"""Attacks on a labelled set: a row an image on the disk, which a later run goes on from."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from diffclass.bench.attacked import Attacked
from diffclass.bench.recording import configuration, recording
from diffclass.bench.shards import Elsewhere, Shard, adopt, gather
from diffclass.data.datasets import Dataset, Progress
from diffclass.data.images import Resize
from diffclass.data.results import ResultFile, versions, write_json_atomic
from diffclass.errors import ConditionError, DiffclassError, InputError, RangeError
from diffclass.robust.attack import Attack, attack_image
from diffclass.robust.gradient import Defence

__all__ = ["attack_dataset", "attack_rows", "labelled_part"]


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
    shard: Shard | None = None,
    elsewhere: Elsewhere | None = None,
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
        shard: attack these of the images alone, into a folder of their own within `out`. The same call without it takes
            over what shards have finished, and attacks the rest.
        elsewhere: who attacks the images that have no row yet; this process if None.

    Raises:
        ConditionError: the classifier does not know the classes of the set, or nothing in it is labelled.
        InputError, UnsupportedModel, MissingExtra: an attack cannot be run.
        ResultError: `out` holds another run, or cannot be written; it keeps what was finished.
    """
    classifier = defence.classifier
    part = labelled_part(defence, dataset, limit, seed)
    pictures: dict[str, Any] = {"resize": resize, "convert": convert}
    chosen = {} if limit is None else {"limit": limit, "seed": seed}
    config = configuration(classifier) | {
        "dataset": {"name": part.name, "split": part.split, "n": len(part), "fingerprint": part.fingerprint, **chosen},
        "attack": asdict(attack) | {"threat": str(attack.threat)},
        "purifier": None if defence.purifier is None else asdict(defence.purifier),
        "transfer_from": None if other is None else configuration(other.classifier),
        "pictures": pictures,
    }
    indices = range(len(part))
    if shard is not None:
        indices, out = shard.indices(len(part)), None if out is None else shard.folder(out)
        config |= {"shard": str(shard)}
    with recording(out, config, versions(device=str(classifier.denoiser.device))) as results:
        adopt(results)
        todo = [index for index in indices if part.ids[index] not in results.done]
        if elsewhere is None:
            answered = _answered(attack_rows(defence, part, todo, attack, other=other, **pictures), results)
        else:
            answered = gather(elsewhere, todo, results)
        for done in answered:
            if progress is not None:
                progress(done, len(indices))
        attacked_set = Attacked.from_rows(results.rows(), attacks=attack.attacks, config=config)
        if out is not None:
            write_json_atomic(out / "summary.json", attacked_set.summary())
    return attacked_set


def attack_rows(
    defence: Defence,
    dataset: Dataset,
    indices: Sequence[int],
    attack: Attack,
    *,
    other: Defence | None = None,
    resize: Resize = "refuse",
    convert: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of some labelled images of a set, as `attack_dataset` writes them."""
    for index in indices:
        item = dataset[index]
        assert item.label is not None
        head = {"id": item.id, "index": index}
        try:
            prepared = item.prepare(defence.classifier.denoiser.space.image_shape, resize=resize, convert=convert)
        except DiffclassError as error:
            yield {**head, "error": str(error)}
        else:
            attacked = attack_image(defence, prepared.image, dataset.classes[item.label], attack, other=other)
            yield {**head, "changes": list(prepared.changes), **attacked.row()}


def _answered(rows: Iterator[dict[str, Any]], results: ResultFile) -> Iterator[int]:
    """Keep rows one by one, and yield how many there are."""
    yield len(results)
    for row in rows:
        results.append([row])
        yield len(results)


def labelled_part(defence: Defence, dataset: Dataset, limit: int | None, seed: int) -> Dataset:
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
    return part.at_most(limit, seed=seed)
