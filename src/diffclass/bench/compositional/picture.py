"""Pictures as every scorer gets them: one crop for all, so that no model sees what another does not."""

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from diffclass.data.images import prepare_image
from diffclass.errors import InputError

__all__ = ["Box", "Crop", "open_picture"]

Box = tuple[int, int, int, int]  # [pixels] left, top, width and height
Crop = Literal["crop", "stretch"]
_TURNED = range(5, 9)  # EXIF orientations that exchange width and height
_ORIENTATION = 0x0112


def open_picture(path: Path, *, box: Box | None = None, crop: Crop = "crop") -> Image.Image:
    """Open a picture in RGB, transparent parts on white, and cut out what all scorers see.

    Args:
        path: of the file.
        box: part of the picture that the question is about, for benchmarks that say so.
        crop: "crop" keeps the centred square, at the picture's own resolution; "stretch" keeps all of it, which
            scorers then squeeze into their own square.

    Raises:
        InputError: the picture is missing or damaged, or the box lies outside it.
    """
    width, height = _size(path)
    if box is None and crop == "crop":
        return _image(prepare_image(path, (3, min(width, height), min(width, height)), convert=True).pixels)
    pixels = prepare_image(path, (3, height, width), convert=True).pixels
    if box is not None:
        left, top, wide, tall = box
        right, bottom = min(width, left + wide), min(height, top + tall)
        left, top = max(0, left), max(0, top)
        if right <= left or bottom <= top:
            raise InputError(f"The box {box} lies outside '{path}', which is {width}x{height} pixels.")
        pixels = pixels[:, top:bottom, left:right]
    picture = _image(pixels)
    if crop == "stretch":
        return picture
    side = min(picture.size)
    return _image(prepare_image(picture, (3, side, side)).pixels)


def _image(pixels: np.ndarray) -> Image.Image:
    """Make 8-bit pixels of channel x height x width a Pillow image."""
    if pixels.dtype != np.uint8:
        pixels = (pixels * 255).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _size(path: Path) -> tuple[int, int]:
    """Return width and height, upright; whatever is wrong with the file is said by what decodes it."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(_ORIENTATION) in _TURNED
            width, height = image.size
            return (height, width) if turned else (width, height)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        prepare_image(path, (3, 1, 1), convert=True)
        raise
