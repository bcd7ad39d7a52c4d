"""DICOM pictures: windows, bits, MONOCHROME1, colour, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffclass.data import load_image, open_dataset, prepare_image
from diffclass.data.dicom import window
from diffclass.errors import InputError, RangeError

pydicom = pytest.importorskip("pydicom")


def save(path: Path, pixels: np.ndarray, **tags: Any) -> Path:
    """Write a DICOM file of these stored values."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    made = Dataset()
    made.file_meta = meta
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, "1.2.3"
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    made.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    made.BitsAllocated = made.BitsStored = 8 * pixels.dtype.itemsize
    made.HighBit, made.PixelRepresentation = made.BitsStored - 1, int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(made, name, value)
    made.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


RAMP = np.arange(16, dtype=np.int16).reshape(4, 4)


def test_a_window_is_the_standards(tmp_path: Path) -> None:
    # PS3.3 C.11.2.1.2.1: ((x - (c - 0.5)) / (w - 1) + 0.5), cut at 0 and 1, after rescaling.
    path = save(
        tmp_path / "ct.dcm", RAMP * 100, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=40, WindowWidth=400
    )
    made = prepare_image(path, (1, 4, 4))
    expected = np.clip((RAMP * 200.0 - 1000 - 39.5) / 399 + 0.5, 0, 1)
    np.testing.assert_allclose(made.image[0].numpy(), expected, atol=1e-6)
    assert made.changes == ("windowed at 40 with width 400, as the file says",)
    assert 0 < expected[1, 1] < 1


def test_without_a_window_the_bits_are_the_range(tmp_path: Path) -> None:
    path = save(tmp_path / "xray.dcm", (RAMP * 200).astype(np.uint16), BitsStored=12, HighBit=11)
    made = prepare_image(path.read_bytes(), (1, 4, 4))
    np.testing.assert_allclose(made.image[0].numpy(), RAMP * 200 / 4095, atol=1e-6)
    assert made.changes == ("scaled from 12 bits, as the file has no window",)
    signed = save(tmp_path / "signed.dcm", RAMP - 8)
    np.testing.assert_allclose(load_image(signed, (1, 4, 4))[0].numpy(), (RAMP - 8 + 32768.0) / 65535, atol=1e-6)


def test_monochrome1_is_turned_round(tmp_path: Path) -> None:
    tags = {"WindowCenter": [8, 100], "WindowWidth": [16, 7]}
    bright = load_image(save(tmp_path / "a.dcm", RAMP, **tags), (1, 4, 4))
    dark = load_image(save(tmp_path / "b.dcm", RAMP, PhotometricInterpretation="MONOCHROME1", **tags), (1, 4, 4))
    np.testing.assert_allclose(dark.numpy(), 1 - bright.numpy(), atol=1e-6)


def test_colour_is_taken_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    made = prepare_image(save(tmp_path / "skin.dcm", pixels), (3, 4, 4))
    assert (made.pixels == pixels.transpose(2, 0, 1)).all()
    assert made.changes == ()


def test_folders_of_dicom_are_data_sets(tmp_path: Path) -> None:
    for name in ("ill/a.dcm", "well/b.dcm"):
        save(tmp_path / name, RAMP)
    found = open_dataset(tmp_path)
    assert found.ids == ("ill/a.dcm", "well/b.dcm")
    assert found[0].load((1, 4, 4)).shape == (1, 4, 4)


def test_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.dcm").write_text("notes")
    frames = save(tmp_path / "film.dcm", np.zeros((4, 4), dtype=np.uint8), NumberOfFrames=7)
    empty = save(tmp_path / "none.dcm", RAMP)
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(empty.read_bytes()[:-8])
    cases = {
        tmp_path / "none" / "no.dcm": f"The picture '{tmp_path}/none/no.dcm' does not exist. Check the path.",
        frames: f"The picture '{frames}' has 7 frames. Save the one to classify as a file of its own.",
    }
    for path, sentence in cases.items():
        with pytest.raises(InputError) as caught:
            load_image(path, (1, 4, 4))
        assert str(caught.value) == sentence
    for path in (tmp_path / "notes.dcm", cut):
        with pytest.raises(InputError, match="cannot be read as DICOM"):
            load_image(path, (1, 4, 4))
    with pytest.raises(RangeError, match=r"The 'width' of a DICOM window must be at least 1\. Got 0"):
        window(np.zeros((1, 1), dtype=np.float32), centre=0.0, width=0.0)
