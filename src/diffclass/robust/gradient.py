"""What an attacker sees of a defence: its log joint as a differentiable function, and whether to trust the gradient."""

from dataclasses import dataclass, field, replace
from typing import final

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from diffclass.data.images import check_images
from diffclass.decide import Decision, DiffusionClassifier
from diffclass.denoisers.analytic import ExactDenoiser
from diffclass.errors import InputError, RangeError
from diffclass.evidence import DifferentiableEvidence
from diffclass.noise import derived_key, image_key
from diffclass.robust.purify import LikelihoodMaximisation
from diffclass.types import Images

__all__ = [
    "NOISES",
    "Access",
    "Defence",
    "View",
    "agreement",
    "finite_difference_error",
    "margin",
    "wrong_log_odds",
]

NOISES = ("fixed", "fresh")
_CHUNK = 1024  # cells at once of mixtures
Image = Float[Tensor, "channel height width"]
LogJoints = Float64[Tensor, "batch class"]


def wrong_log_odds(joint: LogJoints, label: int) -> Float64[Tensor, " batch"]:
    """Return the log-odds that the answer is any other class than this one.

    The cross-entropy is its softplus: both rise in the same direction, but the cross-entropy of log-odds of hundreds
    of nats rounds to a gradient of zero, and this does not.

    Source:
        Croce and Hein 2020, section 4.1 (arXiv:2003.01690), on the vanishing gradient of the cross-entropy.
    """
    others = [index for index in range(joint.shape[1]) if index != label]
    return joint[:, others].logsumexp(dim=1) - joint[:, label]


def margin(joint: LogJoints, label: int) -> Float64[Tensor, " batch"]:
    """Return the log-odds of the best other class over this one: above 0, the image is misclassified."""
    others = [index for index in range(joint.shape[1]) if index != label]
    return joint[:, others].amax(dim=1) - joint[:, label]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How an attacker deals with the noise of the classifier.

    Args:
        noise: "fixed": every look at an image is on the same draws, under a key of the attacker's choice, so that the
            gradient is that of one function; "fresh": every look has draws of its own.
        eot: sets of draws that a look averages over (expectation over transformation).
        n_draws: in a set, whole blocks; the race's budget if None.

    Raises:
        InputError: there is no such noise.
        RangeError: a number is below 1.

    Source:
        Athalye, Carlini and Wagner 2018, section 4.3 (arXiv:1802.00420).
    """

    noise: str = "fixed"
    eot: int = 1
    n_draws: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot be used."""
        if self.noise not in NOISES:
            raise InputError(f"The 'noise' of an attack must be one of {', '.join(NOISES)}. Got {self.noise!r}.")
        if self.eot < 1:
            raise RangeError(f"The 'eot' parameter of an attack must be at least 1. Got {self.eot}.")
        if self.n_draws is not None and self.n_draws < 1:
            raise RangeError(f"The 'n_draws' parameter of an attack must be at least 1. Got {self.n_draws}.")


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Defence:
    """What is attacked: a classifier, with a purifier in front or without.

    Args:
        classifier: any, noised targets included.
        purifier: what images go through first.
    """

    classifier: DiffusionClassifier
    purifier: LikelihoodMaximisation | None = None

    def judge(self, images: Images) -> list[Decision]:
        """Classify images as they would be for anybody: noise follows from their content, and races stop as ever."""
        check_images(images, self.classifier.denoiser.space.image_shape)
        if self.purifier is not None:
            keys = [image_key(image) for image in images]
            images = self.purifier(self.classifier.denoiser, images, keys).cpu()
        return self.classifier.classify(images)

    def view(self, key: int, access: Access) -> "View":
        """Return the defence as an attacker of one image sees it.

        Args:
            key: of the noise; `noise.image_key` of the image gives the draws that its classification has.
            access: how noise is dealt with.

        Raises:
            RangeError: the draws are no whole number of blocks.
        """
        race = self.classifier.race
        assert race is not None
        if access.n_draws is not None and access.n_draws % race.block:
            raise RangeError(
                f"The 'n_draws' parameter of an attack must be whole blocks of {race.block}. Got {access.n_draws}."
            )
        return View(defence=self, key=key, access=access)

    def exact_view(self) -> "View":
        """Return the limit of infinitely many draws, which mixtures have in closed form.

        Raises:
            InputError: the model has none.
        """
        if not isinstance(self.classifier.denoiser, ExactDenoiser):
            raise InputError("Attack 'apgd-exact' needs a mixture, whose density is known. Try 'apgd-ce'.")
        return View(defence=self, key=0, access=Access(), exact=True)


@final
@dataclass(slots=True, kw_only=True, eq=False)
class View:
    """The log joint of images under every class, differentiable through the purifier and every draw.

    Args:
        defence: what is looked at.
        key: of the noise.
        access: how noise is dealt with.
        exact: the density itself in place of draws.
        looks: how often it was looked at; fresh noise follows from it.
        evaluations: network evaluations spent, those of gradients not counted again.
    """

    defence: Defence
    key: int
    access: Access
    exact: bool = False
    looks: int = 0
    evaluations: int = 0
    _evidence: DifferentiableEvidence = field(init=False)

    def __post_init__(self) -> None:
        engine = self.defence.classifier.engine()
        exact = isinstance(engine.denoiser, ExactDenoiser)  # has a call a class, and little to keep for the gradient
        self._evidence = DifferentiableEvidence(engine=engine, chunk=_CHUNK if exact else None)

    def __call__(self, images: Images) -> LogJoints:
        """Return log p(class) + evidence, the mean over sets of draws; images may leave [0, 1]."""
        self.looks += 1
        sets = [self._joint(images, self._key(number)) for number in range(self.access.eot)]
        return torch.stack(sets).mean(dim=0)

    def _key(self, number: int) -> int:
        """Return the key of one set of draws; the first of fixed noise is the key itself."""
        if self.access.noise == "fresh":
            return derived_key(self.key, self.looks, number)
        return self.key if number == 0 else derived_key(self.key, 0, number)

    def _joint(self, images: Images, key: int) -> LogJoints:
        defence, evidence = self.defence, self._evidence
        if defence.purifier is not None:
            images = defence.purifier(defence.classifier.denoiser, images, [key] * len(images))
            self.evaluations += len(images) * defence.purifier.n_steps
        if self.exact:
            return self._likelihood(images)
        draws = evidence.draws(key, n=self.access.n_draws)
        self.evaluations += len(images) * len(draws) * len(evidence.engine.classes)
        return evidence(images, [draws] * len(images))

    def _likelihood(self, images: Images) -> LogJoints:
        engine = self._evidence.engine
        denoiser, prior = engine.denoiser, engine.log_prior
        assert isinstance(denoiser, ExactDenoiser)
        assert prior is not None
        self.evaluations += len(images) * len(engine.classes)
        columns = [denoiser.classes.index(name) for name in engine.classes]
        likelihood = denoiser.log_likelihood(images.to(denoiser.device), tau=engine.target.tau)[:, columns]
        return likelihood + torch.from_numpy(prior).to(likelihood)

    def gradient(self, image: Image, label: int) -> Image:
        """Return the gradient of `wrong_log_odds` at one image [nats per image unit]."""
        x = image[None].clone().requires_grad_()
        (found,) = torch.autograd.grad(wrong_log_odds(self(x), label).sum(), x)
        return found[0]


def finite_difference_error(view: View, image: Image, label: int, *, step: float = 1e-3) -> float:
    """Return how far the slope along the gradient is from the gradient's length, as a share of it.

    On fixed noise the log-odds are one smooth function, and a gradient that is exact is off by rounding alone. 1 means
    that the gradient says nothing: it is zero, or the function is flat where it points.

    Args:
        view: with fixed noise; a fresh one is held to the draws of its next look.
        image: where.
        label: whose `wrong_log_odds` are meant.
        step: [image units] length of the step to either side.
    """
    still = View(defence=view.defence, key=view.key, access=replace(view.access, noise="fixed"), exact=view.exact)
    gradient = still.gradient(image, label)
    length = float(gradient.norm())
    if length == 0.0:
        return 1.0
    direction = gradient / length
    with torch.no_grad():
        ends = wrong_log_odds(still(torch.stack([image + step * direction, image - step * direction])), label)
    slope = float(ends[0] - ends[1]) / (2 * step)
    return abs(slope - length) / length


def agreement(view: View, image: Image, label: int) -> float:
    """Return the cosine between the gradients on two sets of draws: 1 where noise does not hide the direction.

    Source:
        Chen et al. 2023, section 5.3 (arXiv:2305.15241).
    """
    access = replace(view.access, noise="fixed")
    keys = (view.key, derived_key(view.key, 1))
    looks = [View(defence=view.defence, key=key, access=access, exact=view.exact) for key in keys]
    a, b = (look.gradient(image, label).flatten().double() for look in looks)
    return float(a @ b / (a.norm() * b.norm()).clamp(min=1e-300))
