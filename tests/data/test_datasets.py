"""Every format gives the same record: ids, labels, classes and pictures."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffclass.data.datasets import Dataset, dataset_splits, open_dataset
from diffclass.data.formats import stratified
from diffclass.errors import ConditionError, InputError, RangeError, ShapeError

SHAPE = (1, 4, 4)
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 4, 4), dtype=np.uint8)
LABELS = [0, 1, 2] * 4
NAMES = ["cat", "dog", "fox"]


def png(index: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[index]).save(buffer, "png")
    return buffer.getvalue()


def make_folder(root: Path, names: list[str] = NAMES) -> Path:
    for index, label in enumerate(LABELS):
        folder = root / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index:02}.png").write_bytes(png(index))
    return root


def make_parquet(path: Path, labels: list[object], indices: range, *, names: list[str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {"image": [{"bytes": png(i), "path": None} for i in indices], "label": [labels[i] for i in indices]}
    )
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=3)
    return path


def contents(dataset: Dataset) -> dict[bytes, str | None]:
    """Class name of every picture, by its pixels."""
    images, _ = dataset.uint8(SHAPE)
    names = [None if item.label is None else dataset.classes[item.label] for item in dataset]
    return dict(zip((image.numpy().tobytes() for image in images), names, strict=True))


EXPECTED = {PIXELS[i].tobytes(): NAMES[LABELS[i]] for i in range(12)}


# Formats


def open_as_folder(root: Path) -> Dataset:
    return open_dataset(make_folder(root / "animals"))


def open_as_parquet(root: Path) -> Dataset:
    return open_dataset(make_parquet(root / "animals.parquet", LABELS, range(12), names=NAMES))


def open_as_parquet_of_text(root: Path) -> Dataset:
    return open_dataset(make_parquet(root / "animals.parquet", [NAMES[label] for label in LABELS], range(12)))


def open_as_shards(root: Path) -> Dataset:
    for shard, indices in enumerate((range(5), range(5, 12))):
        name = f"train-{shard:05}-of-00002-0123456789abcdef.parquet"
        make_parquet(root / "animals" / "data" / name, LABELS, indices, names=NAMES)
    return open_dataset(root / "animals")


def open_as_npz(root: Path) -> Dataset:
    labels = np.array(LABELS, dtype=np.uint8)[:, None]
    np.savez_compressed(root / "animals.npz", train_images=PIXELS, train_labels=labels)
    return open_dataset(root / "animals.npz", classes=NAMES)


def open_as_csv(root: Path) -> Dataset:
    make_folder(root / "pictures", ["a", "b", "c"])
    rows = [f"pictures/{'abc'[label]}/{i:02}.png,{NAMES[label]}" for i, label in enumerate(LABELS)]
    (root / "animals.csv").write_text("\n".join(["path,label", *rows]) + "\n", encoding="utf-8-sig")
    return open_dataset(root / "animals.csv")


every_format = pytest.mark.parametrize(
    "opened", [open_as_folder, open_as_parquet, open_as_parquet_of_text, open_as_shards, open_as_npz, open_as_csv]
)


@every_format
def test_every_format_gives_the_same_pictures_and_names(opened, tmp_path: Path) -> None:
    dataset = opened(tmp_path)
    assert (dataset.name, dataset.classes, len(dataset)) == ("animals", tuple(NAMES), 12)
    assert contents(dataset) == EXPECTED
    assert len(set(dataset.ids)) == 12
    images, labels = dataset.array(SHAPE)
    assert torch.equal(images, dataset.uint8(SHAPE)[0] / 255)
    for index, item in enumerate(dataset):
        assert item.id == dataset.ids[index]
        assert item.label == labels[index]
        assert torch.equal(item.load(SHAPE), images[index])


@every_format
def test_ids_and_order_are_stable(opened, tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    assert first.ids == second.ids
    assert first.fingerprint == second.fingerprint
    assert first.subset([1, 0]).fingerprint != first.subset([0, 1]).fingerprint


@every_format
def test_parts_are_read_in_any_order(opened, tmp_path: Path) -> None:
    dataset = opened(tmp_path)
    order = [7, 0, 11, 3]
    images, labels = dataset.array(SHAPE)
    part = dataset.subset(order)
    assert part.ids == tuple(dataset.ids[i] for i in order)
    for chosen in (part.array(SHAPE), dataset.array(SHAPE, order), dataset.array(SHAPE, np.array(order))):
        assert torch.equal(chosen[0], images[order])
        assert torch.equal(chosen[1], labels[order])
    assert torch.equal(part.subset([2])[0].load(SHAPE), images[11])
    assert len(dataset.subset([])) == 0


def test_folder_ids_are_paths(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "animals")
    (root / "cat" / "deep").mkdir()
    (root / "cat" / "deep" / "x.PNG").write_bytes(png(0))
    for stray in ("cat/notes.txt", "cat/.hidden.png", "readme.png"):
        (root / stray).write_bytes(b"")
    (root / "__MACOSX").mkdir()
    dataset = open_dataset(root)
    assert dataset.ids[:5] == ("cat/00.png", "cat/03.png", "cat/06.png", "cat/09.png", "cat/deep/x.PNG")
    assert dataset.classes == tuple(NAMES)
    assert len(dataset) == 13


# Splits


def test_folders_of_splits(tmp_path: Path) -> None:
    make_folder(tmp_path / "Train")
    make_folder(tmp_path / "val", ["cat", "dog", "dog"])  # no fox: the numbers of the others must not move
    assert dataset_splits(tmp_path) == ("train", "validation")
    train, validation = (open_dataset(tmp_path, split=split) for split in ("train", "validation"))
    assert train.classes == validation.classes == tuple(NAMES)
    assert (train.split, validation.split) == ("train", "validation")
    assert validation.ids[0] == "val/cat/00.png"
    assert validation.labels.tolist() == [0] * 4 + [1] * 8
    for alias in ("val", "valid", "dev", "Validation"):
        assert open_dataset(tmp_path, split=alias).split == "validation"


def test_classes_may_be_called_like_splits(tmp_path: Path) -> None:
    assert open_dataset(make_folder(tmp_path, ["train", "test", "dev"])).classes == ("dev", "test", "train")


def test_parquet_splits(tmp_path: Path) -> None:
    make_parquet(tmp_path / "animals" / "train.parquet", LABELS, range(7), names=NAMES)
    make_parquet(tmp_path / "animals" / "test.parquet", LABELS, range(7, 12), names=NAMES)
    folder, file = tmp_path / "animals", tmp_path / "animals" / "test.parquet"
    assert dataset_splits(folder) == ("test", "train")
    assert dataset_splits(file) == ("test",)
    for dataset in (open_dataset(folder, split="test"), open_dataset(file), open_dataset(file, split="test")):
        assert (dataset.name, dataset.split) == ("animals", "test")
        assert dataset.ids == tuple(f"test/{i}" for i in range(5))
        assert dataset.labels.tolist() == LABELS[7:]
    assert len(open_dataset(folder, split="train")) == 7


def test_names_that_only_occur_in_another_split_count(tmp_path: Path) -> None:
    text = [NAMES[label] for label in LABELS]
    make_parquet(tmp_path / "train.parquet", text, range(12))
    make_parquet(tmp_path / "test.parquet", text, range(2, 3))
    test = open_dataset(tmp_path, split="test")
    assert test.classes == tuple(NAMES)
    assert test.labels.tolist() == [2]


def test_csv_column_of_splits(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,label,split\nx,cat,train\ny,dog,test\nz,fox,test\n", encoding="utf-8")
    assert dataset_splits(tmp_path / "a.csv") == ("test", "train")
    test = open_dataset(tmp_path / "a.csv", split="test")
    assert (test.ids, test.classes, test.labels.tolist()) == (("y", "z"), ("cat", "dog", "fox"), [1, 2])


# Classes


@pytest.mark.parametrize("suffix", ["", ".parquet", ".csv"])
def test_the_callers_order_of_classes_renumbers(suffix: str, tmp_path: Path) -> None:
    {"": open_as_folder, ".parquet": open_as_parquet, ".csv": open_as_csv}[suffix](tmp_path)  # makes the files
    dataset = open_dataset(tmp_path / f"animals{suffix}", classes=["fox", "bee", "cat", "dog"])
    assert dataset.classes == ("fox", "bee", "cat", "dog")
    assert contents(dataset) == EXPECTED


def test_numbers_take_the_callers_names(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,label\nx,0\ny,10\nz,2\n", encoding="utf-8")
    assert open_dataset(tmp_path / "a.csv").classes == ("0", "2", "10")
    names = [f"class {i}" for i in range(11)]
    assert open_dataset(tmp_path / "a.csv", classes=names).labels.tolist() == [0, 10, 2]
    path = make_parquet(tmp_path / "a.parquet", LABELS, range(12))
    assert open_dataset(path, classes=NAMES).labels.tolist() == LABELS


def test_missing_labels_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,label\nx,cat\ny,\nz,dog\n", encoding="utf-8")
    labels = [item.label for item in open_dataset(tmp_path / "a.csv", classes=["dog", "cat"])]
    assert labels == [1, None, 0]
    mixed: list[object] = [0, None, -1, *LABELS[3:]]
    for names in (NAMES, None):
        dataset = open_dataset(make_parquet(tmp_path / "a.parquet", mixed, range(12), names=names))
        assert dataset.labels[:3].tolist() == [0, -1, -1]


def test_label_outside_the_files_own_names(tmp_path: Path) -> None:
    path = make_parquet(tmp_path / "a.parquet", LABELS, range(12), names=NAMES[:2])
    with pytest.raises(ConditionError, match=r"^The label 2 of '2' is outside 0 to 1, which have names.$"):
        open_dataset(path)


def test_medmnist_names(tmp_path: Path) -> None:
    arrays = {"test_images": PIXELS, "test_labels": np.arange(12)[:, None] % 2}
    for stem, names in (("pneumoniamnist_64", ("normal", "pneumonia")), ("othermnist", ("0", "1"))):
        np.savez(tmp_path / f"{stem}.npz", **arrays)
        assert open_dataset(tmp_path / f"{stem}.npz").classes == names


# Pictures


def test_broken_pictures_fail_when_loaded(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "animals")
    (root / "dog" / "04.png").write_bytes(b"not a picture")
    dataset = open_dataset(root)
    loaded, failed = [], []
    for item in dataset:
        try:
            loaded.append(item.load(SHAPE))
        except InputError as error:
            failed.append(str(error))
    assert len(loaded) == 11
    assert failed == ["The picture 'dog/04.png' is not in a format that Pillow opens. Try a PNG or JPEG file."]
    with pytest.raises(InputError, match=r"dog/04\.png"):
        dataset.array(SHAPE)


def test_sizes_and_colours_are_refused_unless_asked_for() -> None:
    dataset = open_dataset("digits", split="test")
    with pytest.raises(ShapeError, match=r"^The picture 'digits/1' is 8x8 pixels and the model takes 4x4."):
        dataset[0].load((1, 4, 4))
    with pytest.raises(ShapeError, match="is grey and the model takes colour"):
        dataset.array((3, 8, 8))
    images, _ = dataset.array((3, 4, 4), range(3), resize="crop", convert=True)
    assert images.shape == (3, 3, 4, 4)
    assert dataset[0].prepare((1, 4, 4), resize="crop").summary == "resized 8x8 to 4x4"


def test_uint8_refuses_finer_pictures() -> None:
    dataset = open_dataset("digits", split="test")
    with pytest.raises(InputError, match=r"^The picture 'digits/1' has more than 8 bits a pixel. Try array\(\).$"):
        dataset.uint8((1, 8, 8))


def test_parquet_of_paths_and_of_plain_bytes(tmp_path: Path) -> None:
    make_folder(tmp_path)
    paths = [f"{NAMES[label]}/{i:02}.png" for i, label in enumerate(LABELS)]
    forms = {
        "paths": pa.array(
            [{"bytes": None, "path": path} for path in paths], pa.struct({"bytes": pa.binary(), "path": pa.string()})
        ),
        "bytes": pa.array([png(i) for i in range(12)]),
        "texts": pa.array(paths),
    }
    for form, column in forms.items():
        pq.write_table(pa.table({"picture": column, "kind": [NAMES[i] for i in LABELS]}), tmp_path / f"{form}.parquet")
        path = tmp_path / f"{form}.parquet"
        assert contents(open_dataset(path, image_column="picture", label_column="kind")) == EXPECTED


def test_progress_counts_to_the_end() -> None:
    calls: list[tuple[int, int]] = []
    open_dataset("digits", split="validation").array((1, 8, 8), progress=lambda done, of: calls.append((done, of)))
    assert calls == [(100, 200), (200, 200)]


# Samples and digits


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(0, 5), st.data())
def test_every_beginning_is_stratified(labels: list[int], seed: int, data: st.DataObject) -> None:
    order = stratified(np.array(labels, dtype=np.int64), seed=seed)
    assert sorted(order) == list(range(len(labels)))
    n = data.draw(st.integers(1, len(labels)))
    counts = np.bincount(labels, minlength=5)
    picked = np.bincount(np.array(labels)[order[:n]], minlength=5)
    # The k-th of a class of m sits at (k - 1/2)/m, and n images reach some place p: every class has p m within 1/2.
    shares = [((k - 0.5) / m, (k + 0.5) / m) for k, m in zip(picked, counts, strict=True) if m]
    assert max(low for low, _ in shares) <= min(high for _, high in shares) + 1e-12


def test_samples_are_random_stratified_and_repeatable(tmp_path: Path) -> None:
    dataset = open_dataset(make_folder(tmp_path))
    sample = dataset.sample(6, seed=1)
    assert np.bincount(sample.labels).tolist() == [2, 2, 2]
    assert sample.ids == dataset.sample(6, seed=1).ids == tuple(sorted(sample.ids))
    assert len({dataset.sample(6, seed=seed).ids for seed in range(5)}) > 1
    assert dataset.sample(12).ids == dataset.ids


def test_digits_are_divided_for_good() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    splits = {split: open_dataset("digits", split=split) for split in dataset_splits("digits")}
    assert {split: len(d) for split, d in splits.items()} == {"test": 500, "train": 1097, "validation": 200}
    assert sorted(int(i.removeprefix("digits/")) for d in splits.values() for i in d.ids) == list(range(1797))
    for dataset in splits.values():
        images, labels = dataset.array((1, 8, 8))
        rows = [int(i.removeprefix("digits/")) for i in dataset.ids]
        assert np.array_equal(images[:, 0].numpy() * 16, digits.images[rows])
        assert np.array_equal(labels, digits.target[rows])
        expected = np.bincount(digits.target) * len(dataset) / 1797
        assert np.abs(np.bincount(labels) - expected).max() <= 1.01
    # Frozen: models are trained on one split and measured on another.
    assert splits["test"].ids[:4] == ("digits/1", "digits/2", "digits/4", "digits/5")
    assert splits["test"].fingerprint == "e4409ce87136489e"


@pytest.mark.parametrize("indices", [[12], [-1], [True, False], [3, 3]])
def test_bad_indices_are_refused(indices: list, tmp_path: Path) -> None:
    with pytest.raises(RangeError, match=r"^Indices of '"):
        open_dataset(make_folder(tmp_path)).subset(indices)


# Real data


@pytest.mark.parametrize(
    ("name", "split", "shape", "counts"),
    [
        ("cifar10-jpeg", "test", (3, 32, 32), [1000] * 10),
        ("mnist", "test", (1, 28, 28), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
        ("pneumoniamnist.npz", "test", (1, 28, 28), [234, 390]),
        ("ham10000-128", "validation", (3, 128, 128), None),
    ],
)
def test_real_sets(name: str, split: str, shape: tuple, counts: list[int] | None, data_root: Path) -> None:
    if not (data_root / name).exists():
        pytest.skip(f"no {name} in {data_root}")
    dataset = open_dataset(data_root / name, split=split)
    assert counts is None or np.bincount(dataset.labels).tolist() == counts
    few = dataset.sample(30)
    images, labels = few.array(shape)
    assert torch.equal(images, few.uint8(shape)[0] / 255)
    assert 0.05 < images.mean() < 0.8
    assert [dataset.classes[i] for i in labels] == [few.classes[item.label] for item in few if item.label is not None]


# The package


def test_public_names_are_imported_when_used() -> None:
    import diffclass.data

    assert diffclass.data.open_dataset is open_dataset
    with pytest.raises(AttributeError, match=r"^module 'diffclass\.data' has no attribute 'nothing'$"):
        diffclass.data.nothing  # noqa: B018
