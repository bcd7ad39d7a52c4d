"""`diffclass calibrate` and `diffclass fit`: what they write is what the other verbs read."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from diffclass.bench import fitting
from diffclass.cli import main, render
from diffclass.decide import DiffusionClassifier
from diffclass.train.recipe import Recipe, load_recipe
from diffclass.train.run import held_out
from tiny_mixture import save_mixture

MEASURE = ("digits", "--split", "test", "--limit", 200, "--delta", 0.1)


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and in out/model its calibrated copy."""
    root = tmp_path_factory.mktemp("home")
    save_mixture(root / "tiny")
    (root / "said.json").write_text(call("calibrate", root / "tiny", *MEASURE, "--out", root / "out").stdout)
    return root


def test_the_calibrated_model_is_used_by_the_other_verbs(home: Path) -> None:
    said = json.loads((home / "said.json").read_text())
    assert said["model"] == str(home / "out" / "model")
    assert said["after"]["evaluations_per_image"]["high"] < said["before"]["evaluations_per_image"]["low"]
    evaluated = ("evaluate", "digits", "--split", "validation", "--limit", 30, "--delta", 0.1)
    spent = {}
    for name in ("tiny", "out/model"):
        summary = json.loads(call(*evaluated, "--model", home / name).stdout)
        spent[name] = summary["metrics"]["evaluations_per_image"]["value"]
        assert summary["temperature"] is not None
    assert spent["out/model"] < spent["tiny"] / 2
    other = json.loads(call(*evaluated[:-2], "--model", home / "out/model").stdout)  # the rule is for another delta
    assert other["config"]["race"]["stopping"] is None


def test_a_table_is_for_people(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "_on_terminal", lambda: True)
    result = call("calibrate", home / "tiny", *MEASURE, "--out", home / "out")
    text = " ".join(result.stdout.split())
    assert "held-out half" in text
    assert "evaluations per image" in text
    assert "network evaluations." in text
    assert f"saved: {home / 'out' / 'model'}" in result.stderr


def test_a_directory_of_ones_own_can_be_changed_in_place(home: Path, tmp_path: Path) -> None:
    own = save_mixture(tmp_path / "own")
    assert DiffusionClassifier.from_pretrained(own).race.stopping is None  # type: ignore[union-attr]
    quick = ("digits", "--split", "test", "--limit", 60, "--draws", 16, "--delta", 0.3)
    call("calibrate", own, *quick, "--out", tmp_path / "out", "--in-place")
    assert DiffusionClassifier.from_pretrained(own).race.stopping is not None  # type: ignore[union-attr]
    assert not (tmp_path / "out" / "model").exists()


def test_a_bundled_model_stays_as_it_is(tmp_path: Path) -> None:
    for verb, option in (
        (("calibrate", "digits", "digits", "--out", tmp_path, "--split", "test"), "--in-place"),
        (("evaluate", "digits", "--model", "digits", "--split", "test"), "--card"),
    ):
        result = call(*verb, option, code=2)
        assert result.stderr.endswith(
            f"Error: Invalid value for '{option}': only a directory of your own can be changed.\n"
        )


def test_what_is_measured_goes_on_the_card(tmp_path: Path) -> None:
    own = save_mixture(tmp_path / "own")
    before = (own / "README.md").read_text().partition("## Measured")[0]
    for limit in (40, 30):  # the second time in place of the first
        call("evaluate", "digits", "--split", "test", "--limit", limit, "--model", own, "--card")
        figures = json.loads((own / "diffclass.json").read_text())["figures"]["test"]
        assert figures["accuracy"]["n"] == limit
        card = (own / "README.md").read_text()
        row = f"| test | accuracy | {figures['accuracy']['value']:.4g} | "
        assert card.startswith(before.rstrip())
        assert card.count(row) == card.count("| test | accuracy |") == card.count("## Measured") == 1
    assert DiffusionClassifier.from_pretrained(own).denoiser.classes
    result = call("evaluate", "digits", "--model", own, "--card", "--draws", 8, code=2)
    assert "a card shows the model's own race and aggregate." in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["tinny", "digits"], 3, "Error: The model must be a bundled one ("),
        (["{m}", "digits"], 2, "Error: The data set 'digits' has several splits. Choose one of: "),
        (["{m}", "digits", "--split", "test", "--draws", "10"], 2, "Error: The number of draws of calibrate must be "),
        (["{m}", "digits", "--split", "test", "--delta", "0"], 2, "Error: The 'delta' parameter of "),
        (["{m}", "digits", "--held-out"], 2, "Error: Invalid value for '--held-out': '"),
        (["{m}", "digits", "--held-out", "--split", "test"], 2, "choose --held-out or --split, not both."),
        (["{m}", "digits", "--split", "test", "--limit", "9"], 2, "Error: Invalid value for '--limit': 9 is not in "),
    ],
)
def test_one_sentence_for_what_is_refused(
    home: Path, tmp_path: Path, arguments: list[str], code: int, sentence: str
) -> None:
    filled = [argument.format(m=home / "tiny") for argument in arguments]
    assert sentence in call("calibrate", *filled, "--out", tmp_path, code=code).stderr


def test_the_images_that_training_held_out(tmp_path: Path) -> None:
    own = save_mixture(tmp_path / "own")
    recipe, metadata = load_recipe("digits"), json.loads((own / "diffclass.json").read_text())
    metadata["training"] = {"recipe": recipe.as_dict()}
    (own / "diffclass.json").write_text(json.dumps(metadata))
    quick = ("digits", "--held-out", "--limit", 40, "--draws", 8, "--delta", 0.3)
    call("calibrate", own, *quick, "--out", tmp_path / "out")
    halves = json.loads((tmp_path / "out" / "run.json").read_text())["config"]["halves"]
    kept = held_out(recipe).sample(40, seed=0)
    half = kept.sample(20, seed=0)
    assert halves[0]["fingerprint"] == half.fingerprint
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_fit_passes_its_options_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: dict[str, Any] = {}

    def stop(source: str, **options: Any) -> None:
        passed.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "fit_dataset", stop)
    call("fit", "digits", "--components", 16, "--rank", 18, "--shift", 1, "--out", tmp_path, code=130)
    assert (passed["n_components"], passed["rank"], passed["shift"]) == (16, 18, 1)
