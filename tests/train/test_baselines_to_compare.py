"""Supervised baselines for comparison: other architectures, somebody's weights, ensembles, and a uniform prior."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffclass.data.datasets import open_dataset
from diffclass.robust.architecture import Ensemble, Inputs, build_resnet, build_supervised
from diffclass.robust.supervised import SupervisedNetwork
from diffclass.train.loop import Progress
from diffclass.train.splits import three_splits
from diffclass.train.supervised import SupervisedRecipe, class_weights, train_supervised
from tiny_mixture import digits

TINY: dict[str, Any] = {"steps": 40, "batch_size": 32, "widths": (8, 16), "depths": (1, 1), "learning_rate": 5e-3}


def test_an_ensemble_is_the_mean_of_its_members(tmp_path: Path) -> None:
    steps: list[int] = []

    def interrupt(progress: Progress) -> None:
        steps.append(progress.step)
        if len(steps) == 3:  # in the second member
            raise KeyboardInterrupt

    recipe = SupervisedRecipe(**TINY, members=3)
    with pytest.raises(KeyboardInterrupt):
        train_supervised(recipe, "digits", out=tmp_path, report=interrupt)
    path = train_supervised(recipe, "digits", out=tmp_path)
    ensemble = SupervisedNetwork.load(path)
    assert isinstance(ensemble.network, Ensemble)
    assert ensemble.n_members == 3
    images, labels = digits().array((1, 8, 8))
    members = [
        SupervisedNetwork(network=m, classes=ensemble.classes, image_shape=(1, 8, 8), sigma=0.0)
        for m in ensemble.network.members
    ]
    each = torch.stack([member.scores(images).softmax(dim=1) for member in members])
    torch.testing.assert_close(ensemble.scores(images).softmax(dim=1), each.mean(dim=0))
    assert not torch.allclose(each[0], each[1])
    right = [float((member.predict(images) == labels.numpy()).mean()) for member in members]
    assert float((ensemble.predict(images) == labels.numpy()).mean()) > min(right) > 0.3
    alone = train_supervised(SupervisedRecipe(**TINY, seed=1), "digits", out=tmp_path / "alone")
    weights = SupervisedNetwork.load(alone).network.state_dict()
    assert all(torch.equal(t, weights[k]) for k, t in ensemble.network.members[1].state_dict().items())


@pytest.mark.parametrize("arch", ["resnet-18", "vit"])
def test_other_architectures_learn(arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffclass.robust import architecture

    def thin(config: dict[str, Any]) -> Any:
        small = {"hidden_sizes": [8, 8, 16, 16], "embedding_size": 8, "num_hidden_layers": 2, "hidden_size": 48}
        known = {key: value for key, value in small.items() if key in config}
        return build(config | known | ({"intermediate_size": 96} if arch == "vit" else {}))

    build = architecture.build_from_config
    monkeypatch.setattr(architecture, "build_from_config", thin)
    monkeypatch.setattr(architecture, "_SIDE", 16)
    monkeypatch.setattr(architecture, "_TOKENS", 16)
    recipe = SupervisedRecipe(**(TINY | {"steps": 100, "learning_rate": 3e-3}), architecture=arch)
    network = SupervisedNetwork.load(train_supervised(recipe, "digits", out=tmp_path))
    images, labels = digits().array((1, 8, 8))
    assert float((network.predict(images) == labels.numpy()).mean()) > 0.3  # chance is 0.1
    assert network.metadata["name"] == arch
    assert "fitted on validation images" in (tmp_path / "model" / "README.md").read_text()
    assert network.temperature is not None


@pytest.mark.parametrize(
    ("shape", "enlarge", "patch"), [((1, 8, 8), 8, 1), ((1, 28, 28), 3, 4), ((3, 64, 64), 1, 8), ((3, 224, 224), 1, 32)]
)
def test_networks_fit_the_images(shape: tuple[int, int, int], enlarge: int, patch: int) -> None:
    with torch.device("meta"):
        resnet, inputs = build_supervised("resnet-18", shape, 3)
        vit, _ = build_supervised("vit", shape, 3)
    assert sum(p.numel() for p in resnet.parameters()) == pytest.approx(
        11.18e6, rel=0.01
    )  # He et al., without 997 classes
    assert inputs.enlarge == enlarge
    assert vit.config.patch_size == patch  # type: ignore[union-attr]
    assert vit.config.hidden_size == 192  # type: ignore[union-attr]


def test_somebodys_weights_are_started_from(tmp_path: Path) -> None:
    torch.manual_seed(3)
    theirs = build_resnet(3, 5, widths=(8, 16), depths=(1, 1))
    theirs.save_pretrained(tmp_path / "theirs")  # type: ignore[operator]
    processor = {"size": {"height": 16, "width": 16}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "theirs" / "preprocessor_config.json").write_text(json.dumps(processor))
    recipe = SupervisedRecipe(steps=1, batch_size=4, learning_rate=1e-12, weights=str(tmp_path / "theirs"))
    path = train_supervised(recipe, "digits", out=tmp_path / "out")
    ours = SupervisedNetwork.load(path)
    assert ours.inputs == Inputs(channels=3, side=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    before = theirs.state_dict()
    weights = {k: v for k, v in ours.network.state_dict().items() if "running" not in k and "num_batches" not in k}
    for name, tensor in weights.items():
        if name.startswith("classifier."):
            assert tensor.shape[0] == 10
        else:
            torch.testing.assert_close(tensor, before[name], rtol=1e-5, atol=1e-6)
    image = torch.full((1, 1, 8, 8), 0.5)
    given = ours.inputs(image)
    assert given.shape == (1, 3, 16, 16)
    torch.testing.assert_close(given[0, :, 0, 0], torch.tensor([0.5, 0.0, -0.25]))


def test_rare_classes_count_alike() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [3])
    weights = class_weights(labels, 4)
    counts = labels.bincount(minlength=4)
    assert (weights * counts)[counts > 0].tolist() == pytest.approx([10 / 3] * 3)
    assert float(weights[2]) == 0
    assert float(weights[labels].mean()) == pytest.approx(1)


def test_baselines_hold_out_what_recipes_do(tmp_path: Path) -> None:
    train = open_dataset("digits", split="train")
    images = np.stack([np.asarray(train[i].read()) for i in range(60)])
    np.savez(tmp_path / "d.npz", train_images=(images * 255).astype(np.uint8), train_labels=train.labels[:60])
    kept, held, test = three_splits(tmp_path / "d.npz", seed=0)
    assert (len(kept), len(held), test) == (54, 6, None)
    order = np.random.default_rng(0).permutation(60)  # as recipes held out before
    assert held.ids == tuple(f"train/{i}" for i in np.sort(order[:6]))
    path = train_supervised(SupervisedRecipe(**(TINY | {"steps": 2})), tmp_path / "d.npz", out=tmp_path / "out")
    assert SupervisedNetwork.load(path).metadata["figures"] == {}
