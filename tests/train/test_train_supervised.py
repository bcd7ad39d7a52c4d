"""Training a baseline: it learns, from noise where it should, and a stopped run ends like an unbroken one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffclass.robust.supervised import SupervisedNetwork
from diffclass.train.loop import Progress
from diffclass.train.supervised import SupervisedRecipe, train_supervised
from tiny_mixture import digits, save_picture

TINY: dict[str, Any] = {"steps": 150, "batch_size": 64, "widths": (8, 16), "depths": (1, 1), "learning_rate": 5e-3}


def trained(out: Path, **options: Any) -> SupervisedNetwork:
    return SupervisedNetwork.load(train_supervised(SupervisedRecipe(**{**TINY, **options}), "digits", out=out))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> SupervisedNetwork:
    return trained(tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> SupervisedNetwork:
    return trained(tmp_path_factory.mktemp("noisy"), sigma=0.5)


def accuracy(network: SupervisedNetwork, sigma: float) -> float:
    images, labels = digits().array((1, 8, 8))
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(5))
    return float((network.predict(images + sigma * noise) == labels.numpy()).mean())


def test_it_learns(clean: SupervisedNetwork) -> None:
    assert accuracy(clean, 0.0) > 0.9
    assert clean.metadata["figures"]["test"]["accuracy"]["value"] == pytest.approx(accuracy(clean, 0.0))
    assert list(clean.metadata["figures"]) == ["test"]


def test_it_learns_from_noise(clean: SupervisedNetwork, noisy: SupervisedNetwork) -> None:
    assert accuracy(noisy, 0.5) > accuracy(clean, 0.5) + 0.1
    under_noise = noisy.metadata["figures"]["test, noise 0.5"]["accuracy"]
    assert under_noise["low"] <= accuracy(noisy, 0.5) <= under_noise["high"] + 0.05
    assert noisy.sigma == 0.5


def test_a_stopped_run_ends_with_the_same_weights(tmp_path: Path, noisy: SupervisedNetwork) -> None:
    recipe = SupervisedRecipe(**{**TINY, "sigma": 0.5})

    def interrupt(progress: Progress) -> None:
        if progress.step == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_supervised(recipe, "digits", out=tmp_path, report=interrupt)
    assert (tmp_path / "checkpoint.pt").is_file()
    assert not (tmp_path / "model").exists()
    steps: list[int] = []
    path = train_supervised(recipe, "digits", out=tmp_path, report=lambda now: steps.append(now.step))
    assert steps == [60, 80, 100, 120, 140, 150]
    resumed = SupervisedNetwork.load(path).network.state_dict()
    for name, tensor in noisy.network.state_dict().items():
        assert torch.equal(resumed[name], tensor), name


def test_shapes_are_those_of_the_pictures(tmp_path: Path) -> None:
    for label in (1, 2):
        for index in (label, label + 10):
            save_picture(tmp_path / "set" / str(label) / f"{index}.png", index, size=(12, 12), mode="RGB")
    recipe = SupervisedRecipe(**{**TINY, "steps": 2, "batch_size": 2, "flip": True, "shift": 1})
    network = SupervisedNetwork.load(train_supervised(recipe, tmp_path / "set", out=tmp_path / "out"))
    assert (network.image_shape, network.classes) == ((3, 12, 12), ("1", "2"))
    assert network.metadata["figures"] == {}
    assert np.isin(network.predict(torch.rand(2, 3, 12, 12)), [0, 1]).all()
