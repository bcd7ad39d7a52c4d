"""Labelled sets of pictures, whatever they are kept in: one record, read lazily."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int, Int64, UInt8
from numpy import ndarray
from torch import Tensor

from diffclass.data.formats import SPLITS, UNLABELLED, Parts, Table, find_parts, listed, stratified
from diffclass.data.images import Prepared, Resize, Source, prepare_image
from diffclass.data.medical import Chosen
from diffclass.errors import ConditionError, InputError, RangeError

__all__ = ["Dataset", "Item", "Progress", "dataset_of", "dataset_splits", "open_dataset"]

Progress = Callable[[int, int], None]  # images done, of how many
Shape = tuple[int, int, int]  # channels, height, width


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Item:
    """One picture of a data set, opened when it is asked for.

    Args:
        id: the same in every run, and unique in the set.
        label: index into the set's classes; None where the set does not tell.
        read: return what `load_image` opens.
    """

    id: str
    label: int | None
    read: Callable[[], Source]

    def prepare(self, shape: Shape, *, resize: Resize = "refuse", convert: bool = False) -> Prepared:
        """Open the picture for a model and say what was done to it; a broken one raises InputError, here."""
        return prepare_image(self.read(), shape, resize=resize, convert=convert, name=self.id)

    def load(
        self, shape: Shape, *, resize: Resize = "refuse", convert: bool = False
    ) -> Float32[Tensor, "channel height width"]:
        """Open the picture for a model, as a tensor in [0, 1]."""
        return self.prepare(shape, resize=resize, convert=convert).image


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """Labelled pictures in a fixed order. Made by `open_dataset`.

    Args:
        name: of the file or folder it came from.
        split: which part of it; None if it has no parts.
        classes: names, in the order of the labels.
        ids: the same in every run, and unique in the set.
        labels: index into classes; -1 where there is none.
        rows: where in the source each picture is.
        read: from a row to what `load_image` opens.
        source: what was opened, as an absolute path; "digits" for scikit-learn's.
        columns: what else the source says of its pictures, by column, a value for each of its rows.
        groups: whose images belong together, as one patient's do; None where nobody says.
    """

    name: str
    split: str | None
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    labels: Int64[ndarray, " image"]
    rows: Int64[ndarray, " image"]
    read: Callable[[int], Source]
    source: str | None = None
    columns: Callable[[], Mapping[str, Sequence[Any]]] = dict
    groups: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Item:
        label, row = int(self.labels[index]), int(self.rows[index])
        return Item(id=self.ids[index], label=None if label < 0 else label, read=lambda: self.read(row))

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(len(self)))

    @property
    def fingerprint(self) -> str:
        """Identify the set by its classes, ids and labels (not its pixels): for a run's configuration."""
        content = repr((self.classes, self.ids, self.labels.tolist()))
        return blake2b(content.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    def column(self, name: str) -> list[Any]:
        """Return what a column of the source says of each image; None where it says nothing.

        Raises:
            InputError: there is no such column.
        """
        columns = self.columns()
        if name not in columns:
            raise InputError(f"The data set '{self.name}' has no column '{name}'. It has: {listed(sorted(columns))}.")
        return [columns[name][row] for row in self.rows]

    def subset(self, indices: Sequence[int] | Int[ndarray, " image"]) -> "Dataset":
        """Pick images by index, each at most once, in the order given."""
        chosen = self._checked(indices)
        ids = tuple(self.ids[i] for i in chosen)
        groups = None if self.groups is None else tuple(self.groups[i] for i in chosen)
        return replace(self, ids=ids, labels=self.labels[chosen], rows=self.rows[chosen], groups=groups)

    def sample(self, n: int, *, seed: int = 0) -> "Dataset":
        """Pick n images at random, each class in its proportion, in the order of the set."""
        if not 1 <= n <= len(self):
            raise RangeError(f"The 'n' parameter of sample must be an integer in [1, {len(self)}]. Got {n}.")
        return self.subset(np.sort(stratified(self.labels, seed=seed)[:n]))

    def at_most(self, limit: int | None, *, seed: int = 0) -> "Dataset":
        """Return the set itself if it is no larger than the limit, and a sample of that size otherwise."""
        return self if limit is None or limit >= len(self) else self.sample(limit, seed=seed)

    def held_out(self, n: int, *, seed: int = 0) -> Bool[ndarray, " image"]:
        """Choose n images at random to keep apart; whole groups, at least n images, where the set has groups."""
        order = np.random.default_rng(seed).permutation(len(self))
        chosen = np.zeros(len(self), dtype=bool)
        if self.groups is None:
            chosen[order[:n]] = True
            return chosen
        members: dict[str, list[int]] = {}
        for index in order.tolist():
            members.setdefault(self.groups[index], []).append(index)
        for together in members.values():
            if chosen.sum() >= n:
                break
            chosen[together] = True
        return chosen

    def array(
        self,
        shape: Shape,
        indices: Sequence[int] | Int[ndarray, " image"] | None = None,
        *,
        progress: Progress | None = None,
        resize: Resize = "refuse",
        convert: bool = False,
    ) -> tuple[Float32[Tensor, "image channel height width"], Int64[Tensor, " image"]]:
        """Load the images in [0, 1] and their labels (-1: none); the first broken picture raises InputError."""
        part = self if indices is None else self.subset(indices)
        images = np.empty((len(part), *shape), dtype=np.float32)
        for index, prepared in part._prepared(shape, resize, convert, progress):
            images[index] = prepared.image.numpy()
        return torch.from_numpy(images), torch.from_numpy(part.labels.copy())

    def uint8(
        self,
        shape: Shape,
        indices: Sequence[int] | Int[ndarray, " image"] | None = None,
        *,
        progress: Progress | None = None,
        resize: Resize = "refuse",
        convert: bool = False,
    ) -> tuple[UInt8[Tensor, "image channel height width"], Int64[Tensor, " image"]]:
        """Load the images in 0..255, a quarter of the memory of `array`, whose values these are times 255."""
        part = self if indices is None else self.subset(indices)
        images = np.empty((len(part), *shape), dtype=np.uint8)
        for index, prepared in part._prepared(shape, resize, convert, progress):
            if prepared.pixels.dtype != np.uint8:
                raise InputError(f"The picture '{part.ids[index]}' has more than 8 bits a pixel. Try array().")
            images[index] = prepared.pixels
        return torch.from_numpy(images), torch.from_numpy(part.labels.copy())

    def _prepared(
        self, shape: Shape, resize: Resize, convert: bool, progress: Progress | None
    ) -> Iterator[tuple[int, Prepared]]:
        """Open every picture once, in the order of the source, which is the quick one."""
        for done, index in enumerate(np.argsort(self.rows, kind="stable").tolist(), start=1):
            yield index, self[index].prepare(shape, resize=resize, convert=convert)
            if progress is not None and (done % 100 == 0 or done == len(self)):
                progress(done, len(self))

    def _checked(self, indices: Sequence[int] | Int[ndarray, " image"]) -> Int64[ndarray, " image"]:
        """Refuse masks, repeats, and indices outside the set, negative ones included."""
        chosen = np.asarray(indices)
        if chosen.size and not np.issubdtype(chosen.dtype, np.integer):
            raise RangeError(f"Indices of '{self.name}' must be integers. Got {chosen.dtype}. Try numpy.flatnonzero.")
        chosen = chosen.astype(np.int64)
        if (wrong := chosen[(chosen < 0) | (chosen >= len(self))]).size:
            raise RangeError(f"Indices of '{self.name}' must lie in [0, {len(self) - 1}]. Got {wrong[0]}.")
        if len(np.unique(chosen)) < len(chosen):
            raise RangeError(f"Indices of '{self.name}' must differ. Got one of them twice.")
        return chosen


def dataset_splits(
    path: str | os.PathLike[str], *, label_column: str = "label", image_column: str = "image"
) -> tuple[str, ...]:
    """List the splits that `open_dataset` can open; empty if the source has none."""
    return tuple(sorted(split for split in find_parts(path, label_column, image_column) if split is not None))


def open_dataset(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    label_column: str = "label",
    image_column: str = "image",
    classes: Sequence[str] | None = None,
) -> Dataset:
    """Open a labelled set of pictures; the pictures themselves are read when they are asked for.

    Formats: a folder with a folder of pictures a class (in train, validation and test folders, or not); Hugging Face
    parquet, a file or a folder of them; MedMNIST npz; CSV of path and label, paths being relative to the CSV's folder;
    CIFAR-10's and CIFAR-100's python batches, their folder or their tar; a folder, or one file, of downsampled
    ImageNet's npz batches; CheXpert's folder, and ISIC's with the challenges' tables, selected as `data.medical` says;
    and what else `layouts.find_layout` knows as its authors publish it.
    "digits" is scikit-learn's 1,797 digits of 8x8 pixels in 17 grey values, split here into train 1,097, validation
    200 and test 500 by a stratified shuffle with seed 0.

    Args:
        split: "train", "validation" or "test"; must be given where there are several.
        label_column: of parquet and CSV.
        image_column: of parquet and CSV, whose pictures may also be in a column "path".
        classes: names in the order that labels should count them, as a model does; by default the set's own order.
            For a set that only numbers its labels, these name them.

    Raises:
        InputError: there is nothing to open, no such split or column, or a file is damaged.
        ConditionError: there are fewer than two classes, or a label is not among them.
    """
    parts = find_parts(path, label_column, image_column)
    source = Path(path).absolute()
    name = source.name if source.is_dir() else source.stem
    name = source.parent.name if name.lower() in SPLITS else name
    key = _choose_split(parts, split, str(path))
    table = parts[key]()
    if not table.ids:
        raise InputError(f"The data set '{path}' has no pictures.")
    chosen = tuple(table.names if classes is None else classes)
    if len(chosen) < 2:
        raise ConditionError(f"A data set needs at least two classes. '{path}' has {len(chosen)}: {listed(chosen)}.")
    if len(set(chosen)) < len(chosen):
        raise ConditionError(f"The classes must differ. Got {listed(chosen)}.")
    if (wrong := np.flatnonzero((table.labels < UNLABELLED) | (table.labels >= len(table.names)))).size:
        label, item = table.labels[wrong[0]], table.ids[wrong[0]]
        raise ConditionError(f"The label {label} of '{item}' is outside 0 to {len(table.names) - 1}, which have names.")
    labels = table.labels if classes is None else _renumbered(table, chosen)
    rows = np.arange(len(table.ids), dtype=np.int64)
    return Dataset(
        name=name, split=key, classes=chosen, ids=table.ids, labels=labels, rows=rows, read=table.read,
        source="digits" if os.fspath(path) == "digits" else str(source), columns=table.columns,
        groups=table.groups,
    )  # fmt: skip


def dataset_of(part: Chosen, *, name: str, split: str | None = None) -> Dataset:
    """Return what `chexpert` or `isic_melanoma` chose for one split as a data set like any other.

    Args:
        part: one of their values.
        name: of the set.
        split: its key.
    """
    return Dataset(
        name=name, split=split, classes=part.names, ids=part.ids, labels=part.labels,
        rows=np.arange(len(part.ids), dtype=np.int64), read=part.path, groups=part.groups,
    )  # fmt: skip


def _choose_split(parts: Parts, split: str | None, path: str) -> str | None:
    """Find a split under the name the caller gave it."""
    available = sorted(part for part in parts if part is not None)
    if split is None and len(parts) == 1:
        return next(iter(parts))
    if split is None:
        raise InputError(f"The data set '{path}' has several splits. Choose one of: {listed(available)}.")
    if not available:
        raise InputError(f"The data set '{path}' is not divided into splits. Leave out split='{split}'.")
    for name in (split, SPLITS.get(split.lower())):
        if name in parts:
            return name
    raise InputError(f"The data set '{path}' has no split '{split}'. Choose one of: {listed(available)}.")


def _renumbered(table: Table, classes: tuple[str, ...]) -> Int64[ndarray, " image"]:
    """Express labels as indices into the caller's classes: by name, or by number if the set's names are numbers."""
    by_name = not set(table.names).isdisjoint(classes)
    position = {name: index for index, name in enumerate(classes)}
    if not by_name and all(name.isdecimal() for name in table.names):
        position = {str(index): index for index in range(len(classes))}
    index_of = np.array([position.get(name, len(classes)) for name in table.names] + [UNLABELLED], dtype=np.int64)
    labels = index_of[table.labels]  # -1 picks the last
    if (wrong := np.flatnonzero(labels == len(classes))).size:
        name, item = table.names[table.labels[wrong[0]]], table.ids[wrong[0]]
        raise ConditionError(f"The label '{name}' of '{item}' is not among the classes: {listed(classes)}.")
    return labels
