"""A mixture fitted to a data set, saved with what was measured on images that it has not seen."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from PIL import Image
from torch import Tensor

from diffclass.bench.evaluation import Evaluation, evaluate
from diffclass.data.datasets import Dataset, Progress, dataset_splits, open_dataset
from diffclass.data.images import Resize, Source
from diffclass.decide.classifier import DiffusionClassifier
from diffclass.denoisers.fit import fit_mixture
from diffclass.denoisers.mixture import MixtureDenoiser
from diffclass.errors import DiffclassError, InputError
from diffclass.stats.interval import Estimate
from diffclass.stats.metric import accuracy

__all__ = ["fit_dataset", "picture_shape"]

_HELD_OUT = 0.2  # of a set that has no other split
_AT_ONCE = 250  # images whose likelihoods are computed together
Stage = Callable[[str, int, int], None]  # what is done, how much of it, of how much


def fit_dataset(
    source: str | os.PathLike[str],
    *,
    out: Path,
    split: str | None = None,
    size: tuple[int, int] | None = None,
    n_components: int | None = None,
    rank: int | None = None,
    shift: int = 0,
    seed: int = 0,
    limit: int = 1000,
    resize: Resize = "refuse",
    convert: bool = False,
    progress: Stage = lambda stage, done, total: None,
) -> tuple[Path, Evaluation]:
    """Fit a mixture to a labelled set, measure it on held-out images, and write a model directory.

    It is measured by exact likelihoods, on all held-out images, and by races on at most `limit` of them. Held out are
    the images of the split "test", else "validation", else a fifth of the set, chosen by the seed.

    Args:
        source: as in `open_dataset`.
        out: the model directory.
        split: to learn from; "train", or all of a set that has no splits, if None.
        size: [pixels] height and width of the model's images; those of the first picture if None.
        n_components: of each class at most; chosen on held-back training images if None.
        rank: directions of each component at most; chosen likewise if None.
        shift: [pixels] also learn from every image moved this far up, down, left and right.
        seed: of the fit, of the held-out fifth and of the classifier's noise.
        limit: measure races on at most so many images.
        resize: "refuse", "crop" or "stretch" pictures of another size.
        convert: allow grey to become colour and colour grey.
        progress: called with what is being done, how far it is, and of how much.

    Returns:
        The model directory and the measurement.

    Raises:
        InputError: the data set cannot be opened or fitted.
        ResultError: the directory cannot be written.
    """
    train, held_out = _split(source, split, seed)
    channels, height, width = picture_shape(train)
    shape = (channels, *(size or (height, width)))
    options: dict[str, Any] = {"resize": resize, "convert": convert}
    images, labels = train.array(shape, progress=lambda n, of: progress("reading", n, of), **options)
    denoiser = fit_mixture(
        images, labels, classes=train.classes, n_components=n_components, rank=rank, shift=shift, seed=seed,
        progress=lambda n, of: progress("fitting", n, of),
    )  # fmt: skip
    facts: dict[str, Any] = {"name": out.absolute().name, "data": train.name}
    denoiser.save(out, metadata=facts)
    saved = MixtureDenoiser.load(out)  # what is measured is what is on the disk, rounding included
    measured = evaluate(
        DiffusionClassifier(denoiser=saved, seed=seed), held_out, limit=limit, seed=seed,
        progress=lambda n, of: progress("measuring", n, of), **options,
    )  # fmt: skip
    recommended = denoiser.metadata["classifier"]  # where the evidence of this mixture comes from
    facts["classifier"] = {**recommended, "temperature": measured.temperature}
    where = held_out.split or "held out"
    exact = _exact_accuracy(saved, held_out, lambda n, of: progress("likelihoods", n, of), **options)
    facts["figures"] = {where: exact, f"{where}, by races": _figures(measured.metrics)}
    return denoiser.save(out, metadata=facts), measured


def _figures(metrics: Mapping[str, Estimate | None]) -> dict[str, dict[str, Any]]:
    keys = ("value", "low", "high", "n", "method")
    return {
        name: {key: asdict(estimate)[key] for key in keys}
        for name, estimate in metrics.items()
        if estimate is not None and np.isfinite([estimate.value, estimate.low, estimate.high]).all()
    }


def _exact_accuracy(
    denoiser: MixtureDenoiser, dataset: Dataset, progress: Progress, *, resize: Resize, convert: bool
) -> dict[str, dict[str, Any]]:
    """Classify every picture that opens by its exact likelihoods, under a uniform prior."""
    labels, predictions = [], []
    images: list[Tensor] = []
    for done, item in enumerate(dataset, start=1):
        with suppress(DiffclassError):  # counted as failures where races were measured
            images.append(item.load(denoiser.space.image_shape, resize=resize, convert=convert))
            labels.append(-1 if item.label is None else item.label)
        if images and (len(images) == _AT_ONCE or done == len(dataset)):
            predictions += denoiser.log_likelihood(torch.stack(images)).argmax(dim=1).tolist()
            images.clear()
            progress(done, len(dataset))
    truth, said = np.array(labels, dtype=np.int64), np.array(predictions, dtype=np.int64)
    return _figures({"accuracy": accuracy(truth[truth >= 0], said[truth >= 0])})


def _split(source: str | os.PathLike[str], split: str | None, seed: int) -> tuple[Dataset, Dataset]:
    """Return the images to learn from and those to measure on."""
    there = dataset_splits(source)
    if split is None and "train" in there:
        split = "train"
    train = open_dataset(source, split=split)
    for name in ("test", "validation"):
        if name in there and name != train.split:
            return train, open_dataset(source, split=name, classes=train.classes)
    n = max(1, round(_HELD_OUT * len(train)))
    measured = train.sample(n, seed=seed)
    chosen = set(measured.ids)
    rest = [index for index, name in enumerate(train.ids) if name not in chosen]
    if not rest:
        raise InputError(f"The data set '{train.name}' is too small to hold images out. It has {len(train)}.")
    return train.subset(rest), measured


def picture_shape(dataset: Dataset) -> tuple[int, int, int]:
    """Return channels, height and width of the first picture that opens.

    Raises:
        InputError: none does.
    """
    for item in dataset:
        try:
            return _shape(item.read())
        except (OSError, ValueError, DiffclassError):  # evaluate and fit say what is wrong with it
            continue
    raise InputError(f"No picture of '{dataset.name}' can be opened. Check the files.")


def _shape(source: Source) -> tuple[int, int, int]:
    """Return channels, height and width of a picture, without decoding it."""
    if isinstance(source, ndarray):
        return (3 if source.ndim == 3 and source.shape[2] >= 3 else 1), source.shape[0], source.shape[1]
    if not isinstance(source, Image.Image):
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            return _shape(image)
    grey = source.mode in ("1", "L", "LA", "La", "I", "F") or source.mode.startswith("I;16")
    return (1 if grey else 3), source.height, source.width
