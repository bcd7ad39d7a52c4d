"""Pictures with captions: what is read, from which formats, and how splits are found."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffclass.data.captions import caption_splits, open_captions
from tiny_captions import caption, save_captions


def test_every_caption_of_a_picture_is_read(tmp_path: Path) -> None:
    data = open_captions(save_captions(tmp_path / "scenes", copies=2))
    assert (data.images.name, data.images.split, len(data.images)) == ("scenes", None, 24)
    assert len(data.captions) == 12
    assert len(data.texts) == 24
    item = data.images[2]
    assert item.id == "red_blue_0.png"
    assert item.label is not None
    own = ("a photo of blue to the right of red", caption("red", "blue"))
    assert data.captions[item.label] == own
    assert tuple(data.texts[number] for number in data.numbers[item.label]) == own
    assert item.load((3, 16, 16))[0].mean() < 0.9


def test_a_picture_may_have_several_lines(tmp_path: Path) -> None:
    folder = save_captions(tmp_path / "scenes", copies=1)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    apart = [{**line, "text": text, "concept": "x"} for line in lines for text in reversed(line["text"])]
    whole = open_captions(folder)
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, apart)))
    assert open_captions(folder).captions == whole.captions
    assert open_captions(folder).images.fingerprint == whole.images.fingerprint


def test_pictures_with_the_same_captions_are_of_one_class(tmp_path: Path) -> None:
    data = open_captions(save_captions(tmp_path / "scenes", copies=3))
    assert np.bincount(data.images.labels).tolist() == [3] * 12


def test_csv_is_read_like_jsonl(tmp_path: Path) -> None:
    folder = save_captions(tmp_path / "scenes", copies=1)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    (folder / "metadata.jsonl").unlink()
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "caption", "more"])
        writer.writerows([line["file_name"], line["text"][0], "x"] for line in lines)
    data = open_captions(folder, text_column="caption")
    assert data.captions[0] == (caption("red", "green"),)
    assert len(data.images) == 12


def test_splits_are_folders(tmp_path: Path) -> None:
    save_captions(tmp_path / "scenes/train", copies=2)
    save_captions(tmp_path / "scenes/val", copies=1)
    assert caption_splits(tmp_path / "scenes") == ("train", "validation")
    assert len(open_captions(tmp_path / "scenes", split="train").images) == 24
    data = open_captions(tmp_path / "scenes", split="validation")
    assert (data.images.split, len(data.images)) == ("validation", 12)
    assert caption_splits(tmp_path / "scenes/train") == ()


def test_folders_are_taken_together(tmp_path: Path) -> None:
    for task in ("pair", "single"):
        save_captions(tmp_path / f"scenes/{task}/train", copies=1)
    save_captions(tmp_path / "scenes/pair/val", copies=1, names=("red", "blue"))
    assert caption_splits(tmp_path / "scenes") == ("train", "validation")
    data = open_captions(tmp_path / "scenes", split="train")
    assert len(data.images) == 24
    assert (data.images.ids[0], data.images.ids[-1]) == (
        "pair/train/red_green_0.png", "single/train/yellow_blue_0.png",
    )  # fmt: skip
    assert len(data.captions) == 12
    assert len(open_captions(tmp_path / "scenes", split="validation").images) == 2


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    for name in ("red cube", "blue cube"):
        (tmp_path / "labelled" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "labelled" / name / "0.png")
    return tmp_path / "labelled"


def test_classes_are_told_in_words(labelled: Path) -> None:
    data = open_captions(labelled, template="a photo of a {}")
    assert data.captions == (("a photo of a blue cube",), ("a photo of a red cube",))
    said = {"red cube": "one sentence", "blue cube": "another", "green cube": "not needed"}
    assert open_captions(labelled, sentences=said).captions == (("another",), ("one sentence",))
