"""Networks that are told the class late: the same answers, with the larger part run once a draw."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from diffclass.decide import DiffusionClassifier, Exhaustive, PairedRace
from diffclass.denoisers import EDM, PixelDenoiser, Space, check_denoiser, load, save_model
from diffclass.denoisers.compiled import CompiledLateNetwork, compile_denoiser, is_compiled
from diffclass.denoisers.pixel import LateNetwork
from diffclass.train.network import build_network
from diffclass.train.recipe import NetworkPart
from tiny_networks import CARD, CLASSES, METADATA, SIZE

TRUNK = {
    "block_out_channels": [16], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"],
    "layers_per_block": 1, "add_attention": False,
}  # fmt: skip
SPACE = Space(**METADATA["space"])


def late_network() -> nn.Module:
    torch.manual_seed(0)
    part = NetworkPart(kind="LateUNet2DModel", patch=2, options={"norm_num_groups": 8, "trunk_options": TRUNK})
    network = build_network(part, SPACE, len(CLASSES))
    last: Any = network.conv_out
    nn.init.normal_(last.weight, std=0.1)  # recipes start it at zero, where all classes are alike
    return network


def denoiser_of(network: nn.Module) -> PixelDenoiser:
    return PixelDenoiser(
        network=network, parametrisation=EDM(sigma_data=0.5, time_scale=250.0), space=SPACE,
        sigma_range=(0.02, 20.0), classes=CLASSES, null_class=len(CLASSES),
    )  # fmt: skip


class Told(nn.Module):
    """The same network, with its parts out of sight: an ordinary one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return self.network(*arguments, **options)


def count(module: nn.Module) -> list[int]:
    """Record the batch sizes of a module's calls."""
    sizes: list[int] = []
    module.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


def test_it_conforms() -> None:
    report = check_denoiser(denoiser_of(late_network()))
    assert report.passed, str(report)
    assert "draws-shared" in {check.name for check in report.checks}


def test_wrong_sharing_is_found() -> None:
    class Mixed(nn.Module):
        """Gives every class the first image's features."""

        def __init__(self, network: Any) -> None:
            super().__init__()
            self.network = network

        def forward(self, *arguments: Any, **options: Any) -> Any:
            return self.network(*arguments, **options)

        def shared(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            return self.network.shared(sample, timestep)[:1].expand(len(sample), -1, -1, -1)

        def conditioned(self, *arguments: torch.Tensor) -> torch.Tensor:
            return self.network.conditioned(*arguments)

    assert check_denoiser(denoiser_of(Mixed(late_network()))).failed == ("draws-shared",)


def test_the_trunk_is_told_no_class() -> None:
    network: Any = late_network()
    assert isinstance(network, LateNetwork)
    assert not isinstance(Told(network), LateNetwork)
    names = dict(network.trunk.named_parameters())
    assert not any("class" in name or "conv_out" in name for name in names)
    sample, time = torch.randn(2, *SPACE.shape), torch.tensor([3.0, -200.0])
    answers = [network(sample, time, class_labels=torch.full((2,), c)).sample for c in range(2)]
    assert not torch.allclose(*answers)
    features = network.shared(sample, time)
    torch.testing.assert_close(network.conditioned(features, time, torch.ones(2, dtype=torch.int64)), answers[1])


@pytest.mark.parametrize("batch_size", [7, 24])
@pytest.mark.parametrize("race", [Exhaustive(n_draws=16, block=4), PairedRace(n_draws=64, block=4, delta=0.4)])
def test_sharing_changes_no_answer_and_saves_the_trunk(race: Any, batch_size: int) -> None:
    network: Any = late_network()
    images = torch.rand(5, *SPACE.image_shape, generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {"race": race, "batch_size": batch_size}
    plain = DiffusionClassifier(denoiser=denoiser_of(Told(network)), **options).classify(images)
    trunk, head = count(network.trunk), count(network.head[0])
    shared = DiffusionClassifier(denoiser=denoiser_of(network), **options).classify(images)
    for one, other in zip(shared, plain, strict=True):
        assert (one.label, one.evaluations, one.n_draws) == (other.label, other.evaluations, other.n_draws)
        np.testing.assert_allclose(one.evidence.errors, other.evidence.errors, rtol=1e-4)
    assert set(head) == {batch_size}
    cells, draws = sum(one.evaluations for one in shared), sum(one.n_draws for one in shared)
    assert sum(trunk) >= draws
    assert sum(trunk) <= draws + len(trunk)  # a draw whose classes lie in two batches is shared by neither
    assert draws < 0.6 * cells


def test_saved_models_load(tmp_path: Path) -> None:
    network = late_network()
    path = save_model(tmp_path / "tiny", network, METADATA, CARD)
    denoiser = load(path, dtype="float32")
    assert isinstance(denoiser, PixelDenoiser)
    assert isinstance(denoiser.network, LateNetwork)
    wanted = {name: tensor.bfloat16() for name, tensor in network.state_dict().items()}
    got: Any = denoiser.network
    assert {name: tensor.bfloat16().tolist() for name, tensor in got.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in wanted.items()
    }
    assert denoiser.space.shape == (4, SIZE, SIZE)
    half = load(path, dtype="bfloat16")
    report = check_denoiser(half)
    assert report.passed, str(report)


def test_its_parts_run_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFCLASS_CACHE", str(tmp_path))
    torch._dynamo.reset()
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(0)
        place = len(graphs) - 1

        def run(*arguments: Any) -> Any:
            graphs[place] += 1
            return graph(*arguments)

        return run

    denoiser = denoiser_of(late_network())
    fast = compile_denoiser(denoiser, batch_size=12, backend=backend)
    assert is_compiled(fast)
    assert isinstance(fast, PixelDenoiser)
    assert isinstance(fast.network, CompiledLateNetwork)
    assert graphs == [1, 1]  # at once: the trunk and the head
    images = torch.rand(3, *SPACE.image_shape, generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {"race": PairedRace(n_draws=32, block=4, delta=0.4), "batch_size": 12}
    wanted = DiffusionClassifier(denoiser=denoiser, **options).classify(images)
    for one, other in zip(DiffusionClassifier(denoiser=fast, **options).classify(images), wanted, strict=True):
        np.testing.assert_allclose(one.evidence.errors, other.evidence.errors, rtol=1e-4)
    assert len(graphs) == 2  # whatever the number of draws in a batch
    assert min(graphs) > 3
    again: Any = compile_denoiser(fast, batch_size=6, backend=backend)
    assert again.network.network is denoiser.network
    assert fast.network.state_dict().keys() == denoiser.network.state_dict().keys()  # pyright: ignore
