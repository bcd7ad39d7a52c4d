"""Windows of items that scorers are asked: each can be answered apart, in any process, with the same answers."""

import time
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from typing import Any, final

import numpy as np
from PIL.Image import Image

from diffclass.bench.compositional.item import Item
from diffclass.bench.compositional.part import Part
from diffclass.bench.compositional.picture import Crop, open_picture
from diffclass.bench.compositional.scorer import Asked, Measured, Scored, Scorer
from diffclass.errors import ConditionError, DiffclassError, InputError

__all__ = ["Answered", "Window", "answer", "windows_of"]

_ITEMS = 32  # asked together: their captions are embedded at once


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Window:
    """Items of a part that a scorer is asked together, with one seed.

    A window is answered whole, so that its items share network calls with the same others whoever answers it.

    Args:
        scorer: who is asked.
        part: of the items.
        items: some of it.
        seed: of the noise.
    """

    scorer: Scorer
    part: Part
    items: tuple[Item, ...]
    seed: int

    @property
    def place(self) -> tuple[str, str]:
        """Name scorer and part."""
        return self.scorer.name, self.part.name

    @property
    def ids(self) -> tuple[str, ...]:
        """Name the rows."""
        return tuple(_id(item, self.seed) for item in self.items)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answered:
    """The rows of a window.

    Args:
        index: of the window in the list of all.
        rows: one an item; of an item that failed, with its "error".
        errors: by the id of a row, the npz file of the errors behind it.
    """

    index: int
    rows: tuple[Mapping[str, Any], ...]
    errors: Mapping[str, bytes]

    def packed(self) -> dict[str, Any]:
        """Return plain values, which JSON holds."""
        errors = {id: b64encode(content).decode("ascii") for id, content in self.errors.items()}
        return {"index": self.index, "rows": list(self.rows), "errors": errors}

    @classmethod
    def unpacked(cls, values: Mapping[str, Any]) -> "Answered":
        """Read what `packed` made."""
        errors = {id: b64decode(text) for id, text in values["errors"].items()}
        return cls(index=values["index"], rows=tuple(values["rows"]), errors=errors)


def windows_of(parts: Sequence[Part], scorers: Sequence[Scorer], *, seeds: int = 1, seed: int = 0) -> list[Window]:
    """List the windows of a comparison, always in the same order: scorer by scorer, part by part.

    Args:
        parts: whose items are asked.
        scorers: that are asked.
        seeds: how many seeds of noise; scorers without noise are asked once.
        seed: the first of them.
    """
    return [
        Window(scorer=scorer, part=part, items=part.items[start : start + _ITEMS], seed=number)
        for scorer in scorers
        for part in parts
        for start in range(0, len(part.items), _ITEMS)
        for number in range(seed, seed + (seeds if scorer.seeded else 1))
    ]


def answer(
    windows: Sequence[Window], indices: Sequence[int], *, seed: int = 0, crop: Crop = "crop", whole: bool = False,
    keep: bool = True,
) -> Iterator[Answered]:  # fmt: skip
    """Open the pictures of some windows and ask for them.

    A picture that cannot be opened, or a caption that a model cannot read, becomes a row with its "error".

    Args:
        windows: of the whole comparison.
        indices: of those to answer.
        seed: of the pictures that blind scorers are shown.
        crop: what scorers see of a picture.
        whole: measure every caption on every draw.
        keep: keep the errors behind the rows of diffusion models.

    Raises:
        InputError: an item has fewer captions than a schedule keeps, or a blind scorer has nothing else to look at.
    """
    for index in indices:
        rows, errors = _answered(windows[index], seed, crop, whole, keep)
        yield Answered(index=index, rows=tuple(rows), errors=errors)


def _answered(
    window: Window, seed: int, crop: Crop, whole: bool, keep: bool
) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    scorer, part, number = window.scorer, window.part, window.seed
    others = {item.key: _elsewhere(part, item, seed) for item in window.items} if scorer.n_others else {}
    rows: list[dict[str, Any]] = []
    asked: list[Asked] = []
    for item in window.items:
        try:
            picture = open_picture(item.image, box=part.boxes.get(item.key), crop=crop)
            shown = _shown(part, others.get(item.key, []), scorer.n_others, crop)
            asked.append(Asked(item=item, picture=picture, others=shown))
        except InputError as error:
            rows.append(_head(item, number) | {"error": str(error)})
    started = time.monotonic()
    answers = _asked(scorer, asked, {"seed": number, "whole": whole, "comparable": part.comparable})
    seconds = time.monotonic() - started
    spent = sum(scored.evaluations for _, scored in answers if isinstance(scored, Scored))
    errors: dict[str, bytes] = {}
    for one, scored in answers:
        head = _head(one.item, number)
        if not isinstance(scored, Scored):
            rows.append(head | {"error": f"'{one.item.key}': {scored}"})
            continue
        share = scored.evaluations / spent if spent else 1 / len(answers)
        rows.append(head | _row(scored) | {"seconds": seconds * share})
        if keep and scored.measured is not None:
            errors[head["id"]] = _file(head["id"], scored.measured)
    return rows, errors


def _asked(
    scorer: Scorer, asked: Sequence[Asked], options: dict[str, Any]
) -> list[tuple[Asked, Scored | DiffclassError]]:
    """Ask for all together; one by one where a caption cannot be read, so that the others are still answered."""
    try:
        return [(asked[index], scored) for index, scored in scorer.answer(asked, **options)] if asked else []
    except ConditionError:
        return [(one, _alone(scorer, one, options)) for one in asked]


def _alone(scorer: Scorer, one: Asked, options: dict[str, Any]) -> Scored | DiffclassError:
    try:
        return next(scored for _, scored in scorer.answer([one], **options))
    except ConditionError as error:
        return error


def _id(item: Item, seed: int) -> str:
    return f"{item.key}#{seed}"


def _head(item: Item, seed: int) -> dict[str, Any]:
    """Return what a row says of its item."""
    return {
        "id": _id(item, seed),
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


def _file(id: str, measured: Measured) -> bytes:
    """Return the npz file of the errors behind a row."""
    content: dict[str, Any] = {"id": id, "errors": measured.errors, "sigmas": measured.sigmas}
    content |= {"weights": measured.weights}
    if measured.unconditional is not None:
        content["unconditional"] = measured.unconditional
    file = BytesIO()
    np.savez_compressed(file, **content)
    return file.getvalue()


def _elsewhere(part: Part, item: Item, seed: int) -> list[Item]:
    """Return the pictures of other clusters than an item's own, in random order."""
    pictures = list({(one.image, part.boxes.get(one.key)): one for one in part.items}.values())
    random = np.random.default_rng((seed, *blake2b(item.key.encode("utf-8", "surrogatepass"), digest_size=8).digest()))
    found = [pictures[i] for i in random.permutation(len(pictures)) if pictures[i].cluster != item.cluster]
    if not found:
        raise InputError(
            f"A blind scorer needs pictures of other clusters than an item's own, and '{part.name}' has one only."
        )
    return found


def _shown(part: Part, others: Sequence[Item], n: int, crop: Crop) -> tuple[Image, ...]:
    """Open the first n pictures, or as many as there are, passing over those that cannot be opened."""
    shown: list[Image] = []
    broken: InputError | None = None
    for other in others:
        if len(shown) == n:
            break
        try:
            shown.append(open_picture(other.image, box=part.boxes.get(other.key), crop=crop))
        except InputError as error:
            broken = error
    if broken is not None and not shown:
        raise broken
    return tuple(shown)
