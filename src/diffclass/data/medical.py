"""CheXpert and ISIC as they are published, selected and split as by Favero et al. 2025, with their patients."""

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import final

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from diffclass.errors import InputError

__all__ = ["Chosen", "chexpert", "find_medical", "isic_melanoma"]

_SEED = 42
_SPLITS = ("test", "validation", "train")  # the first two have a tenth of the images each
_CHEXPERT = {"Path", "Frontal/Lateral", "No Finding", "Pleural Effusion"}
_ONE_HOT, _TARGET = {"image", "MEL", "NV"}, {"image_name", "target"}  # ISIC 2018 and 2019; ISIC 2020
_BENIGN = ("NV", "BKL", "DF", "VASC")  # of the one-hot columns; the rest is malignant or may become so
_PICTURES = (".jpg", ".jpeg", ".png")


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """The images of one split.

    Args:
        ids: the same in every run, and unique.
        labels: index into names.
        names: of the classes.
        groups: the patient, or the lesion, of each image.
        path: from a row to the picture.
    """

    ids: tuple[str, ...]
    labels: Int64[ndarray, " image"]
    names: tuple[str, ...]
    groups: tuple[str, ...]
    path: Callable[[int], Path]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    id: str
    positive: bool
    group: str
    origin: str = ""


def find_medical(folder: Path) -> Callable[[], dict[str, Chosen]] | None:
    """Tell whether a folder is CheXpert or ISIC as it is published, and return what selects its images."""
    if _header(folder / "train.csv") >= _CHEXPERT:
        return lambda: chexpert(folder)
    if any(_is_isic(_header(path)) for path in sorted(folder.glob("*.csv"))):
        return lambda: isic_melanoma(folder)
    return None


def chexpert(folder: Path, *, seed: int = _SEED) -> dict[str, Chosen]:
    """Choose CheXpert's images of pleural effusion and of no finding: one frontal image a patient, as many of either.

    Of the official training table, the first frontal view of study 1 of every patient whose report says exactly one of
    the two; where effusion is uncertain the patient is left out. A tenth each is for validation and for testing.

    Args:
        folder: CheXpert-v1.0 or CheXpert-v1.0-small, with train.csv in it.
        seed: of the balancing and the splits. Which images the authors drew cannot be had from their rule.

    Raises:
        InputError: the table is damaged, or one of the classes has no images.

    Source:
        Irvin et al. 2019 (data); Favero et al. 2025, section 4 and the code published with it (arXiv:2502.03687).
    """
    found: dict[str, _Image] = {}
    for row in _rows(folder / "train.csv"):
        parts = PurePosixPath(row["Path"]).parts  # CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg
        if len(parts) < 4 or parts[-2] != "study1" or row["Frontal/Lateral"] != "Frontal" or parts[-3] in found:
            continue
        effusion, healthy = (float(row[name] or 0) for name in ("Pleural Effusion", "No Finding"))
        if effusion >= 0 and (effusion == 1) != (healthy == 1):
            found[parts[-3]] = _Image(id="/".join(parts[1:]), positive=effusion == 1, group=parts[-3])
    names = ("no finding", "pleural effusion")
    return _split(_balanced(found.values(), folder, names, seed), names, lambda name: folder / name, seed)


def isic_melanoma(folder: Path, *, match_origin: bool = False, seed: int = _SEED) -> dict[str, Chosen]:
    """Choose ISIC's images of melanoma and as many of benign lesions, a tenth each for validation and for testing.

    In the published selection nearly all melanomas are of the archives of 2018 and 2019 and nearly all benign lesions
    of that of 2020, so that the archive alone tells the label in 94% of the images. That is what comes of drawing the
    benign images of 2020, as here by default where they are there. With `match_origin` every archive has as many of
    either. Images of one patient, or of one lesion where the patient is unknown, are in one split.

    Args:
        folder: with the tables of the challenges (ISIC_2019_Training_GroundTruth.csv, ISIC_2020_Training_GroundTruth or
            train.csv, and ISIC_2019_Training_Metadata.csv if there), and pictures at any depth.
        match_origin: balance within each archive.
        seed: of the balancing and the splits.

    Raises:
        InputError: a table is damaged, or one of the classes has no images.

    Source:
        Rotemberg et al. 2021, Tschandl et al. 2018, Codella et al. 2018 (data); Favero et al. 2025, section 4 and the
        split published with it (arXiv:2502.03687).
    """
    found: dict[str, _Image] = {}
    for image in _isic_images(folder):
        found.setdefault(image.id.removesuffix("_downsampled"), image)
    images, names = list(found.values()), ("benign", "melanoma")
    if match_origin:
        by_origin = defaultdict(list)
        for image in images:
            by_origin[image.origin].append(image)
        both = [part for part in by_origin.values() if len({image.positive for image in part}) == 2]
        chosen = [image for part in both for image in _balanced(part, folder, names, seed)]
        chosen = chosen or _balanced((), folder, names, seed)
    else:
        recent = [image for image in images if image.positive or image.origin == "2020"]
        known = recent if any(not image.positive for image in recent) else images
        chosen = _balanced(known, folder, names, seed)
    return _split(chosen, names, _Pictures(folder), seed)


def _isic_images(folder: Path) -> Iterator[_Image]:
    """Read the tables of the challenges, in the order of their names."""
    tables = {path: _header(path) for path in sorted(folder.glob("*.csv"))}
    lesions = {
        row["image"]: row["lesion_id"]
        for path, header in tables.items() if {"image", "lesion_id"} <= header for row in _rows(path)
    }  # fmt: skip
    for path, header in tables.items():
        for row in _rows(path) if _is_isic(header) else ():
            if header >= _TARGET:
                group = row.get("patient_id") or row.get("lesion_id") or row["image_name"]
                yield _Image(id=row["image_name"], positive=float(row["target"]) == 1, group=group, origin="2020")
            elif float(row["MEL"]) == 1 or any(float(row.get(name) or 0) == 1 for name in _BENIGN):
                group = lesions.get(row["image"]) or row["image"]
                yield _Image(id=row["image"], positive=float(row["MEL"]) == 1, group=group, origin="2019")


def _is_isic(header: set[str]) -> bool:
    return header >= _ONE_HOT or header >= _TARGET


def _header(path: Path) -> set[str]:
    """Return the names of a table's columns; none where it is not there or no table."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return set(next(csv.reader(file), []))
    except (OSError, UnicodeDecodeError, csv.Error):
        return set()


def _rows(path: Path) -> Iterator[Mapping[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        yield from csv.DictReader(file)


def _balanced(images: Iterable[_Image], folder: Path, names: tuple[str, str], seed: int) -> list[_Image]:
    """Draw as many images of either class as the rarer one has; numpy's legacy generator never changes."""
    kinds = [[image for image in images if image.positive is positive] for images in (list(images),)
             for positive in (False, True)]  # fmt: skip
    n = min(map(len, kinds))
    if not n:
        missing = names[0] if not kinds[0] else names[1]
        raise InputError(f"The tables in '{folder}' must list images of both classes. There is none of {missing!r}.")
    random = np.random.RandomState(seed)
    return [kind[index] for kind in kinds for index in np.sort(random.permutation(len(kind))[:n])]


def _split(
    images: list[_Image], names: tuple[str, str], path: Callable[[str], Path], seed: int
) -> dict[str, Chosen]:  # fmt: skip
    """Put whole groups, in random order, into the test split until it is full, then into validation, then training."""
    order = np.random.RandomState(seed).permutation(len(images))
    together: dict[str, list[int]] = {}
    for index in order.tolist():
        together.setdefault(images[index].group, []).append(index)
    wanted, members = len(images) // 10, {split: [] for split in _SPLITS}
    for indices in together.values():
        split = next((one for one in _SPLITS[:2] if len(members[one]) < wanted), "train")
        members[split] += indices
    return {split: _chosen([images[index] for index in sorted(part)], names, path) for split, part in members.items()}


def _chosen(images: list[_Image], names: tuple[str, str], path: Callable[[str], Path]) -> Chosen:
    ids = tuple(image.id for image in images)
    return Chosen(
        ids=ids, labels=np.array([image.positive for image in images], dtype=np.int64), names=names,
        groups=tuple(image.group for image in images), path=lambda row: path(ids[row]),
    )  # fmt: skip


@final
class _Pictures:
    """Finds pictures by their names, at any depth of a folder; the folder is listed when the first is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, name: str) -> Path:
        """Return the picture's path; one that is not there has the path where it could have been."""
        return _listing(self._folder).get(name, self._folder / f"{name}.jpg")


@cache
def _listing(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _PICTURES}
