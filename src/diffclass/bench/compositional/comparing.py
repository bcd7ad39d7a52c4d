"""Several scorers asked the same: rows on the disk as they are measured, which a later start goes on from."""

import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from diffclass.bench.compositional.item import Item
from diffclass.bench.compositional.part import Part
from diffclass.bench.compositional.picture import Crop, open_picture
from diffclass.bench.compositional.scorer import Asked, Scored, Scorer
from diffclass.bench.recording import recording
from diffclass.data.results import ResultFile, versions
from diffclass.errors import ConditionError, DiffclassError, InputError, RangeError, ResultError

__all__ = ["Rows", "compare", "errors_path"]

Rows = dict[tuple[str, str], list[dict[str, Any]]]  # by (scorer, part)
Progress = Callable[[str, int, int], None]  # what is being measured, items done, of how many
_WINDOW = 32  # items asked together: their captions are embedded at once


def compare(
    parts: Sequence[Part],
    scorers: Sequence[Scorer],
    *,
    seeds: int = 1,
    seed: int = 0,
    out: Path | None = None,
    crop: Crop = "crop",
    whole: bool = False,
    progress: Progress | None = None,
) -> Rows:
    """Ask every scorer every item, with the same crop and the same captions.

    Each scorer and part has a folder out/SCORER/PART with a row an item and seed (results.jsonl), what produced it
    (run.json) and, for diffusion models, the errors behind each row (errors/). The same call goes on where an earlier
    one was stopped. A picture that cannot be opened, or a caption that a model cannot read, becomes a row with its
    "error".

    Args:
        parts: with names that differ.
        scorers: with names that differ.
        seeds: how many seeds of noise; scorers without noise are asked once.
        seed: the first of them, and of the pictures that blind scorers are shown.
        out: folder of the run; nothing is kept if None.
        crop: what all scorers see of a picture: the centred "crop", or all of it with "stretch".
        whole: measure every caption on every draw, for what is computed from the errors afterwards.
        progress: called with what is being measured, and how far it is.

    Returns:
        The rows of each (scorer, part), in the order of their ids.

    Raises:
        InputError: an item has fewer captions than a schedule keeps, or a blind scorer has nothing else to look at.
        ResultError: a folder holds another run, or cannot be written.
    """
    if seeds < 1:
        raise RangeError(f"The 'seeds' parameter of compare must be at least 1. Got {seeds}.")
    found: Rows = {}
    for scorer in scorers:
        configuration, produced = scorer.configuration(), versions()
        for part in parts:
            run = {"part": part.name, "setting": part.setting, "items": part.fingerprint, "n": len(part.items)}
            config = {"scorer": configuration, **run, "crop": crop, "whole": whole or part.comparable}
            config |= {"others": seed} if scorer.n_others else {}
            folder = None if out is None else out / scorer.name / part.name
            with recording(folder, config, produced) as results:
                for done, total in _record(scorer, part, results, seeds, seed, crop, whole, keep=out is not None):
                    if progress is not None:
                        progress(f"{scorer.name}, {part.name}", done, total)
                found[scorer.name, part.name] = _wanted(results, part, seeds if scorer.seeded else 1, seed)
    return found


def _wanted(results: ResultFile, part: Part, seeds: int, seed: int) -> list[dict[str, Any]]:
    """Return the rows of the seeds that were asked for; an earlier start may have left others."""
    return sorted((row for row in results.rows() if seed <= row["seed"] < seed + seeds), key=lambda row: row["id"])


def _record(
    scorer: Scorer, part: Part, results: ResultFile, seeds: int, seed: int, crop: Crop, whole: bool, *, keep: bool
) -> Iterator[tuple[int, int]]:
    """Answer the items that have no row yet, a window at a time."""
    wanted = range(seed, seed + (seeds if scorer.seeded else 1))
    total = len(part.items) * len(wanted)
    others = _others(part, scorer.n_others, seed) if scorer.n_others else {}
    for start in range(0, len(part.items), _WINDOW):
        window = part.items[start : start + _WINDOW]
        for number in wanted:
            todo = [item for item in window if f"{item.key}#{number}" not in results.done]
            if todo:
                _answer_window(scorer, part, todo, others, results, number, crop, whole, keep)
            yield min(len(results), total), total


def _answer_window(
    scorer: Scorer, part: Part, items: Sequence[Item], others: dict[str, list[Item]], results: ResultFile, seed: int,
    crop: Crop, whole: bool, keep: bool,
) -> None:  # fmt: skip
    """Open the pictures of some items, ask for all of them, and write their rows."""
    rows: list[dict[str, Any]] = []
    asked: list[Asked] = []
    for item in items:
        try:
            picture = open_picture(item.image, box=part.boxes.get(item.key), crop=crop)
            shown = [open_picture(o.image, box=part.boxes.get(o.key), crop=crop) for o in others.get(item.key, [])]
            asked.append(Asked(item=item, picture=picture, others=tuple(shown)))
        except InputError as error:
            rows.append(_head(item, seed) | {"error": str(error)})
    options = {"seed": seed, "whole": whole, "comparable": part.comparable}
    started = time.monotonic()
    answers: list[tuple[Asked, Scored | DiffclassError]]
    try:
        answers = [(asked[i], scored) for i, scored in scorer.answer(asked, **options)] if asked else []
    except ConditionError:  # a caption that cannot be read: one by one, the others are still answered
        answers = [(one, _alone(scorer, one, options)) for one in asked]
    seconds = time.monotonic() - started
    spent = sum(scored.evaluations for _, scored in answers if isinstance(scored, Scored))
    for one, scored in answers:
        if not isinstance(scored, Scored):
            rows.append(_head(one.item, seed) | {"error": f"'{one.item.key}': {scored}"})
            continue
        share = scored.evaluations / spent if spent else 1 / len(answers)
        row: dict[str, Any] = _head(one.item, seed) | _row(scored) | {"seconds": seconds * share}
        if keep and scored.measured is not None:
            _save(errors_path(results.path.parent, row["id"]), row["id"], scored)
        rows.append(row)
    results.append(rows)


def _alone(scorer: Scorer, one: Asked, options: dict[str, Any]) -> Scored | DiffclassError:
    try:
        return next(scored for _, scored in scorer.answer([one], **options))
    except ConditionError as error:
        return error


def _head(item: Item, seed: int) -> dict[str, Any]:
    """Return what a row says of its item."""
    return {
        "id": f"{item.key}#{seed}",
        "key": item.key,
        "seed": seed,
        "image": item.image.as_posix(),
        "task": item.task,
        "split": item.split,
        "cluster": item.cluster,
        "target": item.target,
        "captions": [candidate.caption for candidate in item.candidates],
        "tags": [candidate.tag for candidate in item.candidates],
        "seen": [candidate.seen for candidate in item.candidates],
    }


def _row(scored: Scored) -> dict[str, Any]:
    return {
        "scores": list(scored.scores),
        "chosen": list(scored.chosen),
        "evaluations": scored.evaluations,
        "draws": scored.draws,
        **scored.facts,
    }


def _others(part: Part, n: int, seed: int) -> dict[str, list[Item]]:
    """Choose for each item n pictures of other clusters at random, or as many as there are."""
    pictures = list({(item.image, part.boxes.get(item.key)): item for item in part.items}.values())
    chosen: dict[str, list[Item]] = {}
    for item in part.items:
        random = np.random.default_rng(
            (seed, *blake2b(item.key.encode("utf-8", "surrogatepass"), digest_size=8).digest())
        )
        order = random.permutation(len(pictures))
        elsewhere = (pictures[i] for i in order if pictures[i].cluster != item.cluster)
        chosen[item.key] = [other for other, _ in zip(elsewhere, range(n), strict=False)]
        if not chosen[item.key]:
            raise InputError(
                f"A blind scorer needs pictures of other clusters than an item's own, and '{part.name}' has one only."
            )
    return chosen


def errors_path(folder: Path, id: str) -> Path:
    """Return where the errors behind a row are kept; named by a hash, so that any id makes a file name."""
    return folder / "errors" / f"{blake2b(id.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}.npz"


def _save(path: Path, id: str, scored: Scored) -> None:
    measured = scored.measured
    assert measured is not None
    content: dict[str, Any] = {"id": id, "errors": measured.errors, "sigmas": measured.sigmas}
    content |= {"weights": measured.weights}
    if measured.unconditional is not None:
        content["unconditional"] = measured.unconditional
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez_compressed(file, **content)
    except OSError as error:
        raise ResultError(f"The file '{path}' cannot be written: {error.strerror or error}.") from error
