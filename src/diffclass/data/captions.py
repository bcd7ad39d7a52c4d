"""Pictures with captions: a folder with a metadata file as Hugging Face's imagefolder reads it, or classes in words."""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    def numbers(self) -> tuple[tuple[int, ...], ...]:
        """Indices into `texts` of the captions of each class."""
        position = {text: number for number, text in enumerate(self.texts)}
        return tuple(tuple(position[text] for text in group) for group in self.captions)


def caption_splits(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """List the splits that `open_captions` can open; empty if the source has none.

    Raises:
        InputError: there is nothing to open.
    """
    root = Path(path)
    if not _has_captions(root):
        return dataset_splits(path)
    return tuple(sorted({SPLITS[folder.name.lower()] for folder in _split_folders(root)}))


def open_captions(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    text_column: str = "text",
    template: str | None = None,
    sentences: Mapping[str, str] | None = None,
) -> CaptionedSet:
    """Open pictures with captions; the pictures themselves are read when they are asked for.

    A folder with metadata.jsonl or metadata.csv, whose lines have file_name and text (in JSON one caption or a list of
    them), or with such a folder a split. Any labelled set that `open_dataset` reads, with a template or a sentence for
    each class; what has no label is left out.

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
    if _has_captions(root):
        return _from_metadata(_folder(root, split), root.absolute().name, split, text_column)
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


def _split_folders(root: Path) -> list[Path]:
    """Find the folders of splits that have captions."""
    if not root.is_dir():
        return []
    return sorted(f for f in root.iterdir() if f.is_dir() and f.name.lower() in SPLITS and _metadata(f))


def _has_captions(root: Path) -> bool:
    return _metadata(root) is not None or bool(_split_folders(root))


def _folder(root: Path, split: str | None) -> Path:
    """Find the folder of a split."""
    folders = {SPLITS[folder.name.lower()]: folder for folder in _split_folders(root)}
    if not folders:
        if split is None:
            return root
        raise InputError(f"The data set '{root}' is not divided into splits. Leave out split='{split}'.")
    if split is None and len(folders) == 1:
        return next(iter(folders.values()))
    if split is None:
        raise InputError(f"The data set '{root}' has several splits. Choose one of: {listed(sorted(folders))}.")
    wanted = SPLITS.get(split.lower(), split)
    if wanted not in folders:
        raise InputError(f"The data set '{root}' has no split '{split}'. Choose one of: {listed(sorted(folders))}.")
    return folders[wanted]


def _from_metadata(folder: Path, name: str, split: str | None, column: str) -> CaptionedSet:
    """Read which captions every picture has."""
    file = _metadata(folder)
    assert file is not None
    found: dict[str, tuple[str, ...]] = {}
    for number, line in _lines(file):
        for key in ("file_name", column):
            if key not in line:
                raise InputError(f"Line {number} of '{file}' has no '{key}'. It has: {listed([str(k) for k in line])}.")
        picture = str(line["file_name"])
        if picture in found:
            raise InputError(f"The file '{file}' lists '{picture}' twice. Give all captions of a picture in one line.")
        if not (folder / picture).is_file():
            raise InputError(f"Line {number} of '{file}' names the picture '{picture}', which is not there.")
        found[picture] = _texts(line[column], file, number)
    if not found:
        raise InputError(f"The file '{file}' lists no pictures.")
    _check_all_told(folder, file, found)
    groups = tuple(dict.fromkeys(found.values()))
    position = {group: index for index, group in enumerate(groups)}
    labels: Int64[ndarray, " image"] = np.array([position[group] for group in found.values()], dtype=np.int64)
    paths = [folder / picture for picture in found]
    images = Dataset(
        name=name, split=split, classes=tuple(" / ".join(group) for group in groups), ids=tuple(found), labels=labels,
        rows=np.arange(len(found), dtype=np.int64), read=lambda row: paths[row],
    )  # fmt: skip
    return CaptionedSet(images=images, captions=groups)


def _texts(value: object, file: Path, number: int) -> tuple[str, ...]:
    """Read one caption or several."""
    texts = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"Line {number} of '{file}' must hold a caption with words in it. Got {value!r}.")
    return tuple(dict.fromkeys(" ".join(text.split()) for text in texts))


def _check_all_told(folder: Path, file: Path, found: Mapping[str, object]) -> None:
    """Refuse pictures without a caption, which training would pass over in silence."""
    told = {(folder / picture).absolute() for picture in found}
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
