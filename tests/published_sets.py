"""Tiny copies of published data sets, laid out as their authors lay them out."""

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WNIDS = ("n01440764", "n02012849", "n03126707")


def picture(path: Path, value: int = 0, size: tuple[int, int] = (20, 16), border: int | None = None) -> Path:
    """Save a picture of one grey, with a red border of so many pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (value, value, value) if border is None else (255, 0, 0))
    if border is not None:
        inner = (size[0] - 2 * border, size[1] - 2 * border)
        image.paste(Image.new("RGB", inner, (value, value, value)), (border, border))
    image.save(path)
    return path


def lines(path: Path, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def pets(root: Path, test: Sequence[str] = ("Abyssinian_2", "american_bulldog_7", "Abyssinian_11")) -> Path:
    home = root / "oxford-iiit-pet"
    ids = {"Abyssinian": 1, "american_bulldog": 2}
    for value, name in enumerate(test):
        picture(home / "images" / f"{name}.jpg", 60 * value)
    rows = [f"{name} {ids[name.rpartition('_')[0]]} 1 1" for name in test]
    lines(home / "annotations" / "test.txt", *rows)
    lines(home / "annotations" / "trainval.txt", "Abyssinian_1 1 1 1")
    return root


def flowers(root: Path) -> Path:
    from scipy.io import savemat

    labels = np.array([[102, 1, 1, 51]], dtype=np.uint8)
    savemat(root / "imagelabels.mat", {"labels": labels})
    savemat(root / "setid.mat", {"trnid": np.array([[2]]), "valid": np.array([[3]]), "tstid": np.array([[4, 1]])})
    for number in range(1, 5):
        picture(root / "jpg" / f"image_{number:05d}.jpg", 40 * number)
    return root


def food(root: Path) -> Path:
    for value, name in enumerate(("apple_pie/12", "apple_pie/13", "pho/9")):
        picture(root / "images" / f"{name}.jpg", 50 * value)
    lines(root / "meta" / "train.txt", "apple_pie/12")
    lines(root / "meta" / "test.txt", "pho/9", "apple_pie/13")
    return root


def aircraft(root: Path) -> Path:
    home = root / "fgvc-aircraft-2013b" / "data"
    for value, name in enumerate(("0000001", "0000002", "0000003")):
        picture(home / "images" / f"{name}.jpg", 50 * value)
    lines(home / "variants.txt", "707-320", "Model B200", "F/A-18")
    lines(home / "images_variant_train.txt", "0000001 707-320")
    lines(home / "images_variant_test.txt", "0000003 F/A-18", "0000002 Model B200")
    return root


def stl10(root: Path, n: int = 2) -> Path:
    images = np.zeros((n, 96, 96, 3), dtype=np.uint8)
    images[0, 3, 5] = (10, 20, 30)  # row 3, column 5
    flat = [image[y, x, c] for image in images for c in range(3) for x in range(96) for y in range(96)]
    (root / "stl10_binary").mkdir(parents=True)
    (root / "stl10_binary" / "test_X.bin").write_bytes(bytes(np.array(flat, dtype=np.uint8)))
    (root / "stl10_binary" / "test_y.bin").write_bytes(bytes([10, *[1] * (n - 1)]))
    names = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
    lines(root / "stl10_binary" / "class_names.txt", *names)
    return root


def cifar(root: Path, kind: str = "cifar10", n: int = 4) -> Path:
    """The test images of CIFAR-10, or of a CIFAR-100 of three classes."""
    data = np.random.default_rng(0).integers(0, 256, (n, 3072), dtype=np.uint8)
    labels = [i % 3 for i in range(n)]
    if kind == "cifar10":
        files: dict[str, Any] = {"test_batch": {"data": data, "labels": labels}}
    else:
        batch = {"data": data, "fine_labels": labels, "coarse_labels": [0] * n}
        names = ["apple", "aquarium_fish", "baby"]
        files = {"test": batch, "train": batch, "meta": {"fine_label_names": names, "coarse_label_names": ["x"]}}
    home = root / ("cifar-10-batches-py" if kind == "cifar10" else "cifar-100-python")
    home.mkdir(parents=True)
    for name, content in files.items():
        (home / name).write_bytes(pickle.dumps(content, protocol=2))
    return root


def imagenet_pictures(folder: Path, n: int = 3) -> Path:
    for number in range(1, n + 1):
        picture(folder / f"ILSVRC2012_val_{number:08d}.JPEG", 50 * number)
    return folder


def imagenet_kaggle(root: Path) -> Path:
    imagenet_pictures(root / "ILSVRC" / "Data" / "CLS-LOC" / "val")
    rows = [f"ILSVRC2012_val_{i:08d},{wnid} 1 2 3 4 " for i, wnid in enumerate(reversed(WNIDS), start=1)]
    lines(root / "LOC_val_solution.csv", "ImageId,PredictionString", *rows)
    named = ("tench, Tinca tinca", "crane", "crane")
    lines(root / "LOC_synset_mapping.txt", *(f"{w} {name}" for w, name in zip(WNIDS, named, strict=True)))
    return root


def imagenet_devkit(root: Path) -> Path:
    from scipy.io import savemat

    imagenet_pictures(root / "val")
    home = root / "ILSVRC2012_devkit_t12" / "data"
    home.mkdir(parents=True)
    kind = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    rows = [(3, WNIDS[0], "tench, Tinca tinca", 0), (1, WNIDS[1], "crane", 0), (2, WNIDS[2], "crane", 0),
            (1001, "n00001740", "entity", 9)]  # fmt: skip
    savemat(home / "meta.mat", {"synsets": np.array(rows, dtype=kind)[:, None]})
    lines(home / "ILSVRC2012_validation_ground_truth.txt", "2", "3", "1")
    return root


def objectnet(root: Path) -> Path:
    home = root / "objectnet-1.0"
    for folder, value in (("air_freshener", 0), ("backpack", 100), ("t_shirt", 200)):
        picture(home / "images" / folder / "a.png", value, border=2)
    (home / "mappings").mkdir()
    named = {"air_freshener": "Air freshener", "backpack": "Backpack", "t_shirt": "T-shirt"}
    (home / "mappings" / "folder_to_objectnet_label.json").write_text(json.dumps(named))
    mapped = {"Backpack": "backpack, back pack", "T-shirt": "jersey, T-shirt, tee shirt"}
    (home / "mappings" / "objectnet_to_imagenet_1k.json").write_text(json.dumps(mapped))
    return root


SETS: dict[str, Callable[[Path], Path]] = {
    "pets": pets, "flowers": flowers, "food": food, "aircraft": aircraft, "stl10": stl10, "cifar10": cifar,
    "cifar100": lambda root: cifar(root, "cifar100"), "imagenet": imagenet_kaggle, "objectnet": objectnet,
}  # fmt: skip
