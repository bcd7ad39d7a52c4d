"""Attacks on one image: every one's best image is judged by the classifier itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffclass.decide import Decision
from diffclass.denoisers.analytic import ExactDenoiser
from diffclass.errors import ConditionError, InputError, RangeError
from diffclass.noise import derived_key, image_key
from diffclass.robust.gradient import Access, Defence, View, agreement, finite_difference_error, wrong_log_odds
from diffclass.robust.search import Loss, Search, difference_ratio
from diffclass.robust.threat import Threat

__all__ = ["ATTACKS", "Attack", "AttackedImage", "Found", "attack_image", "default_attacks"]

ATTACKS = ("apgd-ce", "apgd-dlr", "apgd-t", "apgd-exact", "square", "random", "transfer", "reroll")
_BY_GRADIENT = {"apgd-ce", "apgd-dlr", "apgd-t", "apgd-exact", "transfer"}
_TARGETS = 3  # classes that apgd-t aims at, the likeliest first
_ROLLS = 20  # near-copies that "reroll" shows to the classifier
_JITTER = 1e-3  # [image units] how far they are from one another
_LARGE = 8.0  # times the budget, for the check that an unreasonable one succeeds
_SHOWN = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
Image = Float[Tensor, "channel height width"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """What is tried on every image.

    Args:
        threat: the budget.
        attacks: names from `ATTACKS`, each run by itself on every image; "reroll" goes on from the best of the others.
        steps: gradient steps of a restart.
        restarts: of gradient attacks.
        queries: looks of "square" and "random".
        access: how noise is dealt with.
        checks: whether the gradients themselves are examined.
        seed: of the attacks' random numbers.

    Raises:
        InputError: an attack is unknown, named twice, or none is named.
        RangeError: a number is below 1.
    """

    threat: Threat
    attacks: tuple[str, ...] = ("apgd-ce", "apgd-t", "square", "random", "reroll")
    steps: int = 50
    restarts: int = 1
    queries: int = 500
    access: Access = field(default_factory=Access)
    checks: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be used."""
        unknown = [name for name in self.attacks if name not in ATTACKS]
        if unknown or not self.attacks or len(set(self.attacks)) < len(self.attacks):
            raise InputError(
                f"The attacks must be some of {', '.join(ATTACKS)}, each once. Got {', '.join(self.attacks) or 'none'}."
            )
        if self.attacks == ("reroll",):
            raise InputError("Attack 'reroll' goes on from what another one found. Name another one too.")
        for name in ("steps", "restarts", "queries"):
            if getattr(self, name) < 1:
                raise RangeError(f"The '{name}' parameter of an attack must be at least 1. Got {getattr(self, name)}.")

    @property
    def by_gradient(self) -> bool:
        """Whether any attack takes gradients."""
        return not _BY_GRADIENT.isdisjoint(self.attacks)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """The best image of one attack.

    Args:
        attack: its name.
        image: within the threat.
        label: what the classifier says of it; None for an abstention.
        log_odds: of the classifier's leading class over the runner-up.
        margin: log-odds of the best wrong class, as the attack saw them.
        distance: [image units] from the image, in the threat's norm.
        steps: best margin after each gradient.
        evaluations: network evaluations, those of gradients not counted again.
    """

    attack: str
    image: Image
    label: str | None
    log_odds: float
    margin: float
    distance: float
    steps: tuple[float, ...]
    evaluations: int

    def row(self, truth: str) -> dict[str, Any]:
        """Return plain values, for JSON."""
        first = next((number for number, value in enumerate(self.steps, start=1) if value > 0), None)
        return {
            "label": self.label,
            "fooled": self.label != truth,
            "log_odds": self.log_odds,
            "margin": self.margin,
            "distance": self.distance,
            "gradients": len(self.steps),
            "first_step": first,
            "steps": [[n, self.steps[n - 1]] for n in _SHOWN if n <= len(self.steps)],
            "evaluations": self.evaluations,
        }


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttackedImage:
    """What became of one image under all attacks.

    Args:
        truth: its class.
        clean: what the classifier says of the image itself.
        found: of each attack; empty for an image that was wrong to begin with.
        checks: what was found out about the gradients.
    """

    truth: str
    clean: Decision
    found: tuple[Found, ...] = ()
    checks: Mapping[str, float | bool] = field(default_factory=dict)

    @property
    def correct(self) -> bool:
        """Whether the image itself is classified as its truth."""
        return self.clean.label == self.truth

    @property
    def robust(self) -> bool:
        """Whether it is, and no attack changed that."""
        return self.correct and all(one.label == self.truth for one in self.found)

    def row(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "truth": self.truth,
            "label": self.clean.label,
            "log_odds": self.clean.log_odds,
            "correct": self.correct,
            "robust": self.robust,
            "attacks": {one.attack: one.row(self.truth) for one in self.found},
            "checks": dict(self.checks),
        }


def default_attacks(defence: Defence, threat: Threat, *, transfer: bool = False) -> tuple[str, ...]:
    """Return the attacks that can be run: APGD on cross-entropy and towards classes, Square, random, and more.

    "apgd-exact" where the density is known, "square" where pictures are large enough, "transfer" with another model.
    """
    from diffclass.robust.toolbox import check_square

    names = ["apgd-ce", "apgd-t"]
    if isinstance(defence.classifier.denoiser, ExactDenoiser):
        names.append("apgd-exact")
    try:
        check_square(threat.norm, defence.classifier.denoiser.space.image_shape)
        names.append("square")
    except InputError:
        pass
    return (*names, "random", *(["transfer"] if transfer else []), "reroll")


def attack_image(
    defence: Defence, image: Image, truth: str, attack: Attack, *, key: int | None = None, other: Defence | None = None
) -> AttackedImage:
    """Attack one image in every way asked for.

    Args:
        defence: what is attacked.
        image: in [0, 1].
        truth: its class.
        attack: what is tried.
        key: of the attacker's fixed noise; the image's own if None.
        other: a defence with the same classes whose gradients "transfer" climbs.

    Returns:
        Every attack's best image and what the classifier says of it. That an attack fails does not prove anything.

    Raises:
        ConditionError: the truth is no class of the classifier.
        InputError: "transfer" has no other model, or an attack cannot be run on this one.
        UnsupportedModel: an attack by gradients, and the model gives none.
        MissingExtra: APGD and Square need a package that is not installed.

    Source:
        Croce and Hein 2020 (arXiv:2003.01690); Athalye, Carlini and Wagner 2018 (arXiv:1802.00420).
    """
    classes = defence.classifier.classes_
    if truth not in classes:
        raise ConditionError(f"The truth of an attacked image must be a class of the classifier. Got {truth!r}.")
    clean = defence.judge(image[None])[0]
    if clean.label != truth:
        return AttackedImage(truth=truth, clean=clean)
    key = image_key(image) if key is None else key
    lab = _Lab(defence, image, classes.index(truth), attack, key, other)
    searches = {name: lab.run(name) for name in attack.attacks if name != "reroll"}
    verdicts = defence.judge(torch.stack([search.best for search in searches.values()]))
    found = [
        lab.found(name, search.best, verdict, margin=search.settle(), search=search)
        for (name, search), verdict in zip(searches.items(), verdicts, strict=True)
    ]
    if "reroll" in attack.attacks:
        found.append(lab.reroll(min(found, key=lambda one: one.log_odds if one.label == truth else float("-inf"))))
    checks = lab.checks() if attack.checks and attack.by_gradient else {}
    return AttackedImage(truth=truth, clean=clean, found=tuple(found), checks=checks)


@final
class _Lab:
    """One image and all that is tried on it."""

    def __init__(
        self, defence: Defence, image: Image, label: int, attack: Attack, key: int, other: Defence | None
    ) -> None:
        self.defence, self.image, self.label, self.attack, self.key, self.other = (
            defence, image, label, attack, key, other
        )  # fmt: skip

    def _view(self, defence: Defence) -> View:
        return defence.view(self.key, self.attack.access)

    def _seed(self, name: str) -> int:
        """Return a seed that no other attack on no other image has."""
        return derived_key(self.key, self.attack.seed, ATTACKS.index(name)) % 2**32

    def run(self, name: str) -> Search:
        """Run one attack."""
        runs: dict[str, Callable[[], Search]] = {
            "apgd-ce": lambda: self._climb(name, self._view(self.defence), [wrong_log_odds]),
            "apgd-dlr": lambda: self._climb(name, self._view(self.defence), [difference_ratio()]),
            "apgd-t": lambda: self._climb(name, self._view(self.defence), self._towards()),
            "apgd-exact": lambda: self._climb(name, self.defence.exact_view(), [wrong_log_odds]),
            "square": self._square,
            "random": self._random,
            "transfer": self._transfer,
        }
        return runs[name]()

    def found(
        self, name: str, image: Image, verdict: Decision, *, margin: float, search: Search | None = None
    ) -> Found:  # fmt: skip
        """Write down what an attack came to."""
        return Found(
            attack=name, image=image, label=verdict.label, log_odds=verdict.log_odds, margin=margin,
            distance=self.attack.threat.distance(self.image, image),
            steps=() if search is None else tuple(search.steps),
            evaluations=verdict.evaluations if search is None else search.view.evaluations,
        )  # fmt: skip

    def reroll(self, start: Found) -> Found:
        """Show the classifier near-copies of the image it is least sure of: each meets other noise, one is enough."""
        generator = np.random.default_rng(self._seed("reroll"))
        jitter = generator.uniform(-_JITTER, _JITTER, (_ROLLS, *self.image.shape)).astype(np.float32)
        threat = self.attack.threat
        copies = torch.stack([threat.project(self.image, start.image + one) for one in torch.from_numpy(jitter)])
        verdicts = self.defence.judge(copies)
        truth = self.defence.classifier.classes_[self.label]
        wrong = next((number for number, verdict in enumerate(verdicts) if verdict.label != truth), 0)
        found = self.found("reroll", copies[wrong], verdicts[wrong], margin=start.margin)
        return replace(found, evaluations=sum(verdict.evaluations for verdict in verdicts))

    def _towards(self) -> list[Loss]:
        """Return a loss for each of the likeliest wrong classes."""
        with torch.no_grad():
            joint = self._view(self.defence)(self.image[None])[0].cpu()
        order = [int(index) for index in joint.argsort(descending=True) if int(index) != self.label]
        return [difference_ratio(target) for target in order[:_TARGETS]]

    def _climb(self, name: str, view: View, losses: list[Loss], threat: Threat | None = None) -> Search:
        """Run APGD on one loss after another, and keep the best of all."""
        from diffclass.robust.toolbox import apgd

        attack = self.attack
        search = Search(view, self.image, self.label, threat or attack.threat)
        for number, loss in enumerate(losses):
            search.climb(loss)
            apgd(search, steps=attack.steps, restarts=attack.restarts, seed=self._seed(name) + number)
        return search

    def _square(self) -> Search:
        from diffclass.robust.toolbox import square

        search = Search(self._view(self.defence), self.image, self.label, self.attack.threat)
        square(search, queries=self.attack.queries, seed=self._seed("square"))
        return search

    def _random(self) -> Search:
        """Look at random images on the edge of the threat."""
        search = Search(self._view(self.defence), self.image, self.label, self.attack.threat)
        generator = np.random.default_rng(self._seed("random"))
        for _ in range(self.attack.queries):
            search.joints(self.attack.threat.random(self.image, 1, generator).numpy())
        return search

    def _transfer(self) -> Search:
        """Climb another model's evidence."""
        if self.other is None:
            raise InputError("Attack 'transfer' needs another model whose gradients it climbs. Give 'other'.")
        if self.other.classifier.classes_ != self.defence.classifier.classes_:
            raise ConditionError("Attack 'transfer' needs a model with the same classes in the same order.")
        return self._climb("transfer", self._view(self.other), [wrong_log_odds])

    def checks(self) -> dict[str, float | bool]:
        """Examine the gradients at the image, and whether an unreasonable budget succeeds."""
        view, threat = self._view(self.defence), self.attack.threat.enlarged(_LARGE)
        far = self._climb("apgd-ce", self._view(self.defence), [wrong_log_odds], threat)
        return {
            "finite_difference_error": finite_difference_error(view, self.image, self.label),
            "agreement": agreement(view, self.image, self.label),
            "large_budget_fooled": self.defence.judge(far.best[None])[0].label
            != self.defence.classifier.classes_[self.label],
        }
