"""Certificates that cannot be had: a table of calls and the exact sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from diffclass.cli import main
from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.denoisers import EDM, PixelDenoiser, Space
from diffclass.denoisers.analytic import GaussianDenoiser
from diffclass.errors import DiffclassError, InputError, RangeError, ShapeError
from diffclass.evidence import Objective
from diffclass.robust import Votes, certify, copy_classifier
from tiny_mixture import save_mixture, save_picture

SHAPE = (1, 4, 4)
IMAGE = torch.full(SHAPE, 0.5)


def gaussians(**options: Any) -> DiffusionClassifier:
    means = torch.stack([torch.full(SHAPE, 0.2), torch.full(SHAPE, 0.8)])
    space = Space(channels=1, height=4, width=4, scale=1.0, offset=0.0)
    model = GaussianDenoiser(means, 0.1, space=space, classes=["a", "b"], sigma_range=(0.01, 10.0))
    return DiffusionClassifier(denoiser=model, race=Exhaustive(n_draws=8), **options)


def network() -> DiffusionClassifier:
    """A network that was trained without a null class, in [-1, 1]."""
    space = Space(channels=1, height=4, width=4)
    model = PixelDenoiser(
        network=lambda *_, **__: None, parametrisation=EDM(), space=space, sigma_range=(0.02, 8.0), classes=("a", "b")
    )
    return DiffusionClassifier(denoiser=model, race=Exhaustive(n_draws=8))


def call(**options: Any) -> Callable[[], object]:
    return lambda: certify(gaussians(), IMAGE, **{"sigma": 0.25, **options})


TABLE: dict[str, tuple[Callable[[], object], type[DiffclassError], str]] = {
    "alpha of 5": (
        call(alpha=5.0),
        RangeError,
        "The 'alpha' parameter of certify must be a float in (0, 1). Got 5.0.",
    ),
    "alpha that is no number": (
        call(alpha=float("nan")),
        RangeError,
        "The 'alpha' parameter of certify must be a float in (0, 1). Got nan.",
    ),
    "no copies": (call(n=0), RangeError, "The 'n' parameter of certify must be at least 1. Got 0."),
    "no copies to choose by": (call(n0=0), RangeError, "The 'n0' parameter of certify must be at least 1. Got 0."),
    "too few copies for any radius": (
        call(n=9),
        RangeError,
        "The 'n' parameter of certify must be at least 10 for alpha=0.001: fewer copies prove no radius, even if all "
        "of them get one label. Got 9.",
    ),
    "too few copies for the radius": (
        call(n=100, radius=0.5),
        RangeError,
        "The 'radius' parameter of certify must be below 0.3751 [image units], which n=100 copies at sigma=0.25 prove "
        "at best. Got 0.5. Try a larger n or sigma.",
    ),
    "radius that no count can prove": (
        call(radius=50.0),
        RangeError,
        "The 'radius' parameter of certify must be below 0.7996 [image units], which n=10000 copies at sigma=0.25 "
        "prove at best. Got 50.0. Try a larger n or sigma.",
    ),
    "radius of nothing": (
        call(radius=0.0),
        RangeError,
        "The 'radius' parameter of certify must be a finite number above 0. Got 0.0. Leave it out to draw all copies.",
    ),
    "sigma below the model's": (
        call(sigma=0.001),
        RangeError,
        "The 'sigma' parameter of certify must be from 0.01 to below 10 [image units], where the model was trained. "
        "Got 0.001.",
    ),
    "sigma that is no number": (
        call(sigma=float("nan")),
        RangeError,
        "The 'sigma' parameter of certify must be from 0.01 to below 10 [image units], where the model was trained. "
        "Got nan.",
    ),
    "sigma above a network's, in image units": (
        lambda: copy_classifier(network(), sigma=4.0),
        RangeError,
        "The 'sigma' parameter of certify must be from 0.01 to below 4 [image units], where the model was trained. "
        "Got 4.0.",
    ),
    "sigma above the objective's": (
        lambda: copy_classifier(gaussians(objective=Objective(sigma_range=(0.1, 0.5))), sigma=0.5, noised="epndc"),
        RangeError,
        "The 'sigma' parameter of certify must leave noise levels between it and the end of the classifier's range, "
        "0.5 [image units]. Got 0.5.",
    ),
    "exact density of a network": (
        lambda: copy_classifier(network(), sigma=0.25, noised="exact"),
        InputError,
        "The 'noised' parameter 'exact' needs a mixture, whose density is known. Try 'apndc'.",
    ),
    "no null class": (
        lambda: copy_classifier(network(), sigma=0.25),
        InputError,
        "The 'noised' parameter 'apndc' denoises without a class first, and this model was not trained to. "
        "Try 'apndc-class'.",
    ),
    "unknown kind": (
        call(noised="best"),
        InputError,
        "The 'noised' parameter of certify must be one of epndc, apndc, apndc-class, exact. Got 'best'.",
    ),
    "copies of another sigma": (
        lambda: certify(copy_classifier(gaussians(), sigma=0.5), IMAGE, sigma=0.25),
        RangeError,
        "The 'sigma' parameter of certify must be the copy classifier's, 0.5. Got 0.25.",
    ),
    "image of another shape": (
        lambda: certify(gaussians(), torch.zeros(1, 5, 4), sigma=0.25),
        ShapeError,
        "Images must have shape (n, 1, 4, 4). Got (1, 1, 5, 4).",
    ),
    "counts that are none": (
        lambda: Votes.from_row({"counts": [3, -1], "undecided": 0}),
        InputError,
        "Votes must be counts of copies. Got {'counts': [3, -1], 'undecided': 0}.",
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_the_sentence(case: str) -> None:
    run, kind, wanted = TABLE[case]
    with pytest.raises(kind) as caught:
        run()
    assert str(caught.value) == wanted


SHELL = {
    "no such sigma": ("--sigma 30", "The 'sigma' parameter of certify must be from 0.005 to below 20 [image units], "
                      "where the model was trained. Got 30.0."),
    "sigma twice": ("--sigma 0.2 --sigma 0.2", "The 'sigma' of certify must be given at least once, and each value "
                    "once. Got [0.2, 0.2]."),
    "alpha": ("--alpha 1", "The 'alpha' parameter of certify must be a float in (0, 1). Got 1.0."),
    "few copies": ("--n 5", "The 'n' parameter of certify must be at least 10 for alpha=0.001: fewer copies prove no "
                   "radius, even if all of them get one label. Got 5."),
    "figure of no kind": ("--figure {h}/f.xyz", "The figure '{h}/f.xyz' must end in .png, .svg or .pdf."),
    "figure without labels": ("--n 20 --n0 2 --figure {h}/f.png", "A figure of certified accuracy needs labelled "
                              "images. Got none."),
}  # fmt: skip


@pytest.mark.parametrize("case", SHELL)
def test_the_sentence_on_the_command_line(case: str, tmp_path: Path) -> None:
    model, picture = save_mixture(tmp_path / "tiny"), save_picture(tmp_path / "0.png")
    options, wanted = (text.format(h=tmp_path) for text in SHELL[case])
    result = CliRunner().invoke(main, ["certify", str(picture), "--model", str(model), *options.split()])
    assert (result.stderr, result.exit_code) == (f"Error: {wanted}\n", 2)


def test_damaged_counts_are_not_gone_on_from(tmp_path: Path) -> None:
    model, out = save_mixture(tmp_path / "tiny"), tmp_path / "out"
    arguments = ["certify", "digits", "--split", "test", "--limit", "1", "--n", "20", "--model", str(model)]
    out.mkdir()
    (out / "progress.json").write_text("{")
    result = CliRunner().invoke(main, [*arguments, "--out", str(out)])
    assert result.stderr == (
        f"Error: The file '{out / 'progress.json'}' is damaged. Delete it, and its picture is started again.\n"
    )
