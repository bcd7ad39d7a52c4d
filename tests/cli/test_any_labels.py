"""Text-to-image models on the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from diffclass.cli import main

FAST = ("--device", "cpu", "--dtype", "float32", "--draws", "8", "--race", "exhaustive")


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def rows(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_any_labels_by_any_model(pipelines: Path, photo: Path, tmp_path: Path) -> None:
    told = ("classify", photo, "--model", pipelines / "sd1", *FAST, "--json")
    (one,) = rows(run(*told, "--labels", "cat, dog", "--template", "a photo of {}."))
    assert one["leader"] in ("cat", "dog")
    assert one["evaluations"] == 16
    assert 0.5 <= one["score"] <= 1.0
    (tmp_path / "prompts.csv").write_text("prompt,classname,classidx\na photo of cat.,cat,0\na photo of dog.,dog,1\n")
    (same,) = rows(run(*told, "--prompts", tmp_path / "prompts.csv"))
    assert same["class_log_odds"] == one["class_log_odds"]
    (other,) = rows(run(*told, "--labels", "cat,dog", "--template", "{}", "--template", "a drawing of {}"))
    assert other["class_log_odds"] != one["class_log_odds"]
    (smaller,) = rows(run(*told, "--labels", "cat,dog", "--template", "a photo of {}.", "--size", 8))
    assert smaller["class_log_odds"] != one["class_log_odds"]


def test_what_the_model_is_told_is_kept(pipelines: Path, photo: Path, tmp_path: Path) -> None:
    told = ("classify", photo, "--model", pipelines / "sd1", *FAST, "--labels", "cat,dog", "--out", tmp_path / "out")
    assert run(*told).exit_code == 0
    config = json.loads((tmp_path / "out" / "run.json").read_text())["config"]
    assert config["prompts"] == [["a photo of a cat.", "a photo of a dog."]]
    assert config["model"]["name"] == str(pipelines / "sd1")
    other = run(*told, "--template", "a drawing of a {}.")
    assert other.exit_code == 1
    assert "holds results of another" in other.stderr


def test_data_sets_are_evaluated_by_their_folders_names(pipelines: Path, photo: Path, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "x.png").write_bytes(photo.read_bytes())
    told = ("evaluate", tmp_path / "data", "--model", pipelines / "sd1", *FAST, "--resize", "crop", "--json")
    assert rows(run(*told, "--labels", "cat,dog"))["n_images"] == 2


def test_distilled_models_are_said_to_be(pipelines: Path, photo: Path) -> None:
    told = run("classify", photo, "--model", pipelines / "flux-dev", *FAST, "--labels", "cat,dog", "--size", 16)
    assert told.exit_code == 0, told.output
    assert "Warning: This Flux is guidance-distilled: it was trained to imitate a guided model" in told.stderr


def test_a_first_look_says_what_it_left_out(pipelines: Path, encoders: Path, photo: Path) -> None:
    told = ("classify", photo, "--model", pipelines / "sd1", *FAST, "--labels", "cat,dog,cow")
    told = (*told, "--first", encoders / "clip")
    (one,) = rows(run(*told, "--keep", 2, "--json"))
    (left_out,) = one["unmeasured"]
    assert one["class_log_odds"][left_out] is None
    assert one["evaluations"] == 16
    said = " ".join(run(*told, "--keep", 2).stderr.split())
    assert "The first look left out 1 classes, which were not measured: the race's guarantee holds among the" in said
    assert rows(run(*told, "--json"))[0]["unmeasured"] == []


CASES: dict[str, tuple[tuple[str, ...], str]] = {
    "no labels": (
        (),
        "Error: This model reads text and has no classes of its own. Name at least two with classes=[...] or --labels.",
    ),
    "one label": (("--labels", "cat"), "Error: A classifier needs at least two classes. Got 1."),
    "labels twice": (
        ("--labels", "cat,cat"),
        "Error: Every class must be named once. 'cat' is there more than once.",
    ),
    "template alone": (
        ("--template", "a {}"),
        "Error: --template needs the classes that it is filled with. Give them with --labels.",
    ),
    "keep alone": (
        ("--labels", "cat,dog", "--keep", "2"),
        "Error: --keep needs a model that says which classes to keep. Give one with --first.",
    ),
    "prompts and labels": (
        ("--prompts", "x.csv", "--labels", "cat,dog"),
        "Error: --prompts says which classes there are. Leave --labels and --template out.",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_labels_are_one_sentence(case: str, pipelines: Path, photo: Path) -> None:
    arguments, sentence = CASES[case]
    found = run("classify", photo, "--model", pipelines / "sd1", *FAST, *arguments)
    assert (found.exit_code, found.stderr.strip().splitlines()[-1]) == (2, sentence)


def test_templates_are_for_models_that_read_text(photo: Path) -> None:
    found = run("classify", photo, "--model", "cifar10", *FAST, "--labels", "cat,dog", "--template", "a {}")
    assert found.exit_code == 2
    assert found.stderr.strip().splitlines()[-1] == (
        "Error: Prompts are for models that read text. This one knows its classes by number: leave the prompts and "
        "templates out."
    )
