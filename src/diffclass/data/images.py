"""Opening and checking pictures: a file, bytes, Pillow image or array becomes a tensor in [0, 1], and says how."""

import os
import re
import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import Literal, final

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from numpy import ndarray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from diffclass.data.dicom import is_dicom, read_dicom
from diffclass.errors import DiffclassError, InputError, RangeError, ShapeError

__all__ = ["Prepared", "Resize", "Source", "check_images", "load_image", "prepare_image"]

Source = str | os.PathLike[str] | bytes | Image.Image | ndarray
Resize = Literal["crop", "stretch", "refuse"]
Picture = UInt8[ndarray, "_ _ _"] | Float32[ndarray, "_ _ _"]  # height, width, channel: as Pillow has it

_ORIENTATION = 0x0112  # EXIF tag
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as Pillow
_DECODED = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "PA": "RGBA", "RGB": "RGB", "RGBX": "RGB"}
_OTHER_COLOURS = {"CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB"}
_DECODED |= {"RGBA": "RGBA", "RGBa": "RGBA", "P": "RGB"} | _OTHER_COLOURS
_TRANSPARENT = {"1": "LA", "L": "LA", "RGB": "RGBA", "P": "RGBA"}  # modes that may hold transparency besides the pixels
_ROUNDING = 0.01  # [image units] beyond this, pixels outside [0, 1] are another scale rather than rounding


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """One picture as a model takes it, and what was done to get there.

    Args:
        pixels: 8 bits where the picture had 8, else [image units].
        changes: what was done to the picture beyond decoding it, in order; empty if nothing was.
    """

    pixels: UInt8[ndarray, "channel height width"] | Float32[ndarray, "channel height width"]
    changes: tuple[str, ...]

    @property
    def image(self) -> Float32[Tensor, "channel height width"]:
        """The picture in [0, 1]."""
        if self.pixels.dtype == np.uint8:
            return torch.from_numpy(self.pixels / np.float32(255))
        return torch.from_numpy(self.pixels)

    @property
    def summary(self) -> str:
        """What was done, for people: "unchanged" or "centre-cropped 300x451 to 300x300; resized to 32x32"."""
        return "; ".join(self.changes) or "unchanged"


def load_image(
    source: Source, shape: tuple[int, int, int], *, resize: Resize = "crop", convert: bool = False
) -> Float32[Tensor, "channel height width"]:
    """Open one picture for a model; `prepare_image` also says what was done to it.

    Args:
        source: path, encoded bytes, Pillow image, or array of height x width (x channel) pixels.
        shape: channels, height and width that the model takes.
        resize: for another size, crop the centre to the model's aspect and resample, stretch, or refuse.
        convert: allow colour to become grey or grey colour, and lay transparent pictures on white.

    Raises:
        ShapeError: the size or the colours differ, and `resize` or `convert` does not allow the change.
        RangeError: an array of floats lies outside [0, 1].
        InputError: the picture is missing, damaged, too large to open safely, or none.
    """
    return prepare_image(source, shape, resize=resize, convert=convert).image


def prepare_image(
    source: Source,
    shape: tuple[int, int, int],
    *,
    resize: Resize = "crop",
    convert: bool = False,
    name: str | None = None,
) -> Prepared:
    """Open one picture for a model, and say what was done to it.

    8-bit pictures stay in 8 bits while they are resampled (Pillow's Lanczos filter after an integer box reduction);
    16-bit grey and float arrays are computed in float32, and the filter's overshoot is cut at 0 and 1.

    Args:
        source: as in `load_image`, and so are shape, resize and convert.
        name: what messages call the picture; its path by default.
    """
    channels = shape[0]
    if channels not in (1, 3):
        raise ShapeError(f"Pictures have 1 (grey) or 3 (colour) channels. The model takes {channels}.")
    if min(shape) < 1:
        raise ShapeError(f"A model must take at least one pixel. Got {_size(*shape[:0:-1])}.")
    if resize not in ("crop", "stretch", "refuse"):
        raise InputError(f"The 'resize' parameter must be 'crop', 'stretch' or 'refuse'. Got {resize!r}.")
    name = _name(source) if name is None else f"The picture '{name}'"
    if isinstance(source, ndarray):
        pixels, changes = _from_array(source, name), []
    else:
        pixels, changes = _decode(source, name, convert)
    pixels = _without_alpha(pixels, changes, name, convert)
    pixels = _with_channels(pixels, channels, changes, name, convert)
    pixels = _with_size(pixels, shape[1:], changes, name, resize)
    return Prepared(pixels=np.ascontiguousarray(pixels.transpose(2, 0, 1)), changes=tuple(changes))


def check_images(images: object, shape: tuple[int, int, int]) -> None:
    """Check a batch of images at the public edge: float [image, channel, height, width] in [0, 1], and not empty.

    Raises:
        ShapeError: the axes, channels or size are wrong, or there is no image.
        RangeError: the pixels are integers, not finite, or outside [0, 1].
    """
    if not isinstance(images, Tensor):
        raise ShapeError(f"Images must be a torch.Tensor. Got {type(images).__name__}. Try torch.as_tensor.")
    if images.ndim != 4 or tuple(images.shape[1:]) != shape:
        remedy = " Try images[None]." if tuple(images.shape) == shape else ""
        raise ShapeError(f"Images must have shape (n, {_commas(shape)}). Got ({_commas(images.shape)}).{remedy}")
    if len(images) == 0:
        raise ShapeError("There must be at least one image. Got an empty batch.")
    if not images.is_floating_point():
        raise RangeError(f"Images must be floating point in [0, 1]. Got {images.dtype}. Try images.float() / 255.")
    low, high = (x.item() for x in images.detach().aminmax())
    if low >= 0.0 and high <= 1.0:  # false where a pixel is NaN
        return
    flat = images.detach().flatten(1)
    finite = flat.isfinite().all(dim=1)
    if not finite.all():
        raise RangeError(f"Images must be finite. Image {_first(~finite)} holds NaN or infinity.")
    index = _first((flat.amin(dim=1) < 0) | (flat.amax(dim=1) > 1))
    low, high = flat[index].min().item(), flat[index].max().item()
    raise RangeError(
        f"Images must lie in [0, 1]. Image {index} has pixels from {low:.4g} to {high:.4g}. Try {_remedy(low, high)}."
    )


def _remedy(low: float, high: float) -> str:
    """Guess the scale that the pixels of an image outside [0, 1] are in."""
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return "images.clamp(0, 1)"
    if low < 0 and low >= -1 - _ROUNDING and high <= 1 + _ROUNDING:
        return "(images + 1) / 2"
    return "to divide by 255" if low >= 0 else "to undo a normalisation"


def _first(mask: Tensor) -> int:
    """Return the index of the first True."""
    return int(mask.nonzero()[0].item())


def _commas(numbers: tuple[int, ...]) -> str:
    """Write a shape."""
    return ", ".join(str(n) for n in numbers)


def _size(width: int, height: int, *_: int) -> str:
    """Write a size as people do."""
    return f"{width}x{height}"


def _name(source: Source) -> str:
    """Name a picture in a message."""
    match source:
        case bytes():
            return f"The picture ({len(source)} bytes)"
        case ndarray():
            return "The array"
        case Image.Image():
            return "The picture"
    return f"The picture '{os.fspath(source)}'"


def _decode(source: str | os.PathLike[str] | bytes | Image.Image, name: str, convert: bool) -> tuple[Picture, list]:
    """Open and decode a picture; whatever a decoder raises on a bad file becomes one sentence."""
    if is_dicom(source):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read_dicom(source, name)  # pyright: ignore[reportArgumentType]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata and the like: the pixels decide
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if isinstance(source, Image.Image):
                return _from_pillow(source, name, convert)
            with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
                return _from_pillow(image, name, convert)
    except DiffclassError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{name} does not exist. Check the path.") from error
    except IsADirectoryError as error:
        raise InputError(f"{name} is a folder. Give the path of one file.") from error
    except PermissionError as error:
        raise InputError(f"{name} may not be read. Check its permissions.") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is not in a format that Pillow opens. Try a PNG or JPEG file.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = Image.MAX_IMAGE_PIXELS or 0
        raise InputError(
            f"{name} has more than the {limit:,} pixels that are safe to open. Shrink it first."
        ) from error
    except Exception as error:
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise InputError(f"{name} is damaged and cannot be decoded: {reason}.") from error


def _from_pillow(image: Image.Image, name: str, convert: bool) -> tuple[Picture, list]:
    """Decode a Pillow image: its current frame, upright, as grey or colour with or without alpha."""
    changes = []
    if (frames := getattr(image, "n_frames", 1)) > 1:
        changes.append(f"took frame {image.tell() + 1} of {frames}")
    if not image.mode.startswith("I") and re.search(r";16|65535", str(getattr(image, "tile", ()))):
        changes.append("reduced from 16 to 8 bits a channel")  # as Pillow decodes 16-bit colour
    image.load()
    if 1 < image.getexif().get(_ORIENTATION, 1) <= 8:
        image = ImageOps.exif_transpose(image)
        changes.append("turned upright as its EXIF orientation says")
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        return (np.asarray(image).astype(np.float32) / np.float32(65535))[..., None], changes  # whatever it uses of it
    if mode == "F":
        return _from_array(np.asarray(image), name), changes
    if mode in _OTHER_COLOURS:
        if not convert:
            raise ShapeError(f"{name} has {mode} colours and the model takes RGB or grey. Try convert=True.")
        changes.append(f"converted from {mode} to RGB")
    mode = _decoded_mode(image, name)
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels if pixels.ndim == 3 else pixels[..., None], changes


def _decoded_mode(image: Image.Image, name: str) -> str:
    """Name the 8-bit mode that holds a picture without loss, its transparency included."""
    if image.mode in _TRANSPARENT and "transparency" in image.info:
        return _TRANSPARENT[image.mode]
    if image.mode in _DECODED:
        return _DECODED[image.mode]
    raise InputError(f"{name} has pixels of Pillow's mode {image.mode}, whose range is unknown. Save it with 8 bits.")


def _from_array(array: ndarray, name: str) -> Picture:
    """Check an array of pixels; the last axis, where there are three, is the channel."""
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4) or pixels.size == 0:
        axes = f"({_commas(array.shape)})"
        raise ShapeError(f"{name} must have axes (height, width) or (height, width, channel). Got shape {axes}.")
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return pixels.astype(np.float32) / np.float32(65535)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise RangeError(f"{name} must hold uint8, uint16, or floats in [0, 1]. Got {array.dtype}.")
    if not np.isfinite(pixels).all():
        raise RangeError(f"{name} must be finite. It holds NaN or infinity.")
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0.0 or high > 1.0:
        raise RangeError(f"{name} has pixels from {low:.4g} to {high:.4g}, outside [0, 1]. Try {_remedy(low, high)}.")
    return pixels.astype(np.float32)


def _without_alpha(pixels: Picture, changes: list, name: str, convert: bool) -> Picture:
    """Drop an opaque alpha channel, or lay the picture on white."""
    if pixels.shape[2] in (1, 3):
        return pixels
    colour, alpha = pixels[..., :-1], pixels[..., -1:]
    white = pixels.dtype.type(255 if pixels.dtype == np.uint8 else 1)
    if (alpha == white).all():
        return colour
    if not convert:
        raise ShapeError(f"{name} is partly transparent. Try convert=True, which lays it on white.")
    changes.append("laid on white where it is transparent")
    if pixels.dtype == np.uint8:
        wide, cover = colour.astype(np.int32), alpha.astype(np.int32)
        return ((wide * cover + 255 * (255 - cover) + 127) // 255).astype(np.uint8)
    return (colour * alpha + (1 - alpha)).clip(0, 1)


def _with_channels(pixels: Picture, channels: int, changes: list, name: str, convert: bool) -> Picture:
    """Turn colour to grey or grey to colour, if that is allowed."""
    if pixels.shape[2] == channels:
        return pixels
    kinds = ("grey", "colour") if channels == 3 else ("colour", "grey")
    if not convert:
        raise ShapeError(f"{name} is {kinds[0]} and the model takes {kinds[1]} images. Try convert=True.")
    changes.append(f"converted from {kinds[0]} to {kinds[1]}")
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[..., None]
    return (pixels @ _LUMA)[..., None].clip(0, 1)


def _with_size(pixels: Picture, size: tuple[int, int], changes: list, name: str, resize: Resize) -> Picture:
    """Bring a picture to the model's height and width."""
    height, width = pixels.shape[:2]
    if (height, width) == size:
        return pixels
    if resize == "refuse":
        got, want = _size(width, height), _size(size[1], size[0])
        raise ShapeError(f"{name} is {got} pixels and the model takes {want}. Try resize='crop' or resize='stretch'.")
    if resize == "crop":
        scale = min(height / size[0], width / size[1])
        tall, wide = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        top, left = (height - tall) // 2, (width - wide) // 2
        if (tall, wide) != (height, width):
            changes.append(f"centre-cropped {_size(width, height)} to {_size(wide, tall)}")
        pixels = pixels[top : top + tall, left : left + wide]
        if (tall, wide) == size:
            return pixels
    verb = "resized" if resize == "crop" else "stretched"
    changes.append(f"{verb} {_size(pixels.shape[1], pixels.shape[0])} to {_size(size[1], size[0])}")
    planes = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(pixels[..., c])).resize(
                (size[1], size[0]), Image.Resampling.LANCZOS, reducing_gap=3.0
            )
        )
        for c in range(pixels.shape[2])
    ]
    resized = np.stack(planes, axis=-1)
    return resized if resized.dtype == np.uint8 else resized.clip(0, 1)
