"""Batch size and compiling: chosen by how much there is to do, once a run."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from diffclass.cli import main
from diffclass.cli.build import at_speed, build_classifier
from diffclass.decide import DiffusionClassifier
from diffclass.denoisers import compiled, throughput
from tiny_mixture import save_mixture, save_picture


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_mixture(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would have been measured and compiled."""
    done: list[str] = []

    def compile_nothing(denoiser: Any, *, batch_size: int) -> Any:
        done.append(f"compile {batch_size}")
        return denoiser

    def measure_nothing(denoiser: Any) -> int:
        done.append("measure")
        return 512

    monkeypatch.setattr(compiled, "compile_denoiser", compile_nothing)
    monkeypatch.setattr(throughput, "best_batch_size", measure_nothing)
    return done


def write_run(folder: Path, **machine: Any) -> Path:
    (folder / "run.json").write_text(json.dumps({"config": {"machine": machine}}))
    return folder


@pytest.mark.parametrize(
    ("n_images", "options", "batch_size", "steps"),
    [
        # 32 draws of 10 classes: 2,000,000 evaluations are 6,250 images
        (6_249, {}, 64, []),
        (6_250, {}, 512, ["measure", "compile 512"]),
        (6_250, {"batch_size": 7}, 7, ["compile 7"]),
        (6_250, {"compile": False}, 512, ["measure"]),
        (2, {"compile": True}, 64, ["compile 64"]),
        (2, {"batch_size": "auto"}, 512, ["measure"]),
        (1, {}, 64, []),
    ],
)
def test_the_work_decides(
    model: str, asked: list[str], n_images: int, options: dict[str, Any], batch_size: int, steps: list[str]
) -> None:
    classifier = at_speed(build_classifier(model=model, device="cpu"), n_images=n_images, **options)
    assert classifier.batch_size == batch_size
    assert asked == steps


def test_one_photo_never_compiles(model: str, asked: list[str]) -> None:
    classifier = build_classifier(model=model, device="cpu", draws=1_000_000)
    assert at_speed(classifier, n_images=1).batch_size == 64
    assert asked == []
    at_speed(classifier, n_images=2)
    assert asked == ["measure", "compile 512"]


@pytest.mark.parametrize(("n_images", "options"), [(10**6, {}), (2, {"batch_size": "auto"})])
def test_a_run_goes_on_as_it_was_started(
    model: str, asked: list[str], tmp_path: Path, n_images: int, options: dict[str, Any]
) -> None:
    out = write_run(tmp_path, batch_size=96, compiled=False)
    classifier = at_speed(build_classifier(model=model, device="cpu"), n_images=n_images, out=out, **options)
    assert classifier.batch_size == 96
    assert asked == []
    write_run(tmp_path, batch_size=96, compiled=True)
    at_speed(build_classifier(model=model, device="cpu"), n_images=2, out=out)
    assert asked == ["compile 96"]


@pytest.mark.parametrize("content", ["", "{}", '{"config": {}}', '{"config": {"machine": 3}}', "[]"])
def test_an_unreadable_run_is_no_run(model: str, asked: list[str], tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    classifier = build_classifier(model=model, device="cpu")
    assert at_speed(classifier, n_images=2, out=tmp_path).batch_size == 64
    assert asked == []


# The command line


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def machine(out: Path) -> dict[str, Any]:
    return json.loads((out / "run.json").read_text())["config"]["machine"]


def test_run_json_says_what_was_chosen_and_the_next_run_takes_it(model: str, asked: list[str], tmp_path: Path) -> None:
    arguments = ("evaluate", "digits", "--split", "test", "--limit", 12, "--model", model, "--out", tmp_path)
    call(*arguments, "--batch-size", "auto", "--device", "cpu")
    assert asked == ["measure"]
    assert machine(tmp_path) == {"batch_size": 512, "compiled": False}
    before = (tmp_path / "results.jsonl").read_bytes()
    call(*arguments, "--device", "cpu")
    assert (tmp_path / "results.jsonl").read_bytes() == before
    refused = call(*arguments, "--batch-size", 100, code=1)
    assert "It differs in: machine.batch_size (was 512, now 100). Use another --out." in refused.stderr


def test_options_reach_the_network(model: str, asked: list[str], tmp_path: Path) -> None:
    picture = save_picture(tmp_path / "0.png")
    call("classify", picture, "--model", model, "--batch-size", 9, "--compile", "--device", "cpu")
    assert asked == ["compile 9"]
    call("classify", picture, "--model", model, "--no-compile")
    assert asked == ["compile 9"]


def test_a_batch_size_is_a_number_or_auto(model: str) -> None:
    for value, reason in (("0", "0 is not in the range x>=1."), ("fast", "'fast' is not a valid integer range.")):
        result = call("classify", "x.png", "--model", model, "--batch-size", value, code=2)
        assert f"Invalid value for '--batch-size': {reason}" in result.stderr


def test_a_failing_compiler_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers come all the same, and run.json says that they are the uncompiled network's."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("there is no compiler.\nA long story follows.")

    monkeypatch.setattr(compiled, "_call", fail)
    picture = save_picture(tmp_path / "0.png")
    result = call("classify", picture, "--model", "digits", "--compile", "--out", tmp_path / "out", "--device", "cpu")
    assert result.stderr == (
        "Warning: The network could not be compiled (RuntimeError: there is no compiler) and runs uncompiled, which is "
        "slower. Install a C++ compiler, or leave compiling out.\n"
    )
    assert machine(tmp_path / "out") == {"batch_size": 64, "compiled": False}


def test_the_library_leaves_the_choice_to_its_caller(model: str, asked: list[str]) -> None:
    assert DiffusionClassifier.from_pretrained(model).batch_size == 256
    assert asked == []
