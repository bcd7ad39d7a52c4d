"""A real model that is fitted in a moment: a mixture on scikit-learn's digits."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from diffclass.data.datasets import Dataset, open_dataset
from diffclass.denoisers.fit import fit_mixture
from diffclass.denoisers.mixture import MixtureDenoiser

SETTINGS = {"n_draws": 32, "block": 4, "sigma_range": [0.2, 3.0]}


@cache
def tiny_mixture() -> MixtureDenoiser:
    """Fit 400 digits."""
    train = open_dataset("digits", split="train")
    images, labels = train.array((1, 8, 8), range(400))
    return fit_mixture(images, labels, classes=train.classes, n_components=2, rank=4, floor=0.25)


def save_mixture(directory: Path, *, temperature: float | None = 2.0) -> Path:
    """Write the model directory of a mixture that is quick to classify with."""
    classifier = SETTINGS | {"temperature": temperature}
    return tiny_mixture().save(directory, metadata={"name": directory.name, "classifier": classifier})


def digits() -> Dataset:
    """Images that the mixture has not seen."""
    return open_dataset("digits", split="test")


def save_picture(path: Path, index: int = 0, size: tuple[int, int] = (8, 8), mode: str = "L") -> Path:
    """Write a digit as a picture file."""
    pixels = np.asarray(digits()[index].read())
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels * 255).round().astype(np.uint8)).resize(size).convert(mode).save(path)
    return path
