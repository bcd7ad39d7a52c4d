"""DICOM pictures through pydicom: stored values to [0, 1] as the file's own window says."""

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from diffclass.errors import InputError, MissingExtra, RangeError

__all__ = ["ENDINGS", "is_dicom", "read_dicom", "window"]

ENDINGS = (".dcm", ".dicom")


def is_dicom(source: object) -> bool:
    """Tell whether a source is a DICOM file by its ending, or bytes of one by their mark."""
    if isinstance(source, bytes):
        return source[128:132] == b"DICM"
    return isinstance(source, str | os.PathLike) and Path(source).suffix.lower() in ENDINGS


def read_dicom(
    source: str | os.PathLike[str] | bytes, name: str
) -> tuple[Float32[ndarray, "height width _"] | UInt8[ndarray, "height width _"], list[str]]:
    """Read one frame of grey or colour pixels, and say what was done to it.

    Grey values go through the file's rescaling and its first window; without a window, through the whole range that
    its bits can store. MONOCHROME1, where large is dark, is turned round. Nothing is read of the patient.

    Args:
        source: path or content.
        name: what messages call the picture.

    Raises:
        InputError: it is damaged, has several frames or no pixels that can be decoded.
        MissingExtra: pydicom is not installed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise MissingExtra("DICOM pictures need pydicom: pip install 'diffclass[dicom]'.") from error
    try:
        file: Any = pydicom.dcmread(BytesIO(source) if isinstance(source, bytes) else source)
        frames = int(getattr(file, "NumberOfFrames", 1) or 1)
        pixels = np.asarray(file.pixel_array) if frames == 1 else np.empty(0)
    except FileNotFoundError as error:
        raise InputError(f"{name} does not exist. Check the path.") from error
    except Exception as error:
        reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
        raise InputError(f"{name} cannot be read as DICOM: {reason}.") from error
    if frames != 1:
        raise InputError(f"{name} has {frames} frames. Save the one to classify as a file of its own.")
    if pixels.ndim == 3:
        if pixels.dtype != np.uint8:
            raise InputError(f"{name} has colours of {pixels.dtype}. Save it with 8 bits a channel.")
        return pixels, []
    return _grey(file, pixels)


def window(
    values: Float32[ndarray, "height width"], *, centre: float, width: float
) -> Float32[ndarray, "height width"]:
    """Return values through a linear window, from 0 below to 1 above.

    Args:
        values: rescaled, as Hounsfield units are.
        centre: of the window.
        width: of the window, at least 1.

    Raises:
        RangeError: the width is below 1.

    Source:
        DICOM PS3.3, C.11.2.1.2.1.
    """
    if not width >= 1:
        raise RangeError(f"The 'width' of a DICOM window must be at least 1. Got {width}.")
    return np.clip((values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5, 0, 1).astype(np.float32)


def _grey(file: Any, pixels: ndarray) -> tuple[ndarray, list[str]]:
    changes = []
    stored = pixels.astype(np.float32)
    centre, width = (_first(getattr(file, f"Window{part}", None)) for part in ("Center", "Width"))
    if centre is not None and width is not None and width >= 1:
        slope, intercept = (
            default if (found := _first(getattr(file, f"Rescale{part}", None))) is None else found
            for part, default in (("Slope", 1.0), ("Intercept", 0.0))
        )
        made = window(stored * np.float32(slope) + np.float32(intercept), centre=centre, width=width)
        changes.append(f"windowed at {centre:g} with width {width:g}, as the file says")
    else:
        bits = int(file.BitsStored)
        least = -(2 ** (bits - 1)) if int(file.PixelRepresentation) else 0
        made = ((stored - least) / np.float32(2**bits - 1)).clip(0, 1)
        changes.append(f"scaled from {bits} bits, as the file has no window")
    if file.PhotometricInterpretation == "MONOCHROME1":
        made = 1 - made
        changes.append("turned from dark to bright (MONOCHROME1)")
    return made[..., None], changes


def _first(value: Any) -> float | None:
    """Return a number, or the first of several."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if len(value) else None
    return None if value in (None, "") else float(value)
