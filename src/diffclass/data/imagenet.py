"""ImageNet's validation images and ObjectNet as they are published, and what ImageNet's classes are called."""

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from diffclass import errors
from diffclass.data.archives import Archive, Layout

__all__ = ["imagenet_layout", "objectnet_layout", "synset_names"]

_KAGGLE, _MAPPING, _INDEX = "LOC_val_solution.csv", "LOC_synset_mapping.txt", "imagenet_class_index.json"
_DEVKITS = ("ILSVRC2012_devkit_t12/data", "devkit/data")
_PICTURE = "ILSVRC2012_val_{:08d}.JPEG"
_WNID = re.compile(r"n\d{8}")
_ALIKE = {
    "n02012849": "crane bird",
    "n03126707": "construction crane",
    "n03710721": "tank suit",
}  # WordNet: crane twice
_BORDER = 2  # [pixels] of red around ObjectNet's pictures, which its terms ask to cut off


def imagenet_layout(source: Path) -> Layout | None:
    """Find ImageNet's 50,000 validation images in one folder, with the devkit or Kaggle's list of their classes.

    Validation images that were sorted into a folder a class need no list, and are a data set like any other of folders.

    Source:
        Russakovsky et al. 2015 (arXiv:1409.0575).
    """
    places = ("ILSVRC/Data/CLS-LOC/val", "val", "ILSVRC2012_img_val", ".")
    folder = next((source / place for place in places if _is_flat(source / place)), None)
    if folder is None:
        return None
    if (source / _KAGGLE).is_file():
        return Layout("imagenet", {"validation": partial(_by_kaggle, source, folder)})
    devkit = next((source / place for place in _DEVKITS if (source / place / "meta.mat").is_file()), None)
    return devkit and Layout("imagenet", {"validation": partial(_by_devkit, devkit, folder)})


def _is_flat(folder: Path) -> bool:
    return folder.is_dir() and next(folder.glob("ILSVRC2012_val_*.JPEG"), None) is not None


def _by_kaggle(source: Path, folder: Path) -> Archive:
    """Read lines as "ILSVRC2012_val_00048981,n03995372 85 1 499 272"; the first word is the class."""
    path = source / _KAGGLE
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(row["ImageId"], row["PredictionString"].split()[0]) for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, AttributeError, IndexError) as error:
        raise errors.InputError(f"The file '{path}' must be a table of ImageId and PredictionString.") from error
    return _validation(folder, {f"{name}.JPEG": wnid for name, wnid in rows}, path)


def _by_devkit(devkit: Path, folder: Path) -> Archive:
    """Read the classes of the pictures, in the order of their numbers."""
    path = devkit / "ILSVRC2012_validation_ground_truth.txt"
    known = {number: wnid for number, wnid, _ in _synsets(devkit / "meta.mat")}
    try:
        numbers = [int(line) for line in path.read_text(encoding="ascii").split()]
        truths = {_PICTURE.format(place): known[number] for place, number in enumerate(numbers, start=1)}
    except (OSError, ValueError, KeyError) as error:
        raise errors.InputError(f"The file '{path}' must hold the number of a class of meta.mat a line.") from error
    return _validation(folder, truths, path)


def _validation(folder: Path, truths: Mapping[str, str], path: Path) -> Archive:
    """Label the pictures in a folder; classes are WordNet ids, sorted, as networks count them."""
    ids = tuple(sorted(file.name for file in folder.glob("ILSVRC2012_val_*.JPEG")))
    if unknown := next((name for name in ids if name not in truths), None):
        raise errors.InputError(f"The file '{path}' must say the class of every picture. It does not of '{unknown}'.")
    names = tuple(sorted(set(truths.values())))
    place = {wnid: index for index, wnid in enumerate(names)}
    labels = np.array([place[truths[name]] for name in ids], dtype=np.int64)
    return Archive(labels, names, lambda row: folder / ids[row], ids)


def _synsets(path: Path) -> list[tuple[int, str, str]]:
    """Read number, WordNet id and words of the classes from the devkit's meta.mat, without the groups above them."""
    from scipy.io import loadmat

    try:
        rows: Any = np.atleast_1d(loadmat(path, squeeze_me=True)["synsets"])
        found = [
            (int(row["ILSVRC2012_ID"]), str(row["WNID"]), str(row["words"]), int(row["num_children"])) for row in rows
        ]
    except Exception as error:  # a damaged file ends in any of a dozen kinds of error
        raise errors.InputError(f"The file '{path}' must be the meta.mat of ImageNet's devkit.") from error
    return [(number, wnid, words) for number, wnid, words, children in found if children == 0]


def synset_names(wnids: Sequence[str], folder: Path) -> tuple[str, ...] | None:
    """Return what ImageNet's classes are called, by a list in the folder of the data or in one above it.

    The lists are Kaggle's LOC_synset_mapping.txt, imagenet_class_index.json, and the devkit's meta.mat. A class has
    its first word; where two classes share it, all of its words, or a name that tells the bird from the machine.

    Returns:
        The names in the order of `wnids`; None if there is no list, or a class is not in it.

    Raises:
        InputError: a list is damaged.
    """
    for place in (folder, *folder.absolute().parents[:3]):
        words = _words(place)
        if words and all(wnid in words for wnid in wnids):
            return _told_apart(wnids, [words[wnid] for wnid in wnids])
    return None


def _words(place: Path) -> dict[str, str]:
    """Read the words of each class, with commas between them."""
    if (place / _MAPPING).is_file():
        lines = (place / _MAPPING).read_text(encoding="utf-8").splitlines()
        parts = (line.strip().partition(" ") for line in lines)
        return {wnid: words.strip() for wnid, _, words in parts if _WNID.fullmatch(wnid) and words.strip()}
    if (place / _INDEX).is_file():
        try:
            rows = json.loads((place / _INDEX).read_text(encoding="utf-8")).values()
            return {wnid: word.replace("_", " ") for wnid, word in rows}
        except (ValueError, AttributeError, TypeError) as error:
            raise errors.InputError(
                f"The file '{place / _INDEX}' must hold a WordNet id and a word for each number."
            ) from error
    devkit = next((place / one for one in _DEVKITS if (place / one / "meta.mat").is_file()), None)
    return {} if devkit is None else {wnid: words for _, wnid, words in _synsets(devkit / "meta.mat")}


def _told_apart(wnids: Sequence[str], words: Sequence[str]) -> tuple[str, ...]:
    """Take the first word of each class, and more where that is not enough."""
    first = [text.split(",")[0].strip() for text in words]
    twice = {name for name, count in Counter(first).items() if count > 1}
    names = [text if name in twice else name for name, text in zip(first, words, strict=True)]
    again = {name for name, count in Counter(names).items() if count > 1}
    return tuple(_ALIKE.get(wnid, name) if name in again else name for wnid, name in zip(wnids, names, strict=True))


def objectnet_layout(source: Path) -> Layout | None:
    """Find ObjectNet's pictures of classes that ImageNet has too; their red border is cut off.

    Source:
        Barbu et al. 2019, ObjectNet.
    """
    wanted = ("mappings/folder_to_objectnet_label.json", "mappings/objectnet_to_imagenet_1k.json", "images")
    homes = (source, source / "objectnet-1.0")
    home = next((place for place in homes if all((place / name).exists() for name in wanted)), None)
    return home and Layout("objectnet", {"test": partial(_objectnet, home)})


def _objectnet(home: Path) -> Archive:
    """List the pictures of the classes that are mapped to ImageNet's."""
    named, mapped = (_mapping(home / "mappings" / name) for name in
                     ("folder_to_objectnet_label.json", "objectnet_to_imagenet_1k.json"))  # fmt: skip
    folders = {folder: label for folder, label in named.items() if label in mapped}
    names = tuple(sorted(set(folders.values())))
    files = [
        (file, label)
        for folder, label in sorted(folders.items())
        for file in sorted((home / "images" / folder).glob("*.png"))
    ]
    ids = tuple(file.relative_to(home).as_posix() for file, _ in files)
    labels = np.array([names.index(label) for _, label in files], dtype=np.int64)
    return Archive(labels, names, lambda row: _without_border(home / ids[row]), ids)


def _mapping(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): str(value) for key, value in found.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise errors.InputError(f"The file '{path}' must hold a JSON object of names.") from error


def _without_border(path: Path) -> UInt8[ndarray, "height width channel"]:
    """Open a picture and cut its border off."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise errors.InputError(f"The picture '{path}' cannot be read: it is missing, damaged or too large.") from error
    return pixels[_BORDER:-_BORDER, _BORDER:-_BORDER]
