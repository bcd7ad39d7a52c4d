"""Pictures in, tensors out: exact values, and every change said."""

import io
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffclass.data.images import check_images, load_image, prepare_image
from diffclass.errors import InputError, RangeError, ShapeError

GREY, COLOUR = (1, 6, 8), (3, 6, 8)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "png", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# Exact values


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "webp", "ppm"])
def test_lossless_files_keep_every_pixel(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture.{kind}"
    options = {"lossless": True} if kind == "webp" else {}
    path.write_bytes(encoded(Image.fromarray(PIXELS), kind, **options))
    for source in (path, str(path), path.read_bytes(), Image.fromarray(PIXELS), PIXELS):
        prepared = prepare_image(source, COLOUR)
        assert np.array_equal(prepared.pixels, PIXELS.transpose(2, 0, 1))
        assert prepared.summary == "unchanged"
    image = load_image(path, COLOUR)
    assert image.dtype == torch.float32
    assert torch.equal(image, torch.from_numpy(PIXELS.transpose(2, 0, 1).copy()) / 255)


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm"])
def test_16_bit_grey_is_exact(kind: str) -> None:
    values = RNG.integers(0, 65536, (6, 8), dtype=np.uint16)
    values[0, :2] = 0, 65535
    image = load_image(encoded(Image.fromarray(values), kind), GREY)
    assert np.array_equal(image[0].numpy(), values.astype(np.float32) / np.float32(65535))
    assert np.array_equal(load_image(values, GREY), image)
    assert image.max() == 1.0


def test_16_bit_colour_says_that_it_is_reduced() -> None:
    high = PIXELS.astype(">u2") * 257
    ppm = b"P6 8 6 65535\n" + high.tobytes()
    prepared = prepare_image(ppm, COLOUR)
    assert prepared.changes == ("reduced from 16 to 8 bits a channel",)
    assert np.array_equal(prepared.pixels, PIXELS.transpose(2, 0, 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_arrays_are_taken_as_they_are(dtype: type) -> None:
    values = RNG.random((6, 8, 3)).astype(dtype)
    assert np.array_equal(load_image(values, COLOUR).numpy(), values.transpose(2, 0, 1).astype(np.float32))
    grey = Image.fromarray(values[..., 0].astype(np.float32))
    assert np.array_equal(load_image(grey, GREY)[0].numpy(), values[..., 0].astype(np.float32))


def test_bilevel_and_palette_are_decoded() -> None:
    bits = PIXELS[..., 0] > 127
    assert np.array_equal(load_image(encoded(Image.fromarray(bits)), GREY)[0].numpy(), bits.astype(np.float32))
    palette = Image.fromarray(PIXELS).quantize(7)
    prepared = prepare_image(encoded(palette), COLOUR)
    assert np.array_equal(prepared.pixels.transpose(1, 2, 0), np.asarray(palette.convert("RGB")))
    assert prepared.summary == "unchanged"


# Colour, grey and transparency


def test_grey_and_colour_convert_only_when_asked() -> None:
    grey = Image.fromarray(PIXELS[..., 0])
    with pytest.raises(ShapeError, match=r"^The picture is grey and the model takes colour images. Try convert=True.$"):
        load_image(grey, COLOUR)
    with pytest.raises(ShapeError, match=r"^The picture is colour and the model takes grey images. Try convert=True.$"):
        load_image(Image.fromarray(PIXELS), GREY)
    three = prepare_image(grey, COLOUR, convert=True)
    assert three.changes == ("converted from grey to colour",)
    assert all(np.array_equal(plane, PIXELS[..., 0]) for plane in three.pixels)
    one = prepare_image(Image.fromarray(PIXELS), GREY, convert=True)
    assert one.changes == ("converted from colour to grey",)
    luma = PIXELS @ np.array([0.299, 0.587, 0.114])
    assert np.abs(one.pixels[0] - luma).max() <= 0.51  # rounded to 8 bits, with Pillow's 16-bit weights
    exact = load_image(PIXELS / 255.0, GREY, convert=True)
    assert np.abs(exact[0].numpy() - luma / 255).max() < 1e-6


def test_convert_changes_nothing_that_fits() -> None:
    for image, shape in ((Image.fromarray(PIXELS), COLOUR), (Image.fromarray(PIXELS[..., 0]), GREY)):
        assert prepare_image(image, shape, convert=True).summary == "unchanged"


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "tRNS"])
def test_transparency(mode: str) -> None:
    shape = GREY if mode == "LA" else COLOUR
    opaque = Image.fromarray(PIXELS).convert("RGBA").convert("RGBA" if mode == "tRNS" else mode)
    if mode != "tRNS":
        assert prepare_image(opaque, shape).summary == "unchanged"
    clear = opaque.copy()
    if mode == "tRNS":  # one colour stands for "nothing here"
        source: Image.Image | bytes = encoded(Image.fromarray(PIXELS), transparency=tuple(PIXELS[2, 3].tolist()))
    else:
        alpha = Image.new("L", clear.size, 255)
        alpha.putpixel((3, 2), 0)
        clear.putalpha(alpha)
        source = clear
    with pytest.raises(ShapeError, match=r"^The picture.* is partly transparent. Try convert=True, which lays it on w"):
        prepare_image(source, shape)
    prepared = prepare_image(source, shape, convert=True)
    assert prepared.changes == ("laid on white where it is transparent",)
    assert (prepared.pixels[:, 2, 3] == 255).all()
    expected = prepare_image(opaque, shape).pixels.copy()
    expected[:, 2, 3] = 255
    assert np.array_equal(prepared.pixels, expected)


@given(st.integers(0, 255), st.integers(0, 255))
def test_half_transparent_pixels_mix_with_white(colour: int, alpha: int) -> None:
    pixel = np.full((1, 1, 2), (colour, alpha), dtype=np.uint8)
    exact = (colour * alpha + 255 * (255 - alpha)) / 255
    assert prepare_image(pixel, (1, 1, 1), convert=True).pixels.item() == pytest.approx(exact, abs=0.5)
    in_floats = load_image(pixel / 255.0, (1, 1, 1), convert=True).item()
    assert in_floats == pytest.approx(exact / 255, abs=1e-6)


def test_other_colour_systems_convert_only_when_asked() -> None:
    print_colours = Image.fromarray(PIXELS).convert("CMYK")
    with pytest.raises(ShapeError, match="CMYK colours and the model takes RGB or grey"):
        load_image(print_colours, COLOUR)
    prepared = prepare_image(print_colours, COLOUR, convert=True)
    assert prepared.changes == ("converted from CMYK to RGB",)
    assert np.array_equal(prepared.pixels, PIXELS.transpose(2, 0, 1))


# Size


def test_crop_keeps_the_centre() -> None:
    wide = np.zeros((6, 14, 3), dtype=np.uint8)
    wide[:, 3:11] = PIXELS
    prepared = prepare_image(wide, COLOUR)
    assert prepared.summary == "centre-cropped 14x6 to 8x6"
    assert np.array_equal(prepared.pixels, PIXELS.transpose(2, 0, 1))  # no resampling where cropping suffices


def test_crop_then_resize_says_both() -> None:
    prepared = prepare_image(np.full((451, 300), 9, dtype=np.uint8), (1, 32, 32))
    assert prepared.summary == "centre-cropped 300x451 to 300x300; resized 300x300 to 32x32"
    assert (prepared.pixels == 9).all()


def test_stretch_keeps_the_edges_that_crop_cuts() -> None:
    wide = np.zeros((40, 80), dtype=np.uint8)
    wide[:, :20] = 255  # gone after a centre crop
    assert not prepare_image(wide, (1, 8, 8)).pixels.any()
    stretched = prepare_image(wide, (1, 8, 8), resize="stretch")
    assert stretched.changes == ("stretched 80x40 to 8x8",)
    assert (stretched.pixels[0, :, 0] >= 250).all()
    assert (stretched.pixels[0, :, 4:] <= 5).all()


def test_8_bits_and_floats_resample_alike() -> None:
    big = RNG.integers(0, 256, (97, 131, 3), dtype=np.uint8)
    eight, exact = load_image(big, (3, 32, 32)), load_image(big / 255.0, (3, 32, 32))
    assert (eight - exact).abs().max() <= 1.01 / 255  # two roundings to 8 bits: the box reduction's and the filter's
    assert not torch.equal(eight, exact)


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(["crop", "stretch"]), st.booleans())
def test_any_size_fits_and_stays_in_range(height: int, width: int, resize: str, floats: bool) -> None:
    pixels = (np.arange(height * width).reshape(height, width) % 2 * 255).astype(np.uint8)  # the filter overshoots here
    source = pixels / 255.0 if floats else pixels
    prepared = prepare_image(source, (1, 7, 5), resize=resize)
    image = prepared.image
    assert image.shape == (1, 7, 5)
    assert 0 <= image.min() <= image.max() <= 1
    assert (prepared.summary == "unchanged") == ((height, width) == (7, 5))


def test_refuse_keeps_the_size() -> None:
    with pytest.raises(ShapeError, match=r"^The array is 8x6 pixels and the model takes 5x7. Try resize='crop' or"):
        load_image(PIXELS, (3, 7, 5), resize="refuse")
    assert load_image(PIXELS, COLOUR, resize="refuse").shape == COLOUR


# Frames and orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = [
        *(lambda x: x, np.fliplr, lambda x: np.rot90(x, 2), np.flipud, lambda x: x.transpose(1, 0, 2)),
        *(lambda x: np.rot90(x, -1), lambda x: np.rot90(x, 2).transpose(1, 0, 2), np.rot90),
    ]
    expected = turned[orientation - 1](PIXELS)
    prepared = prepare_image(encoded(Image.fromarray(PIXELS), exif=exif), (3, *expected.shape[:2]))
    assert np.array_equal(prepared.pixels, expected.transpose(2, 0, 1))
    said = prepared.changes == ("turned upright as its EXIF orientation says",)
    assert said == (orientation > 1)


def test_animations_give_their_first_frame_and_say_so() -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    prepared = prepare_image(encoded(frames[0], "gif", save_all=True, append_images=frames[1:]), COLOUR)
    assert prepared.changes == ("took frame 1 of 3",)
    assert prepared.image[:, 0, 0].tolist() == [1, 0, 0]


def test_the_source_is_left_as_it_was() -> None:
    image, array = Image.fromarray(PIXELS), PIXELS.copy()
    load_image(image, (1, 3, 3), convert=True)
    result = load_image(array, COLOUR)
    result += 1
    assert image.mode == "RGB"
    assert np.array_equal(array, PIXELS)
    floats = RNG.random((6, 8)).astype(np.float32)
    copy = floats.copy()
    load_image(floats, GREY).zero_()
    assert np.array_equal(floats, copy)


# Damage


@given(st.data())
def test_damaged_files_are_refused_or_decoded_but_nothing_else(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["png", "jpeg", "gif", "bmp", "tiff", "webp"]))
    content = bytearray(encoded(Image.fromarray(PIXELS), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        image = load_image(bytes(content), COLOUR, convert=True)
    except InputError:
        return
    assert image.shape == COLOUR
    assert 0 <= image.min() <= image.max() <= 1


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_truncated_files_are_refused(kind: str) -> None:
    content = encoded(Image.fromarray(np.resize(PIXELS, (64, 64, 3))), kind)
    load_image(content, COLOUR)
    with pytest.raises(InputError, match=r"^The picture \(\d+ bytes\) is damaged and cannot be decoded: .+\.$"):
        load_image(content[: len(content) // 2], COLOUR)


def test_decompression_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.new("L", (60, 60)))
    for limit in (2000, 1000):  # Pillow warns above the limit, and raises above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(InputError, match=f"has more than the {limit:,} pixels that are safe to open. Shrink it"):
            load_image(content, GREY)


def test_forbidden_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(InputError, match=r"^The picture 'a\.png' may not be read. Check its permissions.$"):
        load_image("a.png", GREY)


def test_unknown_resize_is_refused() -> None:
    # In a process of its own, because the type checker of the tests would be the first to object.
    code = (
        "import numpy; from diffclass.data.images import load_image, InputError\n"
        "try: load_image(numpy.zeros((2, 2)), (1, 1, 1), resize='pad')\n"
        "except InputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "The 'resize' parameter must be 'crop', 'stretch' or 'refuse'. Got 'pad'.\n"


# Batches


def test_good_batches_pass() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        check_images(torch.tensor([0.0, 1.0]).to(dtype).expand(3, 1, 1, 2), (1, 1, 2))


@pytest.mark.parametrize("index", [0, 2])
@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (float("nan"), "Images must be finite. Image {} holds NaN or infinity."),
        (float("-inf"), "Images must be finite. Image {} holds NaN or infinity."),
        (200.0, "Images must lie in [0, 1]. Image {} has pixels from 0.5 to 200. Try to divide by 255."),
        (-1.0, "Images must lie in [0, 1]. Image {} has pixels from -1 to 0.5. Try (images + 1) / 2."),
        (1.001, "Images must lie in [0, 1]. Image {} has pixels from 0.5 to 1.001. Try images.clamp(0, 1)."),
        (-2.0, "Images must lie in [0, 1]. Image {} has pixels from -2 to 0.5. Try to undo a normalisation."),
    ],
)
def test_the_bad_image_is_named(index: int, value: float, sentence: str) -> None:
    images = torch.full((3, 1, 2, 2), 0.5)
    images[index, 0, 1, 0] = value
    with pytest.raises(RangeError) as caught:
        check_images(images, (1, 2, 2))
    assert str(caught.value) == sentence.format(index)
