"""Published data sets that are damaged: one sentence each."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import published_sets
from diffclass.data.datasets import open_dataset
from diffclass.errors import InputError


def after(make: Callable[[Path], Path], name: str, content: str | bytes) -> Callable[[Path], Path]:
    """Write over one file of a set."""

    def run(folder: Path) -> Path:
        root = make(folder)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return root

    return run


def high_label(folder: Path) -> Path:
    from scipy.io import savemat

    root = published_sets.flowers(folder)
    savemat(root / "imagelabels.mat", {"labels": np.array([[103, 1, 1, 1]])})
    return root


def broken_cifar100(folder: Path) -> Path:
    import pickle

    root = published_sets.cifar(folder, "cifar100")
    data = np.zeros((2, 3072), np.uint8)
    (root / "cifar-100-python" / "test").write_bytes(pickle.dumps({"data": data, "labels": [0, 1]}, protocol=2))
    return root


PETS, CRAFT = "oxford-iiit-pet/annotations", "fgvc-aircraft-2013b/data"
KIT, KIT_TRUTH = "ILSVRC2012_devkit_t12/data", "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
OBJECTS = "objectnet-1.0/mappings/objectnet_to_imagenet_1k.json"

# what damages a set, the split that is opened, and the sentence; {h} is its folder
TABLE: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "a short line of Pets": (
        after(published_sets.pets, f"{PETS}/test.txt", "# list\nAbyssinian_2 1 1 1\nAbyssinian_3 1\n"), "test",
        f"Line 2 of '{{h}}/{PETS}/test.txt' must be like 'Abyssinian_201 1 1 1'. Got 'Abyssinian_3 1'.",
    ),
    "bytes for a list of Pets": (
        after(published_sets.pets, f"{PETS}/trainval.txt", b"\xff\xfe"), "test",
        f"The list '{{h}}/{PETS}/trainval.txt' cannot be read: it is missing, damaged or no text.",
    ),
    "a line of Food-101 without a class": (
        after(published_sets.food, "meta/test.txt", "13\n"), "test",
        "Line 1 of '{h}/meta/test.txt' must be like 'apple_pie/1005649'. Got '13'.",
    ),
    "a line of Aircraft without a variant": (
        after(published_sets.aircraft, f"{CRAFT}/images_variant_test.txt", "0000003\n"), "test",
        f"Line 1 of '{{h}}/{CRAFT}/images_variant_test.txt' must be like '1514522 707-320'. Got '0000003'.",
    ),
    "an unknown variant": (
        after(published_sets.aircraft, f"{CRAFT}/variants.txt", "707-320\nF/A-18\n"), "test",
        f"The class 'Model B200' of '{{h}}/{CRAFT}' is not in the set's list of classes.",
    ),
    "text for a Matlab file": (
        after(published_sets.flowers, "setid.mat", "test"), "test",
        "The file '{h}/setid.mat' must be a Matlab file with whole numbers in 'tstid'.",
    ),
    "a flower too many": (
        high_label, "test",
        "The labels in '{h}' must be from 1 to 102, and the pictures of 'tstid' among those that have one.",
    ),
    "half of STL-10": (
        after(published_sets.stl10, "stl10_binary/test_X.bin", b"\0" * 27_648), "test",
        "The file '{h}/stl10_binary/test_X.bin' must hold 27648 bytes for each of the 2 labels.",
    ),
    "fine labels that are missing": (
        broken_cifar100, "test",
        "The file '{h}/cifar-100-python/test' must hold 'fine_labels', one integer an image.",
    ),
    "a table of ImageNet without its column": (
        after(published_sets.imagenet_kaggle, "LOC_val_solution.csv", "id,label\n1,2\n"), "validation",
        "The file '{h}/LOC_val_solution.csv' must be a table of ImageId and PredictionString.",
    ),
    "a picture of ImageNet without a class": (
        after(published_sets.imagenet_devkit, KIT_TRUTH, "2\n3\n"), "validation",
        f"The file '{{h}}/{KIT_TRUTH}' must say the class of every picture. It does not of "
        "'ILSVRC2012_val_00000003.JPEG'.",
    ),
    "a class that ImageNet has not": (
        after(published_sets.imagenet_devkit, KIT_TRUTH, "2\n3\n7\n"), "validation",
        f"The file '{{h}}/{KIT_TRUTH}' must hold the number of a class of meta.mat a line.",
    ),
    "a devkit that is none": (
        after(published_sets.imagenet_devkit, f"{KIT}/meta.mat", "x"), "validation",
        f"The file '{{h}}/{KIT}/meta.mat' must be the meta.mat of ImageNet's devkit.",
    ),
    "a list for an object of names": (
        after(published_sets.objectnet, OBJECTS, "[1]"), "test",
        f"The file '{{h}}/{OBJECTS}' must hold a JSON object of names.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_damaged_sets_are_one_sentence(case: str, tmp_path: Path) -> None:
    damage, split, sentence = TABLE[case]
    root = damage(tmp_path)
    with pytest.raises(InputError) as caught:
        open_dataset(root, split=split)
    assert str(caught.value) == sentence.replace("{h}", str(tmp_path))


def test_a_picture_of_objectnet_that_is_none_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    data = open_dataset(published_sets.objectnet(tmp_path), split="test")
    path = tmp_path / "objectnet-1.0" / data[0].id
    path.write_bytes(b"none")
    with pytest.raises(InputError) as caught:
        data[0].load((3, 8, 8), resize="crop")
    assert str(caught.value) == f"The picture '{path}' cannot be read: it is missing, damaged or too large."


def test_an_index_of_imagenet_that_is_none_is_refused(tmp_path: Path) -> None:
    from diffclass.data.imagenet import synset_names

    path = tmp_path / "imagenet_class_index.json"
    path.write_text("[]")
    with pytest.raises(InputError) as caught:
        synset_names(("n01440764",), tmp_path)
    assert str(caught.value) == f"The file '{path}' must hold a WordNet id and a word for each number."
