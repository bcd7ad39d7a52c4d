"""The medical recipes at the smallest size that learns, and how a recipe takes its size from the data."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from diffclass.data.datasets import open_dataset
from diffclass.denoisers import Space, check_denoiser, load
from diffclass.train import Progress, Recipe, TrainingSet, load_recipe, run_recipe, train_network
from diffclass.train.network import build_network, fitted_options
from diffclass.train.recipe import NetworkPart
from diffclass.train.splits import choose_shape
from tiny_mixture import save_picture

SMALL = {
    "medical-unet": {"block_out_channels": [16, 24], "layers_per_block": 1, "norm_num_groups": 8,
                     "attention_head_dim": 8, "resnet_time_scale_shift": "scale_shift"},
    "medical-dit": {"num_layers": 2, "num_attention_heads": 4, "attention_head_dim": 16},
    "dermoscopy": {"block_out_channels": [16, 24], "norm_num_groups": 8, "attention_head_dim": 8},
}  # fmt: skip
PAPER = ("chexpert", "chexpert-dit", "isic-melanoma", "isic-melanoma-dit")


def small(name: str, **train: object) -> Recipe:
    recipe = load_recipe(name)
    network = replace(recipe.network, options={**recipe.network.options, **SMALL[name]})
    settings = {
        "steps": 70,
        "batch_size": 32,
        "learning_rate": 3e-3,
        "optimizer": "adamw",
        "validate_every": 0,
        "compile": False,
    } | train
    return replace(
        recipe, network=network, train=replace(recipe.train, **settings),
        classifier=dict(recipe.classifier) | {"n_draws": 16},
    )  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three kinds of digits in colour, at 16x16."""
    path = tmp_path_factory.mktemp("data") / "three.npz"
    arrays = {}
    for prefix, split, n in (("train", "train", 120), ("val", "validation", 20), ("test", "test", 24)):
        data = open_dataset("digits", split=split)
        rows = np.flatnonzero(data.labels < 3)[:n]
        grey = np.stack([np.asarray(data[int(row)].read()) for row in rows])
        large = (grey * 255).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)
        arrays |= {f"{prefix}_images": np.stack([large] * 3, axis=-1), f"{prefix}_labels": data.labels[rows]}
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(("name", "steps"), [("medical-unet", 70), ("medical-dit", 70), ("dermoscopy", 2)])
def test_it_learns_and_leaves_a_model(name: str, steps: int, pictures: Path, tmp_path: Path) -> None:
    recipe = small(name, steps=steps)
    if recipe.data.shape is not None:
        recipe = replace(recipe, data=replace(recipe.data, shape=(3, 16, 16)))
    model = run_recipe(recipe, data=pictures, out=tmp_path, size=None if recipe.data.shape else 16)
    facts = json.loads((model / "diffclass.json").read_text())
    accuracy = facts["figures"]["test"]["accuracy"]
    assert steps == 2 or accuracy["low"] > 1 / 3  # chance, with 24 images
    assert facts["space"]["haar"] is True
    assert facts["parametrisation"] == {"kind": "edm", "sigma_data": 1.0, "time_scale": 250.0, "sign": -1.0}
    denoiser = load(model, dtype="float32")
    assert denoiser.space.image_shape == (3, 16, 16)
    assert (report := check_denoiser(denoiser)).passed, str(report)
    card = (model / "README.md").read_text()
    assert "predicts v" in card
    assert "every class is equally likely before an image is seen" in card
    if name == "dermoscopy":
        assert "non-commercial" in card
    else:
        assert "the labelled pictures of three" in card


@pytest.mark.parametrize("name", ["medical-unet", "medical-dit"])
def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(name: str, tmp_path: Path) -> None:
    """Of the transformer too, whose own dropout of labels would draw from the global random numbers."""
    recipe, losses = small(name, steps=12, batch_size=8), []
    space = Space(channels=1, height=16, width=16, haar=True)
    images = torch.randint(0, 256, (10, 1, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    data = TrainingSet(images=images, labels=torch.arange(10) % 2)

    def train(path: Path, report: Callable[[Progress, nn.Module], None]) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        network = build_network(recipe.network, space, 2)
        average, _ = train_network(
            network, recipe, data=data, space=space, n_classes=2, checkpoint=path, device=torch.device("cpu"),
            report=report, checkpoint_seconds=0.0, report_every=1,
        )  # fmt: skip
        return dict(average.state_dict())

    def kill(progress: Progress, average: nn.Module) -> None:
        if progress.step == 4:
            raise KeyError

    whole = train(tmp_path / "whole.pt", lambda progress, average: losses.append(progress.loss))
    assert losses[-1] < losses[0]
    with pytest.raises(KeyError):
        train(tmp_path / "broken.pt", kill)
    torch.manual_seed(99)
    resumed = train(tmp_path / "broken.pt", lambda progress, average: None)
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_networks_take_their_images(name: str) -> None:
    """Built without memory: 240 and 138 million weights."""
    recipe = load_recipe(name)
    assert recipe.data.shape is not None
    channels, height, width = recipe.data.shape
    space = Space(channels=channels, height=height, width=width, haar=recipe.network.haar)
    with torch.device("meta"):
        network = build_network(recipe.network, space, 2)
        sample = torch.empty(1, *space.shape)
        answer = network(sample, torch.zeros(1), class_labels=torch.zeros(1, dtype=torch.long)).sample
    assert answer.shape == sample.shape == (1, 4 * channels, 128, 128)


@pytest.mark.parametrize(
    ("side", "levels", "attention", "patch"),
    [(14, 2, 2, 2), (16, 3, 3, 2), (24, 3, 2, 2), (32, 4, 3, 2), (64, 5, 3, 4), (112, 5, 2, 8), (128, 5, 2, 8)],
)
def test_networks_fit_the_pictures(side: int, levels: int, attention: int, patch: int) -> None:
    unet = fitted_options(load_recipe("medical-unet").network, side)
    assert len(unet["block_out_channels"]) == levels
    assert unet["down_block_types"].count("AttnDownBlock2D") == attention
    assert unet["up_block_types"] == tuple(name.replace("Down", "Up") for name in reversed(unet["down_block_types"]))
    assert fitted_options(load_recipe("medical-dit").network, side)["patch_size"] == patch
    assert fitted_options(NetworkPart(options={"a": 1}), side) == {"a": 1}


@pytest.mark.parametrize(("size", "side"), [((30, 40), 28), ((64, 64), 64), ((300, 500), 256)])
def test_the_size_is_that_of_the_data(tmp_path: Path, size: tuple[int, int], side: int) -> None:
    for label in (1, 2):
        save_picture(tmp_path / str(label) / "a.png", label, size=size, mode="RGB")
    assert choose_shape(open_dataset(tmp_path)) == (3, side, side)
    assert choose_shape(open_dataset(tmp_path), 48) == (3, 48, 48)


def test_whole_patients_are_held_out(pictures: Path) -> None:
    data = replace(open_dataset(pictures, split="train"), groups=tuple(f"patient {i // 5}" for i in range(120)))
    held = data.held_out(12, seed=1)
    assert held.sum() == 15
    assert set(data.subset(np.flatnonzero(held)).groups or ()).isdisjoint(
        data.subset(np.flatnonzero(~held)).groups or ()
    )
    assert replace(data, groups=None).held_out(12, seed=1).sum() == 12
