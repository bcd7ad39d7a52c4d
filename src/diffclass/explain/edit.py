"""What would have to change for another answer: an image taken to its noise and brought back under another class.

Every counterfactual comes with its control, the factual: the same image, noise and solver, brought back under its own
class. What differs between the two is the class alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffclass.data.images import check_images
from diffclass.decide import Decision, DiffusionClassifier
from diffclass.denoisers import Conditions, Denoiser
from diffclass.errors import ConditionError, InputError, NonFiniteError, RangeError, UnsupportedModel
from diffclass.explain.flow import (
    SOLVERS,
    Denoise,
    ancestral,
    follow,
    sigma_grid,
    sigma_of_strength,
    strength_of_sigma,
)
from diffclass.explain.pixels import class_index
from diffclass.noise import derived_key, epsilons, image_key
from diffclass.types import Latents

__all__ = ["METHODS", "STRENGTHS", "Counterfactual", "Edit", "bring_back", "check_target", "counterfactual"]

METHODS = ("inversion", "partial")
STRENGTHS = (0.6, 0.7, 0.8, 0.85, 0.9, 0.95)  # tried where none is given, up to the first that changes the answer
_GUIDANCE = {"inversion": 1.0, "partial": 3.0}
_STREAM = 0x6564  # of the noise of edits, apart from that of draws

Image = Float[Tensor, "channel height width"]  # [image units]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """How an image is taken to noise and back.

    Args:
        method: "inversion" follows the probability flow up under the image's class and down under the other; "partial"
            adds noise once and samples back (SDEdit).
        strength: how far up, as a time of the cosine schedule in (0, 1]: at 0.5 there is as much noise as there is
            data. None: the least of `STRENGTHS` at which the classifier answers the wanted class by two standard
            errors; else the least at which it does at all, or the last.
        guidance: w of (1 + w) D(class) - w D(no class), on every way; None: 1 for inversion and 3 for partial where
            the model has a condition without a class, else 0.
        n_steps: on each way.
        solver: "heun" or "euler" (DDIM), of the inversion.
        seed: of the noise of "partial". The inversion has none.

    Raises:
        InputError: the method or the solver is unknown.
        RangeError: a number is outside its range.

    Source:
        Inversion: Song et al. 2021, section 5.4 (DDIM, arXiv:2010.02502), with two classes as Su et al. 2023 have two
        domains (arXiv:2203.08382). Partial: Meng et al. 2022, algorithm 1 (SDEdit, arXiv:2108.01073), as Favero et al.
        2025 explain (arXiv:2502.03687). Guidance: Ho and Salimans 2022, equation 6 (arXiv:2207.12598).
    """

    method: str = "inversion"
    strength: float | None = None
    guidance: float | None = None
    n_steps: int = 12
    solver: str = "heun"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be used."""
        for name, value, known in (("method", self.method, METHODS), ("solver", self.solver, SOLVERS)):
            if value not in known:
                raise InputError(f"The '{name}' of a counterfactual must be one of {', '.join(known)}. Got {value!r}.")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise RangeError(f"The 'strength' of a counterfactual must be a float in (0, 1]. Got {self.strength}.")
        if self.guidance is not None and not (isfinite(self.guidance) and self.guidance >= 0):
            raise RangeError(f"The 'guidance' of a counterfactual must be at least 0. Got {self.guidance}.")
        if self.n_steps < 1:
            raise RangeError(f"The 'n_steps' of a counterfactual must be at least 1. Got {self.n_steps}.")


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Counterfactual:
    """An image as it would be under another class, and its control.

    Args:
        image: that was given.
        factual: brought back under its own class: what the detour alone does to the image.
        counterfactual: brought back under the other class.
        source: class that the image was brought back from.
        to: class that was wanted.
        edit: as it was done; strength and guidance are numbers.
        sigma: [model units] noise level that the strength meant.
        answers: of the classifier, on the factual and on the counterfactual.
        clipped: share of the counterfactual's values that left [0, 1] by more than 0.01 and were cut off there.
        evaluations: network evaluations of the edits, those of other strengths included.
        tried: strengths.
    """

    image: Image
    factual: Image
    counterfactual: Image
    source: str
    to: str
    edit: Edit
    sigma: float
    answers: tuple[Decision, Decision]
    clipped: float
    evaluations: int
    tried: tuple[float, ...]

    @property
    def difference(self) -> Image:
        """Counterfactual minus factual: what the class alone changes, free of what the detour does."""
        return self.counterfactual - self.factual

    @property
    def flipped(self) -> bool:
        """Whether the classifier answers the wanted class on the counterfactual."""
        return self.answers[1].label == self.to

    @property
    def is_clear(self) -> bool:
        """Whether the answer on the counterfactual leads by two standard errors."""
        answer = self.answers[1]
        return answer.log_odds > 2 * answer.log_odds_se

    @property
    def held(self) -> bool:
        """Whether the classifier answers the image's class on the factual, as it should."""
        return self.answers[0].label == self.source


def counterfactual(
    classifier: DiffusionClassifier,
    image: Tensor,
    to: str | None = None,
    *,
    edit: Edit | None = None,
    decision: Decision | None = None,
) -> Counterfactual:
    """Return an image as it would be if it were of another class.

    Of several prompts for each class, the first is told.

    Args:
        classifier: of any denoiser.
        image: of shape (channel, height, width), in [0, 1].
        to: the class that is wanted; the runner-up if None.
        edit: how; `Edit()` if None.
        decision: of the classifier on the image, if it is known already.

    Raises:
        ConditionError: the class is unknown, or the one that the image has.
        ShapeError, RangeError: the image is not one that the model takes, or the strength means too little noise.
        UnsupportedModel: guidance is asked of a model that has no condition without a class.
        NonFiniteError: the model returned NaN or infinity.
    """
    check_images(image[None], classifier.denoiser.space.image_shape)
    edit = Edit() if edit is None else edit
    decision = classifier.classify(image[None])[0] if decision is None else decision
    to = check_target(classifier, decision, to)
    labels = class_index(classifier, decision.leader), class_index(classifier, to)
    strengths = STRENGTHS if edit.strength is None else (edit.strength,)
    found: list[Counterfactual] = []
    for strength in strengths:
        tried = strengths[: len(found) + 1]
        found.append(_edited(classifier, image, labels, replace(edit, strength=strength), tried))
        if found[-1].flipped and found[-1].is_clear:
            break
    best = next((one for one in found if one.flipped and one.is_clear), None)
    best = best or next((one for one in found if one.flipped), found[-1])
    return replace(best, tried=found[-1].tried, evaluations=found[-1].evaluations)


def check_target(classifier: DiffusionClassifier, decision: Decision, to: str | None) -> str:
    """Return the class that a counterfactual is to have: the one named, or the runner-up.

    Raises:
        ConditionError: it is unknown, or the one that the image has.
    """
    to = decision.runner_up if to is None else to
    class_index(classifier, to)
    if to == decision.leader:
        raise ConditionError(
            f"A counterfactual must be of another class than the one predicted. The image is {to!r} already. "
            f"Name another, such as {decision.runner_up!r}."
        )
    return to


def _edited(
    classifier: DiffusionClassifier, image: Tensor, labels: tuple[int, int], edit: Edit, tried: tuple[float, ...]
) -> Counterfactual:  # fmt: skip
    """Edit at one strength, and ask the classifier."""
    denoiser, conditions = classifier.denoiser, classifier.conditions()
    edit = replace(edit, guidance=_guidance(edit, conditions))
    source, to = (torch.tensor([label], device=denoiser.device) for label in labels)
    sigma = _sigma(denoiser, edit)
    latents = bring_back(
        denoiser, conditions, denoiser.encode(image[None].to(denoiser.device)), source, to, edit=edit, sigma=sigma,
        keys=[image_key(image)],
    )  # fmt: skip
    decoded = torch.cat([denoiser.decode(part) for part in latents]).float().cpu()
    if not bool(decoded.isfinite().all()):
        raise NonFiniteError(f"The counterfactual at strength {edit.strength} is not finite. Try dtype float32.")
    pictures = decoded.clamp(0, 1)
    factual, other = classifier.classify(pictures)
    return Counterfactual(
        image=image.cpu(), factual=pictures[0], counterfactual=pictures[1], source=classifier.classes_[labels[0]],
        to=classifier.classes_[labels[1]], edit=edit, sigma=sigma, answers=(factual, other),
        clipped=float(((decoded[1] - 0.5).abs() > 0.51).float().mean()), evaluations=len(tried) * _cost(edit),
        tried=tried,
    )  # fmt: skip


@torch.inference_mode()
def bring_back(
    denoiser: Denoiser,
    conditions: Conditions,
    x: Latents,
    source: Int[Tensor, " batch"],
    to: Int[Tensor, " batch"],
    *,
    edit: Edit,
    sigma: float,
    keys: Sequence[int],
) -> tuple[Latents, Latents]:
    """Take latents to a noise level, and bring them back under their own class and under another.

    Args:
        denoiser: the model.
        conditions: of the classes.
        x: encoded images [model units].
        source: index of each one's class.
        to: index of the class that each is to have.
        edit: method, guidance (0 if None), steps, solver and seed.
        sigma: [model units] the noise level.
        keys: of the noise of each image.

    Returns:
        Factual and counterfactual latents.

    Source:
        As `Edit` says.
    """
    low = denoiser.sigma_range[0]
    guidance, both = edit.guidance or 0.0, torch.cat([source, to])
    back = _told(denoiser, conditions, both, guidance)
    up = sigma_grid(low, sigma, edit.n_steps)
    if edit.method == "inversion":
        noisy = follow(_told(denoiser, conditions, source, guidance), x, up, solver=edit.solver)
        ended = follow(back, torch.cat([noisy, noisy]), up[::-1], solver=edit.solver)
    else:
        alike = [derived_key(key, _STREAM) for key in keys]

        def noise(number: int) -> Latents:
            one = epsilons(edit.seed, alike, [number] * len(x), tuple(x.shape[1:])).to(x)
            return torch.cat([one, one])

        noisy = torch.cat([x, x]) + sigma * noise(edit.n_steps)
        ended = ancestral(_within(denoiser, back), noisy, up[::-1], noise=noise)
    factual, counterfactual = ended.chunk(2)
    return factual, counterfactual


def _told(denoiser: Denoiser, conditions: Conditions, classes: Tensor, guidance: float) -> Denoise:
    """Return the denoiser under one class an element, guided away from no class at all."""
    told, n = conditions[classes], len(classes)
    untold = conditions.without_class(n) if guidance else None

    def denoise(noisy: Latents, sigma: float) -> Latents:
        sigmas = torch.full((n,), sigma, dtype=noisy.dtype, device=noisy.device)
        denoised = denoiser(noisy, sigmas, told)
        if untold is None:
            return denoised
        return (1 + guidance) * denoised - guidance * denoiser(noisy, sigmas, untold)

    return denoise


def _within(denoiser: Denoiser, denoise: Denoise) -> Denoise:
    """Cut what is denoised to the range of images, where that is known, as Favero et al. do at every step."""
    space = denoiser.space
    if space.latent is not None:
        return denoise
    low, high = sorted((space.offset, space.scale + space.offset))
    return lambda noisy, sigma: denoise(noisy, sigma).clamp(low, high)


def _guidance(edit: Edit, conditions: Conditions) -> float:
    """Return the guidance that is asked for, or the method's where the model can be guided."""
    if edit.guidance is None:
        return 0.0 if conditions.null is None else _GUIDANCE[edit.method]
    if edit.guidance and conditions.null is None:
        raise UnsupportedModel(
            "Guidance needs a model that was trained without a class too. This one was not: give guidance 0."
        )
    return edit.guidance


def _sigma(denoiser: Denoiser, edit: Edit) -> float:
    """Return the noise level of a strength [model units], at most the model's largest."""
    assert edit.strength is not None
    low, high = denoiser.sigma_range
    std = denoiser.space.data_std
    sigma = min(sigma_of_strength(edit.strength, data_std=std), high)
    if not sigma > low:
        least = strength_of_sigma(low, data_std=std)
        raise RangeError(
            f"The 'strength' of a counterfactual must be above {least:.3g} for this model, whose noise begins there. "
            f"Got {edit.strength}."
        )
    return sigma


def _cost(edit: Edit) -> int:
    """Return the network evaluations of one strength."""
    if edit.method == "inversion":
        ways = 3 * edit.n_steps * (2 if edit.solver == "heun" else 1)
    else:
        ways = 2 * (edit.n_steps + 1)
    return ways * (2 if edit.guidance else 1)
