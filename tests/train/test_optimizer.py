"""Muon's part of the optimiser: the right weights, the same memory, orthogonal updates in every layout."""

import pytest
import torch
from torch import nn

from diffclass.errors import ConfigError
from diffclass.train.optimizer import Optimizer
from diffclass.train.recipe import TrainPart

MUON = TrainPart(steps=1, optimizer="muon", learning_rate=0.0, matrix_learning_rate=1.0, gradient_clip=1e9)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.ModuleDict({"conv_in": nn.Conv2d(2, 4, 3), "body": nn.Conv2d(4, 6, 3), "dense": nn.Linear(6, 3)})
    return layers.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def test_a_step_is_orthogonal_and_reaches_the_network() -> None:
    """Newton-Schulz brings every singular value of the update near 1 (0.7 to 1.2), times 0.2 sqrt(longer side)."""
    layers = network()
    before = {name: p.detach().clone() for name, p in layers.named_parameters()}
    optimizer = Optimizer(layers, MUON)
    random = torch.Generator().manual_seed(1)
    for p in layers.parameters():
        p.grad = torch.randn(p.shape, generator=random)
    optimizer.step(0.5)
    for name in ("body.weight", "dense.weight"):
        moved = (before[name] - layers.get_parameter(name)).flatten(1)
        singular = torch.linalg.svdvals(moved) / (0.5 * 0.2 * max(moved.shape) ** 0.5)
        assert singular.min() > 0.6, name
        assert singular.max() < 1.3, name
    for name in ("conv_in.weight", "body.bias"):  # AdamW's, whose rate is 0 here
        assert torch.equal(before[name], layers.get_parameter(name)), name


def test_the_memory_layout_changes_nothing() -> None:
    moved = []
    for layout in (torch.contiguous_format, torch.channels_last):
        layers = network().to(memory_format=layout)  # pyright: ignore[reportCallIssue]
        optimizer = Optimizer(layers, MUON)
        for i, p in enumerate(layers.parameters()):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
        optimizer.step(1.0)
        moved.append(layers.get_parameter("body.weight").detach().clone())
    torch.testing.assert_close(moved[0], moved[1], rtol=0, atol=0.02)  # bfloat16 in Newton-Schulz


def test_an_old_torch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ConfigError, match=r"The optimizer 'muon' needs torch 2\.9 or newer"):
        Optimizer(network(), MUON)
