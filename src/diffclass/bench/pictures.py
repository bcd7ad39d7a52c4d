"""Picture files named one by one or by their folder."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffclass.bench.answers import Answer
from diffclass.bench.recording import configuration, record, recording
from diffclass.data.datasets import Item, Progress
from diffclass.data.formats import PICTURES
from diffclass.data.images import Resize
from diffclass.data.results import versions
from diffclass.decide.classifier import DiffusionClassifier
from diffclass.errors import InputError

__all__ = ["classify_pictures", "picture_items"]


def picture_items(paths: Sequence[str | os.PathLike[str]]) -> list[Item]:
    """List pictures; a folder stands for every picture in it, in the order of their names.

    Raises:
        InputError: a folder has no pictures, a picture is named twice, or there are none.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(f for f in path.iterdir() if f.suffix.lower() in PICTURES and not f.name.startswith("."))
        if not inside:
            raise InputError(f"The folder '{path}' has no pictures in it. Give pictures, or a folder of them.")
        found += inside
    if not found:
        raise InputError("There must be at least one picture. Got none.")
    twice = [name for name, count in Counter(map(str, found)).items() if count > 1]
    if twice:
        raise InputError(f"Every picture must be named once. '{twice[0]}' is there more than once.")
    return [Item(id=str(path), label=None, read=lambda path=path: path) for path in found]


def classify_pictures(
    classifier: DiffusionClassifier,
    items: Sequence[Item],
    *,
    names: Sequence[str] = (),
    out: Path | None = None,
    progress: Progress | None = None,
    resize: Resize = "crop",
    convert: bool = False,
    most_kept: int = 0,
) -> tuple[list[dict[str, Any]], list[Answer]]:
    """Classify pictures; those that cannot be opened become rows with an "error".

    Args:
        items: the pictures.
        names: of the classes that their labels count, if they have some.
        out: folder of results.jsonl and run.json, which a later call goes on from; nothing is kept if None.
        progress: called with the pictures done, and of how many.
        resize: "crop", "stretch" or "refuse" pictures of another size than the model's.
        convert: allow grey to become colour and colour grey.
        most_kept: answers that are returned with their evidence.

    Returns:
        A row a picture, in their order, and the first answers of this call.
    """
    config = configuration(classifier) | {"pictures": {"resize": resize, "convert": convert}}
    answers: list[Answer] = []
    wanted = [item.id for item in items]
    with recording(out, config, versions(device=str(classifier.denoiser.device))) as results:
        for done in record(
            classifier, items, results, names=names, resize=resize, convert=convert, keep=answers, most_kept=most_kept
        ):
            if progress is not None:
                progress(done, len(items))
        rows = {row["id"]: row for row in results.rows()}
    answers.sort(key=lambda answer: wanted.index(answer.id))
    return [rows[name] for name in wanted], answers
