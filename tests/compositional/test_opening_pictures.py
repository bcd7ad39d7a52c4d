"""The crop that all scorers share."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffclass.bench.compositional.picture import open_picture


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    pixels = np.zeros((4, 8, 3), dtype=np.uint8)
    pixels[..., 0] = np.arange(8) * 10
    pixels[..., 1] = np.arange(4)[:, None] * 10
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    return tmp_path / "wide.png"


def test_the_centred_square_is_kept_unresampled(wide: Path) -> None:
    found = np.asarray(open_picture(wide))
    assert found.shape == (4, 4, 3)
    assert found[0, :, 0].tolist() == [20, 30, 40, 50]
    assert found[:, 0, 1].tolist() == [0, 10, 20, 30]


def test_all_of_it_is_kept_for_stretching(wide: Path) -> None:
    assert open_picture(wide, crop="stretch").size == (8, 4)


def test_boxes_are_cut_out_first(wide: Path) -> None:
    found = np.asarray(open_picture(wide, box=(1, 1, 3, 2), crop="stretch"))
    assert found[0, :, 0].tolist() == [10, 20, 30]
    assert found[:, 0, 1].tolist() == [10, 20]
    assert open_picture(wide, box=(1, 1, 3, 2)).size == (2, 2)
    assert open_picture(wide, box=(6, 1, 9, 9), crop="stretch").size == (2, 3)  # what of it is in the picture


def test_colours_and_turns_do_not_matter(tmp_path: Path) -> None:
    Image.fromarray(np.full((6, 4), 100, dtype=np.uint8)).save(tmp_path / "grey.png")
    assert np.asarray(open_picture(tmp_path / "grey.png")).tolist() == np.full((4, 4, 3), 100).tolist()
    turned = Image.fromarray(np.arange(72, dtype=np.uint8).reshape(4, 6, 3))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    assert open_picture(tmp_path / "turned.png", crop="stretch").size == (4, 6)
