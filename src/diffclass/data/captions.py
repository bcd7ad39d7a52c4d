"""Pictures with captions: a folder with a metadata file as Hugging Face's imagefolder reads it, or classes in words."""

import csv
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from diffclass.data.datasets import Dataset, dataset_splits, open_dataset
from diffclass.data.formats import PICTURES, SPLITS, listed
from diffclass.errors import InputError

__all__ = ["CaptionedSet", "caption_splits", "open_captions"]

_FILES = ("metadata.jsonl", "metadata.csv")
_Parts = dict[str | None, list[Path]]  # folders with a metadata file, by split; None where there are no splits
_Line = tuple[int, Mapping[str, Any]]  # its number, and what it says


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaptionedSet:
    """Pictures, each with one or more captions that are true of it. Made by `open_captions`.

    Args:
        images: the pictures; those with the same captions are of one class.
        captions: of each class.
    """

    images: Dataset
    captions: tuple[tuple[str, ...], ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """Every caption once, in the order of the classes."""
        return tuple(dict.fromkeys(text for group in self.captions for text in group))

    @property
    def fingerprint(self) -> str:
        """Identify the set by its ids, classes and captions (not its pixels): for a run's configuration."""
        content = repr((self.images.fingerprint, self.captions))
        return blake2b(content.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    @property
    def numbers(self) -> tuple[tuple[int, ...], ...]:
        """Indices into `texts` of the captions of each class."""
        position = {text: number for number, text in enumerate(self.texts)}
        return tuple(tuple(position[text] for text in group) for group in self.captions)


def caption_splits(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """List the splits that `open_captions` can open; empty if the source has none.

    Raises:
        InputError: there is nothing to open.
    """
    parts = _parts(Path(path))
    return tuple(sorted(split for split in parts if split is not None)) if parts else dataset_splits(path)


def open_captions(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    text_column: str = "text",
    template: str | None = None,
    sentences: Mapping[str, str] | None = None,
) -> CaptionedSet:
    """Open pictures with captions; the pictures themselves are read when they are asked for.

    A folder with metadata.jsonl or metadata.csv, whose lines have file_name and text (a picture with several captions
    has several lines or, in JSON, a list); a folder with such a folder a split; or a folder of either, whose pictures
    are taken together. Any labelled set that `open_dataset` reads, with a template or a sentence for each class; what
    has no label is left out.

    Args:
        split: "train", "validation" or "test"; must be given where there are several.
        text_column: of the metadata.
        template: of the captions of labelled pictures, with {} in the place of the class.
        sentences: captions of labelled pictures, by class.

    Raises:
        InputError: a picture or a caption is missing, or a file is damaged.
        ConditionError: labelled pictures have fewer than two classes.
    """
    root = Path(path)
    if parts := _parts(root):
        return _from_metadata(root, _choose(parts, root, split), split, text_column)
    if template is None and not sentences:
        raise InputError(
            f"The data set '{path}' has no captions. Put a metadata.jsonl with file_name and {text_column} into its "
            "folder, or give a template or sentences for its classes."
        )
    images = open_dataset(path, split=split)
    images = images.subset(np.flatnonzero(images.labels >= 0))
    return CaptionedSet(images=images, captions=tuple((_said(name, template, sentences),) for name in images.classes))


def _said(name: str, template: str | None, sentences: Mapping[str, str] | None) -> str:
    """Say a class in words."""
    if sentences:
        if name not in sentences:
            raise InputError(f"The class '{name}' has no sentence. There are sentences for: {listed(list(sentences))}.")
        return sentences[name]
    assert template is not None
    if "{}" not in template:
        raise InputError(f"A template must hold {{}} where the class goes. Got {template!r}.")
    return template.replace("{}", name)


def _metadata(folder: Path) -> Path | None:
    return next((folder / name for name in _FILES if (folder / name).is_file()), None)


def _parts(root: Path, deeper: bool = True) -> _Parts:
    """Find the folders with captions, by split; none if there are none."""
    if not root.is_dir():
        return {}
    if _metadata(root) is not None:
        return {None: [root]}
    inner = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
    found: _Parts = {}
    for folder in inner:
        if folder.name.lower() in SPLITS and _metadata(folder) is not None:
            found.setdefault(SPLITS[folder.name.lower()], []).append(folder)
    if found or not deeper:
        return found
    for folder in inner:
        for split, folders in _parts(folder, deeper=False).items():
            found.setdefault(split, []).extend(folders)
    if None in found and len(found) > 1:
        raise InputError(f"Some folders in '{root}' are divided into splits and others are not. Give one of them.")
    return found


def _choose(parts: _Parts, root: Path, split: str | None) -> list[Path]:
    """Find the folders of a split."""
    names = sorted(name for name in parts if name is not None)
    if split is None and len(parts) == 1:
        return next(iter(parts.values()))
    if split is None:
        raise InputError(f"The data set '{root}' has several splits. Choose one of: {listed(names)}.")
    if not names:
        raise InputError(f"The data set '{root}' is not divided into splits. Leave out split='{split}'.")
    wanted = SPLITS.get(split.lower(), split)
    if wanted not in parts:
        raise InputError(f"The data set '{root}' has no split '{split}'. Choose one of: {listed(names)}.")
    return parts[wanted]


def _from_metadata(root: Path, folders: Sequence[Path], split: str | None, column: str) -> CaptionedSet:
    """Read which captions every picture has."""
    found: dict[Path, tuple[str, ...]] = {}
    for folder in folders:
        found |= _told(folder, column)
    groups = tuple(dict.fromkeys(found.values()))
    position = {group: index for index, group in enumerate(groups)}
    labels: Int64[ndarray, " image"] = np.array([position[group] for group in found.values()], dtype=np.int64)
    paths = list(found)
    images = Dataset(
        name=root.absolute().name, split=split, classes=tuple(" / ".join(group) for group in groups),
        ids=tuple(path.relative_to(root).as_posix() for path in paths), labels=labels,
        rows=np.arange(len(paths), dtype=np.int64), read=lambda row: paths[row],
    )  # fmt: skip
    return CaptionedSet(images=images, captions=groups)


def _told(folder: Path, column: str) -> dict[Path, tuple[str, ...]]:
    """Read the metadata of one folder: the captions of each picture, in alphabetical order."""
    file = _metadata(folder)
    assert file is not None
    found: dict[Path, set[str]] = {}
    for number, line in _lines(file):
        for key in ("file_name", column):
            if key not in line:
                raise InputError(f"Line {number} of '{file}' has no '{key}'. It has: {listed([str(k) for k in line])}.")
        picture = folder / str(line["file_name"])
        if picture not in found and not picture.is_file():
            raise InputError(f"Line {number} of '{file}' names the picture '{line['file_name']}', which is not there.")
        found.setdefault(picture, set()).update(_texts(line[column], file, number))
    if not found:
        raise InputError(f"The file '{file}' lists no pictures.")
    _check_all_told(folder, file, found.keys())
    return {picture: tuple(sorted(texts)) for picture, texts in found.items()}


def _texts(value: object, file: Path, number: int) -> tuple[str, ...]:
    """Read one caption or several."""
    texts: list[Any] = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"Line {number} of '{file}' must hold a caption with words in it. Got {value!r}.")
    return tuple(" ".join(text.split()) for text in texts)


def _check_all_told(folder: Path, file: Path, found: Collection[Path]) -> None:
    """Refuse pictures without a caption, which training would pass over in silence."""
    told = {picture.absolute() for picture in found}
    there = (f for f in folder.rglob("*") if f.suffix.lower() in PICTURES and not f.name.startswith("."))
    silent = sorted(f.relative_to(folder).as_posix() for f in there if f.absolute() not in told)
    if silent:
        raise InputError(
            f"The file '{file}' has no caption for: {listed(silent, 3)}. Add the lines, or move them away."
        )


def _lines(file: Path) -> Iterator[_Line]:
    """Read the lines of a metadata file."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            if file.suffix == ".csv":
                reader = csv.DictReader(opened, strict=True)
                yield from ((reader.line_num, {k or "": v for k, v in row.items()}) for row in reader)
                return
            for number, text in enumerate(opened, start=1):
                if text.strip():
                    line = json.loads(text)
                    if not isinstance(line, dict):
                        raise ValueError(f"line {number} is no object")
                    yield number, line
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"The file '{file}' cannot be read: {str(error).splitlines()[0].rstrip('.')}.") from error
