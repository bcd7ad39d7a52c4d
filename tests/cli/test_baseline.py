"""`diffclass baseline`, and the certificates of what it trains."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from diffclass.cli import main, render
from diffclass.data.results import read_results
from tiny_mixture import save_mixture

TRAIN = ("--steps", 40, "--batch-size", 64, "--widths", "8,16", "--learning-rate", 5e-3, "--threads", 1)
QUICK = ("--split", "test", "--limit", 4, "--sigma", 0.2, "--n", 60, "--n0", 10, "--alpha", 0.01, "--threads", 1)


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "noisy"
    made = json.loads(call("baseline", "digits", "--sigma", 0.2, "--out", out, *TRAIN, "--json").stdout)
    assert made["model"] == str(out / "model")
    assert set(made["figures"]) == {"test", "test, noise 0.2"}
    return out / "model"


def certified(*arguments: object) -> Any:
    return json.loads(call("certify", "digits", *QUICK, *arguments).stdout)


def test_a_network_is_certified(model: Path, tmp_path: Path) -> None:
    summary = certified("--model", model, "--out", tmp_path / "out", "--seed", 2)
    result, config = summary["results"][0], summary["config"]
    assert (result["copies_per_image"], result["evaluations_per_image"]) == (70, 70)
    assert config["smoothing"]["noised"] == "network"
    assert (config["model"]["sigma"], config["denoiser"], config["seed"]) == (0.2, None, 2)
    assert result["certified_accuracy"][0]["value"] > 0
    rows = (tmp_path / "out" / "results.jsonl").read_bytes()
    certified("--model", model, "--out", tmp_path / "again", "--seed", 2)
    assert (tmp_path / "again" / "results.jsonl").read_bytes() == rows


def test_a_network_is_certified_behind_a_denoiser(model: Path, tmp_path: Path) -> None:
    mixture = save_mixture(tmp_path / "tiny")
    summary = certified("--model", model, "--denoise-with", mixture, "--out", tmp_path / "out")
    assert summary["results"][0]["evaluations_per_image"] == 140
    config, rows = read_results(tmp_path / "out" / "results.jsonl")
    assert config["smoothing"]["noised"] == "denoised"
    assert config["denoiser"]["weights"]
    assert len(rows) == 4
    refused = call("certify", "digits", *QUICK, "--model", model, "--out", tmp_path / "out", code=1)
    assert "holds results of another configuration" in refused.stderr


def test_what_people_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "_on_terminal", lambda: True)
    options = (*TRAIN[2:], "--steps", 2, "--flip", "--shift", 1, "--seed", 1, "--device", "cpu")
    shown = call("baseline", "digits", "--out", tmp_path / "run", *options)
    assert "resnet-sigma-0, test" in shown.stdout
    assert shown.stderr.splitlines()[-1] == f"saved: {tmp_path / 'run' / 'model'}"
    other = call("baseline", "digits", "--out", tmp_path / "run", *options, "--steps", 3, code=1)
    assert other.stderr == (
        f"Error: {tmp_path / 'run' / 'checkpoint.pt'} belongs to another recipe. Choose another --out, or remove it to "
        "start afresh.\n"
    )
