"""Every verb of the command line, with its options, on models that are fitted in a moment."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from diffclass.cli import main, render
from diffclass.decide import DiffusionClassifier
from diffclass.denoisers import catalogue
from diffclass.train import list_recipes
from tiny_mixture import digits, save_mixture, save_picture


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, pictures and a data set."""
    root = tmp_path_factory.mktemp("home")
    save_mixture(root / "models" / "tiny")
    save_mixture(root / "models" / "raw", temperature=None)
    for index in range(3):
        save_picture(root / "pictures" / f"{index}.png", index)
    return root


@pytest.fixture(scope="module")
def model(home: Path) -> str:
    return str(home / "models" / "tiny")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command line believe that people read what it prints."""
    monkeypatch.setattr(render, "_on_terminal", lambda: True)


@pytest.fixture
def bundled(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_models", lambda: home / "models")


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def read(*arguments: object, code: int = 0) -> Any:
    return json.loads(call(*arguments, code=code).stdout)


# classify


def test_classify_answers_as_the_library(home: Path, model: str) -> None:
    rows = read("classify", home / "pictures", "--model", model)
    images, _ = digits().array((1, 8, 8), range(3))
    decisions = DiffusionClassifier.from_pretrained(model, batch_size=64).classify(images)
    assert [Path(row["id"]).name for row in rows] == ["0.png", "1.png", "2.png"]
    assert [row["label"] for row in rows] == [decision.label for decision in decisions]
    assert [row["evaluations"] for row in rows] == [decision.evaluations for decision in decisions]
    for row, decision in zip(rows, decisions, strict=True):
        # 8-bit pictures hold sixteenths to within half a 255th, and noise follows the pixels.
        assert row["log_odds"] == pytest.approx(decision.log_odds, abs=6 * decision.log_odds_se)
        assert row["probability"] == pytest.approx(row["probabilities"][row["label"]])


def test_classify_shows_a_table(home: Path, model: str, terminal: None) -> None:
    result = call("classify", home / "pictures" / "0.png", "--model", model)
    row = read("classify", home / "pictures" / "0.png", "--model", model, "--json")[0]
    assert f"{row['log_odds']:.1f} ± {row['log_odds_se']:.1f}" in result.stdout
    assert "calibrated" in result.stdout
    assert f"{row['probability']:.1%}" in result.stdout
    uncalibrated = call("classify", home / "pictures" / "0.png", "--model", home / "models" / "raw").stdout
    assert "calibrated" not in uncalibrated


def test_classify_says_what_was_done_to_pictures(model: str, tmp_path: Path) -> None:
    wide = save_picture(tmp_path / "wide.png", size=(20, 16), mode="RGB")
    arguments = ("classify", wide, "--model", model, "--convert")
    grey = "converted from colour to grey"
    cropped = f"{wide}: {grey}; centre-cropped 20x16 to 16x16; resized 16x16 to 8x8.\n"
    assert call(*arguments).stderr == cropped
    assert call(*arguments, "--resize", "stretch").stderr == f"{wide}: {grey}; stretched 20x16 to 8x8.\n"
    assert call(*arguments, "--quiet").stderr == ""
    other = save_picture(tmp_path / "other.png", size=(20, 16), mode="RGB")
    assert call(*arguments, other).stderr == cropped.replace(str(wide), "2 pictures")


@pytest.mark.parametrize(
    ("options", "kind", "evaluations"),
    [
        (["--race", "exhaustive"], "Exhaustive", 320),
        (["--race", "exhaustive", "--draws", "8"], "Exhaustive", 80),
        # 10 classes on 4 draws, 5 on 4 more, 3 on 8 more, 2 on 16 more
        (["--race", "halving"], "SuccessiveHalving", 40 + 20 + 24 + 32),
        # ten classes are not sifted
        (["--race", "sift-refine", "--draws", "12"], "SiftAndRefine", 120),
        (["--race", "clark-jaini", "--draws", "20"], "ClarkJaini", 200),
        (["--race", "paired", "--delta", "0.2"], "PairedRace", None),
    ],
)
def test_races_can_be_chosen(
    home: Path, model: str, tmp_path: Path, options: list[str], kind: str, evaluations: int | None
) -> None:
    row = read("classify", home / "pictures" / "0.png", "--model", model, "--out", tmp_path, *options)[0]
    config = json.loads((tmp_path / "run.json").read_text())["config"]
    assert config["race"]["kind"] == kind
    if evaluations is not None:
        assert row["evaluations"] == evaluations
    if "--delta" in options:
        assert config["race"]["delta"] == 0.2


def test_other_options_reach_the_classifier(home: Path, model: str, tmp_path: Path) -> None:
    options = [
        "--vote",
        "--seed",
        "7",
        "--labels",
        "1, 8,2",
        "--batch-size",
        "5",
        "--threads",
        "1",
        "--dtype",
        "float32",
    ]
    picture = home / "pictures" / "0.png"
    row = read("classify", picture, "--model", model, "--device", "cpu", "--out", tmp_path, *options)[0]
    config = json.loads((tmp_path / "run.json").read_text())["config"]
    assert config["aggregate"] == {"kind": "MajorityVote"}
    assert config["seed"] == row["seed"] == 7
    assert config["classes"] == ["1", "8", "2"]
    assert set(row["vote_shares"]) == {"1", "8", "2"}
    assert row["probability"] is None  # the calibration was for other classes and the mean
    assert (tmp_path / "results.jsonl").is_file()


def test_classify_goes_on_where_it_was(home: Path, model: str, tmp_path: Path) -> None:
    first = read("classify", home / "pictures" / "1.png", "--model", model, "--out", tmp_path)
    rows = read("classify", home / "pictures", "--model", model, "--out", tmp_path, "--figure", tmp_path / "f.png")
    assert rows[1] == first[0]
    assert (tmp_path / "f.png").is_file()


def test_a_broken_picture_among_several(home: Path, model: str, tmp_path: Path, terminal: None) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    arguments = ("classify", broken, home / "pictures" / "0.png", "--model", model)
    result = call(*arguments, code=1)
    assert result.stderr == (
        f"Error: The picture '{broken}' is not in a format that Pillow opens. Try a PNG or JPEG file.\n"
        "1 of 2 pictures failed.\n"
    )
    rows = json.loads(call(*arguments, "--json", code=1).stdout)
    assert set(rows[0]) == {"id", "truth", "error"}
    assert rows[1]["label"] is not None


# evaluate, fit


def test_evaluate_measures(model: str, tmp_path: Path) -> None:
    arguments = ("evaluate", "digits", "--split", "test", "--limit", 30, "--model", model, "--out", tmp_path)
    summary = read(*arguments, "--save-errors", "--race", "exhaustive", "--draws", 16)
    assert summary["metrics"]["accuracy"]["n"] == summary["n_images"] == 30
    assert summary["metrics"]["accuracy"]["value"] > 0.8
    assert summary["metrics"]["evaluations_per_image"]["value"] == 160
    assert summary["config"]["dataset"]["split"] == "test"
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert len(list((tmp_path / "errors").iterdir())) == 30


def test_evaluate_shows_a_table(home: Path, terminal: None) -> None:
    result = call("evaluate", "digits", "--split", "test", "--limit", 12, "--model", home / "models" / "raw")
    for words in ("raw on digits", "balanced accuracy", "negative log-likelihood [nats]", "—", "images/s on cpu"):
        assert words in result.stdout
    assert "fit_temperature needs at least 20 labelled images." in " ".join(result.stdout.split())


def test_evaluate_counts_broken_pictures(home: Path, model: str, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with (tmp_path / "set.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), ("broken.png", 1), (home / "pictures" / "0.png", 1)])
    result = call("evaluate", tmp_path / "set.csv", "--model", model, "--resize", "crop", "--convert", code=1)
    assert json.loads(result.stdout)["n_failed"] == 1
    assert result.stderr.endswith("1 of 2 pictures failed.\n")


def test_fit_makes_a_model(tmp_path: Path, terminal: None) -> None:
    for index in range(60):
        data = digits()
        name = "odd" if data.labels[index] % 2 else "even"
        save_picture(tmp_path / "data" / name / f"{index}.png", index)
    options = ["--components", 2, "--rank", 3, "--seed", 1, "--limit", 12, "--size", "4x4", "--resize", "crop"]
    result = call("fit", tmp_path / "data", "--out", tmp_path / "model", "--threads", 1, *options)
    assert "model on data" in result.stdout
    assert "saved: " in result.stderr
    card = read("models", tmp_path / "model", "--json")
    assert card["classes"] == ["even", "odd"]
    assert card["shape"] == [1, 4, 4]
    assert card["figures"]["held out, by races"]["accuracy"]["n"] == 12
    assert read("check", tmp_path / "model", "--json")["passed"]


# models, check, demo


def test_models_are_listed(bundled: None, terminal: None) -> None:
    listing = call("models").stdout
    assert [card["name"] for card in read("models", "--json")] == ["raw", "tiny"]
    assert "1x8x8" in listing
    card = call("models", "tiny").stdout
    assert "mixture" in card
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in card


def test_check_reports(model: str, terminal: None) -> None:
    result = call("check", model, "--data", "digits", "--split", "test", "--seed", 3, "--device", "cpu")
    assert "deterministic" in result.stdout
    report = json.loads(call("check", model, "--json").stdout)
    assert report["passed"]
    assert {check["name"] for check in report["checks"]} >= {"protocol", "batch-independent"}


def test_check_fails_on_a_broken_promise(home: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffclass.denoisers.mixture import MixtureDenoiser

    real = MixtureDenoiser.__call__
    monkeypatch.setattr(MixtureDenoiser, "__call__", lambda self, *arguments: real(self, *arguments) * float("nan"))
    report = read("check", model, code=1)
    assert not report["passed"]
    assert [check["name"] for check in report["checks"] if not check["passed"]] == ["finite"]


def test_demo_uses_the_models_there_are(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_models", lambda: tmp_path / "models")
    result = call("demo", "--out", tmp_path, code=3)
    message = "Error: This installation has no models in it. Install diffclass from a wheel, or train one.\n"
    assert result.stderr == message
    save_mixture(tmp_path / "models" / "digits-mixture")
    result = call("demo", "--out", tmp_path / "new", "--device", "cpu", "--seed", 1)
    assert "digits/" in result.stdout
    assert result.stderr == f"drawn: {tmp_path / 'new' / 'demo.png'}\n"
    with Image.open(tmp_path / "new" / "demo.png") as image:
        assert image.width == 1760
    rows = read("demo", "--out", tmp_path, "--json")
    assert {row["model"] for row in rows} == {"digits-mixture"}
    assert all(row["truth"] in "0123456789" for row in rows)


# train


RECIPE = """
name = "two"
description = "Two classes."
[data]
name = "two.npz"
title = "Two"
licence = "CC0"
shape = [1, 8, 8]
[network]
patch = 2
[network.options]
block_out_channels = [32]
down_block_types = ["DownBlock2D"]
up_block_types = ["UpBlock2D"]
layers_per_block = 1
norm_num_groups = 8
add_attention = false
[train]
steps = 4
batch_size = 8
[classifier]
n_draws = 8
block = 4
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    data = digits()
    rows = np.flatnonzero(data.labels < 2)
    arrays: dict[str, Any] = {}
    for split, chosen in {"train": rows[:40], "val": rows[40:80], "test": rows[80:90]}.items():
        pixels = np.stack([np.asarray(data[int(row)].read()) for row in chosen])
        arrays |= {f"{split}_images": (pixels * 255).astype(np.uint8), f"{split}_labels": data.labels[chosen]}
    np.savez(tmp_path / "two.npz", **arrays)
    (tmp_path / "two.toml").write_text(RECIPE)
    return tmp_path / "two.toml"


def test_train_makes_a_model(recipe: Path, tmp_path: Path) -> None:
    arguments = ("train", recipe, "--data", tmp_path / "two.npz", "--out", tmp_path / "out", "--device", "cpu")
    summary = read(*arguments)
    assert summary["model"] == str(tmp_path / "out" / "model")
    assert summary["figures"]["test"]["accuracy"]["n"] == 10
    assert read("models", tmp_path / "out" / "model")["name"] == "two"


def test_an_interrupted_training_can_go_on(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffclass.train import run

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "train_network", interrupt)
    arguments = ("train", recipe, "--data", tmp_path / "two.npz", "--out", tmp_path / "out")
    result = call(*arguments, "--quiet", code=130)
    assert result.stderr == (
        f"Stopped. The checkpoint is in '{tmp_path / 'out'}', and the same command goes on from there.\n"
    )


# Help


def leaves(verb: str) -> dict[str, click.Command]:
    """Commands by what is typed: a verb, or those in it."""
    command = main.get_command(click.Context(main), verb)
    assert command is not None
    if isinstance(command, click.Group):
        return {f"{verb} {name}": inner for name, inner in command.commands.items()}
    return {verb: command}


@pytest.mark.parametrize("verb", main.list_commands(click.Context(main)))
def test_every_option_is_explained(verb: str) -> None:
    for words, command in leaves(verb).items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, parameter.name
        result = call(*words.split(), "--help")
        assert result.stdout.startswith(f"Usage: main {words}")
        assert "--json" in result.stdout


def test_module_and_version() -> None:
    done = subprocess.run([sys.executable, "-m", "diffclass", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("diffclass 0.")


def test_help_of_train_names_every_recipe() -> None:
    said = CliRunner().invoke(main, ["train", "--help"]).stdout
    assert [name for name in list_recipes() if name not in said.replace(",", " ").split()] == []
