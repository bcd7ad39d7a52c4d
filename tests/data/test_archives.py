"""CIFAR-10 and downsampled ImageNet as they are published: labels, order of pixels, splits."""

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from diffclass.data.datasets import dataset_splits, open_dataset
from diffclass.errors import ConditionError, InputError

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RNG = np.random.default_rng(0)
TEST = RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
TEST_LABELS = [3, 8, 8, 0, 6, 1]
SMALL = RNG.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


def rows(images: np.ndarray) -> np.ndarray:
    """Red pixels of all rows, then green, then blue: written one by one."""
    return np.array([[image[y, x, c] for c in range(3) for y in range(len(image)) for x in range(len(image))]
                     for image in images], dtype=np.uint8)  # fmt: skip


def batch(images: np.ndarray, labels: list[int], *, protocol: int = 2) -> bytes:
    content = {b"batch_label": b"a batch", b"labels": labels, b"data": rows(images), b"filenames": [b"x.png"]}
    return pickle.dumps(content, protocol=protocol)


def cifar_files(*, protocol: int = 2) -> dict[str, bytes]:
    files = {"test_batch": batch(TEST, TEST_LABELS, protocol=protocol)}
    for index in range(5):
        files[f"data_batch_{index + 1}"] = batch(TEST[index : index + 1], [index], protocol=protocol)
    names = [name.encode() for name in NAMES]
    return files | {"batches.meta": pickle.dumps({b"label_names": names}, protocol=2), "readme.html": b"hello"}


def write_cifar(folder: Path, **options: int) -> Path:
    folder.mkdir(parents=True)
    for name, content in cifar_files(**options).items():
        (folder / name).write_bytes(content)
    return folder


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("kind", ["folder", "folder above", "tar.gz", "tar", "protocol 4"])
def test_cifar10_is_read_wherever_it_is(kind: str, tmp_path: Path) -> None:
    if kind.startswith("tar"):
        path = write_tar(tmp_path / f"cifar-10-python.{kind}", cifar_files())
    elif kind == "folder above":
        path = write_cifar(tmp_path / "cifar-10-batches-py").parent
    else:
        path = write_cifar(tmp_path / "cifar", protocol=4 if kind == "protocol 4" else 2)
    assert dataset_splits(path) == ("test", "train")
    test = open_dataset(path, split="test")
    assert (test.classes, test.labels.tolist()) == (NAMES, TEST_LABELS)
    assert test.ids[:2] == ("test/0", "test/1")
    images, _ = test.uint8((3, 32, 32))
    assert np.array_equal(images.numpy().transpose(0, 2, 3, 1), TEST)
    train = open_dataset(path, split="train")
    assert train.labels.tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(train.uint8((3, 32, 32))[0].numpy().transpose(0, 2, 3, 1), TEST[:5])


def test_cifar10_without_names_has_its_own(tmp_path: Path) -> None:
    folder = write_cifar(tmp_path / "cifar")
    (folder / "batches.meta").unlink()
    assert open_dataset(folder, split="test").classes == NAMES


def test_cifar10_counts_labels_as_a_model_does(tmp_path: Path) -> None:
    turned = open_dataset(write_cifar(tmp_path / "cifar"), split="test", classes=NAMES[::-1])
    assert turned.labels.tolist() == [9 - label for label in TEST_LABELS]


def write_imagenet(folder: Path, *, mapped: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "train_data_batch_2.npz", data=rows(SMALL[2:3]), labels=np.array([3]))
    np.savez(folder / "train_data_batch_1.npz", data=rows(SMALL[:2]), labels=np.array([1, 2]), mean=np.zeros(192))
    np.savez(folder / "val_data.npz", data=rows(SMALL[3:]), labels=np.array([2, 1]))
    if mapped:
        (folder / "map_clsloc.txt").write_text("n03 1 fox\nn01 2 cat\nn02 3 dog\n")
    return folder


def test_imagenet_is_read_batch_after_batch(tmp_path: Path) -> None:
    folder = write_imagenet(tmp_path)
    assert dataset_splits(folder) == ("train", "validation")
    train = open_dataset(folder, split="train")
    assert (train.classes, train.labels.tolist()) == (("n03", "n01", "n02"), [0, 1, 2])
    assert np.array_equal(train.uint8((3, 8, 8))[0].numpy().transpose(0, 2, 3, 1), SMALL[:3])
    assert np.array_equal(np.asarray(train[2].read()), SMALL[2])
    validation = open_dataset(folder, split="val")
    assert validation.labels.tolist() == [1, 0]
    assert np.array_equal(validation.uint8((3, 8, 8))[0].numpy().transpose(0, 2, 3, 1), SMALL[3:])


def test_imagenet_is_told_in_the_order_of_a_model(tmp_path: Path) -> None:
    part = open_dataset(write_imagenet(tmp_path), split="train", classes=("n01", "n02", "n03"))
    assert part.labels.tolist() == [2, 0, 1]


def test_one_file_of_imagenet_is_a_set_without_splits(tmp_path: Path) -> None:
    one = open_dataset(write_imagenet(tmp_path) / "val_data.npz")
    assert (one.classes, one.labels.tolist(), one.ids) == (("n03", "n01", "n02"), [1, 0], ("0", "1"))


def test_imagenet_without_its_map_is_no_other_sets_numbers(tmp_path: Path) -> None:
    folder = write_imagenet(tmp_path, mapped=False)
    assert open_dataset(folder, split="train").classes == ("#1", "#2", "#3")
    with pytest.raises(ConditionError, match=r"The label '#1' of 'train/0' is not among the classes: 0, 1, 2."):
        open_dataset(folder, split="train", classes=("0", "1", "2"))


def test_pictures_that_are_not_square_are_refused_when_they_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "val_data.npz", data=np.zeros((2, 100), np.uint8), labels=np.array([1, 2]))
    data = open_dataset(tmp_path)
    with pytest.raises(InputError, match="must hold square pictures of 3 bytes a pixel, one a label"):
        data[0].read()
