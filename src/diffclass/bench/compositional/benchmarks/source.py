"""Files of a benchmark's local copy, and what is said where one is missing or is not what it should be."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffclass.bench.compositional.item import Candidate, Item
from diffclass.errors import InputError

__all__ = ["image_of", "pair_item", "read_file", "read_lines", "texts"]


def read_file(path: Path, kind: type) -> Any:
    """Read a JSON file that holds a list or a dict.

    Raises:
        InputError: it is missing, is no JSON, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The file '{path}' cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise InputError(f"The file '{path}' is damaged: it is no JSON.") from error
    if not isinstance(found, kind):
        raise InputError(f"The file '{path}' must hold a JSON {kind.__name__}. Got a {type(found).__name__}.")
    return found


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read a file with one JSON object a line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"The file '{path}' cannot be read: {error.strerror or error}.") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found = json.loads(line)
            except ValueError as error:
                raise InputError(f"Line {number} of '{path}' is damaged: it is no JSON.") from error
            yield found


def texts(entry: Mapping[str, Any], path: Path, key: object, *names: str) -> list[str]:
    """Return the texts of an entry by name; a list stands for its first text.

    Raises:
        InputError: one is missing or is no text.
    """
    found = []
    for name in names:
        value = entry.get(name) if isinstance(entry, Mapping) else None
        value = value[0] if isinstance(value, list) and value else value
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"The entry {key!r} of '{path}' must have a text '{name}'. Got {value!r}.")
        found.append(value)
    return found


def image_of(key: object, *places: Path) -> Path:
    """Return the first place where a picture is.

    Raises:
        InputError: it is at none of them.
    """
    for place in places:
        if place.is_file():
            return place
    tried = " or ".join(f"'{place}'" for place in places)
    raise InputError(f"The picture of {key!r} is missing: there is no {tried}. Copy the benchmark's pictures there.")


def pair_item(
    key: str, image: Path, captions: Sequence[str], *, target: int = 0, task: str, split: str, cluster: str
) -> Item:
    """Return an item whose wrong captions are all foils of the true one."""
    candidates = tuple(
        Candidate(caption, "target" if index == target else "foil", seen=False)
        for index, caption in enumerate(captions)
    )
    return Item(key, image, candidates, target, task, split, cluster)
