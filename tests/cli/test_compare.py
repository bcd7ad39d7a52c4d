"""`diffclass evaluate` of a supervised network, and `diffclass compare` of two runs."""

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from diffclass.cli import main, render
from diffclass.data.results import read_results
from diffclass.stats import augrc, aurc
from tiny_mixture import save_mixture

TRAIN = ("--steps", 40, "--batch-size", 64, "--widths", "8,16", "--learning-rate", 5e-3, "--threads", 1)
TEST = ("digits", "--split", "test", "--limit", 60, "--threads", 1, "--json")


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network, a mixture, and what evaluating both left."""
    home = tmp_path_factory.mktemp("runs")
    call("baseline", "digits", "--out", home / "net", *TRAIN, "--json")
    save_mixture(home / "tiny")
    for model, out in (("net/model", "by-net"), ("tiny", "by-mixture")):
        call("evaluate", *TEST, "--model", home / model, "--out", home / out)
    return home


def test_a_network_is_measured_like_a_classifier(home: Path) -> None:
    by_net, by_mixture = (json.loads((home / run / "summary.json").read_text()) for run in ("by-net", "by-mixture"))
    assert by_net["metrics"].keys() == by_mixture["metrics"].keys()
    assert by_net["metrics"]["accuracy"]["value"] > 0.5
    assert by_net["temperature"] == by_net["config"]["temperature"]
    assert by_net["config"]["dataset"] == by_mixture["config"]["dataset"]
    _, rows = read_results(home / "by-net" / "results.jsonl")
    _, others = read_results(home / "by-mixture" / "results.jsonl")
    assert rows[0].keys() == others[0].keys() - {"uncertainty"}  # of draws, which it has none of
    row = rows[0]
    assert row["class_log_odds"][row["leader"]] == 0 == max(row["class_log_odds"].values())
    assert row["log_odds"] == -row["class_log_odds"][row["runner_up"]]
    assert sum(row["probabilities"].values()) == pytest.approx(1)
    assert (row["evaluations"], row["reason"]) == (1, "network")


def test_a_network_is_not_measured_twice(home: Path) -> None:
    before = (home / "by-net" / "results.jsonl").read_bytes()
    call("evaluate", *TEST, "--model", home / "net" / "model", "--out", home / "by-net")
    assert (home / "by-net" / "results.jsonl").read_bytes() == before


def test_its_card_has_the_figures(home: Path) -> None:
    call("evaluate", *TEST, "--model", home / "net" / "model", "--card")
    card = (home / "net" / "model" / "README.md").read_text()
    assert "| test | balanced accuracy |" in card
    assert "| test | AUC |" in card
    assert card.count("## Measured") == 1


def compared(*runs: Path) -> Any:
    return json.loads(call("compare", *runs, "--resamples", 200, "--json").stdout)


def test_two_runs_are_compared(home: Path) -> None:
    found = compared(home / "by-mixture", home / "by-net")
    metrics = [json.loads((home / run / "summary.json").read_text())["metrics"] for run in ("by-mixture", "by-net")]
    assert found["n_images"] == 60
    for name in ("accuracy", "balanced_accuracy", "auc", "nll", "ece"):
        difference = found["differences"][name]
        assert difference["first"] == pytest.approx(metrics[0][name]["value"])
        assert difference["second"] == pytest.approx(metrics[1][name]["value"])
        assert difference["low"] <= difference["value"] <= difference["high"]
        assert 0 < difference["p_value"] <= 1
    for name, area in (("aurc", aurc), ("augrc", augrc)):
        difference = found["differences"][name]
        for run, key in (("by-mixture", "first"), ("by-net", "second")):
            rows = read_results(home / run / "results.jsonl")[1]
            wrong = np.array([row["label"] != row["truth"] for row in rows])
            doubt = -np.array([row["log_odds"] for row in rows])
            assert difference[key] == pytest.approx(area(wrong, doubt, n_resamples=2).value, abs=1e-6)
        assert difference["low"] <= difference["value"] <= difference["high"]
        assert (difference["n"], 0 < difference["p_value"] <= 1) == (60, True)
        assert found["notes"][name] == "answers ranked by log-odds over the best other class; lower is better"
    back = compared(home / "by-net", home / "by-mixture")["differences"]["auc"]
    assert back["value"] == pytest.approx(-found["differences"]["auc"]["value"])


def test_a_run_does_not_differ_from_itself(home: Path) -> None:
    for difference in compared(home / "by-net", home / "by-net")["differences"].values():
        assert (difference["value"], difference["p_value"]) == (0, 1)


def test_missing_temperatures_are_fitted_on_half(home: Path) -> None:
    copytree(home / "net" / "model", home / "bare")
    facts = json.loads((home / "bare" / "diffclass.json").read_text())
    (home / "bare" / "diffclass.json").write_text(json.dumps(facts | {"temperature": None}))
    call("evaluate", *TEST, "--model", home / "bare", "--out", home / "by-bare")
    found = compared(home / "by-bare", home / "by-mixture")
    alone = json.loads((home / "by-bare" / "summary.json").read_text())["metrics"]
    assert found["differences"]["nll"]["n"] == 30
    assert found["notes"]["nll"] == "missing temperatures fitted on 30 images of the runs, measured on 30 others"
    assert found["differences"]["nll"]["first"] == pytest.approx(alone["nll_on_half"]["value"], abs=0.02)


def test_what_people_see(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "_on_terminal", lambda: True)
    shown = call("compare", home / "by-mixture", home / "by-net", "--resamples", 100).stdout
    assert "A: tiny, B: resnet-sigma-0, 60 images" in shown
    assert "balanced accuracy" in shown
    assert "AUC" in shown
    assert "AURC, AUGRC: answers ranked by log-odds over the best other class; lower is better" in " ".join(
        shown.split()
    )
