"""Pictures whose classes do not matter: any data set, or a folder of pictures in no order."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from diffclass.data.datasets import Dataset
from diffclass.data.formats import PICTURES, SPLITS, find_parts, listed
from diffclass.data.images import Source
from diffclass.errors import InputError

__all__ = ["made_pictures", "open_pictures"]


def open_pictures(path: str | os.PathLike[str], *, split: str | None = None, default: str = "test") -> Dataset:
    """Open pictures without their labels: one class, any classes or none will do.

    A folder that holds pictures itself is taken with all that lies below it; everything else is read as `open_dataset`
    reads it. Every label is -1, and there are no classes.

    Args:
        path: of a folder or of a data set; "digits" is scikit-learn's.
        split: which part; None leaves it to `default` where there are several, and means all pictures elsewhere.
        default: split of a source that has several.

    Raises:
        InputError: there is nothing to open, no such split, or a file is damaged.
    """
    folder = Path(path)
    if os.fspath(path) != "digits" and folder.is_dir() and any(_is_picture(file) for file in folder.iterdir()):
        if split is not None:
            raise InputError(f"The folder '{path}' is not divided into splits. Leave out split='{split}'.")
        files = sorted(file for file in folder.rglob("*") if _is_picture(file))
        ids = [file.relative_to(folder).as_posix() for file in files]
        return made_pictures(folder.absolute().name, ids, files.__getitem__, source=str(folder.absolute()))
    parts = find_parts(path, "label", "image")
    available = sorted(name for name in parts if name is not None)
    key = _split_of(available, split or default) if available else None
    if available and key is None:
        raise InputError(
            f"The data set '{path}' has no split '{split or default}'. Choose one of: {listed(available)}."
        )
    if split is not None and not available:
        raise InputError(f"The data set '{path}' is not divided into splits. Leave out split='{split}'.")
    table = parts[key]()
    if not table.ids:
        raise InputError(f"The data set '{path}' has no pictures.")
    name = folder.absolute().name if folder.is_dir() else folder.stem
    source = "digits" if os.fspath(path) == "digits" else str(folder.absolute())
    return made_pictures(name, table.ids, table.read, split=key, source=source)


def made_pictures(
    name: str,
    ids: Sequence[str],
    read: Callable[[int], Source],
    *,
    split: str | None = None,
    source: str | None = None,
) -> Dataset:
    """Return pictures without labels as a data set.

    Args:
        name: of the set.
        ids: that differ.
        read: from a place in `ids` to what `load_image` opens.
        split: that it is.
        source: what was opened.
    """
    n = len(ids)
    return Dataset(
        name=name, split=split, classes=(), ids=tuple(ids), labels=np.full(n, -1), rows=np.arange(n), read=read,
        source=source,
    )  # fmt: skip


def _split_of(available: Sequence[str], name: str) -> str | None:
    """Find a split under the name that the caller gave it, or None."""
    return next((found for found in (name, SPLITS.get(name.lower())) if found in available), None)


def _is_picture(file: Path) -> bool:
    return file.is_file() and file.suffix.lower() in PICTURES and not file.name.startswith(".")
