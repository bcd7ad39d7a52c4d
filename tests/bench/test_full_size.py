"""The benchmark of full-size networks: published configurations, at a size that takes a moment."""

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

FOLDER = Path(__file__).parents[2] / "benchmarks"
MODULES = ("full_size", "architectures", "memory", "speed")
UNET = {"sample_size": 8, "block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 16}
BLOCKS = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
          "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "sd1.5": {"config": {**UNET, **BLOCKS, "attention_head_dim": 2}, "told": {"encoder_hidden_states": (7, 16)}},
    "sdxl": {
        "config": {**UNET, **BLOCKS, "attention_head_dim": (2, 4), "transformer_layers_per_block": (1, 2),
                   "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
                   "projection_class_embeddings_input_dim": 64},
        "told": {"encoder_hidden_states": (7, 16), "text_embeds": (16,)},
    },
    "sd3-medium": {
        "config": {"sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 2,
                   "attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 16,
                   "caption_projection_dim": 16, "pooled_projection_dim": 12, "pos_embed_max_size": 12},
        "told": {"encoder_hidden_states": (7, 16), "pooled_projections": (12,)},
    },
    "pixart-alpha": {
        "config": {"sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 8, "num_layers": 1,
                   "num_attention_heads": 3, "attention_head_dim": 8, "cross_attention_dim": 24,
                   "caption_channels": 16, "use_additional_conditions": True},
        "told": {"encoder_hidden_states": (7, 16), "encoder_attention_mask": (7,)},
    },
    "dit-xl-2": {
        "config": {"sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 8, "num_layers": 1,
                   "num_attention_heads": 2, "attention_head_dim": 8, "norm_num_groups": 8, "num_embeds_ada_norm": 3},
        "ids": 3,
    },
    "flux-dev": {
        "config": {"patch_size": 1, "in_channels": 16, "num_layers": 1, "num_single_layers": 1,
                   "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 16,
                   "pooled_projection_dim": 12, "guidance_embeds": True, "axes_dims_rope": (4, 4, 8)},
        "told": {"encoder_hidden_states": (7, 16), "pooled_projections": (12,)}, "cells": 8,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def benchmark() -> Iterator[Any]:
    """The script, imported from where it is with those that it borrows from."""
    if not FOLDER.is_dir():
        pytest.skip("benchmarks/ is not part of this installation")
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("full_size")
    finally:
        sys.path.remove(str(FOLDER))
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture
def small(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Every architecture, at a size that takes a moment."""
    made = {name: replace(benchmark.ARCHITECTURES[name], **changes, weights=1) for name, changes in SMALL.items()}
    for name, architecture in made.items():
        monkeypatch.setitem(benchmark.ARCHITECTURES, name, architecture)
    monkeypatch.setattr(benchmark, "matmul_flops", lambda device, dtype: 1e9)
    return made


def test_configurations_have_as_many_weights_as_were_published(benchmark: Any) -> None:
    found = {
        name: sum(p.numel() for p in one.empty().parameters()) for name, one in benchmark.ARCHITECTURES.items()
    }  # fmt: skip
    assert found == {name: one.weights for name, one in benchmark.ARCHITECTURES.items()}


def test_operations_are_those_that_were_published(benchmark: Any) -> None:
    # Peebles and Xie 2023, Table 1 (arXiv:2212.09748): 118.64 "Gflops", each a multiplication and an addition
    assert benchmark.ARCHITECTURES["dit-xl-2"].flops() == pytest.approx(2 * 118.64e9, rel=2e-3)


@pytest.mark.parametrize("name", SMALL)
def test_operations_are_those_of_a_call(name: str, benchmark: Any, small: dict[str, Any]) -> None:
    speed = sys.modules["speed"]
    device = torch.device("cpu")
    network = small[name].fill(device, torch.float32)
    denoiser = small[name].denoiser(network, device)
    assert small[name].flops() == speed.flops_per_evaluation(denoiser, n=3)
    told = denoiser.condition_on(["cat", "dog"])
    noisy = torch.randn(2, *denoiser.space.shape)
    with torch.inference_mode():
        answer = denoiser(noisy, torch.tensor([0.5, 2.0]), told)
    assert answer.shape == noisy.shape
    assert bool(answer.isfinite().all())


def call(benchmark: Any, out: Path, *arguments: object, code: int = 0) -> Result:
    options = [str(argument) for argument in (*arguments, "--device", "cpu", "--out", out)]
    result = CliRunner().invoke(benchmark.main, options, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def test_rows_are_measured_once(benchmark: Any, small: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "new" / "rows.json"
    arguments = ("--family", "sd1.5", "--family", "dit-xl-2", "--evaluations", 4, "--batch-size", 2)
    arguments += ("--dtype", "bfloat16")
    first = call(benchmark, out, *arguments)
    rows = json.loads(out.read_text())["rows"]
    kinds = [("engine", "bfloat16"), ("plain loop", "float32"), ("plain loop", "bfloat16")]
    assert [(r["family"], r["row"], r["dtype"]) for r in rows] == [
        (family, *kind) for family in ("sd1.5", "dit-xl-2") for kind in kinds
    ]
    for row in rows:
        assert row["evaluations"] == 4
        assert row["seconds_per_evaluation"] == pytest.approx(row["seconds"] / 4)
        assert row["flops_per_second"] == pytest.approx(row["flops_per_evaluation"] / row["seconds_per_evaluation"])
        assert row["of_peak"] == pytest.approx(row["flops_per_second"] / 1e9)
        assert row["peak_bytes"] > 50e6  # the libraries alone
    assert rows[0]["flops_per_evaluation"] == small["sd1.5"].flops()
    again = call(benchmark, out, *arguments)
    assert again.stdout == first.stdout
    assert again.stderr == ""
    assert first.stderr.count("...") == 6


def test_one_evaluation_has_no_loop_beside_it(benchmark: Any, small: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    call(benchmark, out, "--family", "sd3-medium", "--evaluations", 1, "--dtype", "float32")
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["row"], row["evaluations"]) == ("adapter", 1)


def test_what_does_not_fit_is_refused(
    benchmark: Any, small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rows.json"
    odd = call(benchmark, out, "--evaluations", 6, "--batch-size", 2, code=2)
    assert "must be 1, or a multiple of twice the batch size (4). Got 6." in odd.stderr
    monkeypatch.setitem(benchmark.ARCHITECTURES, "sd1.5", replace(small["sd1.5"], weights=10**9))
    monkeypatch.setattr(benchmark, "available_bytes", lambda device: 2_000_000_000)
    refused = call(benchmark, out, "--dtype", "bfloat16", code=1)
    assert (
        "Error: Stable Diffusion 1.5 in bfloat16 needs about 2.6 GB, and 2.0 GB are free. Use another --dtype, "
        "--family or machine." in refused.stderr
    )
    assert not out.exists()
