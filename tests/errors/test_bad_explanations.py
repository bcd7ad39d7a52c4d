"""Explanations that cannot be given: a table of calls and the exact sentence."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from diffclass.bench.explaining import Plan, explain_dataset
from diffclass.bench.referee import Referee
from diffclass.cli import main
from diffclass.decide import DiffusionClassifier, Exhaustive, PairedRace
from diffclass.denoisers import Conditions
from diffclass.denoisers.analytic import GaussianDenoiser
from diffclass.errors import (
    ConditionError,
    DiffclassError,
    InputError,
    MissingExtra,
    NonFiniteError,
    RangeError,
    ResultError,
    ShapeError,
    UnsupportedModel,
)
from diffclass.explain import (
    Edit,
    counterfactual,
    deletion,
    evidence_map,
    explain_image,
    proximity,
    save_explanation,
    ssim,
    watched,
)
from diffclass.explain.metric import cout
from diffclass.explain.reference import integrated_gradients, shuffled
from diffclass.robust.architecture import Inputs, build_resnet
from diffclass.robust.supervised import SupervisedNetwork
from tiny_mixture import digits, save_mixture, save_picture

SHAPE = (1, 4, 4)
IMAGE = torch.full(SHAPE, 0.3)


class Wrapped:
    """A denoiser that is changed in one respect."""

    def __init__(self, *, null: bool = True, nan: bool = False) -> None:
        means = torch.stack([torch.full(SHAPE, 0.2), torch.full(SHAPE, 0.8)])
        self._inner = inner = GaussianDenoiser(means, 0.1, classes=("a", "b"), sigma_range=(0.05, 5.0))
        self._null, self._nan = null, nan
        self.space, self.sigma_range, self.classes, self.device = (
            inner.space, inner.sigma_range, inner.classes, inner.device
        )  # fmt: skip
        self.encode = inner.encode

    def condition_on(self, prompts: Any) -> Conditions:
        told = self._inner.condition_on(prompts)
        return told if self._null else Conditions(told.tensors)

    def decode(self, latents: Tensor) -> Tensor:
        return self._inner.decode(latents) * (float("nan") if self._nan else 1)

    def __call__(self, noisy: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        return self._inner(noisy, sigma, conditions)


def classifier(denoiser: Any = None, race: Any = None) -> DiffusionClassifier:
    return DiffusionClassifier(denoiser=denoiser or Wrapped(), race=race or Exhaustive(n_draws=8, block=4))


def judge(size: int) -> SupervisedNetwork:
    resnet = build_resnet(1, 2, widths=(8,), depths=(1,)).eval()
    return SupervisedNetwork(
        network=resnet, classes=("a", "b"), image_shape=(1, size, size), sigma=0.0, inputs=Inputs(enlarge=2)
    )


def no_change(**settings: Any) -> Callable[[], object]:
    return lambda: Edit(**settings)


def ask(judge: Any = lambda images: np.full((len(images), 2), 0.5), **options: Any) -> Callable[[], object]:
    ranking = options.pop("ranking", np.zeros((4, 4)))
    return lambda: deletion(judge, IMAGE, ranking, 0, **options)


def draws_of_two_blocks_are_missing() -> object:
    seen = watched(classifier(race=PairedRace(n_draws=16, block=4)), IMAGE)
    for key in [key for key in seen.pixels if key[0] >= 4]:
        del seen.pixels[key]
    seen.decision.evidence.errors[4:] = np.nan
    return seen.map("a", "b", n_draws=None)


TABLE: dict[str, tuple[Callable[[], object], type[DiffclassError], str]] = {
    "unknown method": (
        no_change(method="magic"),
        InputError,
        "The 'method' of a counterfactual must be one of inversion, partial. Got 'magic'.",
    ),
    "unknown solver": (
        no_change(solver="rk4"),
        InputError,
        "The 'solver' of a counterfactual must be one of heun, euler. Got 'rk4'.",
    ),
    "strength of nothing": (
        no_change(strength=0.0),
        RangeError,
        "The 'strength' of a counterfactual must be a float in (0, 1]. Got 0.0.",
    ),
    "strength beyond noise": (
        no_change(strength=1.5),
        RangeError,
        "The 'strength' of a counterfactual must be a float in (0, 1]. Got 1.5.",
    ),
    "strength that is no number": (
        no_change(strength=float("nan")),
        RangeError,
        "The 'strength' of a counterfactual must be a float in (0, 1]. Got nan.",
    ),
    "guidance below zero": (
        no_change(guidance=-1.0),
        RangeError,
        "The 'guidance' of a counterfactual must be at least 0. Got -1.0.",
    ),
    "guidance without end": (
        no_change(guidance=float("inf")),
        RangeError,
        "The 'guidance' of a counterfactual must be at least 0. Got inf.",
    ),
    "no steps": (
        no_change(n_steps=0),
        RangeError,
        "The 'n_steps' of a counterfactual must be at least 1. Got 0.",
    ),
    "class of no model": (
        lambda: counterfactual(classifier(), IMAGE, "c"),
        ConditionError,
        "An explanation must be of classes that are chosen from: 'a', 'b'. Got 'c'.",
    ),
    "class that it has": (
        lambda: counterfactual(classifier(), IMAGE, "a"),
        ConditionError,
        "A counterfactual must be of another class than the one predicted. The image is 'a' already. "
        "Name another, such as 'b'.",
    ),
    "class that it has, in an explanation": (
        lambda: explain_image(classifier(), IMAGE, "a"),
        ConditionError,
        "A counterfactual must be of another class than the one predicted. The image is 'a' already. "
        "Name another, such as 'b'.",
    ),
    "image of NaN": (
        lambda: explain_image(classifier(), torch.full(SHAPE, float("nan"))),
        RangeError,
        "Images must be finite. Image 0 holds NaN or infinity.",
    ),
    "image of another size": (
        lambda: counterfactual(classifier(), torch.zeros(1, 5, 5)),
        ShapeError,
        "Images must have shape (n, 1, 4, 4). Got (1, 1, 5, 5).",
    ),
    "strength below the model's noise": (
        lambda: counterfactual(classifier(), IMAGE, edit=Edit(strength=0.01)),
        RangeError,
        "The 'strength' of a counterfactual must be above 0.0998 for this model, whose noise begins there. Got 0.01.",
    ),
    "guidance of a model without a null class": (
        lambda: counterfactual(classifier(Wrapped(null=False)), IMAGE, edit=Edit(guidance=1.0)),
        UnsupportedModel,
        "Guidance needs a model that was trained without a class too. This one was not: give guidance 0.",
    ),
    "a picture that is not finite": (
        lambda: counterfactual(classifier(Wrapped(nan=True)), IMAGE, edit=Edit(strength=0.5)),
        NonFiniteError,
        "The counterfactual at strength 0.5 is not finite. Try dtype float32.",
    ),
    "map of one class": (
        lambda: evidence_map(classifier(), IMAGE, "a", "a"),
        ConditionError,
        "An evidence map compares two classes. Got 'a' twice.",
    ),
    "map of no draws": (
        lambda: evidence_map(classifier(), IMAGE, n_draws=0),
        RangeError,
        "The 'n_draws' parameter of an evidence map must be at least 1. Got 0.",
    ),
    "map of certain falsehood": (
        lambda: evidence_map(classifier(), IMAGE, fdr=1.0),
        RangeError,
        "The 'fdr' parameter of an evidence map must be a float in (0, 1). Got 1.0.",
    ),
    "map of one block": (
        draws_of_two_blocks_are_missing,
        InputError,
        "An evidence map needs at least 8 draws that both classes share. 'a' and 'b' share 4. Give 'n_draws'.",
    ),
    "images of two shapes": (
        lambda: proximity(IMAGE, torch.zeros(1, 5, 5)),
        ShapeError,
        "Images that are compared must have one shape. Got (1, 4, 4) and (1, 5, 5).",
    ),
    "counterfactual of another shape": (
        lambda: cout(lambda images: np.zeros((len(images), 2)), IMAGE, torch.zeros(1, 5, 5), 0, 1),
        ShapeError,
        "Images that are compared must have one shape. Got (1, 4, 4) and (1, 5, 5).",
    ),
    "ranking of other pixels": (
        ask(ranking=np.zeros((5, 5))),
        ShapeError,
        "A ranking must have a number for each pixel, (4, 4). Got (5, 5).",
    ),
    "shuffled weights of a mixture": (
        lambda: shuffled(classifier()),
        UnsupportedModel,
        "Weights can be shuffled in networks of pixels alone. Got a Wrapped. Leave the check out.",
    ),
    "judge of other classes": (
        lambda: Referee(judge(4), classes=("cat", "dog")),
        ConditionError,
        "The judge must know the classes that are judged, cat, dog. Got a, b.",
    ),
    "no images to explain": (
        lambda: explain_dataset(classifier(), digits(), Plan(edits={}), limit=0),
        RangeError,
        "The 'limit' of explanations must be at least 1. Got 0.",
    ),
    "curve of no steps": (
        ask(steps=0),
        RangeError,
        "The 'steps' parameter of a curve must be at least 1. Got 0.",
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_sentence(name: str) -> None:
    call, kind, expected = TABLE[name]
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert str(caught.value) == expected


def test_a_judge_of_other_images(tmp_path: Path) -> None:
    home = judge(16).save(tmp_path / "judge")
    with pytest.raises(ShapeError) as caught:
        Referee.load(home, classes=("a", "b"), shape=(1, 8, 8))
    assert str(caught.value) == "The judge must take images of (1, 8, 8). Got one of (1, 16, 16)."


def test_maps_of_networks_without_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(MissingExtra) as caught:
        integrated_gradients(lambda images: images.flatten(1), IMAGE, 0)
    assert str(caught.value) == "Maps of supervised networks need captum: pip install 'diffclass[explain]'."


def test_ssim_without_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(MissingExtra) as caught:
        ssim(IMAGE, IMAGE)
    assert str(caught.value) == "SSIM needs scikit-image: pip install 'diffclass[explain]'."
    assert proximity(IMAGE, IMAGE).ssim is None


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    explanation = explain_image(classifier(), IMAGE, edit=Edit(strength=0.5, n_steps=2))
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError) as caught:
        save_explanation(explanation, tmp_path / "file" / "card.html")
    sentence = f"The explanation '{tmp_path}/file/card.html' cannot be written: "
    assert str(caught.value) in (f"{sentence}Not a directory.", f"{sentence}File exists.")


# {h} is a folder with a model and pictures
COMMANDS: dict[str, tuple[str, int, str]] = {
    "wrong ending": (
        "{h}/digit.png --out {h}/card.pdf",
        2,
        "Error: An explanation must be saved as .html, .png or .npz. Got '{h}/card.pdf'.",
    ),
    "unknown class": (
        "{h}/digit.png --to seven",
        2,
        "Error: An explanation must be of classes that are chosen from: '0', '1', '2', '3', '4', '5', '6', '7', '8', "
        "'9'. Got 'seven'.",
    ),
    "its own class": (
        "{h}/digit.png --to {label}",
        2,
        "Error: A counterfactual must be of another class than the one predicted. The image is '{label}' already. "
        "Name another, such as '{other}'.",
    ),
    "strength": (
        "{h}/digit.png --strength 0",
        2,
        "Error: The 'strength' of a counterfactual must be a float in (0, 1]. Got 0.0.",
    ),
    "steps": (
        "{h}/digit.png --steps 0",
        2,
        "Error: The 'n_steps' of a counterfactual must be at least 1. Got 0.",
    ),
    "pixels of NaN": (
        "{h}/nan.tif",
        2,
        "Error: The picture '{h}/nan.tif' must be finite. It holds NaN or infinity.",
    ),
    "missing picture": (
        "{h}/none.png",
        2,
        "Error: The picture '{h}/none.png' does not exist. Check the path.",
    ),
    "share of false pixels": (
        "{h}/digit.png --fdr 0",
        2,
        "Error: The 'fdr' parameter of an evidence map must be a float in (0, 1). Got 0.0.",
    ),
    "draws of the map": (
        "{h}/digit.png --map-draws 0",
        2,
        "Error: The number of draws of an evidence map must be at least 1. Got 0.",
    ),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    save_mixture(folder / "tiny")
    save_picture(folder / "digit.png")
    Image.fromarray(np.full((8, 8), np.nan, dtype=np.float32)).save(folder / "nan.tif")
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_line(name: str, home: Path) -> None:
    arguments, code, expected = COMMANDS[name]
    answer = DiffusionClassifier.from_pretrained(home / "tiny").classify(picture(home))[0]
    words = {"h": home, "label": answer.label, "other": answer.runner_up}
    options = f"{arguments.format(**words)} --model {home}/tiny --threads 1"
    done = CliRunner().invoke(main, ["explain", *options.split()])
    assert (done.exit_code, done.stderr.strip()) == (code, expected.format(**words))


def picture(home: Path) -> Tensor:
    from diffclass.data import load_image

    return load_image(home / "digit.png", (1, 8, 8))[None]
