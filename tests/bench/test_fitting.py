"""Mixtures fitted to a data set, and measured on what they have not seen."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffclass.bench.fitting import fit_dataset, picture_shape
from diffclass.data.datasets import Dataset, open_dataset
from diffclass.decide import DiffusionClassifier
from diffclass.denoisers import fit_mixture
from diffclass.denoisers.mixture import MixtureDenoiser
from diffclass.errors import InputError
from diffclass.evidence import LogNormal
from tiny_mixture import digits

FIT: dict[str, Any] = {"n_components": 1, "rank": 3}


def archive(path: Path, **splits: int) -> Path:
    """A MedMNIST-like file of zeros and ones, with so many of both in each split."""
    data = digits()
    chosen = np.flatnonzero(data.labels < 2)
    arrays, start = {}, 0
    for split, n in splits.items():
        rows = chosen[start : start + n]
        start += n
        pixels = np.stack([np.asarray(data[int(row)].read()) for row in rows])
        arrays[f"{split}_images"] = (pixels * 255).round().astype(np.uint8)
        arrays[f"{split}_labels"] = data.labels[rows]
    np.savez(path, **arrays)
    return path


def test_a_fitted_mixture_is_a_model(tmp_path: Path) -> None:
    source, stages = archive(tmp_path / "two.npz", train=50, test=30), []
    path, measured = fit_dataset(
        source, out=tmp_path / "two", **FIT, progress=lambda stage, done, total: stages.append(stage)
    )
    metadata = json.loads((path / "diffclass.json").read_text())
    accuracy = metadata["figures"]["test, by races"]["accuracy"]
    found = measured.metrics["accuracy"]
    assert found is not None
    assert (accuracy["value"], accuracy["n"]) == (found.value, 30)
    assert found.value > 0.9
    assert metadata["classifier"]["temperature"] == measured.temperature
    assert measured.config["dataset"]["split"] == "test"
    assert list(dict.fromkeys(stages)) == ["reading", "fitting", "measuring", "likelihoods"]
    classifier = DiffusionClassifier.from_pretrained(path)
    images, labels = open_dataset(source, split="test").array((1, 8, 8), [0, 1])
    assert classifier.predict(images) == [str(int(label)) for label in labels]


def test_the_settings_that_the_fit_recommends_are_kept(tmp_path: Path) -> None:
    source = archive(tmp_path / "two.npz", train=50, test=30)
    path, measured = fit_dataset(source, out=tmp_path / "two", shift=1, **FIT)
    metadata = json.loads((path / "diffclass.json").read_text())
    images, labels = open_dataset(source, split="train").array((1, 8, 8))
    recommended = fit_mixture(images, labels, classes=("0", "1"), shift=1, **FIT)
    kept = recommended.metadata["classifier"]
    assert kept["proposal"] == "log-normal"
    assert metadata["classifier"] == {**kept, "temperature": measured.temperature}
    assert metadata["fit"]["shift"] == "every image also moved by up to 1 pixels in four directions"
    saved = MixtureDenoiser.load(path)
    assert torch.equal(saved.means.bfloat16(), recommended.means.bfloat16())
    classifier = DiffusionClassifier.from_pretrained(path)
    assert classifier.objective is not None
    assert classifier.objective.proposal == LogNormal(kept["proposal_mean"], kept["proposal_std"])


def test_the_card_tells_exact_likelihoods_and_races_apart(tmp_path: Path) -> None:
    source = archive(tmp_path / "two.npz", train=50, test=30)
    path, _ = fit_dataset(source, out=tmp_path / "two", limit=10, **FIT)
    figures = json.loads((path / "diffclass.json").read_text())["figures"]
    test = open_dataset(source, split="test")
    images, labels = test.array((1, 8, 8))
    right = MixtureDenoiser.load(path).log_likelihood(images).argmax(dim=1) == labels
    assert figures["test"]["accuracy"]["value"] == float(right.float().mean())
    assert (figures["test"]["accuracy"]["n"], figures["test, by races"]["accuracy"]["n"]) == (30, 10)
    rows = [line for line in (path / "README.md").read_text().splitlines() if line.startswith("| test")]
    assert rows[0].startswith("| test | accuracy |")
    assert any(row.startswith("| test, by races | network evaluations an image |") for row in rows)


def test_a_set_without_splits_is_divided(tmp_path: Path) -> None:
    source = archive(tmp_path / "two.npz", train=60)
    path, measured = fit_dataset(source, out=tmp_path / "two", **FIT)
    metadata = json.loads((path / "diffclass.json").read_text())
    assert measured.n_images == 12
    assert metadata["fit"]["training_images"] == 48  # the rest
    assert measured.config["dataset"]["n"] == 12


def test_size_and_split_can_be_chosen(tmp_path: Path) -> None:
    source = archive(tmp_path / "two.npz", train=30, val=24, test=10)
    path, measured = fit_dataset(
        source, out=tmp_path / "two", split="validation", size=(4, 6), resize="stretch", limit=5, **FIT
    )
    metadata = json.loads((path / "diffclass.json").read_text())
    assert [metadata["space"][key] for key in ("channels", "height", "width")] == [1, 4, 6]
    assert metadata["fit"]["training_images"] == 24
    assert measured.n_images == 5


def test_a_set_that_is_too_small_is_refused(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "set.csv").write_text("path,label\na.png,a\n")
    with pytest.raises(InputError):
        fit_dataset(tmp_path / "set.csv", out=tmp_path / "model", **FIT)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("RGB", 3), ("P", 3), ("1", 1), ("LA", 1), ("RGBA", 3), ("I;16", 1), ("F", 1)]
)
def test_the_first_picture_gives_the_shape(tmp_path: Path, mode: str, channels: int) -> None:
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "b" / "1.png").write_bytes(b"damaged")
    Image.new(mode, (7, 5)).save(tmp_path / "c" / "2.tif")
    assert picture_shape(open_dataset(tmp_path)) == (channels, 5, 7)


def test_arrays_have_a_shape_too() -> None:
    assert picture_shape(digits()) == (1, 8, 8)


def test_a_set_without_readable_pictures_is_refused(tmp_path: Path) -> None:
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"damaged")
    data: Dataset = open_dataset(tmp_path)
    with pytest.raises(InputError, match=r"No picture of '.*' can be opened\. Check the files\."):
        picture_shape(data)
