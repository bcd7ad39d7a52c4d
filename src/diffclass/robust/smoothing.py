"""Randomized smoothing: the label that most noisy copies of an image get, and how far it is safe."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, final

from jaxtyping import Float
from torch import Tensor

from diffclass.data.images import check_images
from diffclass.decide import DiffusionClassifier
from diffclass.errors import RangeError
from diffclass.noise import image_key, smoothing
from diffclass.robust.certificate import Certificate, largest_radius, probability_for
from diffclass.robust.copies import CopyClassifier, LabelsStepwise, copy_classifier
from diffclass.robust.votes import NO_LABEL, Votes
from diffclass.stats.binomial import LookPlan, lower_bound

__all__ = ["Certification", "Smoothing", "certify"]

Image = Float[Tensor, "channel height width"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothing:
    """How an image is certified.

    Args:
        n0: copies that choose the label.
        n: copies, at most, that bound its probability.
        alpha: chance that a certificate is false.
        radius: [image units] stop as soon as this radius is proved or out of reach; None: draw all n copies.

    Raises:
        RangeError: alpha is outside (0, 1), or there is no copy to draw.
    """

    n0: int = 100
    n: int = 10_000
    alpha: float = 1e-3
    radius: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot be used."""
        if not 0 < self.alpha < 1:
            raise RangeError(f"The 'alpha' parameter of certify must be a float in (0, 1). Got {self.alpha}.")
        for name in ("n0", "n"):
            if getattr(self, name) < 1:
                raise RangeError(f"The '{name}' parameter of certify must be at least 1. Got {getattr(self, name)}.")
        if self.radius is not None and not (isfinite(self.radius) and self.radius > 0):
            raise RangeError(
                f"The 'radius' parameter of certify must be a finite number above 0. Got {self.radius}. "
                "Leave it out to draw all copies."
            )

    def plan(self, sigma: float) -> LookPlan:
        """Return when the votes are judged.

        Raises:
            RangeError: no outcome of so many copies proves any radius, or the one that is wanted.
        """
        if lower_bound(self.n, self.n, self.alpha) <= 0.5:
            needed = next(n for n in range(1, 10**9) if self.alpha ** (1 / n) > 0.5)
            raise RangeError(
                f"The 'n' parameter of certify must be at least {needed} for alpha={self.alpha}: fewer copies prove no "
                f"radius, even if all of them get one label. Got {self.n}."
            )
        if self.radius is None:
            return LookPlan.fixed(self.n, alpha=self.alpha)
        most = largest_radius(self.n, alpha=self.alpha, sigma=sigma)
        threshold = probability_for(self.radius, sigma)
        plan = None if threshold >= 1 else LookPlan.sequential(self.n, alpha=self.alpha, threshold=threshold)
        if plan is None or not plan.can_exceed((), threshold):
            raise RangeError(
                f"The 'radius' parameter of certify must be below {most:.4g} [image units], which n={self.n} copies at "
                f"sigma={sigma} prove at best. Got {self.radius}. Try a larger n or sigma."
            )
        return plan


@final
class Certification:
    """One image's certificate while it is being made; its state can be kept and gone on from.

    Copies are labelled in chunks whose ends depend on the settings alone, so that a certification that goes on from a
    kept state meets the very same batches as one that was never stopped.

    Args:
        copies: the classifier that is smoothed.
        image: in [0, 1].
        settings: how many copies, and when to stop.
        seed: of the smoothing noise.
        state: what `state` returned, to go on from.

    Source:
        Cohen, Rosenfeld and Kolter 2019, CERTIFY (arXiv:1902.02918).
    """

    def __init__(
        self,
        copies: CopyClassifier,
        image: Image,
        settings: Smoothing,
        *,
        seed: int = 0,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.copies, self.settings, self.seed = copies, settings, seed
        self.plan = settings.plan(copies.sigma)
        self._image, self._key = image, image_key(image)
        self.selection = self.votes = Votes.none(len(copies.classes))
        self.successes: tuple[int, ...] = ()
        self.evaluations = 0
        if state is not None:
            self.selection, self.votes = Votes.from_row(state["selection"]), Votes.from_row(state["votes"])
            self.successes, self.evaluations = tuple(state["successes"]), state["evaluations"]

    def state(self) -> dict[str, Any]:
        """Return plain values, for JSON, to go on from."""
        return {
            "selection": self.selection.row(),
            "votes": self.votes.row(),
            "successes": list(self.successes),
            "evaluations": self.evaluations,
        }

    @property
    def reason(self) -> str | None:
        """Why it is finished; None while it is not.

        The wanted radius is out of reach where an upper bound on the label's probability is below what it takes (which
        is wrong with probability at most alpha and costs a proof, never its truth), or where no later look could prove
        it even if every copy from here on got the label.
        """
        wanted, counts = self.settings.radius, self.successes
        if self.selection.n == self.settings.n0 and self.selection.leader == NO_LABEL:
            return "out of reach" if wanted is not None else "budget"
        if wanted is None or not counts:
            return "budget" if len(counts) == len(self.plan.looks) else None
        threshold = probability_for(wanted, self.copies.sigma)
        if self.plan.lower(counts) > threshold:
            return "proved"
        if self.plan.upper(counts) < threshold or not self.plan.can_exceed(counts, threshold):
            return "budget" if self.votes.n == self.settings.n else "out of reach"
        return None

    def advance(self) -> None:
        """Label the next chunk of copies."""
        for _ in self.steps():
            pass

    def steps(self) -> Generator[None, None, None]:
        """Label the next chunk of copies, and yield after every network call: a place to stop at.

        A chunk that was not finished counts for nothing, and the next call labels the very same copies.
        """
        n0, chosen = self.settings.n0, self.selection.n
        if chosen < n0:
            stop = min(n0, chosen + self.copies.chunk)
            self.selection += yield from self._vote(range(chosen, stop))
            return
        done, look = self.votes.n, self.plan.looks[len(self.successes)]
        stop = min(look, done + self.copies.chunk)
        self.votes += yield from self._vote(range(n0 + done, n0 + stop))
        if stop == look:
            self.successes += (self.votes.counts[self.selection.leader],)

    def _vote(self, copies: range) -> Generator[None, None, Votes]:
        """Label some copies, each the image and noise that no other copy has."""
        noise = smoothing(self.seed, self._key, copies, tuple(self._image.shape))
        noisy = self._image + self.copies.sigma * noise
        if isinstance(self.copies, LabelsStepwise):
            labels, spent = yield from self.copies.labelling(noisy)
        else:
            labels, spent = self.copies.labels(noisy)
        self.evaluations += spent
        return Votes.of(labels, len(self.copies.classes))

    def certificate(self) -> Certificate:
        """Return what is proved, once it is finished."""
        reason = self.reason
        assert reason is not None
        return Certificate(
            classes=self.copies.classes,
            sigma=self.copies.sigma,
            alpha=self.settings.alpha,
            selection=self.selection,
            votes=self.votes,
            plan=self.plan,
            successes=self.successes,
            wanted_radius=self.settings.radius,
            reason=reason,
            evaluations=self.evaluations,
            seed=self.seed,
        )


def certify(
    classifier: DiffusionClassifier | CopyClassifier,
    image: Image,
    *,
    sigma: float,
    noised: str | None = None,
    n0: int | None = None,
    n: int = 10_000,
    alpha: float = 1e-3,
    radius: float | None = None,
    seed: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Certificate:
    """Certify a radius around one image within which the smoothed label cannot change.

    With probability at least 1 - alpha over the copies, the returned label is the smoothed classifier's for every
    perturbation of L2 norm below `radius`; otherwise it abstains.

    Args:
        classifier: of clean images, or a copy classifier of this sigma.
        image: in [0, 1].
        sigma: [image units] std of the smoothing noise.
        noised: "epndc", "apndc", "apndc-class" or "exact"; None chooses (`copy_classifier`).
        n0: copies that choose the label. They are never reused for the bound. None is 100, or 20 with a radius.
        n: copies, at most, that bound its probability.
        alpha: chance that the statement is false.
        radius: [image units] stop as soon as this radius is proved or out of reach; None: draw all n copies.
        seed: of the smoothing noise; the classifier's if None.
        progress: called with the copies done.

    Returns:
        A certificate. `label` is None and `radius` 0.0 when it abstains.

    Raises:
        RangeError: sigma lies outside the denoiser's range, alpha outside (0, 1), or n copies prove nothing.
        ShapeError: the image has another shape than the model's.

    Source:
        Cohen, Rosenfeld and Kolter 2019, CERTIFY and Theorem 1 (arXiv:1902.02918).

    Examples:
        >>> import torch
        >>> from diffclass.denoisers.analytic import GaussianDenoiser
        >>> means = torch.stack([torch.full((1, 4, 4), 0.2), torch.full((1, 4, 4), 0.8)])
        >>> classifier = DiffusionClassifier(denoiser=GaussianDenoiser(means, 0.1, classes=["dark", "bright"]))
        >>> certificate = certify(classifier, torch.full((1, 4, 4), 0.8), sigma=0.25, n=1000)
        >>> certificate.label, certificate.radius > 0.5
        ('bright', True)
    """
    settings = Smoothing(n0=(100 if radius is None else 20) if n0 is None else n0, n=n, alpha=alpha, radius=radius)
    if isinstance(classifier, CopyClassifier):
        copies = classifier
        if copies.sigma != sigma:
            raise RangeError(f"The 'sigma' parameter of certify must be the copy classifier's, {copies.sigma}. "
                             f"Got {sigma}.")  # fmt: skip
    else:
        copies = copy_classifier(classifier, sigma=sigma, noised=noised)
        seed = classifier.seed if seed is None else seed
    check_images(image[None], copies.image_shape)
    work = Certification(copies, image, settings, seed=seed or 0)
    while work.reason is None:
        work.advance()
        if progress is not None:
            progress(work.selection.n + work.votes.n)
    return work.certificate()
