"""Pictures that strangers send: what is opened of them, and how much."""

import base64
import warnings
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from diffclass.data.images import Prepared, Resize, prepare_image
from diffclass.errors import InputError
from diffclass.web.limits import Limits

__all__ = ["FORMATS", "open_picture", "png", "png_address"]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_SHOWN = 256  # [pixels] largest side of a picture that is sent back as the model saw it


def open_picture(
    content: bytes, shape: tuple[int, int, int], limits: Limits, *, resize: Resize = "crop", convert: bool = False
) -> Prepared:
    """Open one uploaded picture for a model.

    The size is read off the header and judged before a pixel is decoded, and only common formats are tried: decoders
    of rare ones are where strangers' files do harm.

    Raises:
        InputError: it is none, in another format, damaged, or has too many pixels.
        ShapeError: the size or the colours differ, and `resize` or `convert` does not allow the change.
    """
    name = f"The picture ({len(content):,} bytes)"
    if not content:
        raise InputError("The request must hold a picture as its body. Got nothing.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the limit below decides, not Pillow's
            image = Image.open(BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise InputError(f"{name} must be a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file.") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} has many more than the {limits.pixels:,} pixels it may have. Shrink it.") from error
    except Exception as error:
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise InputError(f"{name} is damaged and cannot be decoded: {reason}.") from error
    with image:
        if image.width * image.height > limits.pixels:
            raise InputError(
                f"{name} is {image.width}x{image.height} pixels and may have {limits.pixels:,} at most. Shrink it."
            )
        return prepare_image(image, shape, resize=resize, convert=convert, name="upload")


def png(prepared: Prepared) -> bytes | None:
    """Return a picture as the model sees it; None where it is large enough for the original to do."""
    pixels = prepared.pixels
    if max(pixels.shape[1:]) > _SHOWN:
        return None
    if pixels.dtype != np.uint8:
        pixels = (pixels * 255).round().astype(np.uint8)
    rows = pixels.transpose(1, 2, 0)
    out = BytesIO()
    Image.fromarray(rows[..., 0] if rows.shape[2] == 1 else rows).save(out, format="PNG")
    return out.getvalue()


def png_address(content: bytes) -> str:
    """Return a PNG as an address that a page shows without asking for it."""
    return "data:image/png;base64," + base64.b64encode(content).decode()
