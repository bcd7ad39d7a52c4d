"""What measures of pictures from outside refuse, word for word and through the command line."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from diffclass.bench.foreign import Sets, measure_foreign
from diffclass.cli import main
from diffclass.data.unlabelled import open_pictures
from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.errors import InputError, RangeError
from tiny_mixture import save_mixture, save_picture, tiny_mixture


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a folder of pictures, one of none that opens, and an empty one."""
    folder = tmp_path_factory.mktemp("home")
    save_mixture(folder / "tiny")
    for i in range(3):
        save_picture(folder / "flat" / f"{i}.png", i)
    (folder / "broken").mkdir()
    for i in range(20):
        (folder / "broken" / f"{i}.png").write_text("no picture")
    (folder / "empty" / "class").mkdir(parents=True)
    return folder


TABLE = {
    "the same pictures": (
        "digits --fit-on digits:test",
        "Error: The pictures that the score is fitted on must not be those that it judges. 500 are both, as "
        "'digits/1'. Fit on a validation split.",
    ),
    "nothing to fit on": (
        "{h}/flat",
        "Error: '{h}/flat' has no validation split. Give pictures to fit the score on with --fit-on.",
    ),
    "too few to fit on": (
        "digits --fit-on {h}/flat",
        "Error: The score is fitted on at least 20 pictures. Got 3.",
    ),
    "a limit below what a fit needs": (
        "digits --limit 10",
        "Error: The score is fitted on at least 20 pictures. Got 10.",
    ),
    "nothing opens": (
        "digits --fit-on {h}/broken",
        "Error: No picture of 'broken' could be opened: there is nothing to fit on.",
    ),
    "no such outside set": (
        "digits --outside nosie",
        "Error: The outside set 'nosie' must be a folder, a data set or one of noise, constant, inverted, upside-down. "
        "There is no 'nosie'.",
    ),
    "twice": (
        "digits --outside noise --outside noise",
        "Error: The outside sets must have names that differ. Got 'noise' twice.",
    ),
    "no such split": (
        "digits --outside digits:val --split val2",
        "Error: The data set 'digits' has no split 'val2'. Choose one of: test, train, validation.",
    ),
    "no splits": (
        "{h}/flat --split test",
        "Error: The folder '{h}/flat' is not divided into splits. Leave out --split 'test'.",
    ),
    "no pictures": ("digits --outside {h}/empty", "Error: The data set '{h}/empty' has no pictures."),
    "draws": (
        "digits --limit 20 --draws 6",
        "Error: The number of draws of measure_foreign must be whole blocks of 4 draws, at least 4. Got 6.",
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_one_sentence(home: Path, name: str) -> None:
    arguments, sentence = TABLE[name]
    result = CliRunner().invoke(main, ["ood", *arguments.format(h=home).split(), "--model", str(home / "tiny")])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == sentence.format(h=home)
    assert result.stdout == ""


def test_a_supervised_network_has_no_score(home: Path) -> None:
    network = home / "network"
    network.mkdir()
    (network / "diffclass.json").write_text('{"kind": "supervised"}')
    result = CliRunner().invoke(main, ["ood", "digits", "--model", str(network)])
    assert result.exit_code == 2
    assert result.stderr == (
        "Error: A supervised network has no errors to score pictures by. Give a diffusion model as --model.\n"
    )


def test_sets_without_an_outside_one_or_with_a_name_that_rows_use() -> None:
    fit, inside = open_pictures("digits", default="validation"), open_pictures("digits")
    for outside, got in (({}, "none"), ({"fit": inside}, "fit")):
        with pytest.raises(InputError) as caught:
            Sets(fit=fit, inside=inside, outside=outside)
        assert str(caught.value) == (
            f"There must be at least one outside set, none of them called 'fit' or 'inside'. Got {got}."
        )
    classifier = DiffusionClassifier(denoiser=tiny_mixture(), race=Exhaustive(n_draws=8, block=4))
    with pytest.raises(RangeError) as caught_range:
        measure_foreign(classifier, Sets(fit=fit, inside=inside, outside={"x": inside}), n_draws=0)
    assert str(caught_range.value) == (
        "The 'n_draws' parameter of measure_foreign must be whole blocks of 4 draws, at least 4. Got 0."
    )
