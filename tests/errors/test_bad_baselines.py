"""Baselines that cannot be had: a table of calls and the exact sentence."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from diffclass.bench import evaluate
from diffclass.cli import main
from diffclass.data.datasets import Dataset, open_dataset
from diffclass.denoisers import EDM, PixelDenoiser, Space
from diffclass.errors import ConfigError, DiffclassError, RangeError, ShapeError, UnsupportedModel
from diffclass.robust.architecture import build_from_config, build_resnet, build_supervised
from diffclass.robust.supervised import DenoisedCopies, SupervisedNetwork
from diffclass.train.supervised import SupervisedRecipe
from tiny_mixture import save_mixture, tiny_mixture


def resnet(shape: tuple[int, int, int] = (1, 8, 8)) -> SupervisedNetwork:
    network = build_resnet(shape[0], 2, widths=(8,), depths=(1,))
    return SupervisedNetwork(network=network, classes=("a", "b"), image_shape=shape, sigma=0.0)


def two_digits() -> Dataset:
    data = open_dataset("digits", split="test")
    return replace(data.subset(np.flatnonzero(data.labels < 2)), classes=("a", "b"))


def network() -> PixelDenoiser:
    """A denoiser that was trained without a null class."""
    return PixelDenoiser(
        network=lambda *_, **__: None, parametrisation=EDM(), space=Space(channels=1, height=8, width=8),
        sigma_range=(0.02, 8.0), classes=("a", "b"),
    )  # fmt: skip


TABLE: dict[str, tuple[Callable[[], object], type[DiffclassError], str]] = {
    "negative noise": (
        lambda: SupervisedRecipe(sigma=-0.1),
        ConfigError,
        "The 'sigma' of a baseline must be a finite number of at least 0. Got -0.1.",
    ),
    "no steps": (
        lambda: SupervisedRecipe(steps=0),
        ConfigError,
        "The 'steps' of a baseline must be at least 1. Got 0.",
    ),
    "stages that do not match": (
        lambda: SupervisedRecipe(widths=(8, 16), depths=(1,)),
        ConfigError,
        "A baseline needs as many widths as depths. Got 2 and 1.",
    ),
    "no members": (
        lambda: SupervisedRecipe(members=0),
        ConfigError,
        "The 'members' of a baseline must be at least 1. Got 0.",
    ),
    "an architecture that is none": (
        lambda: SupervisedRecipe(architecture="vgg"),
        ConfigError,
        "The 'architecture' of a baseline must be one of small-resnet, resnet-18, vit. Got 'vgg'.",
    ),
    "a ViT of images that are not square": (
        lambda: build_supervised("vit", (1, 8, 16), 2),
        UnsupportedModel,
        "A ViT takes square images. Got 16x8.",
    ),
    "weights of another kind": (
        lambda: build_from_config({"model_type": "bert"}),
        UnsupportedModel,
        "A supervised network must be a resnet or a vit of transformers. Got 'bert'.",
    ),
    "errors of a network": (
        lambda: evaluate(resnet(), two_digits(), save_errors=True, out=Path("never")),
        RangeError,
        "A supervised network has no errors of draws to save. Leave 'save_errors' out.",
    ),
    "groups of a network": (
        lambda: evaluate(resnet(), two_digits(), group_by="patient"),
        RangeError,
        "A supervised network has no evidence of groups to add up. Leave 'group_by' out.",
    ),
    "images of two shapes": (
        lambda: DenoisedCopies(resnet((3, 8, 8)), tiny_mixture(), sigma=0.25),
        ShapeError,
        "Network and denoiser must take the same images. Got (3, 8, 8) and (1, 8, 8).",
    ),
    "noise that the denoiser does not know": (
        lambda: DenoisedCopies(resnet(), tiny_mixture(), sigma=100.0),
        RangeError,
        "The 'sigma' of denoised copies must be from 0.005 to 20 [image units], where the denoiser was trained. "
        "Got 100.0.",
    ),
    "denoiser with classes only": (
        lambda: DenoisedCopies(resnet(), network(), sigma=0.25),
        UnsupportedModel,
        "Denoising without a class needs a model that was trained so. This one was not.",
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_the_sentence(case: str) -> None:
    run, kind, wanted = TABLE[case]
    with pytest.raises(kind) as caught:
        run()
    assert str(caught.value) == wanted


def test_a_model_of_another_kind(tmp_path: Path) -> None:
    model = save_mixture(tmp_path / "tiny")
    with pytest.raises(UnsupportedModel) as caught:
        SupervisedNetwork.load(model)
    assert str(caught.value) == f"The model in '{model}' is not a supervised network. Try diffclass.load."


def test_a_network_that_cannot_be_written(tmp_path: Path) -> None:
    from diffclass.errors import ResultError

    (tmp_path / "model").write_text("a file")
    with pytest.raises(ResultError) as caught:
        resnet().save(tmp_path / "model")
    assert str(caught.value).startswith(f"The network could not be saved in '{tmp_path / 'model'}': ")


SHELL = {
    "denoiser before a mixture": (
        "certify digits --model {m} --denoise-with {m}",
        "Error: --denoise-with needs a --model that `diffclass baseline` trained. Got '{m}'.",
    ),
    "noised of a network": (
        "certify digits --model {n} --noised apndc",
        "Error: --noised and --weight are of diffusion classifiers, and --model is a supervised network.",
    ),
    "widths": (
        "baseline digits --widths 8,x --out {h}/out",
        "Error: Invalid value for '--widths': must be whole numbers, by commas. Got '8,x'.",
    ),
    "device": (
        "certify digits --model {n} --device nowhere",
        "Error: The 'device' parameter of load must be a device of this machine, as 'cpu' or 'cuda'. Got 'nowhere'.",
    ),
    "a network is no denoiser": (
        "check {n}",
        "Error: The file '{n}/diffclass.json' lacks 'name', 'space', 'sigma_range'.",
    ),
    "a race of a network": (
        "evaluate digits --split test --model {n} --race halving",
        "Error: --race is of diffusion classifiers, and --model is a supervised network.",
    ),
    "templates of a network": (
        "evaluate digits --split test --model {n} --template x{{}}",
        "Error: --template is of diffusion classifiers, and --model is a supervised network.",
    ),
    "sigma": (
        "baseline digits --sigma -1 --out {h}/out",
        "Error: The 'sigma' of a baseline must be a finite number of at least 0. Got -1.0.",
    ),
}


@pytest.mark.parametrize("case", SHELL)
def test_the_sentence_on_the_command_line(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    names = {"h": tmp_path, "m": save_mixture(tmp_path / "tiny"), "n": resnet().save(tmp_path / "net")}
    line, wanted = (text.format(**names) for text in SHELL[case])
    result = CliRunner().invoke(main, line.split())
    assert (result.stderr.splitlines()[-1], result.exit_code) == (wanted, 2)
