"""Several processes that train together take the step that one process takes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffclass.errors import ConfigError
from diffclass.train.crew import Crew

RECIPE = """
name = "tiny"
description = "A test."

[data]
name = "digits"
title = "digits"
licence = "BSD"
shape = [1, 8, 8]

[network]
patch = 2
[network.options]
block_out_channels = [8]
down_block_types = ["DownBlock2D"]
up_block_types = ["UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
add_attention = false

[train]
steps = 1
batch_size = 16

[classifier]
n_draws = 4
block = 2
"""


def train(folder: Path, *launcher: str) -> subprocess.CompletedProcess[str]:
    (folder / "tiny.toml").write_text(RECIPE)
    words = [
        *launcher,
        "-m",
        "diffclass",
        "train",
        "tiny.toml",
        "--test-images",
        "0",
        "--device",
        "cpu",
        "--out",
        "out",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(words, check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


def momentum(checkpoint: dict[str, Any]) -> torch.Tensor:
    """Return AdamW's running mean of the gradients, which after one step is the gradient, scaled."""
    state = checkpoint["optimizer"]["0"]["state"]
    return torch.cat([state[i]["exp_avg"].flatten() for i in sorted(state)])


def test_processes_share_a_batch(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    found = {}
    for name, launcher in (("one", [sys.executable]), ("two", launch)):
        (tmp_path / name).mkdir()
        done = train(tmp_path / name, *launcher)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("training images of 10 classes") == 1  # the process that leads reports
        found[name] = torch.load(tmp_path / name / "out/checkpoint.pt", weights_only=True)
        load_file(tmp_path / name / "out/model/diffusion_pytorch_model.safetensors")
    one, two = (momentum(found[name]) for name in ("one", "two"))
    assert torch.linalg.norm(two - one) < 0.02 * torch.linalg.norm(one)  # the rounding of bf16
    assert found["two"]["loss"] == pytest.approx(found["one"]["loss"], rel=1e-3)
    assert "2 x 1 thread" in (tmp_path / "two/out/model/diffclass.json").read_text()


@pytest.mark.parametrize(("rank", "part"), [(0, slice(0, 4)), (1, slice(4, 8)), (2, slice(8, 12))])
def test_a_share_is_a_piece(rank: int, part: slice) -> None:
    assert Crew(rank, 3).share(12, "a batch") == part


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 processes cannot share a batch of 16 equally"):
        Crew(0, 3).share(16, "a batch")
