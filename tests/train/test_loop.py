"""The training loop: the loss, the augmentation, and a resume that is exact to the bit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from diffclass.denoisers import EDM, Space
from diffclass.errors import NonFiniteError, ResultError
from diffclass.train.loop import Progress, TrainingSet, augment, edm_loss, train_network
from diffclass.train.network import build_network
from diffclass.train.recipe import DataPart, NetworkPart, Recipe, TrainPart

SPACE = Space(channels=1, height=8, width=8, patch=2, data_std=0.6)
OPTIONS = {
    "block_out_channels": [8], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"],
    "layers_per_block": 1, "norm_num_groups": 4, "resnet_time_scale_shift": "scale_shift", "add_attention": False,
}  # fmt: skip


def recipe(**train: object) -> Recipe:
    return Recipe(
        name="tiny", description="A test.", data=DataPart(name="x", title="x", licence="x", shape=(1, 8, 8), flip=True),
        network=NetworkPart(patch=2, options=OPTIONS), train=TrainPart(**({"steps": 12, "batch_size": 8} | train)),
    )  # fmt: skip # type: ignore[arg-type]


def data() -> TrainingSet:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(20) % 2
    images = torch.randint(0, 56, (20, 1, 8, 8), generator=random) + 200 * labels[:, None, None, None]
    return TrainingSet(images=images.to(torch.uint8), labels=labels)


def train(
    plan: Recipe, path: Path, report: Callable[[Progress, nn.Module], None] = lambda progress, average: None
) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = build_network(plan.network, SPACE, 2)
    average, _ = train_network(
        network, plan, data=data(), space=SPACE, n_classes=2, checkpoint=path, device=torch.device("cpu"),
        report=report, checkpoint_seconds=0.0, report_every=1,
    )  # fmt: skip
    return dict(average.state_dict())


class Killed(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path, optimizer: str) -> None:
    plan = recipe(optimizer=optimizer)
    whole = train(plan, tmp_path / "whole.pt")

    def kill(progress: Progress, average: nn.Module) -> None:
        if progress.step == 7:
            raise Killed

    with pytest.raises(Killed):
        train(plan, tmp_path / "broken.pt", kill)
    steps: list[int] = []
    resumed = train(plan, tmp_path / "broken.pt", lambda progress, average: steps.append(progress.step))
    assert steps[0] == 7  # the checkpoint was written after step 6
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = train(recipe(), tmp_path / "run.pt")
    steps: list[int] = []
    again = train(recipe(), tmp_path / "run.pt", lambda progress, average: steps.append(progress.step))
    assert steps == []
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_lowers_the_loss(tmp_path: Path, optimizer: str) -> None:
    losses: list[float] = []
    train(
        recipe(steps=60, learning_rate=3e-3, optimizer=optimizer),
        tmp_path / "run.pt",
        lambda p, average: losses.append(p.loss),
    )
    assert losses[-1] < 0.8 * losses[0]


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    train(recipe(), tmp_path / "run.pt")
    with pytest.raises(ResultError, match=r"belongs to another recipe\. Choose another --out, or remove it"):
        train(recipe(learning_rate=1e-4), tmp_path / "run.pt")


def test_a_diverging_run_stops_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"The training loss became (nan|inf) at step"):
        train(recipe(learning_rate=1e30, warmup=0.0, steps=40), tmp_path / "run.pt")


def test_the_loss_is_the_plain_error_of_the_output() -> None:
    """EDM's weight and scaling cancel: lambda c_out^2 = 1 (Karras et al. 2022, Appendix B.6)."""
    torch.manual_seed(0)
    network = build_network(NetworkPart(patch=2, options=OPTIONS), SPACE, 2)
    nn.init.normal_(network.conv_out.weight)  # type: ignore[union-attr,arg-type]
    x, epsilon = torch.randn(6, 4, 4, 4), torch.randn(6, 4, 4, 4)
    sigma, labels = torch.tensor([0.01, 0.1, 0.5, 1.0, 3.0, 20.0]), torch.tensor([0, 1, 2, 0, 1, 2])
    edm = EDM(0.6, 250.0)
    noisy = x + sigma[:, None, None, None] * epsilon
    model_input, model_time = edm.prepare(noisy, sigma)
    output = network(model_input, model_time, class_labels=labels).sample
    s = sigma[:, None, None, None]
    total = s**2 + 0.36
    wanted = (x - 0.36 / total * noisy) * total.sqrt() / (s * 0.6)
    loss = edm_loss(network, x, sigma, epsilon, labels, edm)
    torch.testing.assert_close(loss, ((output - wanted) ** 2).mean(), rtol=1e-3, atol=0)


def test_shifts_move_pictures_and_keep_their_edges() -> None:
    images = torch.arange(64.0).reshape(1, 1, 8, 8).repeat(200, 1, 1, 1)
    part = DataPart(name="x", title="x", licence="x", shape=(1, 8, 8), shift=2)
    moved = augment(images, part, torch.Generator().manual_seed(0))
    offsets = {(int(m[0, 4, 4]) // 8 - 4, int(m[0, 4, 4]) % 8 - 4) for m in moved}
    assert offsets == {(i, j) for i in range(-2, 3) for j in range(-2, 3)}
    grid = np.arange(8)
    for m in moved:
        row, column = int(m[0, 4, 4]) // 8 - 4, int(m[0, 4, 4]) % 8 - 4
        rows, columns = np.clip(grid + row, 0, 7), np.clip(grid + column, 0, 7)
        assert np.array_equal(m[0].numpy(), images[0, 0].numpy()[np.ix_(rows, columns)])


def test_flips_mirror_about_half() -> None:
    images = torch.arange(64.0).reshape(1, 1, 8, 8).repeat(400, 1, 1, 1)
    part = DataPart(name="x", title="x", licence="x", shape=(1, 8, 8), flip=True)
    mirrored = augment(images, part, torch.Generator().manual_seed(0))[:, 0, 0, 0] == 7
    assert 150 < int(mirrored.sum()) < 250  # five standard deviations
