"""Archives of CIFAR-10 and ImageNet that cannot be read: a table of what is in a folder and the exact sentence."""

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffclass.data.datasets import open_dataset
from diffclass.errors import InputError


class Call:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def batch(home: Path, content: object, name: str = "test_batch") -> Path:
    (home / name).write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=2))
    return home


def good() -> dict[str, Any]:
    return {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}


def tar(home: Path) -> Path:
    with tarfile.open(home / "x.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("notes.txt"), io.BytesIO())
    return home / "x.tar.gz"


def npz(home: Path, **arrays: Any) -> Path:
    np.savez(home / "val_data.npz", **{"data": np.zeros((2, 12), np.uint8), "labels": np.array([1, 2])} | arrays)
    return home


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


TABLE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "one batch of five": (
        lambda h: batch(h, good(), "data_batch_2"), "The folder '{h}' has 1 of 5 files of 'train'."
    ),
    "a batch that calls": (
        lambda h: batch(h, {"data": Call()}),
        "The file '{h}/test_batch' wants 'posix.system' when it is opened, which no data set needs, so nothing in it "
        "was run. Get it from where CIFAR-10 and CIFAR-100 are published.",
    ),
    "half a batch": (
        lambda h: batch(h, pickle.dumps(good())[:900]),
        "The file '{h}/test_batch' cannot be read: it is truncated, altered or no pickle.",
    ),
    "a list": (lambda h: batch(h, [1]), "The file '{h}/test_batch' must hold a dictionary of arrays. Got list."),
    "pixels of CIFAR-100's labels": (
        lambda h: batch(h, {"data": good()["data"], "fine_labels": [0, 1]}),
        "The file '{h}/test_batch' must hold 'labels', one integer an image.",
    ),
    "too few pixels": (
        lambda h: batch(h, good() | {"data": np.zeros((2, 100), np.uint8)}),
        "The file '{h}/test_batch' must hold 'data', 3072 bytes an image.",
    ),
    "too few labels": (
        lambda h: batch(h, good() | {"labels": [0]}),
        "The file '{h}/test_batch' must hold 'labels', one integer an image.",
    ),
    "names that are none": (
        lambda h: batch(batch(h, {"label_names": 10}, "batches.meta"), good()),
        "The file '{h}/batches.meta' must hold 'label_names', a list of names.",
    ),
    "a tar of something else": (
        tar, "The file '{h}/x.tar.gz' must hold CIFAR's python batches. Unpack any other and give the folder."
    ),
    "no tar": (
        lambda h: written(h / "x.tar.gz", "<html>"),
        "The file '{h}/x.tar.gz' is truncated, altered or no tar. Get it again.",
    ),
    "labels from 0": (
        lambda h: npz(h, labels=np.array([0, 1])),
        "The array labels of '{h}/val_data.npz' must hold one integer from 1 an image.",
    ),
    "labels that are objects": (
        lambda h: npz(h, labels=np.array([Call(), 1], dtype=object)),
        "The file '{h}/val_data.npz' cannot be read: Object arrays cannot be loaded when allow_pickle=False.",
    ),
    "no npz": (
        lambda h: written(h / "val_data.npz", "PK").parent,
        "The file '{h}/val_data.npz' is not an npz archive.",
    ),
    "a map that is none": (
        lambda h: written(npz(h) / "map_clsloc.txt", "n01 fox\n").parent,
        "Every line of '{h}/map_clsloc.txt' must hold an id and a number, as 'n02119789 1 kit_fox'.",
    ),
    "a map with holes": (
        lambda h: written(npz(h) / "map_clsloc.txt", "n01 1 a\nn02 3 b\n").parent,
        "The numbers in '{h}/map_clsloc.txt' must be 1 to 2, each once.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_bad_archives_are_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    make, said = TABLE[name]
    path = make(tmp_path)
    with pytest.raises(InputError) as refused:
        open_dataset(path)
    assert str(refused.value) == said.format(h=tmp_path)
