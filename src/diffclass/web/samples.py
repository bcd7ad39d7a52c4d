"""Pictures that are on this computer already, to try the page with."""

from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import final

import numpy as np
from numpy import ndarray
from PIL import Image

from diffclass.bench.demo import demo_sittings
from diffclass.data.images import Source
from diffclass.errors import InputError

__all__ = ["Sample", "find_sample", "samples"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A picture as a PNG file.

    Args:
        name: of the sample.
        model: a model that it is for.
        truth: what it shows.
        content: the file.
    """

    name: str
    model: str
    truth: str
    content: bytes


@cache
def samples() -> dict[str, Sample]:
    """Return what there is: scikit-learn's digits, and scikit-image's cat if it is installed."""
    found: dict[str, Sample] = {}
    for sitting in sorted(demo_sittings(), key=lambda one: one.model != "digits"):
        for item in sitting.items:
            name = item.id.rpartition(".")[0].rpartition("/")[2] or item.id.replace("/", "-")
            if name not in found and item.label is not None:
                truth = sitting.names[item.label]
                found[name] = Sample(name=name, model=sitting.model, truth=truth, content=_png(item.read()))
    return found


def _png(source: Source) -> bytes:
    """Return a PNG file as it is, and an array of [0, 1] as one."""
    if isinstance(source, Path):
        return source.read_bytes()
    assert isinstance(source, ndarray), type(source)
    out = BytesIO()
    Image.fromarray((source * 255).round().astype(np.uint8)).save(out, format="PNG")
    return out.getvalue()


def find_sample(name: str) -> Sample:
    """Return a sample by name.

    Raises:
        InputError: there is none.
    """
    there = samples()
    if name not in there:
        raise InputError(f"The sample must be one of {', '.join(there)}. Got {name[:80]!r}.")
    return there[name]
