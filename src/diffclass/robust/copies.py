"""What is smoothed: classifiers of images that carry noise."""

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import replace
from typing import Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray

from diffclass.decide import DiffusionClassifier, PairedRace
from diffclass.denoisers import Denoiser
from diffclass.denoisers.analytic import ExactDenoiser
from diffclass.errors import InputError, RangeError
from diffclass.evidence import NoisedApproximate, NoisedConditional, NoisedExact, Race, Target
from diffclass.robust.votes import NO_LABEL
from diffclass.types import Images

__all__ = [
    "NOISED",
    "CopyClassifier",
    "LabelsStepwise",
    "NoisedLikelihood",
    "NoisedRaces",
    "Smoothable",
    "SmoothedDiffusion",
    "copy_classifier",
    "natural_noised",
]

NOISED = ("epndc", "apndc", "apndc-class", "exact")
_TARGETS = {"epndc": NoisedExact, "apndc": NoisedApproximate, "apndc-class": NoisedConditional}


class CopyClassifier(ABC):
    """Labels copies of an image that carry Gaussian noise of one standard deviation.

    `sigma` [image units] is that of the noise, `chunk` how many copies are labelled at once.
    """

    sigma: float
    chunk: int
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]

    @abstractmethod
    def labels(self, copies: Images) -> tuple[Int64[ndarray, " batch"], int]:
        """Return the index of each copy's class (`NO_LABEL` where it has none), and the evaluations spent."""


@runtime_checkable
class LabelsStepwise(Protocol):
    """A copy classifier that can be left between two network calls; who wants to stop in time uses it if it can."""

    def labelling(self, copies: Images) -> Generator[None, None, tuple[Int64[ndarray, " batch"], int]]:
        """Yield after every network call, and return what `CopyClassifier.labels` returns."""
        ...


class Smoothable(ABC):
    """What can be smoothed with noise of any standard deviation: all that `diffclass certify` needs to know.

    `noised` names how copies are classified, `seed` is that of the noise, `device` where the work is done.
    """

    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    noised: str
    seed: int
    device: torch.device

    @abstractmethod
    def copies(self, sigma: float) -> CopyClassifier:
        """Return the classifier of copies that carry noise of this standard deviation [image units]."""


@final
class SmoothedDiffusion(Smoothable):
    """A diffusion classifier, to be smoothed.

    Args:
        classifier: of clean images.
        noised: as in `copy_classifier`.
    """

    def __init__(self, classifier: DiffusionClassifier, *, noised: str | None = None) -> None:
        self.classifier, self.noised = classifier, noised or natural_noised(classifier.denoiser)
        self.classes, self.seed = classifier.classes_, classifier.seed
        self.image_shape, self.device = classifier.denoiser.space.image_shape, classifier.denoiser.device

    def copies(self, sigma: float) -> CopyClassifier:
        """Return the noised classifier."""
        return copy_classifier(self.classifier, sigma=sigma, noised=self.noised)


@final
class NoisedRaces(CopyClassifier):
    """Every noisy copy is a race in the engine.

    A race has noise of its own, whose key is a hash of the noisy copy: this classifier is a function of the copy and
    the seed, whatever the batch size, the order or an interruption. Over seeds it is a random classifier, and that
    randomness is part of what is smoothed: the probability of a label is over smoothing noise and race together.

    Args:
        classifier: with a noised target.
        sigma: [image units] std of the noise in the copies.

    Source:
        Chen et al. 2024, section 3.4 (arXiv:2402.02316).
    """

    def __init__(self, classifier: DiffusionClassifier, *, sigma: float) -> None:
        self.classifier, self.sigma, self.chunk = classifier, sigma, 256
        self.classes, self.image_shape = classifier.classes_, classifier.denoiser.space.image_shape
        self._engine = classifier.engine()
        self._engine.sigma_range()

    def labels(self, copies: Images) -> tuple[Int64[ndarray, " batch"], int]:
        """Run the races of some copies together."""
        work = self.labelling(copies)
        while True:
            try:
                next(work)
            except StopIteration as done:
                return done.value

    def labelling(self, copies: Images) -> Generator[None, None, tuple[Int64[ndarray, " batch"], int]]:
        """Run the races of some copies together, a network call at a time."""
        found, spent = np.full(len(copies), NO_LABEL, dtype=np.int64), 0
        for outcome in self._engine.stepwise(enumerate(copies)):
            if outcome is None:
                yield
                continue
            decision = self.classifier.decide(outcome)
            spent += decision.evaluations
            if decision.label is not None:
                found[outcome.index] = self.classes.index(decision.label)
        return found, spent


@final
class NoisedLikelihood(CopyClassifier):
    """The exact Bayes classifier of noisy copies: the likeliest class under the exact density of the noisy image.

    It is a function of the copy: there is no race and no draw.

    Args:
        denoiser: whose density has a closed form.
        classes: the names to choose from, in this order.
        log_prior: of each class.
        sigma: [image units] std of the noise in the copies.

    Source:
        Chen et al. 2024, theorem 3.4 (arXiv:2402.02316), with the bound attained.
    """

    def __init__(self, denoiser: ExactDenoiser, *, classes: tuple[str, ...], log_prior: ndarray, sigma: float) -> None:
        self.denoiser, self.classes, self.sigma, self.chunk = denoiser, classes, sigma, 512
        self.image_shape = denoiser.space.image_shape
        self._log_prior = log_prior
        self._columns = [denoiser.classes.index(name) for name in classes]
        self._tau = denoiser.space.sigma_to_model(sigma)

    def labels(self, copies: Images) -> tuple[Int64[ndarray, " batch"], int]:
        """Compare exact densities; an evaluation is the density of a copy under a class."""
        copies = copies.to(self.denoiser.device)
        likelihood = self.denoiser.log_likelihood(copies, tau=self._tau)[:, self._columns]
        joint = likelihood.cpu().numpy() + self._log_prior
        return joint.argmax(axis=1), joint.size


def natural_noised(denoiser: Denoiser) -> str:
    """Return "exact" where the density of a noisy image is known, else "apndc"."""
    return "exact" if isinstance(denoiser, ExactDenoiser) else "apndc"


def copy_classifier(classifier: DiffusionClassifier, *, sigma: float, noised: str | None = None) -> CopyClassifier:
    """Turn a classifier of clean images into one of images under noise.

    What was calibrated for clean images is left out: the temperature, and a learned stopping rule, in whose place
    `PairedRace` has its own bound.

    Args:
        classifier: its target is replaced.
        sigma: [image units] std of the noise.
        noised: "epndc" (exact posterior), "apndc" (one denoising step first), "apndc-class" (that step is told the
            class) or "exact" (the density itself, which mixtures have); None: `natural_noised`.

    Raises:
        RangeError: the noise is outside what the model was trained on.
        InputError: the model has no such classifier.
    """
    denoiser = classifier.denoiser
    noised = noised or natural_noised(denoiser)
    if noised not in NOISED:
        raise InputError(f"The 'noised' parameter of certify must be one of {', '.join(NOISED)}. Got {noised!r}.")
    tau = _check_sigma(denoiser, sigma)
    if noised == "exact":
        if not isinstance(denoiser, ExactDenoiser):
            raise InputError("The 'noised' parameter 'exact' needs a mixture, whose density is known. Try 'apndc'.")
        prior = classifier.engine().log_prior
        assert prior is not None
        return NoisedLikelihood(denoiser, classes=classifier.classes_, log_prior=prior, sigma=sigma)
    target: Target = _TARGETS[noised](tau)
    changed = replace(classifier, target=target, temperature=None, race=_uncalibrated(classifier.race))
    objective = changed.objective
    assert objective is not None
    end = min(denoiser.sigma_range[1], objective.sigma_range[1] if objective.sigma_range else np.inf)
    if not target.sigma_floor < end:
        raise RangeError(
            f"The 'sigma' parameter of certify must leave noise levels between it and the end of the classifier's "
            f"range, {end / denoiser.space.scale:.4g} [image units]. Got {sigma}."
        )
    if noised == "apndc" and classifier.conditions().null is None:
        raise InputError(
            "The 'noised' parameter 'apndc' denoises without a class first, and this model was not trained to. "
            "Try 'apndc-class'."
        )
    return NoisedRaces(changed, sigma=sigma)


def _check_sigma(denoiser: Denoiser, sigma: float) -> float:
    """Return the noise in model units, after checking that the model knows it."""
    scale, (low, high) = denoiser.space.scale, denoiser.sigma_range
    tau = denoiser.space.sigma_to_model(sigma)
    if not low <= tau < high:
        raise RangeError(
            f"The 'sigma' parameter of certify must be from {low / scale:.4g} to below {high / scale:.4g} [image "
            f"units], where the model was trained. Got {sigma}."
        )
    return tau


def _uncalibrated(race: Race | None) -> Race | None:
    if isinstance(race, PairedRace) and race.stopping is not None:
        return PairedRace(n_draws=race.n_draws, block=race.block, delta=race.delta)
    return race
