"""How published sets of pictures are laid out by their authors: pictures in folders, splits and labels in lists."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from diffclass import errors
from diffclass.data.archives import Archive, Layout, cifar_layout, imagenet_archives
from diffclass.data.imagenet import imagenet_layout, objectnet_layout

__all__ = ["find_layout"]

_TARS = (".gz", ".tgz", ".tar")
_STL_SIDE = 96  # [pixels]
_FLOWERS = Path(__file__).with_name("flowers102.txt")  # the files of the set do not name its classes

Rows = Sequence[tuple[str, str]]  # pictures, by their path in the set, and the names of their classes


def find_layout(source: Path) -> Layout | None:
    """Recognise a published data set by the files that its archives hold; None if it is something else.

    Known are CIFAR-10 and CIFAR-100 (python version, also as a tar), downsampled ImageNet ("imagenet-downsampled"),
    Oxford-IIIT Pets, Flowers-102, Food-101, FGVC Aircraft (variants), STL-10, the validation images of ImageNet with
    their devkit or with Kaggle's lists, and ObjectNet (the classes that it shares with ImageNet). `source` is the
    folder that holds the files, or the one above it where that has its usual name.

    Raises:
        InputError: a tar is none, or a list is damaged.

    Source:
        Parkhi et al. 2012 (Pets); Nilsback and Zisserman 2008 (Flowers-102); Bossard et al. 2014 (Food-101); Maji et
        al. 2013 (Aircraft, arXiv:1306.5151); Coates et al. 2011 (STL-10); Russakovsky et al. 2015 (ImageNet,
        arXiv:1409.0575); Barbu et al. 2019 (ObjectNet).
    """
    if source.is_file():
        return cifar_layout(source) if source.suffix.lower() in _TARS else None
    if archives := imagenet_archives(source):
        return Layout("imagenet-downsampled", archives)
    for find in (cifar_layout, _pets, _flowers, _food, _aircraft, _stl10, imagenet_layout, objectnet_layout):
        if found := find(source):
            return found
    return None


def _home(source: Path, folders: Sequence[str], *wanted: str) -> Path | None:
    """Return the first of some folders that has all the files wanted."""
    homes = (source, *(source / folder for folder in folders))
    return next((home for home in homes if all((home / name).exists() for name in wanted)), None)


def _lines(path: Path) -> list[str]:
    """Read the lines of a list, without empty ones and comments."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.InputError(f"The list '{path}' cannot be read: it is missing, damaged or no text.") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _split_rows(path: Path, example: str, read: Callable[[str], tuple[str, str] | None]) -> Rows:
    """Read a picture and a class from every line of a list."""
    rows = []
    for number, line in enumerate(_lines(path), start=1):
        row = read(line)
        if row is None:
            raise errors.InputError(f"Line {number} of '{path}' must be like '{example}'. Got {line!r}.")
        rows.append(row)
    return rows


def _archive(home: Path, rows: Rows, names: Sequence[str]) -> Archive:
    """Return a split whose pictures are files."""
    place = {name: index for index, name in enumerate(names)}
    if unknown := next((name for _, name in rows if name not in place), None):
        raise errors.InputError(f"The class '{unknown}' of '{home}' is not in the set's list of classes.")
    labels = np.array([place[name] for _, name in rows], dtype=np.int64)
    ids = tuple(path for path, _ in rows)
    return Archive(labels, tuple(names), lambda row: home / ids[row], ids)


def _pets(source: Path) -> Layout | None:
    """Oxford-IIIT Pets: lines of picture, class, species, breed; the class is the picture's name without its number."""
    home = _home(source, ("oxford-iiit-pet", "oxford-iiit-pets"), "annotations/test.txt", "images")
    if home is None:
        return None

    def row(line: str) -> tuple[str, str] | None:
        found = re.fullmatch(r"((\S+)_\d+)(?:\s+\d+){3}", line)
        return found and (f"images/{found[1]}.jpg", " ".join(part.title() for part in found[2].split("_")))

    def split(file: str) -> Archive:
        lists = [home / "annotations" / name for name in ("trainval.txt", "test.txt")]
        rows = {path.name: _split_rows(path, "Abyssinian_201 1 1 1", row) for path in lists if path.is_file()}
        names = sorted({name for part in rows.values() for _, name in part})
        return _archive(home, rows[file], names)

    files = {"train": "trainval.txt", "test": "test.txt"}
    there = {part: name for part, name in files.items() if (home / "annotations" / name).is_file()}
    return Layout("pets", {part: partial(split, name) for part, name in there.items()})


def _flowers(source: Path) -> Layout | None:
    """Flowers-102: the numbers of pictures and labels in Matlab files."""
    home = _home(source, ("flowers-102", "flowers102"), "imagelabels.mat", "setid.mat")
    if home is None:
        return None
    folder = next((name for name in ("jpg", "102flowers/jpg") if (home / name).is_dir()), "jpg")

    def split(key: str) -> Archive:
        names = _lines(_FLOWERS)
        labels = _numbers(home / "imagelabels.mat", "labels")
        chosen = _numbers(home / "setid.mat", key)
        wrong = labels.size == 0 or labels.min() < 1 or labels.max() > len(names)
        if wrong or chosen.size == 0 or chosen.min() < 1 or chosen.max() > len(labels):
            raise errors.InputError(
                f"The labels in '{home}' must be from 1 to {len(names)}, and the pictures of '{key}' among those "
                "that have one."
            )
        ids = tuple(f"{folder}/image_{number:05d}.jpg" for number in chosen.tolist())
        return Archive(labels[chosen - 1] - 1, tuple(names), lambda row: home / ids[row], ids)

    splits = {"train": "trnid", "validation": "valid", "test": "tstid"}
    return Layout("flowers", {name: partial(split, key) for name, key in splits.items()})


def _numbers(path: Path, key: str) -> ndarray:
    """Read a row of whole numbers from a Matlab file."""
    from scipy.io import loadmat

    try:
        return np.asarray(loadmat(path)[key]).reshape(-1).astype(np.int64)
    except Exception as error:  # a damaged file ends in any of a dozen kinds of error
        raise errors.InputError(f"The file '{path}' must be a Matlab file with whole numbers in '{key}'.") from error


def _food(source: Path) -> Layout | None:
    """Food-101: lines of class/picture."""
    home = _home(source, ("food-101",), "meta/test.txt", "images")
    if home is None:
        return None

    def row(line: str) -> tuple[str, str] | None:
        found = re.fullmatch(r"([^/]+)/[^/]+", line)
        return found and (f"images/{line}.jpg", found[1].replace("_", " "))

    def split(part: str) -> Archive:
        lists = [home / "meta" / f"{name}.txt" for name in ("train", "test")]
        rows = {path.stem: _split_rows(path, "apple_pie/1005649", row) for path in lists if path.is_file()}
        return _archive(home, rows[part], sorted({name for one in rows.values() for _, name in one}))

    there = [name for name in ("train", "test") if (home / "meta" / f"{name}.txt").is_file()]
    return Layout("food", {name: partial(split, name) for name in there})


def _aircraft(source: Path) -> Layout | None:
    """FGVC Aircraft: lines of picture and variant, and a list of variants."""
    folders = ("data", "fgvc-aircraft-2013b/data")
    home = _home(source, folders, "images_variant_test.txt", "variants.txt")
    if home is None:
        return None

    def row(line: str) -> tuple[str, str] | None:
        picture, _, name = line.partition(" ")
        return (f"images/{picture}.jpg", name.strip()) if picture.isdecimal() and name.strip() else None

    def split(part: str) -> Archive:
        rows = _split_rows(home / f"images_variant_{part}.txt", "1514522 707-320", row)
        return _archive(home, rows, _lines(home / "variants.txt"))

    parts: Mapping[str, str] = {"train": "train", "validation": "val", "test": "test"}
    there = {name: part for name, part in parts.items() if (home / f"images_variant_{part}.txt").is_file()}
    return Layout("aircraft", {name: partial(split, part) for name, part in there.items()})


def _stl10(source: Path) -> Layout | None:
    """STL-10: bytes of red, green and blue, each column by column, and a byte a label from 1."""
    home = _home(source, ("stl10_binary",), "test_X.bin", "test_y.bin", "class_names.txt")
    if home is None:
        return None

    def split(part: str) -> Archive:
        names = _lines(home / "class_names.txt")
        labels = np.fromfile(home / f"{part}_y.bin", dtype=np.uint8).astype(np.int64)
        path = home / f"{part}_X.bin"
        size = 3 * _STL_SIDE**2
        if path.stat().st_size != size * len(labels) or not labels.size or not 1 <= labels.min() <= labels.max() <= 10:
            raise errors.InputError(f"The file '{path}' must hold {size} bytes for each of the {len(labels)} labels.")
        images: Any = np.memmap(path, dtype=np.uint8, mode="r", shape=(len(labels), 3, _STL_SIDE, _STL_SIDE))

        def read(row: int) -> UInt8[ndarray, "height width channel"]:
            return np.ascontiguousarray(np.asarray(images[row]).transpose(2, 1, 0))

        return Archive(labels - 1, tuple(names), read)

    there = [name for name in ("train", "test") if (home / f"{name}_X.bin").is_file()]
    return Layout("stl10", {name: partial(split, name) for name in there})
