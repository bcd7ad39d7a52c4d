"""`diffclass train` on pictures with captions."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from diffclass.cli import main
from tiny_captions import save_captions

RECIPE = """
name = "tiny"
description = "A test."
kind = "contrastive"

[start.options]
projection_dim = 8

[start.options.vision]
hidden_size = 16
intermediate_size = 16
num_hidden_layers = 1
num_attention_heads = 2
image_size = 16
patch_size = 8

[start.options.text]
hidden_size = 16
intermediate_size = 16
num_hidden_layers = 1
num_attention_heads = 2

[data]
title = "coloured halves"
licence = "none"

[train]
steps = 2
batch_size = 4
learning_rate = 1e-3
"""


def call(*arguments: object) -> dict[str, object]:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.filterwarnings("default")
def test_a_recipe_of_ones_own_and_a_model_to_start_from(tmp_path: Path) -> None:
    scenes = save_captions(tmp_path / "scenes")
    (tmp_path / "tiny.toml").write_text(RECIPE)
    options = ("--data", scenes, "--device", "cpu", "--threads", 1, "--json")
    made = call("train", tmp_path / "tiny.toml", "--out", tmp_path / "first", *options)
    assert made["model"] == str(tmp_path / "first/model")
    assert made["figures"]["validation"]["accuracy_against_another_caption"]["n"] == 4  # type: ignore[index]
    call("train", tmp_path / "tiny.toml", "--from", made["model"], "--out", tmp_path / "second", *options)
    card = (tmp_path / "second/model/README.md").read_text()
    assert f"- **Started from**: {made['model']}" in card
    assert "- **Data**: coloured halves, 44 images with 24 captions" in card
