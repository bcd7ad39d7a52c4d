"""The digits recipe, run as a user would: what it leaves behind classifies, opens in diffusers, and says what it is."""

import json
from pathlib import Path

import pytest
import torch

from diffclass.decide import DiffusionClassifier
from diffclass.denoisers import check_denoiser, load
from diffclass.train import load_recipe, run_recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_recipe(load_recipe("digits"), out=tmp_path_factory.mktemp("digits"))


def test_half_a_minute_of_training_classifies_digits(trained: Path) -> None:
    figures = json.loads((trained / "diffclass.json").read_text())["figures"]["test"]
    assert figures["accuracy"]["n"] == 500
    assert figures["accuracy"]["value"] >= 0.97
    assert figures["evaluations_per_image"]["value"] < 2560 / 5


def test_the_card_says_what_it_is(trained: Path) -> None:
    card = (trained / "README.md").read_text()
    for phrase in ("CC BY 4.0", "seed 0, 500 steps", "| test | accuracy |", "diffclass train digits --data digits"):
        assert phrase in card


def test_the_directory_loads_conforms_and_calibrates(trained: Path) -> None:
    denoiser = load(trained, dtype="float32")
    report = check_denoiser(denoiser)
    assert report.passed, str(report)
    classifier = DiffusionClassifier.from_pretrained(trained)
    rows = classifier.predict_proba(torch.zeros(2, 1, 8, 8))
    assert rows.sum(axis=1) == pytest.approx(1)


def test_diffusers_opens_it_too(trained: Path) -> None:
    from diffusers import UNet2DModel

    network = UNet2DModel.from_pretrained(trained)
    assert network.config.num_class_embeds == 11  # pyright: ignore[reportAttributeAccessIssue]
