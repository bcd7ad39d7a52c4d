"""Pictures from outside: of other data sets, or made here."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from diffclass.data.datasets import Dataset, Shape
from diffclass.data.formats import SPLITS
from diffclass.data.images import Resize
from diffclass.data.unlabelled import made_pictures, open_pictures
from diffclass.errors import InputError

__all__ = ["MADE", "open_outside", "with_split"]

MADE = {  # what can be made without other data
    "noise": "every pixel uniform in [0, 1]",
    "constant": "every pixel the same",
    "inverted": "the pictures inside, 1 minus each pixel",
    "upside-down": "the pictures inside, top and bottom exchanged",
}

Picture = Float32[ndarray, "height width channel"]


def open_outside(
    names: Sequence[str],
    inside: Dataset,
    shape: Shape,
    *,
    n: int,
    seed: int = 0,
    resize: Resize = "refuse",
    convert: bool = False,
) -> dict[str, Dataset]:
    """Open outside sets by their names.

    Args:
        names: of `MADE`, or paths as `open_pictures` takes them, with ":SPLIT" behind where a split is chosen.
        inside: pictures of the model's own data, which "inverted" and "upside-down" change.
        shape: channels, height and width of the model.
        n: pictures of "noise" and of "constant".
        seed: of these.
        resize: for the pictures inside, as in `load_image`; and so is convert.
        convert: allow grey to become colour and colour grey.

    Raises:
        InputError: a name is there twice, or is neither of these.
    """
    found: dict[str, Dataset] = {}
    for name in names:
        part = _made(name, inside, shape, n, seed, {"resize": resize, "convert": convert})
        if part is None:
            path, split = with_split(name)
            if path != "digits" and not Path(path).exists():
                raise InputError(
                    f"The outside set '{name}' must be a folder, a data set or one of {', '.join(MADE)}. There is no "
                    f"'{path}'."
                )
            part = open_pictures(path, split=split)
        key = name if name in MADE else part.name + (f" ({part.split})" if part.split else "")
        if key in found:
            raise InputError(f"The outside sets must have names that differ. Got '{key}' twice.")
        found[key] = part
    return found


def with_split(text: str) -> tuple[str, str | None]:
    """Take "PATH:SPLIT" apart; a colon that no name of a split follows is part of the path."""
    path, _, split = text.rpartition(":")
    return (path, split) if path and split.lower() in SPLITS and not os.path.lexists(text) else (text, None)


def _made(name: str, inside: Dataset, shape: Shape, n: int, seed: int, pictures: dict[str, Any]) -> Dataset | None:
    """Return a set that is made here, or None."""
    channels, height, width = shape

    def own(row: int) -> Picture:
        return inside[row].load(shape, **pictures).numpy().transpose(1, 2, 0)

    def random(row: int) -> np.random.Generator:
        return np.random.default_rng((seed, row))

    makers: dict[str, Callable[[int], Picture]] = {
        "noise": lambda row: random(row).random((height, width, channels), dtype=np.float32),
        "constant": lambda row: np.broadcast_to(
            random(row).random(channels, dtype=np.float32), (height, width, channels)
        ),
        "inverted": lambda row: 1 - own(row),
        "upside-down": lambda row: np.ascontiguousarray(own(row)[::-1]),
    }
    if name not in makers:
        return None
    ids = inside.ids if name in ("inverted", "upside-down") else [f"{row:05d}" for row in range(n)]
    return made_pictures(name, ids, makers[name])
