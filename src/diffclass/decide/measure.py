"""Measure the paired errors of labelled images in full, for replays and fits."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from diffclass.data.images import check_images
from diffclass.decide.classifier import DiffusionClassifier
from diffclass.decide.race import Exhaustive
from diffclass.errors import InputError, RangeError, ShapeError
from diffclass.evidence import ErrorMatrices
from diffclass.types import Images

__all__ = ["measure"]


def measure(
    classifier: DiffusionClassifier,
    images: Images,
    labels: Int[ndarray, " image"],
    *,
    n_draws: int,
    progress: Callable[[int], None] | None = None,
) -> ErrorMatrices:
    """Measure every class on every draw, on the classifier's own objective, noise and block.

    The draws are those that a race of `n_draws` draws would meet on the same images with the same seed.

    Args:
        classifier: the race it holds gives only the size of a block.
        images: in [0, 1].
        labels: index into the classifier's classes.
        n_draws: draws of each image, a multiple of the block.
        progress: called with the number of images done.

    Raises:
        ShapeError: the images have another shape than the model's, or there is not one label for each.
        RangeError: a pixel is outside [0, 1], a label is no class, or the draws are no whole number of blocks.
    """
    check_images(images, classifier.denoiser.space.image_shape)
    n_classes = len(classifier.classes_)
    if len(labels) != len(images):
        raise ShapeError(f"'measure' needs a label for each image. Got {len(labels)} for {len(images)} images.")
    if len(labels) == 0:
        raise InputError("'measure' needs at least one image. Got none.")
    if not (labels.min() >= 0 and labels.max() < n_classes):
        raise RangeError(f"Labels must be from 0 to {n_classes - 1}. Got {labels.min()} to {labels.max()}.")
    assert classifier.race is not None
    block = classifier.race.block
    engine = replace(classifier, race=Exhaustive(n_draws=n_draws, block=block)).engine()
    errors = np.empty((len(images), n_draws, n_classes), dtype=np.float32)
    sigmas, weights = np.empty((len(images), n_draws)), np.empty((len(images), n_draws))
    keys = [0] * len(images)
    for done, finished in enumerate(engine.run(enumerate(images)), start=1):
        evidence, i = finished.evidence, finished.index
        errors[i], sigmas[i], weights[i] = evidence.errors, evidence.draws.sigmas, evidence.draws.weights
        keys[i] = evidence.draws.key
        if progress is not None:
            progress(done)
    return ErrorMatrices(
        errors=errors,
        sigmas=sigmas,
        weights=weights,
        labels=labels.astype(np.int64),
        classes=classifier.classes_,
        block=block,
        seed=classifier.seed,
        keys=tuple(keys),
        antithetic=classifier.objective is not None and classifier.objective.antithetic and block % 2 == 0,
    )
