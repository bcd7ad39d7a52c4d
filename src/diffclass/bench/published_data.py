"""The data of a published experiment: a user's copy, and what tells it from the one that was published."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from re import fullmatch
from typing import final

import numpy as np

from diffclass.bench.experiments import Experiment
from diffclass.data.archives import is_published_cifar
from diffclass.data.datasets import Dataset, dataset_splits, open_dataset
from diffclass.data.imagenet import synset_names
from diffclass.data.layouts import find_layout
from diffclass.decide.prompts import Prompts
from diffclass.errors import ConditionError, InputError

__all__ = ["SELECTIONS", "OpenedData", "open_published", "select", "spoken"]

SELECTIONS = ("stratified", "first", "every")


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenedData:
    """A user's copy of a published data set.

    Args:
        dataset: the part that is measured on.
        differences: why a figure measured on it is not comparable with the published one; none if nothing tells it
            from the published set.
        source: where it is.
    """

    dataset: Dataset
    differences: tuple[str, ...]
    source: Path


def open_published(
    experiment: Experiment, source: str | os.PathLike[str] | None, *, classes: Sequence[str] | None = None
) -> OpenedData:
    """Open the data of an experiment.

    Only a set that is laid out as its authors lay it out, with as many images and classes, counts as the published one;
    for CIFAR the file must be the same, byte by byte. Any other set with labels can be measured on too, and is said to
    be another.

    Args:
        experiment: whose data it is.
        source: the folder or file of the copy.
        classes: names in the order of a model that knows its classes.

    Raises:
        InputError: there is nothing, or nothing that can be read.
        ConditionError: the classes are not the model's.
    """
    wanted = experiment.data
    if source is None or not Path(source).exists():
        got = "nothing" if source is None else f"{os.fspath(source)!r}, which does not exist"
        raise InputError(
            f"The experiment {experiment.name!r} needs the data set {wanted.title}. Give your copy with --data "
            f"({wanted.files}). Got {got}."
        )
    known = find_layout(Path(source))
    if known is not None and known.name != wanted.layout:
        raise InputError(
            f"The experiment {experiment.name!r} needs {wanted.title} ({wanted.files}). '{os.fspath(source)}' holds "
            f"another published set, '{known.name}'."
        )
    splits = dataset_splits(source)
    split = wanted.split if wanted.split in splits else None
    if split is None and splits:
        raise InputError(
            f"The experiment {experiment.name!r} needs the split '{wanted.split}' of {wanted.title}. "
            f"'{os.fspath(source)}' has: {', '.join(splits)}."
        )
    dataset = open_dataset(source, split=split, classes=classes)
    return OpenedData(
        dataset=dataset, differences=tuple(_differences(experiment, dataset, Path(source))), source=Path(source)
    )


def _differences(experiment: Experiment, dataset: Dataset, source: Path) -> list[str]:
    """Say what tells a copy from the published set."""
    wanted, found = experiment.data, find_layout(source)
    layout = "imagenet" if found is None and _are_wnids(dataset.classes) else found and found.name
    told: list[str] = []
    if layout != wanted.layout:
        told.append(
            f"data: {wanted.title} is wanted as its authors publish it ({wanted.files}); '{dataset.name}' is another "
            "set, or a copy whose pictures nobody has compared"
        )
    elif layout in ("cifar10", "cifar100") and not is_published_cifar(source):
        told.append(f"data: the test images are not those of {wanted.title} (the MD5 of their file differs)")
    if len(dataset) != wanted.images:
        told.append(f"data: {len(dataset):,} images, where the published set has {wanted.images:,}")
    if len(dataset.classes) != wanted.classes:
        told.append(f"data: {len(dataset.classes):,} classes, where the published set has {wanted.classes:,}")
    return told


def _are_wnids(names: Sequence[str]) -> bool:
    return all(fullmatch(r"n\d{8}", name) for name in names)


def select(dataset: Dataset, n: int | None, how: str, *, seed: int = 0) -> Dataset:
    """Pick n images.

    Args:
        dataset: to pick from.
        n: how many; None or more than there are: all.
        how: "stratified" (at random, each class in its proportion), "first", or "every" (every k-th, for the largest
            whole k).
        seed: of the random choice.

    Raises:
        InputError: the first n images are all of one class, because the set is sorted by class.
    """
    if n is None or n >= len(dataset):
        return dataset
    if how == "stratified":
        return dataset.sample(n, seed=seed)
    part = dataset.subset(np.arange(n) * (len(dataset) // n if how == "every" else 1))
    if n > 1 and len(np.unique(part.labels)) == 1 and len(np.unique(dataset.labels)) > 1:
        raise InputError(
            f"The images of '{dataset.name}' that the selection {how!r} picks are all of one class, because the set is "
            "sorted by class. Try --selection stratified."
        )
    return part


def spoken(opened: OpenedData, template: str, prompts: Prompts | None) -> tuple[Dataset, Prompts]:
    """Name the classes of a set by words, and say what a model is told for each.

    Args:
        opened: the data.
        template: with {} in the place of the class.
        prompts: of a published prompt file, in place of the template. It must name the set's classes; ImageNet's,
            which are numbers in the set, it must list in their order.

    Raises:
        InputError: ImageNet's classes have no names.
        ConditionError: the prompts are not of the set's classes.
    """
    dataset = opened.dataset
    if prompts is not None:
        return replace(dataset, classes=_matched(dataset, prompts)), prompts
    names = dataset.classes
    if _are_wnids(names):
        found = synset_names(names, opened.source)
        if found is None:
            raise InputError(
                f"The classes of '{dataset.name}' are WordNet ids, and prompts need their names. Put "
                "LOC_synset_mapping.txt or imagenet_class_index.json into its folder, or give a prompt file with "
                "--prompts."
            )
        names = found
    return replace(dataset, classes=names), Prompts.from_templates(names, (template,))


def _matched(dataset: Dataset, prompts: Prompts) -> tuple[str, ...]:
    """Return the prompts' name of each class of a set."""
    if _are_wnids(dataset.classes):
        if len(prompts.classes) != len(dataset.classes):
            raise ConditionError(
                f"The prompt file must have the {len(dataset.classes):,} classes of '{dataset.name}', in their order. "
                f"Got {len(prompts.classes):,}."
            )
        return prompts.classes
    known = {_plain(name): name for name in prompts.classes}
    if unknown := next((name for name in dataset.classes if _plain(name) not in known), None):
        raise ConditionError(
            f"The prompt file must name every class of '{dataset.name}'. It has no {unknown!r}: change its classname, "
            "or leave --prompts out."
        )
    return tuple(known[_plain(name)] for name in dataset.classes)


def _plain(name: str) -> str:
    """Spell a name without what prompt files spell in several ways."""
    return "".join(letter for letter in name.lower() if letter.isalnum())
