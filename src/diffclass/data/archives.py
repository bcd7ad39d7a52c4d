"""What CIFAR-10, CIFAR-100 and downsampled ImageNet are published as: pickled or zipped arrays; no torch."""

import io
import os
import pickle
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import md5
from math import isqrt
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray

from diffclass import errors
from diffclass.data.pickled import NUMPY, ForbiddenGlobal, read_pickle

__all__ = ["Archive", "Archives", "Layout", "cifar_layout", "imagenet_archives", "imagenet_file", "is_published_cifar"]

_CIFAR_SIZE = 32
_IMAGENET = {"train": re.compile(r"train_data_batch_(\d+)\.npz"), "validation": re.compile(r"val_data()\.npz")}
_MAP = "map_clsloc.txt"
_DAMAGED = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


class _Cifar(NamedTuple):
    """How one of the two CIFARs is kept."""

    batches: Mapping[str, Sequence[str]]  # files of each split
    folder: str
    meta: str  # file with the names of the classes
    labels: str  # key of the labels in a batch
    names: str  # key of the names in the meta file
    classes: tuple[str, ...]  # where the meta file is missing
    md5: str  # of the file of the test split, as published


_CIFARS = {
    "cifar10": _Cifar(
        batches={"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
        folder="cifar-10-batches-py", meta="batches.meta", labels="labels", names="label_names",
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        md5="40351d587109b95175f43aff81a1287e",
    ),
    "cifar100": _Cifar(
        batches={"train": ("train",), "test": ("test",)}, folder="cifar-100-python", meta="meta",
        labels="fine_labels", names="fine_label_names", classes=(), md5="f0ef6b0ae62326f3e7ffdfab6717acfc",
    ),
}  # fmt: skip

Images = UInt8[ndarray, "image height width channel"]
Labels = Int64[ndarray, " image"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Archive:
    """One split of a published archive.

    Args:
        labels: index into names.
        names: of the classes, the same in every split.
        read: from a row to a picture, or where it is.
        ids: of the pictures; their rows where there are none.
    """

    labels: Labels
    names: tuple[str, ...]
    read: Callable[[int], UInt8[ndarray, "height width channel"] | os.PathLike[str]]
    ids: tuple[str, ...] | None = None


Archives = dict[str, Callable[[], Archive]]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A data set as its authors publish it.

    Args:
        name: of the data set, as "pets".
        archives: its splits.
    """

    name: str
    archives: Archives


def cifar_layout(source: Path) -> Layout | None:
    """Find the splits of CIFAR-10's or CIFAR-100's "python version" in its folder or its tar; None if it is neither.

    Raises:
        InputError: the file is no tar.

    Source:
        Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
    """
    if found := _cifar_home(source):
        name, home, there = found
        kind = _CIFARS[name]
        batches = {split: [one for one in names if one in there] for split, names in kind.batches.items()}
        return Layout(
            name, {split: partial(_cifar, home, names, split, kind) for split, names in batches.items() if names}
        )
    return None


def is_published_cifar(source: Path) -> bool:
    """Tell whether the test images of a CIFAR are those that were published, by the MD5 of their file."""
    found = _cifar_home(source)
    if found is None:
        return False
    name, home, _ = found
    (batch,) = _CIFARS[name].batches["test"]
    content = _contents(home, (batch,)).get(batch, b"")
    return md5(content, usedforsecurity=False).hexdigest() == _CIFARS[name].md5


def _cifar_home(source: Path) -> tuple[str, Path, set[str]] | None:
    """Return which CIFAR it is, where its files are, and their names."""
    if source.is_file():
        there = set(_contents(source, ()))
        return next(((name, source, there) for name, kind in _CIFARS.items() if _is_cifar(kind, there)), None)
    for name, kind in _CIFARS.items():
        for home in (source, source / kind.folder):
            files = {*sum(map(tuple, kind.batches.values()), ()), kind.meta}
            there = {file for file in files if (home / file).is_file()}
            if _is_cifar(kind, there):
                return name, home, there
    return None


def _is_cifar(kind: _Cifar, there: Collection[str]) -> bool:
    """Tell a CIFAR by its files; CIFAR-100's have common names, so that all three must be there."""
    files = sum(map(tuple, kind.batches.values()), ())
    return any(file in there for file in files) if kind.classes else {*files, kind.meta} <= {*there}


def _contents(home: Path, wanted: Collection[str]) -> dict[str, bytes]:
    """Read files of a folder, or of a tar in one pass; those of a tar that are not wanted are named, and empty."""
    if home.is_dir():
        found = {name: home / name for name in wanted if (home / name).is_file()}
        try:
            return {name: path.read_bytes() for name, path in found.items()}
        except OSError as error:
            raise errors.InputError(f"The folder '{home}' cannot be read: {error.strerror or error}.") from error
    content: dict[str, bytes] = {}
    try:
        with tarfile.open(home) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                file = archive.extractfile(member) if member.isfile() and name in wanted else None
                if member.isfile():
                    content[name] = file.read() if file is not None else b""
    except (*_DAMAGED, tarfile.TarError) as error:
        raise errors.InputError(f"The file '{home}' is truncated, altered or no tar. Get it again.") from error
    return content


def _cifar(home: Path, names: Sequence[str], split: str, kind: _Cifar) -> Archive:
    """Read all batches of a split."""
    if len(names) < len(kind.batches[split]):
        raise errors.InputError(
            f"The folder '{home}' has {len(names)} of {len(kind.batches[split])} files of '{split}'."
        )
    contents = _contents(home, {*names, kind.meta})
    batches = [_cifar_batch(home / name, contents[name], kind.labels) for name in names]
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    classes = kind.classes
    if kind.meta in contents:
        path = home / kind.meta
        listed = _pickled(path, contents[kind.meta]).get(kind.names)
        if not isinstance(listed, list) or not all(isinstance(name, str | bytes) for name in listed):
            raise errors.InputError(f"The file '{path}' must hold '{kind.names}', a list of names.")
        texts = [name.decode() if isinstance(name, bytes) else name for name in listed]
        classes = tuple(text.replace("_", " ") for text in texts)
    return Archive(labels, classes, lambda row: images[row])


def _cifar_batch(path: Path, content: bytes, key: str) -> tuple[Images, Labels]:
    """Read one batch: rows of red, green, blue pixels, and a list of labels."""
    batch = _pickled(path, content)
    data, labels = getattr(batch.get("data"), "values", None), batch.get(key)
    pixels = 3 * _CIFAR_SIZE**2
    if not isinstance(data, ndarray) or data.dtype != np.uint8 or data.shape[1:] != (pixels,):
        raise errors.InputError(f"The file '{path}' must hold 'data', {pixels} bytes an image.")
    if not isinstance(labels, list) or len(labels) != len(data) or not all(isinstance(one, int) for one in labels):
        raise errors.InputError(f"The file '{path}' must hold '{key}', one integer an image.")
    return _as_images(data, _CIFAR_SIZE), np.array(labels, dtype=np.int64)


def _pickled(path: Path, content: bytes) -> Mapping[str, Any]:
    """Read a dictionary of arrays that Python 2 pickled, running nothing that it holds."""
    try:
        held = read_pickle(io.BytesIO(content), NUMPY, encoding="bytes")
    except ForbiddenGlobal as error:
        raise errors.InputError(
            f"The file '{path}' wants '{error.name}' when it is opened, which no data set needs, so nothing in it was "
            "run. Get it from where CIFAR-10 and CIFAR-100 are published."
        ) from error
    except pickle.UnpicklingError as error:
        raise errors.InputError(f"The file '{path}' cannot be read: it is truncated, altered or no pickle.") from error
    if not isinstance(held, dict):
        raise errors.InputError(f"The file '{path}' must hold a dictionary of arrays. Got {type(held).__name__}.")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in held.items()}


def _as_images(data: UInt8[ndarray, "image _"], size: int) -> Images:
    """Turn rows of red, then green, then blue pixels into pictures."""
    return data.reshape(-1, 3, size, size).transpose(0, 2, 3, 1)


def imagenet_archives(folder: Path) -> Archives:
    """Find the splits of downsampled ImageNet in a folder of npz files; none if it is something else.

    Classes have the names of map_clsloc.txt where it is in the folder: WordNet ids, in the archive's order, which is
    not the order of their numbers. Else they are "#1", "#2", ..., so that nobody takes them for another set's numbers.

    Source:
        Chrabaszcz, Loshchilov and Hutter 2017 (arXiv:1707.08819).
    """
    found: dict[str, list[Path]] = {}
    for split, pattern in _IMAGENET.items():
        files = [(int(m[1] or 0), path) for path in folder.iterdir() if (m := pattern.fullmatch(path.name))]
        if files:
            found[split] = [path for _, path in sorted(files)]
    every = [path for files in found.values() for path in files]
    return {split: partial(_imagenet, files, every) for split, files in found.items()}


def imagenet_file(path: Path) -> Callable[[], Archive]:
    """Read one npz file of downsampled ImageNet, without the rest."""
    return partial(_imagenet, [path], [path])


def _imagenet(files: Sequence[Path], every: Sequence[Path]) -> Archive:
    """Read the labels of a split; its pictures stay in the files."""
    labels = {path: _imagenet_labels(path) for path in every}
    mapped = files[0].parent / _MAP
    largest = max((int(array.max()) for array in labels.values() if array.size), default=-1)
    names = _mapped_names(mapped) if mapped.is_file() else tuple(f"#{i + 1}" for i in range(largest + 1))
    sizes = [len(labels[path]) for path in files]
    return Archive(np.concatenate([labels[path] for path in files]), names, _Rows(files, sizes))


def _imagenet_labels(path: Path) -> Labels:
    """Read the labels of a file, which count from 1."""
    labels = _member(path, "labels")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or (labels.size and labels.min() < 1):
        raise errors.InputError(f"The array labels of '{path}' must hold one integer from 1 an image.")
    return labels.astype(np.int64) - 1


def _mapped_names(path: Path) -> tuple[str, ...]:
    """Read lines of WordNet id, label and word, as "n02119789 1 kit_fox"."""
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if any(len(row) < 2 or not row[1].isdecimal() for row in rows):
        raise errors.InputError(f"Every line of '{path}' must hold an id and a number, as 'n02119789 1 kit_fox'.")
    places = {int(row[1]): row[0] for row in rows}
    if sorted(places) != list(range(1, len(rows) + 1)):
        raise errors.InputError(f"The numbers in '{path}' must be 1 to {len(rows)}, each once.")
    return tuple(places[number] for number in sorted(places))


def _member(path: Path, name: str) -> ndarray:
    """Read an array of an npz file."""
    if not zipfile.is_zipfile(path):  # numpy would advise to open it unsafely
        raise errors.InputError(f"The file '{path}' is not an npz archive.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[name]
    except _DAMAGED as error:
        reason = f"it has no array {name}" if isinstance(error, KeyError) else str(error).split("\n")[0].rstrip(".")
        raise errors.InputError(f"The file '{path}' cannot be read: {reason}.") from error


@final
class _Rows:
    """Read pictures by row from a list of files, keeping the file that was read last."""

    def __init__(self, files: Sequence[Path], sizes: Sequence[int]) -> None:
        self._files = list(files)
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._last: tuple[int, Images | None] = (-1, None)

    def __call__(self, row: int) -> UInt8[ndarray, "height width channel"]:
        """Return one picture."""
        index = int(np.searchsorted(self._starts, row, side="right")) - 1
        held, images = self._last
        if held != index or images is None:
            images = _imagenet_images(self._files[index], int(self._starts[index + 1] - self._starts[index]))
            self._last = (index, images)
        return images[row - int(self._starts[index])]


def _imagenet_images(path: Path, n: int) -> Images:
    """Read the pictures of a file."""
    data = _member(path, "data")
    size = isqrt(data.shape[-1] // 3) if data.ndim == 2 else 0
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape != (n, 3 * size * size):
        raise errors.InputError(
            f"The array data of '{path}' must hold square pictures of 3 bytes a pixel, one a label. "
            f"Got {data.dtype} of shape {data.shape} and {n} labels."
        )
    return _as_images(data, size)
