"""Recipes: one TOML file, and a clear sentence for every mistake in it."""

from pathlib import Path

import pytest

from diffclass.errors import ConfigError
from diffclass.train import list_recipes, load_recipe
from diffclass.train.tuning import load_any_recipe

TEXT = """
name = "mine"
description = "A test."
[data]
name = "digits"
title = "Digits"
licence = "CC BY 4.0"
shape = [1, 8, 8]
[network]
patch = 2
[train]
steps = 10
"""


def test_the_bundled_recipes_load() -> None:
    names = list_recipes()
    assert {"cifar10", "cifar10-gpu", "digits", "mnist", "pneumonia"} <= set(names)
    for name in names:
        assert load_any_recipe(name).name == name


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TEXT)
    recipe = load_recipe(path)
    assert recipe.train.steps == 10
    assert recipe.data.shape == (1, 8, 8)
    assert recipe.network.kind == "UNet2DModel"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("steps = 10", "stepz = 10", "[train] of {path} has the unknown key 'stepz'. Did you mean 'steps'?"),
        ("steps = 10", "", "[train] of {path} lacks the key 'steps'."),
        ('description = "A test."', "", "{path} lacks the key 'description'."),
        ("patch = 2", "patch =", "{path} is not valid TOML: "),
        ('name = "mine"', 'name = "mine"\ncolour = 1', "{path} has the unknown key 'colour'. Known keys: name, "),
        ("[network]\npatch = 2", "", "{path} lacks the key 'network'."),
        (
            'name = "mine"',
            'kind = "matching"',
            "{path} is a recipe of the kind 'matching'. Read it with load_any_recipe.",
        ),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    path = tmp_path / "mine.toml"
    text = TEXT if "network" not in old else TEXT.replace("[network]\npatch = 2\n", "")
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(sentence.format(path=path))


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"There is no recipe 'imagenet'\. Give a TOML file, or one of the names"):
        load_recipe("imagenet")
