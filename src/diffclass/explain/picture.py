"""Images and maps as pixels of a picture file: values become a colour by their sign, and opacity by their size."""

from io import BytesIO

import numpy as np
from jaxtyping import Bool, Float, Float64, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor

__all__ = ["AGAINST", "FOR", "LESS", "MORE", "REST", "as_pixels", "as_png", "as_tint", "scale_of"]

FOR, AGAINST = "#2f7fc1", "#e07b39"  # of evidence
MORE, LESS = "#12a594", "#d1495b"  # of brightness
REST = 0.3  # opacity of what is not significant, as a share
_SIDE = 224  # [pixels] the shorter side of a picture at least

Pixels = UInt8[ndarray, "height width _"]  # colour, with opacity or not


def as_pixels(image: Float[Tensor, "channel height width"]) -> Pixels:
    """Return an image in [0, 1] as 8-bit colour."""
    values = (image.clamp(0, 1).permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
    return np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values


def as_tint(
    values: Float64[ndarray, "height width"],
    *,
    positive: str,
    negative: str,
    scale: float,
    sure: Bool[ndarray, "height width"] | None = None,
) -> Pixels:
    """Return a map as a colour by its sign whose opacity is its size over `scale`, for any background.

    Args:
        values: of any unit.
        positive: colour, as #rrggbb.
        negative: the same.
        scale: size at which a colour is opaque.
        sure: where values are shown in full; in part elsewhere.
    """
    colours = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in (negative, positive)], dtype=np.uint8)
    opacity = np.clip(np.abs(values) / scale, 0, 1)
    if sure is not None:
        opacity = np.where(sure, opacity, REST * opacity)
    return np.dstack([colours[(values > 0).astype(int)], np.round(255 * opacity).astype(np.uint8)])


def scale_of(values: Float64[ndarray, "height width"], least: float = 1e-9) -> float:
    """Return the size below which 99 in 100 values are, to which maps are drawn."""
    return max(float(np.quantile(np.abs(values), 0.99)), least)


def as_png(pixels: Pixels, size: tuple[int, int] | None = None) -> bytes:
    """Return a picture file, with whole pixels enlarged until it can be looked at.

    Args:
        pixels: colour, with opacity or not.
        size: height and width of the image that the pixels cover; their own if None.
    """
    height, width = pixels.shape[:2] if size is None else size
    factor = max(1, -(-_SIDE // min(height, width)))
    picture = Image.fromarray(pixels).resize((width * factor, height * factor), Image.Resampling.NEAREST)
    file = BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()
