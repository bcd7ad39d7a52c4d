"""Bad pictures, data sets and result files: one sentence each, word for word."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from diffclass.data.datasets import open_dataset
from diffclass.data.images import check_images, load_image
from diffclass.data.results import ResultFile, read_results, write_json_atomic
from diffclass.errors import (
    ConditionError,
    DiffclassError,
    InputError,
    MissingExtra,
    RangeError,
    ResultError,
    ShapeError,
)

PICTURE = Image.new("L", (4, 4), 9)
SHAPE = (1, 4, 4)


def png(image: Image.Image = PICTURE) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of bad files, which is the current folder: messages then show short paths."""
    monkeypatch.chdir(tmp_path)
    for folder in (
        "empty",
        "flat",
        "one/cat",
        "none/cat",
        "none/dog",
        "split/train/cat",
        "split/train/dog",
        "split/test",
    ):
        Path(folder).mkdir(parents=True)
    for file in ("flat/a.png", "one/cat/a.png", "split/train/cat/a.png", "split/train/dog/b.png", "grey.png"):
        Path(file).write_bytes(png())
    texts = {
        "notes.txt": "notes",
        "empty.csv": "",
        "columns.csv": "file,kind\na,b\n",
        "short.csv": "path,label\na.png,cat\nb.png\n",
        "long.csv": "path,label\na,b.png,cat\n",
        "twice.csv": "path,label\na.png,cat\nb.png,dog\na.png,dog\n",
        "good.csv": "path,label\na.png,cat\nb.png,dog\n",
        "quote.csv": 'path,label\n"a.png"x,cat\n',
        "bad.npz": "not a zip",
        "bad.parquet": "not parquet",
    }
    for name, text in texts.items():
        Path(name).write_text(text, encoding="utf-8")
    Path("latin.csv").write_bytes(b"path,label\n\xe9.png,cat\n")
    zeros = np.zeros((3, 4, 4), dtype=np.uint8)
    np.savez("other.npz", x=zeros)
    np.savez("multi.npz", test_images=zeros, test_labels=np.zeros((3, 14), dtype=np.int64))
    np.savez("uneven.npz", test_images=zeros, test_labels=np.zeros((2, 1), dtype=np.int64))
    np.savez("floats.npz", test_images=zeros, test_labels=np.zeros(3))
    np.savez("pickle.npz", test_images=np.array([{}, {}]), test_labels=np.zeros(2, dtype=np.int64))
    table = pa.table({"image": [png()] * 2, "label": [0.5, 1.5], "number": [0, 1]})
    pq.write_table(table, "floats.parquet")
    for name in ("shards/train-00000-of-00003", "configs/a/train", "configs/b/train"):
        Path(f"{name}.parquet").parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, f"{name}.parquet")
    Path("other.jsonl").write_text("{}\n", encoding="utf-8")
    Path("newer.jsonl").write_text('{"config": {}, "config_hash": "", "format": 2}\n', encoding="utf-8")
    Path("altered.jsonl").write_text('{"config": {"seed": 1}, "config_hash": "", "format": 1}\n', encoding="utf-8")
    ResultFile("run.jsonl", {"n_draws": 256, "race": {"delta": 0.05}, "old": 1, "same": "x" * 99}).close()
    return tmp_path


def append(*rows: dict) -> None:
    with ResultFile("new.jsonl", {}) as file:
        file.append(rows)


def append_when_closed() -> None:
    file = ResultFile("new.jsonl", {})
    file.close()
    file.append([{"id": "a"}])


Case = tuple[Callable[[], object], type[DiffclassError], str]


def picture(source: object, shape: tuple, sentence: str, kind: type = ShapeError, **options: object) -> Case:
    return lambda: load_image(source, shape, **options), kind, sentence


def batch(images: object, sentence: str, kind: type = ShapeError) -> Case:
    return lambda: check_images(images, SHAPE), kind, sentence


def opening(path: str, sentence: str, kind: type = InputError, **options: object) -> Case:
    return lambda: open_dataset(path, **options), kind, sentence


def loading(path: str, sentence: str, **options: object) -> Case:
    return lambda: open_dataset(path, **options)[0].load(SHAPE), InputError, sentence


UNKNOWN = "is not in a format that Pillow opens. Try a PNG or JPEG file."
AXES = "must have axes (height, width) or (height, width, channel)"
RESIZE = "Try resize='crop' or resize='stretch'."
CLEAR = Image.new("LA", (4, 4), (0, 0))
PICTURES: list[Case] = [
    picture("no.png", SHAPE, "The picture 'no.png' does not exist. Check the path.", InputError),
    picture("flat", SHAPE, "The picture 'flat' is a folder. Give the path of one file.", InputError),
    picture(Path("notes.txt"), SHAPE, f"The picture 'notes.txt' {UNKNOWN}", InputError),
    picture(b"", SHAPE, f"The picture (0 bytes) {UNKNOWN}", InputError),
    picture(
        *("grey.png", (3, 4, 4)),
        "The picture 'grey.png' is grey and the model takes colour images. Try convert=True.",
    ),
    picture(
        *(PICTURE.convert("RGB"), SHAPE),
        "The picture is colour and the model takes grey images. Try convert=True.",
    ),
    picture(CLEAR, SHAPE, "The picture is partly transparent. Try convert=True, which lays it on white."),
    picture(
        *(PICTURE.convert("CMYK"), (3, 4, 4)),
        "The picture has CMYK colours and the model takes RGB or grey. Try convert=True.",
    ),
    picture(
        *(PICTURE.convert("I"), SHAPE),
        "The picture has pixels of Pillow's mode I, whose range is unknown. Save it with 8 bits.",
        InputError,
    ),
    picture(
        *("grey.png", (1, 2, 3)),
        f"The picture 'grey.png' is 4x4 pixels and the model takes 3x2. {RESIZE}",
        resize="refuse",
    ),
    picture(PICTURE, (4, 4, 4), "Pictures have 1 (grey) or 3 (colour) channels. The model takes 4."),
    picture(PICTURE, (1, 4, 0), "A model must take at least one pixel. Got 0x4."),
    picture(np.zeros((3, 4, 5, 5)), SHAPE, f"The array {AXES}. Got shape (3, 4, 5, 5)."),
    picture(np.zeros((3, 4, 5)), SHAPE, f"The array {AXES}. Got shape (3, 4, 5)."),
    picture(
        *(np.zeros((4, 4), dtype=np.int64), SHAPE),
        "The array must hold uint8, uint16, or floats in [0, 1]. Got int64.",
        RangeError,
    ),
    picture(
        *(np.full((4, 4), 255.0), SHAPE),
        "The array has pixels from 255 to 255, outside [0, 1]. Try to divide by 255.",
        RangeError,
    ),
    picture(np.full((4, 4), np.nan), SHAPE, "The array must be finite. It holds NaN or infinity.", RangeError),
    batch(np.zeros((1, 1, 4, 4)), "Images must be a torch.Tensor. Got ndarray. Try torch.as_tensor."),
    batch(torch.zeros(1, 4, 4), "Images must have shape (n, 1, 4, 4). Got (1, 4, 4). Try images[None]."),
    batch(torch.zeros(2, 3, 4, 4), "Images must have shape (n, 1, 4, 4). Got (2, 3, 4, 4)."),
    batch(torch.zeros(0, 1, 4, 4), "There must be at least one image. Got an empty batch."),
    batch(
        torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
        "Images must be floating point in [0, 1]. Got torch.uint8. Try images.float() / 255.",
        RangeError,
    ),
    batch(
        torch.full((2, 1, 4, 4), 255.0),
        "Images must lie in [0, 1]. Image 0 has pixels from 255 to 255. Try to divide by 255.",
        RangeError,
    ),
]

OWN_FOLDERS = "Put the pictures of each class in a folder of their own, or list them in a CSV."
NINE = [f"c{i}" for i in range(9)]
SETS: list[Case] = [
    opening("nowhere", "The data set 'nowhere' does not exist. Give a file, a folder, or 'digits'."),
    opening("notes.txt", "The data set 'notes.txt' must be a folder or a .parquet, .npz, .csv or .tsv file."),
    opening("empty", f"The folder 'empty' has nothing in it. {OWN_FOLDERS}"),
    opening("flat", f"The folder 'flat' has no class folders. {OWN_FOLDERS}"),
    opening("one", "A data set needs at least two classes. 'one' has 1: cat.", ConditionError),
    opening("none", "The data set 'none' has no pictures."),
    opening("split", "The data set 'split' has no pictures.", split="test"),
    opening("split", "The data set 'split' has several splits. Choose one of: test, train."),
    opening("digits", "The data set 'digits' has no split 'x'. Choose one of: test, train, validation.", split="x"),
    opening("good.csv", "The data set 'good.csv' is not divided into splits. Leave out split='x'.", split="x"),
    opening(
        *("good.csv", "The label 'dog' of 'b.png' is not among the classes: cat, bird.", ConditionError),
        classes=["cat", "bird"],
    ),
    opening(
        *("digits", f"The label '9' of 'digits/9' is not among the classes: {', '.join(NINE)}.", ConditionError),
        split="test",
        classes=NINE,
    ),
    opening("good.csv", "The classes must differ. Got a, a.", ConditionError, classes=["a", "a"]),
    (
        lambda: open_dataset("digits", split="test").sample(501),
        RangeError,
        "The 'n' parameter of sample must be an integer in [1, 500]. Got 501.",
    ),
    (
        lambda: open_dataset("digits", split="test").subset([500]),
        RangeError,
        "Indices of 'digits' must lie in [0, 499]. Got 500.",
    ),
]

QUOTE = "Quote a comma that is part of a field."
FILES: list[Case] = [
    opening("empty.csv", "The file 'empty.csv' is empty. Its first line must name the columns."),
    opening("columns.csv", "The file 'columns.csv' has no column 'image'. It has: file, kind."),
    opening("columns.csv", "The file 'columns.csv' has no column 'label'. It has: file, kind.", image_column="file"),
    opening("short.csv", f"Line 3 of 'short.csv' has 1 fields and the header 2. {QUOTE}"),
    opening("long.csv", f"Line 2 of 'long.csv' has 3 fields and the header 2. {QUOTE}"),
    opening("twice.csv", "The file 'twice.csv' lists 'a.png' twice, in lines 2 and 4."),
    opening("quote.csv", "The file 'quote.csv' cannot be read: ',' expected after '\"'."),
    opening(
        "latin.csv",
        "The file 'latin.csv' cannot be read: "
        "'utf-8' codec can't decode byte 0xe9 in position 11: invalid continuation byte.",
    ),
    loading("good.csv", "The picture 'a.png' does not exist. Check the path."),
    opening("bad.npz", "The file 'bad.npz' is not an npz archive."),
    opening("other.npz", "The file 'other.npz' must have train_images and train_labels (or val_, test_). It has: x."),
    opening(
        "multi.npz",
        "The array test_labels of 'multi.npz' must hold one integer an image. Got int64 of shape (3, 14).",
    ),
    opening(
        "floats.npz",
        "The array test_labels of 'floats.npz' must hold one integer an image. Got float64 of shape (3,).",
    ),
    opening(
        "uneven.npz",
        "The file 'uneven.npz' must have one label an image. Got test_images of shape (3, 4, 4) and 2 labels.",
    ),
    opening(
        "pickle.npz",
        "The file 'pickle.npz' cannot be read: Object arrays cannot be loaded when allow_pickle=False.",
    ),
    opening(
        "bad.parquet",
        "The file 'bad.parquet' cannot be read: Parquet magic bytes not found in footer. "
        "Either the file is corrupted or this is not a parquet file.",
    ),
    opening(
        *("floats.parquet", "The file 'floats.parquet' has no column 'kind'. It has: image, label, number."),
        label_column="kind",
    ),
    opening("floats.parquet", "The column 'label' of 'floats.parquet' must be integers or text. Got float."),
    loading(
        *("floats.parquet", "Row 0 of column 'label' of 'floats.parquet' must be a picture. Got double."),
        image_column="label",
        label_column="number",
    ),
    opening("shards", "The folder 'shards' has 1 of 3 files of 'train'."),
    opening("configs", "The folder 'configs' has parquet files in several folders. Open one of: a, b."),
]

RESULTS: list[Case] = [
    (
        lambda: ResultFile("run.jsonl", {"n_draws": 512, "race": {"delta": 0.01}, "new": "x" * 99, "same": "x" * 99}),
        ResultError,
        "'run.jsonl' holds results of another configuration. It differs in: n_draws (was 256, now 512), "
        "race.delta (was 0.05, now 0.01), old (was 1, now absent), "
        f'new (was absent, now "{"x" * 36}...). Use another --out.',
    ),
    (lambda: ResultFile("other.jsonl", {}), ResultError, "'other.jsonl' is not a result file. Use another --out."),
    (
        lambda: ResultFile("newer.jsonl", {}),
        ResultError,
        "'newer.jsonl' has result format 2; this version of diffclass has 1.",
    ),
    (
        lambda: read_results("altered.jsonl"),
        ResultError,
        "The first line of 'altered.jsonl' has been altered. Use another --out.",
    ),
    (
        lambda: read_results("no.jsonl"),
        ResultError,
        "The result file 'no.jsonl' cannot be read: No such file or directory.",
    ),
    (
        lambda: ResultFile("flat", {}),
        ResultError,
        "The result file 'flat' cannot be opened: Is a directory.",
    ),
    (
        lambda: ResultFile("notes.txt/results.jsonl", {}),
        ResultError,
        "The result file 'notes.txt/results.jsonl' cannot be opened: File exists.",
    ),
    (
        lambda: ResultFile("new.jsonl", {"model": object()}),
        InputError,
        "The configuration holds a object, which JSON does not. Try a number, text, list or dict.",
    ),
    (lambda: append({"label": 1}), InputError, "The 'id' of a row must be a text. Got None."),
    (lambda: append({"id": "a"}, {"id": "a"}), InputError, "The row 'a' is in 'new.jsonl' already."),
    (
        lambda: append({"id": "a", "x": torch.zeros(1)}),
        InputError,
        "The row 'a' holds a Tensor, which JSON does not. Try a number, text, list or dict.",
    ),
    (lambda: append({"id": "a", "x": {1: 2}}), InputError, "The row 'a' has a key that is not a text: 1."),
    (
        lambda: append({"id": "a", "x": "NaN"}),
        InputError,
        "The row 'a' holds the text 'NaN', which stands for a number in a result file.",
    ),
    (append_when_closed, ResultError, "The result file 'new.jsonl' is closed."),
    (
        lambda: write_json_atomic("flat", {}),
        ResultError,
        "The file 'flat' cannot be written: Is a directory.",
    ),
]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("call", "kind", "sentence"), PICTURES + SETS + FILES + RESULTS)
def test_one_sentence(call: Callable[[], object], kind: type[DiffclassError], sentence: str) -> None:
    with pytest.raises(DiffclassError) as caught:
        call()
    assert (type(caught.value), str(caught.value)) == (kind, sentence)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("module", "call", "sentence"),
    [
        (
            "pyarrow.parquet",
            lambda: open_dataset("floats.parquet"),
            "Parquet data sets need pyarrow: pip install pyarrow.",
        ),
        (
            "sklearn.datasets",
            lambda: open_dataset("digits", split="test"),
            "The data set 'digits' needs scikit-learn: pip install scikit-learn.",
        ),
        (
            "pyarrow",
            lambda: ResultFile("new.jsonl", {}).to_parquet("r.parquet"),
            "Writing parquet needs pyarrow: pip install pyarrow.",
        ),
    ],
)
def test_missing_packages(
    module: str, call: Callable[[], object], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingExtra) as caught:
        call()
    assert str(caught.value) == sentence
