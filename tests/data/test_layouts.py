"""Published data sets as their authors lay them out: which files are read, which label each picture gets."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import published_sets
from diffclass.data.archives import is_published_cifar
from diffclass.data.datasets import Dataset, dataset_splits, open_dataset
from diffclass.data.imagenet import synset_names
from diffclass.data.layouts import find_layout
from published_sets import SETS, WNIDS

# name: splits, then of the test split (ImageNet: validation) the ids and the classes of its pictures
EXPECTED: dict[str, tuple[tuple[str, ...], list[tuple[str, str]]]] = {
    "pets": (("test", "train"), [("images/Abyssinian_2.jpg", "Abyssinian"),
                                 ("images/american_bulldog_7.jpg", "American Bulldog"),
                                 ("images/Abyssinian_11.jpg", "Abyssinian")]),
    "flowers": (("test", "train", "validation"), [("jpg/image_00004.jpg", "petunia"),
                                                  ("jpg/image_00001.jpg", "blackberry lily")]),
    "food": (("test", "train"), [("images/pho/9.jpg", "pho"), ("images/apple_pie/13.jpg", "apple pie")]),
    "aircraft": (("test", "train"), [("images/0000003.jpg", "F/A-18"), ("images/0000002.jpg", "Model B200")]),
    "stl10": (("test",), [("test/0", "truck"), ("test/1", "airplane")]),
    "cifar10": (("test",), [("test/0", "airplane"), ("test/1", "automobile"), ("test/2", "bird"),
                            ("test/3", "airplane")]),
    "cifar100": (("test", "train"), [("test/0", "apple"), ("test/1", "aquarium fish"), ("test/2", "baby"),
                                     ("test/3", "apple")]),
    "imagenet": (("validation",), [(f"ILSVRC2012_val_{i:08d}.JPEG", WNIDS[3 - i]) for i in (1, 2, 3)]),
    "objectnet": (("test",), [("images/backpack/a.png", "Backpack"), ("images/t_shirt/a.png", "T-shirt")]),
}  # fmt: skip


def truths(data: Dataset) -> list[tuple[str, str]]:
    return [(item.id, data.classes[item.label]) for item in data if item.label is not None]


@pytest.mark.parametrize("name", SETS)
def test_sets_are_read_as_they_are_published(name: str, tmp_path: Path) -> None:
    root = SETS[name](tmp_path)
    layout = find_layout(root)
    assert layout is not None
    assert layout.name == name
    splits, expected = EXPECTED[name]
    assert dataset_splits(root) == splits
    data = open_dataset(root, split="validation" if name == "imagenet" else "test")
    assert truths(data) == expected
    for item in data:
        assert item.load((3, 8, 8), resize="crop").shape == (3, 8, 8)


def test_pictures_are_those_of_the_list(tmp_path: Path) -> None:
    data = open_dataset(published_sets.pets(tmp_path), split="test")
    greys = [round(float(item.load((3, 4, 4), resize="crop").mean()) * 255) for item in data]
    assert np.allclose(greys, [0, 60, 120], atol=3)
    assert open_dataset(tmp_path, split="train").classes == data.classes


def test_stl10_is_kept_column_by_column(tmp_path: Path) -> None:
    image = np.asarray(open_dataset(published_sets.stl10(tmp_path), split="test")[0].read())
    assert image.shape == (96, 96, 3)
    assert image[3, 5].tolist() == [10, 20, 30]
    assert image.sum() == 60


def test_the_names_of_flowers_are_102(tmp_path: Path) -> None:
    classes = open_dataset(published_sets.flowers(tmp_path), split="test").classes
    assert len(set(classes)) == 102
    assert (classes[0], classes[11], classes[50], classes[73], classes[101]) == (
        "pink primrose", "colt's foot", "petunia", "rose", "blackberry lily"
    )  # fmt: skip


def test_imagenet_with_its_devkit(tmp_path: Path) -> None:
    root = published_sets.imagenet_devkit(tmp_path)
    data = open_dataset(root, split="validation")
    assert [name for _, name in truths(data)] == [WNIDS[2], WNIDS[0], WNIDS[1]]
    assert synset_names(data.classes, root) == ("tench", "crane bird", "construction crane")


def test_imagenet_sorted_into_folders_is_a_set_of_folders(tmp_path: Path) -> None:
    for wnid in WNIDS:
        published_sets.picture(tmp_path / "val" / wnid / "ILSVRC2012_val_00000001.JPEG")
    assert find_layout(tmp_path) is None
    assert open_dataset(tmp_path, split="validation").classes == WNIDS


def index(root: Path) -> Path:
    words = ("tench", "crane", "sea_anemone")
    rows = {str(i): [wnid, word] for i, (wnid, word) in enumerate(zip(WNIDS, words, strict=True))}
    (root / "imagenet_class_index.json").write_text(json.dumps(rows))
    return root


NAMED: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "LOC_synset_mapping.txt": (published_sets.imagenet_kaggle, ("tench", "crane bird", "construction crane")),
    "imagenet_class_index.json": (index, ("tench", "crane", "sea anemone")),
    "meta.mat": (published_sets.imagenet_devkit, ("tench", "crane bird", "construction crane")),
}


@pytest.mark.parametrize("name", NAMED)
def test_names_of_imagenet_are_found_above_its_pictures(name: str, tmp_path: Path) -> None:
    make, names = NAMED[name]
    root = make(tmp_path)
    assert synset_names(WNIDS, root) == names
    (root / "a" / "b").mkdir(parents=True)
    assert synset_names(WNIDS, root / "a" / "b") == names
    assert synset_names((*WNIDS, "n99999999"), root) is None


def test_classes_that_share_a_word_have_all_their_words(tmp_path: Path) -> None:
    rows = ("n03710637 maillot", "n03710721 maillot, tank suit", "n00000001 dog, hound")
    published_sets.lines(tmp_path / "LOC_synset_mapping.txt", *rows)
    wnids = ("n03710637", "n03710721", "n00000001")
    assert synset_names(wnids, tmp_path) == ("maillot", "maillot, tank suit", "dog")


def test_objectnet_loses_its_border(tmp_path: Path) -> None:
    data = open_dataset(published_sets.objectnet(tmp_path), split="test")
    image = np.asarray(data[0].read())
    assert image.shape == (12, 16, 3)
    assert np.unique(image).tolist() == [100]
    with Image.open(tmp_path / "objectnet-1.0" / data[0].id) as whole:
        assert whole.size == (20, 16)


def test_cifar_is_published_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hashlib import md5

    from diffclass.data import archives

    root = published_sets.cifar(tmp_path)
    assert not is_published_cifar(root)
    assert not is_published_cifar(published_sets.flowers(tmp_path / "cifar-10-batches-py"))
    content = (root / "cifar-10-batches-py" / "test_batch").read_bytes()
    kind = archives._CIFARS["cifar10"]
    monkeypatch.setitem(archives._CIFARS, "cifar10", kind._replace(md5=md5(content).hexdigest()))
    assert is_published_cifar(root)


def test_folders_that_only_look_alike_are_no_published_set(tmp_path: Path) -> None:
    for name in ("train", "test", "meta"):
        published_sets.picture(tmp_path / name / "cat" / "a.png")
    assert find_layout(tmp_path) is None
