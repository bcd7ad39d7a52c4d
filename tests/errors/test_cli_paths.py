"""Wrong paths, damaged files and empty folders say the same clear sentence, whichever verb they are given to."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from diffclass.cli import main
from tiny_mixture import save_mixture, save_picture

# {h} is a folder with the files that `home` makes, {m} a model in it, {x} what is wrong.
TAKE_DATA = (
    "evaluate {x} --model {m}",
    "fit {x} --out {h}/new",
    "train digits --data {x} --out {h}/new",
    "check {m} --data {x}",
    "calibrate {m} {x} --out {h}/new",
)
BAD_DATA = {
    "none": "The data set '{x}' does not exist. Give a file, a folder, or 'digits'.",
    "empty": "The folder '{x}' has nothing in it. Put the pictures of each class in a folder of their own, or list "
    "them in a CSV.",
    "flat": "The folder '{x}' has no class folders. Put the pictures of each class in a folder of their own, or list "
    "them in a CSV.",
    "hollow": "The data set '{x}' has no pictures.",
    "notes.txt": "The data set '{x}' must be a folder or a .parquet, .npz, .csv or .tsv file.",
    "bad.npz": "The file '{x}' is not an npz archive.",
    "bad.parquet": "The file '{x}' cannot be read: Parquet magic bytes not found in footer. Either the file is "
    "corrupted or this is not a parquet file.",
    "empty.csv": "The file '{x}' is empty. Its first line must name the columns.",
}
TAKE_MODEL = (
    "classify {h}/grey.png --model {x}",
    "evaluate digits --split test --limit 2 --model {x}",
    "calibrate {x} digits --split test --out {h}/new",
    "check {x}",
    "models {x}",
)
BAD_MODELS = {
    "none/model": (3, "The model directory '{x}' does not exist. Check the path."),
    "json": (
        2,
        "The file '{x}/diffclass.json' must be JSON: Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1).",
    ),
}
TAKE_RECIPE = ("none.toml", "empty", "minst")
CUT = "The picture '{x}' is damaged and cannot be decoded: image file is truncated."
RECIPES = (
    "Give a TOML file, or one of the names chexpert, chexpert-dit, cifar10, cifar10-gpu, cifar10-late, clip-concepts, "
    "clip-small, concepts, concepts-sd-lora, dermoscopy, digits, dreambooth-concepts, isic-melanoma, "
    "isic-melanoma-dit, medical-dit, medical-sd, medical-sd-lora, medical-unet, mnist, pneumonia, textdigits, "
    "vilt-concepts, vilt-small."
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("paths")
    save_mixture(root / "model")
    (save_mixture(root / "json") / "diffclass.json").write_text("{")
    for folder in ("empty", "flat", "hollow/ant", "hollow/bee"):
        (root / folder).mkdir(parents=True)
    save_picture(root / "flat" / "a.png")
    save_picture(root / "grey.png")
    whole = (root / "grey.png").read_bytes()
    (root / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "notes.txt").write_text("no data")
    (root / "bad.npz").write_bytes(b"PK\x03\x04 no archive")
    (root / "bad.parquet").write_bytes(b"PAR1 no table")
    (root / "empty.csv").write_text("")
    return root


def said(line: str, home: Path, wrong: str) -> tuple[int, str]:
    """Run a command on something wrong; return the exit code and what it said."""
    words = {"h": home, "m": home / "model", "x": wrong}
    result = CliRunner().invoke(main, line.format(**words).split())
    assert result.stdout == ""
    assert not (home / "new").exists()
    return result.exit_code, result.stderr.removesuffix("\n")


@pytest.mark.parametrize("name", BAD_DATA)
@pytest.mark.parametrize("line", TAKE_DATA, ids=lambda line: line.split()[0])
def test_data_sets(line: str, name: str, home: Path) -> None:
    wrong = str(home / name)
    assert said(line, home, wrong) == (2, f"Error: {BAD_DATA[name].format(x=wrong)}")


@pytest.mark.parametrize("name", BAD_MODELS)
@pytest.mark.parametrize("line", TAKE_MODEL, ids=lambda line: line.split()[0])
def test_models(line: str, name: str, home: Path) -> None:
    wrong, (code, sentence) = str(home / name), BAD_MODELS[name]
    assert said(line, home, wrong) == (code, f"Error: {sentence.format(x=wrong)}")


@pytest.mark.parametrize("name", TAKE_RECIPE)
def test_recipes(name: str, home: Path) -> None:
    wrong = name if name == "minst" else str(home / name)
    assert said("train {x} --out {h}/new", home, wrong) == (2, f"Error: There is no recipe '{wrong}'. {RECIPES}")


def test_a_damaged_picture(home: Path) -> None:
    wrong = str(home / "cut.png")
    assert said("classify {x} --model {m}", home, wrong) == (2, f"Error: {CUT.format(x=wrong)}")


def test_a_folder_to_write_to_that_is_a_file(home: Path) -> None:
    code, sentence = said("demo --out {x}", home, str(home / "notes.txt"))
    assert code == 2
    assert sentence.endswith(f"Error: Invalid value for '--out': Directory '{home / 'notes.txt'}' is a file.")
