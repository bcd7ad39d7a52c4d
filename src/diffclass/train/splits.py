"""Which images a training sees, at which size: the same for diffusion models and for supervised baselines."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from diffclass.data.datasets import Dataset, dataset_splits, open_dataset
from diffclass.data.images import Resize
from diffclass.errors import ConfigError, InputError
from diffclass.train.loop import TrainingSet

__all__ = ["SIDES", "choose_shape", "load_images", "picture_shape", "three_splits"]

SIDES = (28, 32, 48, 64, 96, 128, 192, 224, 256)  # [pixels] that a recipe without a shape chooses from
_GREY = ("1", "L", "LA", "I", "I;16", "F")  # modes of Pillow
_MOST_HELD_OUT = 1000  # images


def three_splits(
    source: str | Path, *, classes: Sequence[str] | None = None, seed: int = 0
) -> tuple[Dataset, Dataset, Dataset | None]:
    """Return training, validation and test sets; a missing validation set is held out of training, by seed.

    Where the set knows which images are of one patient, whole patients are held out.

    Args:
        source: the data set.
        classes: names in the order that labels should count them.
        seed: of what is held out.
    """
    there = dataset_splits(source)
    train = open_dataset(source, split="train" if "train" in there else None, classes=classes)
    test = open_dataset(source, split="test", classes=classes) if "test" in there else None
    if "validation" in there:
        return train, open_dataset(source, split="validation", classes=classes), test
    held = train.held_out(min(_MOST_HELD_OUT, len(train) // 10), seed=seed)
    return train.subset(np.flatnonzero(~held)), train.subset(np.flatnonzero(held)), test


def choose_shape(dataset: Dataset, side: int | None = None) -> tuple[int, int, int]:
    """Return the shape [pixels] at which pictures of any size are learned: the largest of `SIDES` within the first one.

    Args:
        dataset: whose first picture is looked at.
        side: height and width that are wanted instead.

    Raises:
        ConfigError: the first picture is smaller than the smallest of them.
    """
    channels, height, width = picture_shape(dataset)
    if side is None:
        fitting = [one for one in SIDES if one <= min(height, width)]
        if not fitting:
            raise ConfigError(
                f"This recipe is for pictures of at least {SIDES[0]} pixels a side. The first of '{dataset.name}' is "
                f"{width}x{height}. Say with --size what they are to be enlarged to."
            )
        side = fitting[-1]
    return channels, side, side


def picture_shape(dataset: Dataset) -> tuple[int, int, int]:
    """Return channels, height and width [pixels] of the first picture, whether grey or colour.

    Raises:
        InputError: there is none.
    """
    if not len(dataset):
        raise InputError(f"The data set '{dataset.name}' has no pictures to learn from.")
    source = dataset[0].read()
    if isinstance(source, np.ndarray):
        return (3 if source.ndim == 3 and source.shape[2] > 1 else 1), source.shape[0], source.shape[1]
    if isinstance(source, Image.Image):
        return _shape_of(source)
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
        return _shape_of(picture)


def _shape_of(picture: Image.Image) -> tuple[int, int, int]:
    return (1 if picture.mode in _GREY else 3), picture.height, picture.width


def load_images(dataset: Dataset, shape: tuple[int, int, int], *, resize: Resize = "refuse") -> TrainingSet:
    """Read all images, as bytes where they are bytes."""
    try:
        images, labels = dataset.uint8(shape, resize=resize)
    except InputError:
        images, labels = dataset.array(shape, resize=resize)
    return TrainingSet(images=images, labels=labels)
