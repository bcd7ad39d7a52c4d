"""Several processes that train together end with the weights that one process ends with."""

import os
import subprocess
import sys
from pathlib import Path

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
steps = 4
batch_size = 16
optimizer = "muon"

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
    one, two = (found[name]["network"] for name in ("one", "two"))
    assert found["two"]["step"] == 4
    for name, value in one.items():  # bf16 activations do not depend on the batch; sums of gradients have another order
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert "2 x 1 thread" in (tmp_path / "two/out/model/diffclass.json").read_text()


@pytest.mark.parametrize(("rank", "part"), [(0, slice(0, 4)), (1, slice(4, 8)), (2, slice(8, 12))])
def test_a_share_is_a_piece(rank: int, part: slice) -> None:
    assert Crew(rank, 3).share(12, "a batch") == part


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 processes cannot share a batch of 16 equally"):
        Crew(0, 3).share(16, "a batch")
