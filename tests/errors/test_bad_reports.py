"""What reports, groups, audits and medical pictures refuse, word for word and through the command line."""

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from diffclass.bench import evaluate
from diffclass.bench.recording import configuration
from diffclass.cli import main
from diffclass.data import ResultFile, load_image, open_dataset, prepare_image
from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.decide.conformal import conformal_sets
from diffclass.errors import MissingExtra
from tiny_mixture import digits, save_mixture, save_picture, tiny_mixture


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of several kinds, and what is none."""
    folder = tmp_path_factory.mktemp("home")
    classifier = DiffusionClassifier(denoiser=tiny_mixture(), race=Exhaustive(n_draws=4))
    evaluate(classifier, digits(), out=folder / "test", limit=30)
    other = DiffusionClassifier(denoiser=tiny_mixture(), race=Exhaustive(n_draws=8))
    evaluate(other, open_dataset("digits", split="validation"), out=folder / "other", limit=25)
    (folder / "none").mkdir()
    ResultFile(folder / "kind" / "results.jsonl", {"radius": 1}).close()
    config = configuration(classifier) | {"dataset": {"name": "digits", "split": "test", "n": 1}}
    ResultFile(folder / "empty" / "results.jsonl", config).close()
    with ResultFile(folder / "failed" / "results.jsonl", config) as file:
        file.append([{"id": "a", "truth": "1", "error": "broken"}])
    save_mixture(folder / "tiny")
    for i, name in enumerate(("0", "1", "seven")):
        save_picture(folder / "foreign" / name / "a.png", i)
    return folder


NO_VALIDATION = (
    "Error: Conformal sets need a validation run, which they are fitted on. Evaluate a validation split, and give its "
    "folder as --validation."
)
NOTHING = "has no labelled picture that was answered: there is nothing to report."
TABLE = {
    "no folder": (
        "report {h}/nowhere",
        "Error: The folder '{h}/nowhere' does not exist. Give the one that evaluate wrote with --out.",
    ),
    "no run": (
        "report {h}/none",
        "Error: The folder '{h}/none' holds no run: results.jsonl is missing. Give the --out of `diffclass evaluate`.",
    ),
    "run of another verb": (
        "report {h}/kind",
        "Error: The folder '{h}/kind' holds a run of another kind. Give the --out of `diffclass evaluate`.",
    ),
    "empty run": (
        "report {h}/empty",
        f"Error: The run in '{{h}}/empty' {NOTHING} It has 0 rows. Run the same evaluation again to go on.",
    ),
    "all failed": (
        "report {h}/failed",
        f"Error: The run in '{{h}}/failed' {NOTHING} It has 1 rows. Run the same evaluation again to go on.",
    ),
    "no validation run": ("report {h}/test --alpha 0.1", NO_VALIDATION),
    "validation of another classifier": (
        "report {h}/test --validation {h}/other",
        "Error: The validation run must be of the same classifier. '{h}/other' differs in: race.",
    ),
    "validation on the same pictures": (
        "report {h}/test --validation {h}/test",
        "Error: The validation run must be of other pictures. '{h}/test' shares 30 of them, as '{first}'. Evaluate a "
        "validation split.",
    ),
    "missing group column": (
        "evaluate digits --split test --model {h}/tiny --limit 20 --group-by patient",
        "Error: The data set 'digits' has no column 'patient'. It has: none.",
    ),
    "labels that the model does not know": (
        "evaluate {h}/foreign --model {h}/tiny",
        "Error: The label 'seven' of 'seven/a.png' is not among the classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9.",
    ),
    "audit of nothing": (
        "audit {h}/nowhere",
        "Error: The data set '{h}/nowhere' does not exist. Give a file, a folder, or 'digits'.",
    ),
    "audit without the column": (
        "audit {h}/foreign --group-by patient",
        "Error: The data set 'foreign' has no column 'patient'. It has: none.",
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_one_sentence(home: Path, name: str) -> None:
    arguments, sentence = TABLE[name]
    first = min(json.loads(line)["id"] for line in (home / "test" / "results.jsonl").read_text().splitlines()[1:])
    result = CliRunner().invoke(main, arguments.format(h=home).split())
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == sentence.format(h=home, first=first)
    assert result.stdout == ""


def test_an_audit_of_broken_pictures_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_text("no picture")
    result = CliRunner().invoke(main, ["audit", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        f"Error: No picture of '{tmp_path.name}' could be opened: The picture 'a/x.png' is not in a format that Pillow "
        "opens. Try a PNG or JPEG file."
    )


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither pydicom nor MAPIE is installed."""
    real = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name.split(".", maxsplit=1)[0] in ("pydicom", "mapie"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_dicom_without_its_reader(without: None, tmp_path: Path) -> None:
    (tmp_path / "scan.dcm").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(MissingExtra) as caught:
        load_image(tmp_path / "scan.dcm", (1, 8, 8))
    assert str(caught.value) == "DICOM pictures need pydicom: pip install 'diffclass[dicom]'."


def test_conformal_sets_without_their_library(without: None) -> None:
    chances = np.full((30, 2), 0.5)
    with pytest.raises(MissingExtra) as caught:
        conformal_sets(chances, np.zeros(30, dtype=np.int64), chances)
    assert str(caught.value) == "Conformal sets need MAPIE: pip install 'diffclass[conformal]'."


def test_16_bit_grey_is_divided_by_its_range_and_resized_without_loss(tmp_path: Path) -> None:
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    made = prepare_image(tmp_path / "deep.png", (1, 8, 8))
    assert made.pixels.dtype == np.float32
    np.testing.assert_allclose(made.image[0].numpy(), pixels / 65535, atol=1e-7)
