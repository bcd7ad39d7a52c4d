"""What the command line refuses: a table of arguments, exit code and the exact sentence on stderr."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from diffclass.cli import main
from diffclass.denoisers import catalogue
from tiny_mixture import save_mixture, save_picture

USAGE = "Usage: main {verb} [OPTIONS]"  # click shows how a verb is called before it says what is wrong

# {h} is a folder with the files that `home` makes, {m} a model in it; "..." stands for what click says before.
TABLE: dict[str, tuple[str, int, str]] = {
    # pictures
    "missing picture": (
        "classify {h}/none.png --model {m}",
        2,
        "Error: The picture '{h}/none.png' does not exist. Check the path.",
    ),
    "not a picture": (
        "classify {h}/notes.txt --model {m}",
        2,
        "Error: The picture '{h}/notes.txt' is not in a format that Pillow opens. Try a PNG or JPEG file.",
    ),
    "array of NaN": (
        "classify {h}/nan.npy --model {m}",
        2,
        "Error: The picture '{h}/nan.npy' is not in a format that Pillow opens. Try a PNG or JPEG file.",
    ),
    "pixels of NaN": (
        "classify {h}/nan.tif --model {m}",
        2,
        "Error: The picture '{h}/nan.tif' must be finite. It holds NaN or infinity.",
    ),
    "empty folder": (
        "classify {h}/empty --model {m}",
        2,
        "Error: The folder '{h}/empty' has no pictures in it. Give pictures, or a folder of them.",
    ),
    "one picture twice": (
        "classify {h}/grey.png {h}/grey.png --model {m}",
        2,
        "Error: Every picture must be named once. '{h}/grey.png' is there more than once.",
    ),
    "colour picture": (
        "classify {h}/colour.png --model {m}",
        2,
        "Error: The picture '{h}/colour.png' is colour and the model takes grey images. Try --convert.",
    ),
    "size refused": (
        "classify {h}/wide.png --model {m} --resize refuse",
        2,
        "Error: The picture '{h}/wide.png' is 20x16 pixels and the model takes 8x8. "
        "Try --resize crop or --resize stretch.",
    ),
    "two failures": (
        "classify {h}/none.png {h}/wide.png --model {m} --resize refuse",
        2,
        "Error: The picture '{h}/none.png' does not exist. Check the path.\n"
        "Error: The picture '{h}/wide.png' is 20x16 pixels and the model takes 8x8. "
        "Try --resize crop or --resize stretch.\n"
        "2 of 2 pictures failed.",
    ),
    # classes
    "unknown class": (
        "classify {h}/grey.png --model {m} --labels 1,seven",
        2,
        "Error: The 'prompts' parameter of condition_on must name classes of the model: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9. "
        "Got 'seven'.",
    ),
    "one class": (
        "classify {h}/grey.png --model {m} --labels 1",
        2,
        "Error: A classifier needs at least two classes. Got 1.",
    ),
    "class twice": (
        "classify {h}/grey.png --model {m} --labels 1,2,1",
        2,
        "Error: Every class must be named once. '1' is there more than once.",
    ),
    # models
    "unknown model": (
        "classify {h}/grey.png --model tinny",
        3,
        "Error: The model must be a bundled one (tiny), a directory or 'owner/name' on the Hugging Face hub. "
        "Got 'tinny'. Did you mean 'tiny'?",
    ),
    "empty model directory": (
        "check {h}/empty",
        3,
        "Error: The directory '{h}/empty' holds no model. "
        "It must hold diffclass.json, model_index.json or config.json.",
    ),
    "damaged model": (
        "check {h}/cut",
        2,
        "Error: The file '{h}/cut/model.safetensors' is truncated or altered. Copy or download it again.",
    ),
    "unknown card": (
        "models unknown",
        3,
        "Error: The model must be a bundled one (tiny), a directory or 'owner/name' on the Hugging Face hub. "
        "Got 'unknown'.",
    ),
    "unknown device": (
        "classify {h}/grey.png --model {m} --device abacus",
        2,
        "Error: The 'device' parameter of load must be a device of this machine, as 'cpu' or 'cuda'. Got 'abacus'.",
    ),
    # races
    "no chance of an error": (
        "classify {h}/grey.png --model {m} --delta 0",
        2,
        "Error: The 'delta' parameter of PairedRace must be a float in (0, 1). Got 0.0.",
    ),
    "draws that do not fill blocks": (
        "classify {h}/grey.png --model {m} --draws 10",
        2,
        "Error: The number of draws of PairedRace must be a positive multiple of 'block'. Got n_draws=10, block=4.",
    ),
    "no draws": (
        "classify {h}/grey.png --model {m} --draws 0",
        2,
        "...Error: Invalid value for '--draws': 0 is not in the range x>=1.",
    ),
    "unknown race": (
        "classify {h}/grey.png --model {m} --race fast",
        2,
        "...Error: Invalid value for '--race': 'fast' is not one of 'paired', 'exhaustive', 'halving', "
        "'sift-refine', 'clark-jaini'.",
    ),
    # figures and folders
    "figure of no kind": (
        "classify {h}/grey.png --model {m} --figure {h}/figure.xyz",
        2,
        "Error: The figure '{h}/figure.xyz' must end in .png, .svg or .pdf.",
    ),
    "folder that is a file": (
        "evaluate digits --split test --limit 2 --model {m} --out {h}/notes.txt",
        2,
        "...Error: Invalid value for '--out': Directory '{h}/notes.txt' is a file.",
    ),
    "folder in a file": (
        "evaluate digits --split test --limit 2 --model {m} --out {h}/notes.txt/run",
        1,
        "Error: The result file '{h}/notes.txt/run/results.jsonl' cannot be opened: Not a directory.",
    ),
    # data sets
    "missing data set": (
        "evaluate {h}/none --model {m}",
        2,
        "Error: The data set '{h}/none' does not exist. Give a file, a folder, or 'digits'.",
    ),
    "empty data set": (
        "evaluate {h}/empty --model {m}",
        2,
        "Error: The folder '{h}/empty' has nothing in it. Put the pictures of each class in a folder of their own, or "
        "list them in a CSV.",
    ),
    "split to be chosen": (
        "evaluate digits --model {m}",
        2,
        "Error: The data set 'digits' has several splits. Choose one of: test, train, validation.",
    ),
    "unknown split": (
        "evaluate digits --split tset --model {m}",
        2,
        "Error: The data set 'digits' has no split 'tset'. Choose one of: test, train, validation.",
    ),
    "save without a folder": (
        "evaluate digits --split test --limit 2 --model {m} --save-errors",
        2,
        "Error: --save-errors needs a folder to save in. Give --out.",
    ),
    "no model": (
        "evaluate digits",
        2,
        "...Error: Missing option '--model'.",
    ),
    "other classes": (
        "evaluate {h}/animals.csv --model {m}",
        2,
        "Error: The label 'ant' of 'grey.png' is not among the classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9.",
    ),
    # fit and train
    "fit of one class": (
        "fit {h}/one.csv --out {h}/new",
        2,
        "Error: A data set needs at least two classes. '{h}/one.csv' has 1: ant.",
    ),
    "size that is none": (
        "fit digits --out {h}/new --size 8",
        2,
        "...Error: Invalid value for '--size': '8' must be HEIGHTxWIDTH in pixels, as 28x28.",
    ),
    "fit without a folder": (
        "fit digits",
        2,
        "...Error: Missing option '--out'.",
    ),
    "recipe of bad TOML": (
        "train {h}/bad.toml --out {h}/new",
        2,
        "Error: {h}/bad.toml is not valid TOML: Expected '=' after a key in a key/value pair (at line 1, column 6).",
    ),
    "recipe with an unknown key": (
        "train {h}/key.toml --out {h}/new",
        2,
        "Error: [train] of {h}/key.toml has the unknown key 'step'. Did you mean 'steps'?",
    ),
    # usage
    "unknown verb": ("evaluat digits", 2, "...Error: No such command 'evaluat'. Did you mean 'evaluate'?"),
    "unknown option": ("models --jsn", 2, "...Error: No such option '--jsn'. Did you mean '--json'?"),
    "no pictures": ("classify --model {m}", 2, "...Error: Missing argument 'IMAGE...'."),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("home")
    model = save_mixture(root / "models" / "tiny")
    cut = save_mixture(root / "cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:500])
    assert model.is_dir()
    (root / "empty").mkdir()
    (root / "notes.txt").write_text("not a picture")
    np.save(root / "nan.npy", np.full((8, 8), np.nan))
    Image.fromarray(np.full((8, 8), np.nan, dtype=np.float32)).save(root / "nan.tif")
    save_picture(root / "grey.png")
    save_picture(root / "colour.png", mode="RGB")
    save_picture(root / "wide.png", size=(20, 16))
    (root / "animals.csv").write_text("path,label\ngrey.png,ant\nwide.png,bee\n")
    (root / "one.csv").write_text("path,label\ngrey.png,ant\nwide.png,ant\n")
    (root / "bad.toml").write_text("this is no TOML")
    (root / "key.toml").write_text("[train]\nstep = 3\n")
    return root


@pytest.mark.parametrize("case", TABLE)
def test_the_sentence(case: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_models", lambda: home / "models")
    line, code, wanted = TABLE[case]
    wanted = wanted.format(h=home, m=home / "models" / "tiny")
    arguments = line.format(h=home, m=home / "models" / "tiny").split()
    result = CliRunner().invoke(main, arguments)
    said = result.stderr.removesuffix("\n")
    if wanted.startswith("..."):
        assert said.startswith("Usage: main")
        said, wanted = said.splitlines()[-1], wanted[3:]
    assert (said, result.exit_code) == (wanted, code)
    assert result.stdout == ""
    assert not (home / "new").exists()


def test_debug_shows_where(home: Path) -> None:
    arguments = ["evaluate", str(home / "none"), "--model", str(home / "models" / "tiny"), "--debug"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("Traceback")
    assert result.stderr.endswith("does not exist. Give a file, a folder, or 'digits'.\n")


def test_a_bug_is_not_hidden(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug() -> None:
        raise KeyError("ours")

    monkeypatch.setattr(catalogue, "list_models", bug)
    result = CliRunner().invoke(main, ["models"])
    assert isinstance(result.exception, KeyError)


def test_our_warnings_are_a_line_and_others_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    from diffclass.errors import SigmaRangeWarning

    def warn() -> list[object]:
        warnings.warn("a library is getting old", DeprecationWarning, stacklevel=1)
        warnings.warn("Part of the range is lost.", SigmaRangeWarning, stacklevel=1)
        return []

    monkeypatch.setattr(catalogue, "list_models", warn)
    result = CliRunner().invoke(main, ["models"])
    assert result.stderr == "Warning: Part of the range is lost.\n"
    assert result.exit_code == 0
