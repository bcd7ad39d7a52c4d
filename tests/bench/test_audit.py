"""What an audit finds in sets that were spoiled on purpose, and does not find in ones that were not."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from diffclass.bench.audit import _shortcut_warnings, audit
from diffclass.bench.shortcuts import Shortcut, border, column_features, file_facts, guess, middle
from diffclass.cli import main
from diffclass.data.duplicates import exact_pairs, look, near_pairs, perceptual_hash
from diffclass.errors import InputError
from diffclass.stats import Estimate

N = 60


def picture(seed: int, size: int = 32) -> Image.Image:
    """Smooth noise in colour: every seed is another picture."""
    random = np.random.default_rng(seed)
    small = random.random((6, 6, 3)) * 255
    return Image.fromarray(small.astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "png", **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write(home: Path, *, spoiled: bool) -> Path:
    """A CSV set of two splits. Spoiled: one class comes from another scanner and archive, and a patient is in both."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(N):
        ill = i % 2
        name = f"IMG_{(9000 if spoiled and ill else 0) + int(random.integers(1000))}_{i}.jpg"
        made = picture(i)
        if spoiled and ill:
            made.paste((0, 0, 0), (0, 0, 32, 3))  # the scanner's bar
        quality = 60 if spoiled and ill else 90
        (home / name).write_bytes(encoded(made, "jpeg", quality=quality))
        patient = "p0" if spoiled and i in (0, 58) else f"p{i}"
        site = ("north" if ill else "south") if spoiled else ("north", "south")[int(random.integers(2))]
        split = "train" if i < 40 else "test"
        rows.append([name, ("well", "ill")[ill], split, patient, site])
    if spoiled:
        copy = (home / rows[1][0]).read_bytes()
        (home / "copy.jpg").write_bytes(copy)
        rows.append(["copy.jpg", "ill", "test", "p99", "north"])
        with Image.open(io.BytesIO(copy)) as opened:
            (home / "again.jpg").write_bytes(encoded(opened.resize((48, 48)), "jpeg", quality=80))
        rows.append(["again.jpg", "ill", "test", "p98", "north"])
    with (home / "set.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "label", "split", "patient", "site"], *rows])
    return home / "set.csv"


def test_a_spoiled_set_is_found_out(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["audit", str(write(tmp_path, spoiled=True)), "--group-by", "patient"])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    told = {s["name"]: s["balanced_accuracy"]["value"] for s in found["shortcuts"]}
    for name in ("all metadata", "JPEG quality", "site", "border of the picture"):
        assert told[name] > 0.9, name
    assert "patient" not in told
    assert set(found["told_without_pixels"]) >= {"all metadata", "JPEG quality", "site"}
    assert "border of the picture" not in found["told_without_pixels"]
    assert found["exact_duplicates"] == {"train and test": 1}
    assert found["near_duplicates"]["train and test"] >= 1
    assert found["group_leaks"] == {"train and test": 1}
    assert found["leaked_groups"] == ["p0"]
    accused = [line for line in result.stderr.splitlines() if line.startswith("Warning: Possibly confounded: ")]
    assert len(accused) == 3
    assert not [line for line in accused if "border" in line]
    assert "where guessing, or always naming the commonest class, gives 50.0%" in accused[0]
    border = next(line for line in result.stderr.splitlines() if line.startswith("Warning: The border alone gives "))
    assert "less than the border, so look at the borders first." in border  # the bar is background here
    assert "This says nothing of a confound where the subject reaches into the border" in border
    assert "Warning: 1 groups have images in two splits, as 'p0': split by group." in result.stderr


def test_a_clean_set_is_not_accused(tmp_path: Path) -> None:
    found = audit(str(write(tmp_path, spoiled=False)), group_by="patient")
    assert found.told_without_pixels == ()
    assert found.warnings == ()
    assert found.exact == found.near == found.leaks == {}
    assert found.counts == {"train": {"ill": 20, "well": 20}, "test": {"ill": 10, "well": 10}}


def test_near_duplicates_survive_encoding_and_size_and_others_are_none() -> None:
    plain = [picture(i, 64) for i in range(30)]
    small = [look(encoded(p.resize((48, 48)), "jpeg", quality=80), "a") for p in plain]
    seen = [look(encoded(p), "b") for p in plain] + small
    found = {tuple(pair) for pair in near_pairs(seen).tolist()}
    assert found <= {(i, i + 30) for i in range(30)}
    assert len(found) >= 28
    assert exact_pairs([*seen[:2], seen[0]]).tolist() == [[0, 2]]
    assert near_pairs([seen[0], seen[0]]).tolist() == []  # the same bytes are no near duplicates


def test_pictures_of_one_colour_are_alike_where_the_colour_is() -> None:
    seen = [look(np.full((8, 8), value, dtype=np.uint8), "flat") for value in (10, 200)]
    seen.append(look(np.full((9, 9), 10, dtype=np.uint8), "flat"))
    assert near_pairs(seen).tolist() == [[0, 2]]


def test_the_hash_does_not_see_brightness_or_contrast() -> None:
    grey = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    assert perceptual_hash(grey) == perceptual_hash(grey * np.float32(0.5) + np.float32(0.25))
    assert bin(perceptual_hash(grey) ^ perceptual_hash(1 - grey)).count("1") > 50


@pytest.mark.parametrize("quality", [25, 50, 75, 92])
def test_jpeg_quality_is_read_off_the_tables(quality: int) -> None:
    facts = file_facts(encoded(picture(0), "jpeg", quality=quality), "scan_0042_v7.jpg")
    assert facts["JPEG quality"] == pytest.approx(quality, abs=1.0)
    assert (facts["file number"], facts["digits in the file name"]) == (7, 5)
    assert (facts["height"], facts["width"], facts["channels"]) == (32, 32, 3)


def test_columns_become_numbers() -> None:
    def plain(values: list) -> list | None:
        made = column_features(values)
        return None if made is None else made.tolist()

    assert plain(["1.5", "2", "3"]) == [1.5, 2, 3]
    assert plain(["b", "a", "b", "a"]) == [1, 0, 1, 0]
    assert plain(["ISIC_7", "ISIC_12", "ISIC_3"]) == [7, 12, 3]
    assert plain(["x", "x", "x"]) is None


def test_the_border_leaves_the_middle_out() -> None:
    inside = np.zeros((3, 32, 32), dtype=np.float32)
    inside[:, 4:-4, 4:-4] = 1
    assert border(inside).max() == 0
    assert border(1 - inside).min() == 1
    assert border(inside).shape == (3 * (256 - 144),)


def test_the_middle_is_as_many_pixels_about_the_centre() -> None:
    picture = np.zeros((1, 32, 32), dtype=np.float32)
    picture[:, :8] = picture[:, -8:] = 1
    assert middle(picture).shape == border(picture).shape
    ring = np.ones((1, 32, 32), dtype=np.float32)
    ring[:, 4:-4, 4:-4] = 0
    assert middle(ring).max() == 0


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.05, high=value + 0.05, n=100, confidence=0.95, method="bootstrap")


def test_a_border_that_is_part_of_the_subject_is_not_accused() -> None:
    made = [
        Shortcut(name=kind, kind=kind, balanced_accuracy=estimate(value), auc=None, chance=0.5)
        for kind, value in (("border", 0.88), ("middle", 0.9))
    ]
    (said,) = _shortcut_warnings(made)
    assert said == (
        "The border alone gives 88.0% balanced accuracy (83.0% to 93.0%, 100 images), where guessing, or always naming "
        "the commonest class, gives 50.0%. As many pixels of the middle give 90.0% (85.0% to 95.0%), which is not "
        "clearly less. This says nothing of a confound where the subject reaches into the border, as a chest fills its "
        "X-ray; where the border is background, it points to one. Crop or mask it and measure again."
    )
    assert _shortcut_warnings(made[1:]) == []
    sized = Shortcut(name="file size", kind="file", balanced_accuracy=estimate(0.8), auc=None, chance=0.5)
    assert _shortcut_warnings([sized])[0].endswith("A file's size says how busy its picture is, too, which may be the "
                                                   "subject.")  # fmt: skip


def test_guessing_from_noise_is_chance_and_groups_stay_together() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], 60)
    noise = guess("noise", random.random((120, 3)), labels, 2)
    assert noise.excess < 0.1
    # A number that names the group tells the class only to who has seen the group.
    groups = [str(i // 6) for i in range(120)]
    mixed = np.random.default_rng(1).permutation(20)
    named = mixed[np.arange(120) // 6][:, None].astype(float)
    alone = guess("group", named, labels, 2).balanced_accuracy.value
    kept = guess("group", named, labels, 2, groups=groups).balanced_accuracy.value
    assert alone > 0.95
    assert kept < alone


def test_what_cannot_be_audited(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        guess("one", np.zeros((3, 1)), np.array([0, 0, 1]), 2)
    assert str(caught.value) == "Guessing needs two classes and two images of each. Got 1 of class 1."
    path = write(tmp_path, spoiled=False)
    with pytest.raises(InputError) as caught:
        audit(str(path), group_by="lesion")
    assert str(caught.value) == "The data set 'set' has no column 'lesion'. It has: patient, site."


def test_16_bits_that_are_nearly_black_and_missing_classes_are_warned_of(tmp_path: Path) -> None:
    for split, names in {"train": ("ill", "well"), "val": ("ill",)}.items():
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                pixels = np.random.default_rng(i).integers(0, 4096, (8, 8)).astype(np.uint16)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    found = audit(str(tmp_path))
    assert "Class 'well' has no image in the split 'validation': nothing can be said of it there." in found.warnings
    assert any(text.startswith("The pictures have 16 bits and none is brighter") for text in found.warnings)
