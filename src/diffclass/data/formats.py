"""Where each format keeps its splits, ids, labels and pictures: folders, parquet, archives, CSV; no torch."""

import csv
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from diffclass import errors
from diffclass.data.archives import Archive, Archives, imagenet_file
from diffclass.data.dicom import ENDINGS
from diffclass.data.layouts import find_layout
from diffclass.data.medical import Chosen, find_medical

__all__ = ["PICTURES", "SPLITS", "UNLABELLED", "Parts", "Table", "find_parts", "listed", "stratified"]

SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "validation": "validation"}
SPLITS |= {"val": "validation", "valid": "validation", "dev": "validation"}
UNLABELLED = -1

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", *ENDINGS}
_MEDMNIST = {"pneumoniamnist": ("normal", "pneumonia")}
_DAMAGED = (OSError, ValueError, EOFError, KeyError, NotImplementedError, csv.Error, zipfile.BadZipFile, zlib.error)
_SHARD = re.compile(r"(?P<split>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]+)?")


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """What a source holds in one split.

    Args:
        ids: the same in every run, and unique.
        labels: index into names; -1 where there is none.
        names: of the classes, the same in every split.
        read: from a row to a path, encoded bytes or array.
        columns: what else the source says of its pictures, by column, a value a row; read when it is asked for.
        groups: whose images belong together, as one patient's do; None where nobody says.
    """

    ids: tuple[str, ...]
    labels: Int64[ndarray, " image"]
    names: tuple[str, ...]
    read: Callable[[int], os.PathLike[str] | bytes | ndarray]
    columns: Callable[[], dict[str, list[Any]]] = dict
    groups: tuple[str, ...] | None = None


Parts = dict[str | None, Callable[[], Table]]  # by split; the one key is None where a source has no splits


def find_parts(path: str | os.PathLike[str], label_column: str, image_column: str) -> Parts:
    """Tell the format of a source, and what its splits are."""
    if os.fspath(path) == "digits":
        return {split: partial(_digits, split) for split in ("train", "validation", "test")}
    source = Path(path)
    if not source.exists():
        raise errors.InputError(f"The data set '{path}' does not exist. Give a file, a folder, or 'digits'.")
    if source.is_dir():
        if layout := find_layout(source):
            return _archive_parts(layout.archives)
        if (select := find_medical(source)) is not None:
            with _readable(source):
                chosen = select()
            return {split: partial(_chosen_table, part) for split, part in chosen.items()}
        files = sorted(source.glob("*.parquet")) or sorted(source.glob("*/*.parquet"))
        return _parquet_parts(source, files, label_column, image_column) if files else _folder_parts(source)
    match source.suffix.lower():
        case ".parquet":
            return _parquet_parts(source, [source], label_column, image_column)
        case ".npz":
            return _npz_parts(source)
        case ".csv" | ".tsv":
            return _csv_parts(source, label_column, image_column)
        case ".gz" | ".tgz" | ".tar":
            return _tar_parts(source)
    raise errors.InputError(f"The data set '{path}' must be a folder or a .parquet, .npz, .csv or .tsv file.")


def listed(names: Sequence[str], most: int = 20) -> str:
    """List names in a message."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + rest


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say in one sentence that a file cannot be read."""
    try:
        yield
    except errors.DiffclassError:
        raise
    except _DAMAGED as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise errors.InputError(f"The file '{path}' cannot be read: {reason}.") from error


def _require(path: Path, available: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuse a table without the columns that the caller named."""
    for column in wanted:
        if column not in available:
            raise errors.InputError(f"The file '{path}' has no column '{column}'. It has: {listed(available)}.")


def _numbered(labels: Sequence[str | None]) -> tuple[tuple[str, ...], Int64[ndarray, " image"]]:
    """Sort the names that occur (numbers as numbers), and number the labels by them."""
    found = {label for label in labels if label is not None}
    numeric = all(name.isdecimal() for name in found)
    names = tuple(sorted(found, key=lambda name: (int(name), name)) if numeric else sorted(found))
    position = {name: index for index, name in enumerate(names)} | {None: UNLABELLED}
    return names, np.array([position[label] for label in labels], dtype=np.int64)


def stratified(labels: Int64[ndarray, " image"], *, seed: int) -> Int64[ndarray, " image"]:
    """Order images at random so that every beginning of the list holds the classes in about their proportion.

    numpy's legacy generator is frozen, so that the order is the same in every version.
    """
    shuffled = np.random.RandomState(seed).permutation(len(labels)).astype(np.int64)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return shuffled[np.argsort(place[shuffled], kind="stable")]


def _digits(split: str) -> Table:
    """Read scikit-learn's digits."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise errors.MissingExtra("The data set 'digits' needs scikit-learn: pip install scikit-learn.") from error
    digits: Any = load_digits()
    labels = digits.target.astype(np.int64)
    images = (digits.images / 16).astype(np.float32)
    order = stratified(labels, seed=0)
    rows = np.sort({"test": order[:500], "validation": order[500:700], "train": order[700:]}[split])
    ids, names = tuple(f"digits/{row}" for row in rows), tuple(str(name) for name in digits.target_names)
    return Table(ids=ids, labels=labels[rows], names=names, read=lambda row: images[rows[row]])


def _folders(folder: Path) -> list[Path]:
    """List the folders in a folder, without hidden ones and what archivers leave behind."""
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith((".", "__")))


def _folder_parts(root: Path) -> Parts:
    """A folder of pictures a class, or one such folder a split."""
    inner = _folders(root)
    if not inner:
        what = "no class folders" if any(root.iterdir()) else "nothing in it"
        remedy = "Put the pictures of each class in a folder of their own, or list them in a CSV"
        raise errors.InputError(f"The folder '{root}' has {what}. {remedy}.")
    groups: dict[str | None, list[Path]] = {None: [root]}
    if all(folder.name.lower() in SPLITS for folder in inner) and any(_folders(folder) for folder in inner):
        groups = {}
        for folder in inner:
            groups.setdefault(SPLITS[folder.name.lower()], []).append(folder)
    names = sorted({c.name for group in groups.values() for folder in group for c in _folders(folder)})
    return {split: partial(_folder_table, root, group, tuple(names)) for split, group in groups.items()}


def _folder_table(root: Path, group: list[Path], names: tuple[str, ...]) -> Table:
    """List the pictures in class folders, at any depth."""
    found = [(file, c.name) for folder in group for c in _folders(folder) for file in sorted(c.rglob("*"))]
    chosen = [(f, name) for f, name in found if f.suffix.lower() in PICTURES and not f.name.startswith(".")]
    ids = tuple(file.relative_to(root).as_posix() for file, _ in chosen)
    labels = np.array([names.index(name) for _, name in chosen], dtype=np.int64)
    inner = [file.parent.name for file, _ in chosen]
    deep = any(folder != name for folder, (_, name) in zip(inner, chosen, strict=True))
    columns = {"folder": inner} if deep else {}
    return Table(ids=ids, labels=labels, names=names, read=lambda row: chosen[row][0], columns=lambda: columns)


def _npz_parts(path: Path) -> Parts:
    """MedMNIST: arrays train_images, train_labels, and so for val and test. Downsampled ImageNet: data and labels."""
    if not zipfile.is_zipfile(path):
        raise errors.InputError(f"The file '{path}' is not an npz archive.")
    with _readable(path), zipfile.ZipFile(path) as archive:
        arrays = {name.removesuffix(".npy") for name in archive.namelist()}
    if {"data", "labels"} <= arrays:
        return {None: partial(_archive_table, imagenet_file(path), None)}
    prefixes = [p for p in ("train", "val", "test") if {f"{p}_images", f"{p}_labels"} <= arrays]
    if not prefixes:
        wanted = "train_images and train_labels (or val_, test_)"
        raise errors.InputError(f"The file '{path}' must have {wanted}. It has: {listed(sorted(arrays))}.")
    return {SPLITS[prefix]: partial(_npz_table, path, prefix, prefixes) for prefix in prefixes}


def _tar_parts(path: Path) -> Parts:
    """CIFAR-10 or CIFAR-100 as it is published, unpacked by nobody."""
    if layout := find_layout(path):
        return _archive_parts(layout.archives)
    raise errors.InputError(
        f"The file '{path}' must hold CIFAR's python batches. Unpack any other and give the folder."
    )


def _archive_parts(archives: Archives) -> Parts:
    return {split: partial(_archive_table, read, split) for split, read in archives.items()}


def _archive_table(read: Callable[[], Archive], split: str | None) -> Table:
    """Give the pictures of a published archive their ids."""
    archive = read()
    rows = (f"{split}/{row}" if split else str(row) for row in range(len(archive.labels)))
    ids = tuple(rows) if archive.ids is None else archive.ids
    return Table(ids=ids, labels=archive.labels, names=archive.names, read=archive.read)


def _chosen_table(part: Chosen) -> Table:
    return Table(ids=part.ids, labels=part.labels, names=part.names, read=part.path, groups=part.groups)


def _npz_table(path: Path, prefix: str, prefixes: list[str]) -> Table:
    """Read one split of a MedMNIST archive; labels of all splits tell how many classes there are."""
    with _readable(path), np.load(path, allow_pickle=False) as archive:
        images = archive[f"{prefix}_images"]
        labels = {p: archive[f"{p}_labels"] for p in prefixes}
    for p, array in labels.items():
        if array.ndim not in (1, 2) or array.shape[1:] not in ((), (1,)) or not np.issubdtype(array.dtype, np.integer):
            got = f"{array.dtype} of shape {array.shape}"
            raise errors.InputError(f"The array {p}_labels of '{path}' must hold one integer an image. Got {got}.")
    flat = labels[prefix].reshape(-1).astype(np.int64)
    if images.ndim not in (3, 4) or len(images) != len(flat):
        shapes = f"{prefix}_images of shape {images.shape} and {len(flat)} labels"
        raise errors.InputError(f"The file '{path}' must have one label an image. Got {shapes}.")
    largest = max((int(array.max()) for array in labels.values() if array.size), default=-1)
    names = tuple(str(i) for i in range(largest + 1))
    known = _MEDMNIST.get(path.stem.split("_")[0], ())
    ids = tuple(f"{SPLITS[prefix]}/{row}" for row in range(len(flat)))
    names = known if len(known) >= len(names) else names
    return Table(ids=ids, labels=flat, names=names, read=lambda row: images[row])


def _csv_parts(path: Path, label_column: str, image_column: str) -> Parts:
    """CSV (or tab-separated) of path, label and, if there is one, split."""
    header, rows = _csv_rows(path)
    picture = "path" if image_column not in header and "path" in header else image_column
    _require(path, header, (picture, label_column))
    paths, labels = ([row[header.index(column)] for _, row in rows] for column in (picture, label_column))
    first: dict[str, int] = {}
    for (line, _), name in zip(rows, paths, strict=True):
        if name in first:
            raise errors.InputError(f"The file '{path}' lists '{name}' twice, in lines {first[name]} and {line}.")
        first[name] = line
    names, numbers = _numbered([label or None for label in labels])
    splits: list[str | None] = [None] * len(rows)
    if "split" in header:
        splits = [SPLITS.get(s.lower(), s) for s in (row[header.index("split")] for _, row in rows)]

    def table(split: str | None) -> Table:
        chosen = [i for i, s in enumerate(splits) if s == split]
        ids = tuple(paths[i] for i in chosen)
        others = [c for c in header if c not in (picture, label_column, "split")]
        columns = {c: [rows[i][1][header.index(c)] or None for i in chosen] for c in others}
        return Table(ids=ids, labels=numbers[chosen], names=names, read=lambda row: path.parent / ids[row],
                     columns=lambda: columns)  # fmt: skip

    return {split: partial(table, split) for split in set(splits) or {None}}


def _csv_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Read the header, and each row with its line number."""
    with _readable(path), path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        lines = [(reader.line_num, row) for row in reader if row]
    if not lines:
        raise errors.InputError(f"The file '{path}' is empty. Its first line must name the columns.")
    (_, header), *rows = lines
    for line, row in rows:
        if len(row) != len(header):
            got = f"{len(row)} fields and the header {len(header)}"
            raise errors.InputError(f"Line {line} of '{path}' has {got}. Quote a comma that is part of a field.")
    return header, rows


def _parquet_parts(source: Path, files: list[Path], label_column: str, image_column: str) -> Parts:
    """Parquet files named by their split (train.parquet, train-00000-of-00002.parquet) or in folders so named."""
    if len(folders := sorted({f.parent.name for f in files})) > 1 and not all(f.lower() in SPLITS for f in folders):
        where = f"in several folders. Open one of: {listed(folders)}"
        raise errors.InputError(f"The folder '{source}' has parquet files {where}.")
    groups: dict[str | None, list[Path]] = {}
    shards: dict[str | None, int] = {}
    for file in files:
        shard = _SHARD.fullmatch(file.stem)
        name = shard["split"] if shard else file.stem
        split = SPLITS.get(name.lower()) or SPLITS.get(file.parent.name.lower(), name)
        groups.setdefault(split, []).append(file)
        shards[split] = int(shard["count"]) if shard and source.is_dir() else 1
    for split, group in groups.items():
        if len(group) < shards[split]:
            raise errors.InputError(f"The folder '{source}' has {len(group)} of {shards[split]} files of '{split}'.")
    if len(groups) == 1 and not set(groups) & set(SPLITS.values()):
        groups = {None: files}
    return {s: partial(_parquet_table, s, groups, label_column, image_column) for s in groups}


def _parquet_table(
    split: str | None, groups: dict[str | None, list[Path]], label_column: str, image_column: str
) -> Table:
    """Read the labels of one split; its pictures stay in the files."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise errors.MissingExtra("Parquet data sets need pyarrow: pip install pyarrow.") from error
    opened: dict[Path, Any] = {}
    for path in (path for group in groups.values() for path in group):
        with _readable(path):
            opened[path] = ParquetFile(path)
            _require(path, opened[path].schema_arrow.names, (image_column, label_column))
    with _readable(groups[split][0]):
        names, labels = _parquet_labels(opened, groups, split, label_column)
    ids = tuple(f"{split}/{row}" if split else str(row) for row in range(len(labels)))
    own = {path: opened[path] for path in groups[split]}
    columns = partial(_parquet_columns, own, image_column, label_column)
    return Table(ids=ids, labels=labels, names=names, read=_ParquetRows(own, image_column), columns=columns)


def _parquet_labels(
    opened: dict[Path, Any], groups: dict[str | None, list[Path]], split: str | None, column: str
) -> tuple[tuple[str, ...], Int64[ndarray, " image"]]:
    """Read a split's labels, with the names in the Hugging Face schema or else those that occur in any split."""
    values = [v for path in groups[split] for v in opened[path].read(columns=[column]).column(0).to_pylist()]
    if wrong := next((type(v).__name__ for v in values if not isinstance(v, int | str | None)), None):
        raise errors.InputError(f"The column '{column}' of '{groups[split][0]}' must be integers or text. Got {wrong}.")
    metadata = opened[groups[split][0]].schema_arrow.metadata or {}
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = features.get(column, {}).get("names")
    if names and not any(isinstance(v, str) for v in values):
        return tuple(names), np.array([UNLABELLED if v is None else v for v in values], dtype=np.int64)
    others = [path for s, group in groups.items() if s != split for path in group]
    values += [v for path in others for v in opened[path].read(columns=[column]).column(0).to_pylist()]
    found, labels = _numbered([None if v in (None, UNLABELLED) else str(v) for v in values])
    return found, labels[: sum(opened[path].metadata.num_rows for path in groups[split])]


def _parquet_columns(files: dict[Path, Any], image_column: str, label_column: str) -> dict[str, list[Any]]:
    """Read the columns of plain values, and the paths that stand beside encoded pictures as "path"."""
    from pyarrow import types

    found: dict[str, list[Any]] = {}
    schema = next(iter(files.values())).schema_arrow
    for field in schema:
        nested = types.is_nested(field.type) or types.is_binary(field.type) or types.is_large_binary(field.type)
        if field.name in (image_column, label_column) or nested:
            continue
        found[field.name] = [v for file in files.values() for v in file.read([field.name]).column(0).to_pylist()]
    kind = schema.field(image_column).type
    if "path" not in found and types.is_struct(kind) and kind.get_field_index("path") >= 0:
        pictures = [file.read([f"{image_column}.path"]).column(0).to_pylist() for file in files.values()]
        paths = [None if v is None else v["path"] for part in pictures for v in part]
        found |= {"path": paths} if any(paths) else {}
    return found


@final
class _ParquetRows:
    """Read pictures by row from a list of files, keeping the row group that was read last."""

    def __init__(self, files: dict[Path, Any], column: str) -> None:
        self._column = column
        self._groups = [(path, file, g) for path, file in files.items() for g in range(file.num_row_groups)]
        sizes = [file.metadata.row_group(g).num_rows for _, file, g in self._groups]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._last: tuple[int, Any] = (-1, None)

    def __call__(self, row: int) -> os.PathLike[str] | bytes:
        """Return the encoded picture of a row, or the path that stands in its place."""
        index = int(np.searchsorted(self._starts, row, side="right")) - 1
        path, file, group = self._groups[index]
        held, pictures = self._last
        if held != index:
            with _readable(path):
                pictures = file.read_row_group(group, columns=[self._column]).column(0)
            self._last = (index, pictures)
        value = pictures[row - int(self._starts[index])].as_py()
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str):
            return path.parent / value
        if not isinstance(value, bytes):
            kind = pictures.type if value is not None else "nothing"
            raise errors.InputError(f"Row {row} of column '{self._column}' of '{path}' must be a picture. Got {kind}.")
        return value
