"""Attacks that cannot be run: a table of calls and the exact sentence."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from diffclass.cli import main
from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.denoisers import EDM, Conditions, PixelDenoiser, Space
from diffclass.denoisers.analytic import GaussianDenoiser
from diffclass.errors import ConditionError, DiffclassError, InputError, RangeError, UnsupportedModel
from diffclass.robust.attack import Attack, attack_image
from diffclass.robust.gradient import Access, Defence
from diffclass.robust.purify import LikelihoodMaximisation
from diffclass.robust.threat import Threat
from diffclass.robust.toolbox import check_square
from tiny_mixture import save_mixture

SHAPE = (1, 4, 4)
IMAGE = torch.full(SHAPE, 0.2)
THREAT = Threat("linf", 0.1)


def gaussians(classes: tuple[str, ...] = ("a", "b")) -> GaussianDenoiser:
    means = torch.stack([torch.full(SHAPE, 0.2), torch.full(SHAPE, 0.8)])
    return GaussianDenoiser(means, 0.1, classes=classes, sigma_range=(0.05, 5.0))


def defence(denoiser: Any = None, purifier: LikelihoodMaximisation | None = None) -> Defence:
    classifier = DiffusionClassifier(denoiser=denoiser or gaussians(), race=Exhaustive(n_draws=8, block=4))
    return Defence(classifier=classifier, purifier=purifier)


class Cut:
    """A denoiser whose answers are cut off from what it was given."""

    def __init__(self) -> None:
        self._inner = inner = gaussians()
        self.space, self.sigma_range, self.classes, self.device = (
            inner.space, inner.sigma_range, inner.classes, inner.device
        )  # fmt: skip
        self.encode, self.decode, self.condition_on = inner.encode, inner.decode, inner.condition_on

    @torch.no_grad()
    def __call__(self, noisy: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        return self._inner(noisy, sigma, conditions)


def network() -> PixelDenoiser:
    """A network that was trained without a null class."""
    space = Space(channels=1, height=4, width=4)
    return PixelDenoiser(
        network=lambda sample, *_, **__: (sample,), parametrisation=EDM(), space=space, sigma_range=(0.02, 8.0),
        classes=("a", "b"),
    )  # fmt: skip


def call(*attacks: str, truth: str = "a", on: Any = None, **options: Any) -> Callable[[], object]:
    other = options.pop("other", None)

    def run() -> object:
        plan = Attack(threat=THREAT, attacks=attacks, steps=2, queries=2, **options)
        return attack_image(on or defence(), IMAGE, truth, plan, other=other)

    return run


TABLE: dict[str, tuple[Callable[[], object], type[DiffclassError], str]] = {
    "threat of no norm": (
        lambda: Threat.parse("l1:3"),
        InputError,
        "A threat must be a norm and a radius [image units], such as linf:8/255 or l2:0.5. Got 'l1:3'.",
    ),
    "threat without a radius": (
        lambda: Threat.parse("linf"),
        InputError,
        "A threat must be a norm and a radius [image units], such as linf:8/255 or l2:0.5. Got 'linf'.",
    ),
    "threat over nothing": (
        lambda: Threat.parse("linf:8/0"),
        InputError,
        "A threat must be a norm and a radius [image units], such as linf:8/255 or l2:0.5. Got 'linf:8/0'.",
    ),
    "negative radius": (
        lambda: Threat.parse("l2:-0.5"),
        RangeError,
        "The radius of a threat must be a finite number above 0 [image units]. Got -0.5.",
    ),
    "infinite radius": (
        lambda: Threat("l2", float("inf")),
        RangeError,
        "The radius of a threat must be a finite number above 0 [image units]. Got inf.",
    ),
    "norm by hand": (lambda: Threat("l1", 1.0), InputError, "The norm of a threat must be one of linf, l2. Got 'l1'."),
    "unknown attack": (
        call("pgd"),
        InputError,
        "The attacks must be some of apgd-ce, apgd-dlr, apgd-t, apgd-exact, square, random, transfer, reroll, each "
        "once. Got pgd.",
    ),
    "attack twice": (
        call("random", "random"),
        InputError,
        "The attacks must be some of apgd-ce, apgd-dlr, apgd-t, apgd-exact, square, random, transfer, reroll, each "
        "once. Got random, random.",
    ),
    "no attack": (
        call(),
        InputError,
        "The attacks must be some of apgd-ce, apgd-dlr, apgd-t, apgd-exact, square, random, transfer, reroll, each "
        "once. Got none.",
    ),
    "reroll of nothing": (
        call("reroll"),
        InputError,
        "Attack 'reroll' goes on from what another one found. Name another one too.",
    ),
    "no steps": (
        lambda: Attack(threat=THREAT, steps=0),
        RangeError,
        "The 'steps' parameter of an attack must be at least 1. Got 0.",
    ),
    "noise of no kind": (
        lambda: Access(noise="pink"),
        InputError,
        "The 'noise' of an attack must be one of fixed, fresh. Got 'pink'.",
    ),
    "no sets": (
        lambda: Access(eot=0),
        RangeError,
        "The 'eot' parameter of an attack must be at least 1. Got 0.",
    ),
    "no draws": (
        lambda: Access(n_draws=0),
        RangeError,
        "The 'n_draws' parameter of an attack must be at least 1. Got 0.",
    ),
    "half a block": (
        call("random", access=Access(n_draws=6)),
        RangeError,
        "The 'n_draws' parameter of an attack must be whole blocks of 4. Got 6.",
    ),
    "truth that is no class": (
        call("random", truth="c"),
        ConditionError,
        "The truth of an attacked image must be a class of the classifier. Got 'c'.",
    ),
    "model without gradients": (
        call("apgd-ce", on=defence(Cut())),
        UnsupportedModel,
        "The model gives no gradients: what Cut returns is cut off from what it was given. Attack it without them, by "
        "'square' and 'random'.",
    ),
    "purifier on a model without gradients": (
        call("random", on=defence(Cut(), LikelihoodMaximisation())),
        UnsupportedModel,
        "Purification climbs the model's likelihood, and this model gives no gradients.",
    ),
    "purifier on a model without a null class": (
        lambda: LikelihoodMaximisation()(network(), IMAGE[None], [1]),
        UnsupportedModel,
        "Purification needs a model that was trained without a class too. This one was not.",
    ),
    "density of a network": (
        lambda: defence(network()).exact_view(),
        InputError,
        "Attack 'apgd-exact' needs a mixture, whose density is known. Try 'apgd-ce'.",
    ),
    "transfer from nothing": (
        call("transfer"),
        InputError,
        "Attack 'transfer' needs another model whose gradients it climbs. Give 'other'.",
    ),
    "transfer from other classes": (
        call("transfer", other=defence(gaussians(("b", "a")))),
        ConditionError,
        "Attack 'transfer' needs a model with the same classes in the same order.",
    ),
    "square on small pictures": (
        call("square"),
        InputError,
        "Attack 'square' under linf needs square pictures of at least 5x5 pixels. Got 4x4.",
    ),
    "square on oblong pictures": (
        lambda: check_square("l2", (3, 28, 32)),
        InputError,
        "Attack 'square' under l2 needs square pictures of at least 14x14 pixels. Got 32x28.",
    ),
    "no steps of purification": (
        lambda: LikelihoodMaximisation(n_steps=0),
        RangeError,
        "The 'n_steps' parameter of purification must be at least 1. Got 0.",
    ),
    "purification within nothing": (
        lambda: LikelihoodMaximisation(radius=0.0),
        RangeError,
        "The 'radius' parameter of purification must be above 0 [image units]. Got 0.0.",
    ),
    "momentum of more": (
        lambda: LikelihoodMaximisation(momentum=1.5),
        RangeError,
        "The 'momentum' parameter of purification must be in [0, 1]. Got 1.5.",
    ),
    "noise of purification": (
        lambda: LikelihoodMaximisation(sigma_range=(0.3, 0.2)),
        RangeError,
        "The 'sigma_range' of purification must be 0 < low <= high. Got (0.3, 0.2).",
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_the_sentence(case: str) -> None:
    run, kind, wanted = TABLE[case]
    with pytest.raises(kind) as caught:
        run()
    assert str(caught.value) == wanted


def test_a_model_without_gradients_can_be_attacked_without_them() -> None:
    assert call("random", "reroll", on=defence(Cut()))() is not None


SHELL = {
    "threat": ("--threat nothing", "A threat must be a norm and a radius [image units], such as linf:8/255 or l2:0.5. "
               "Got 'nothing'.", 2),
    "radius": ("--threat l2:-1", "The radius of a threat must be a finite number above 0 [image units]. Got -1.0.", 2),
    "transfer": ("--threat l2:1 --attacks transfer --no-checks", "Attack 'transfer' needs another model whose "
                 "gradients it climbs. Give --transfer-from.", 2),
    "draws": ("--threat l2:1 --attacks random --attack-draws 5", "The number of draws of an attack must be whole "
              "blocks of 4. Got 5.", 2),
}  # fmt: skip


@pytest.mark.parametrize("case", SHELL)
def test_the_sentence_on_the_command_line(case: str, tmp_path: Path) -> None:
    model = save_mixture(tmp_path / "tiny")
    options, wanted, code = SHELL[case]
    arguments = ["attack", "digits", "--split", "test", "--limit", "1", "--model", str(model), *options.split()]
    result = CliRunner().invoke(main, arguments)
    assert (result.stderr.splitlines()[-1], result.exit_code) == (f"Error: {wanted}", code)


def test_the_package_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "diffclass.robust.toolbox", raising=False)
    for name in [name for name in sys.modules if name == "art" or name.startswith("art.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "art", None)
    model = save_mixture(tmp_path / "tiny")
    arguments = ["attack", "digits", "--split", "test", "--limit", "1", "--model", str(model), "--threat", "l2:0.5"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 3
    assert result.stderr == (
        "Error: Attacks need the Adversarial Robustness Toolbox: pip install 'diffclass[attack]', or name attacks that "
        "do without it: random.\n"
    )
    result = CliRunner().invoke(main, [*arguments, "--attacks", "random,reroll", "--queries", "2", "--json"])
    assert result.exit_code == 0, result.output


def test_classes_and_labels_of_a_set(tmp_path: Path) -> None:
    from dataclasses import replace

    from diffclass.bench.attacking import attack_dataset
    from tiny_mixture import digits

    plan = Attack(threat=THREAT, attacks=("random",))
    with pytest.raises(ConditionError) as caught:
        attack_dataset(defence(), digits(), plan)
    assert str(caught.value) == "The classes of 'digits' must be among the classifier's (a, b). Got '0'."
    unlabelled = replace(digits(), classes=("a", "b"), labels=digits().labels * 0 - 1)
    with pytest.raises(InputError) as nothing:
        attack_dataset(defence(), unlabelled, plan)
    assert str(nothing.value) == "The data set 'digits' must have labels to be attacked on. Got none."
    with pytest.raises(RangeError) as few:
        attack_dataset(defence(), replace(unlabelled, labels=digits().labels * 0), plan, limit=0)
    assert str(few.value) == "The 'limit' parameter of an attack must be at least 1. Got 0."
