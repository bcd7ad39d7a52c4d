"""How fast the log-odds of the plain diffusion classifier can change with the image: a bound, and what is found.

The constants are derived, with every assumption, in docs/certificates.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log, pi, sqrt
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from torch import Tensor

from diffclass.data.images import check_images
from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.denoisers import Conditions, Denoiser, Space
from diffclass.errors import InputError, RangeError
from diffclass.evidence import Clean, Draws, Objective
from diffclass.noise import image_key
from diffclass.types import Images, Latents, Sigmas

__all__ = [
    "Clipped",
    "LipschitzBound",
    "LipschitzCertificate",
    "lipschitz_bound",
    "lipschitz_certificate",
    "log_odds_gradients",
]

_WITHIN = 16  # parts of a stratum at whose ends the largest weight is looked for


@final
@dataclass(frozen=True, slots=True)
class Clipped:
    """A denoiser whose answer is clipped to the range of images, as the bound supposes.

    Args:
        denoiser: any other.
    """

    denoiser: Denoiser

    @property
    def space(self) -> Space:
        """Where the model lives."""
        return self.denoiser.space

    @property
    def sigma_range(self) -> tuple[float, float]:
        """[model units] Where the model was trained."""
        return self.denoiser.sigma_range

    @property
    def classes(self) -> tuple[str, ...]:
        """Names it knows."""
        return self.denoiser.classes

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.denoiser.device

    def encode(self, images: Images) -> Latents:
        """Convert images in [0, 1] to what the denoiser sees."""
        return self.denoiser.encode(images)

    def decode(self, latents: Latents) -> Images:
        """Convert back to images in [0, 1]."""
        return self.denoiser.decode(latents)

    def condition_on(self, prompts: Sequence[str]) -> Conditions:
        """Embed classes."""
        return self.denoiser.condition_on(prompts)

    def __call__(self, noisy: Latents, sigma: Sigmas, conditions: Conditions) -> Latents:
        """Return E[x | noisy, condition], clipped."""
        ends = self.space.offset, self.space.offset + self.space.scale
        return self.denoiser(noisy, sigma, conditions).clamp(min(ends), max(ends))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LipschitzBound:
    """Moving an image within [0, 1] by a distance d [image units, L2] moves its log-odds by at most a multiple of d.

    Args:
        log_odds: [nats per image unit] of any class over any other, and of a class over all others together.
        log_joint: [nats per image unit] of one class by itself.
    """

    log_odds: float
    log_joint: float

    @property
    def probability(self) -> float:
        """[per image unit] Of a posterior probability: d p = p (1 - p) d(log-odds over the rest), and p (1 - p) <= 1/4.

        Source:
            Chen et al. 2024, section 3.2 (arXiv:2402.02316), with the log-odds in place of the logits.
        """
        return self.log_odds / 4

    def radius(self, margin: float) -> float:
        """Return the radius [image units] within which log-odds of at least `margin` stay above 0."""
        return max(0.0, margin / self.log_odds)


def lipschitz_bound(objective: Objective, space: Space, sigma_range: tuple[float, float]) -> LipschitzBound:
    """Bound how fast log-odds can change, for any denoiser whose answers lie in the range of images.

    For the classifier whose log-odds are the expectation of what is measured: the integral over the noise range of the
    weight times the difference of expected errors, summed over pixels. With R = scale sqrt(d), the diameter of the cube
    of images in model units, it is scale Int w(sigma) (sqrt(2 / pi) R^2 / sigma + 2 R) d log(sigma) for log-odds, and
    scale Int w(sigma) (R^2 / (sqrt(2 pi) sigma) + 2 R) d log(sigma) for one class.

    Args:
        objective: of which the weight counts, and not the proposal. The distance must be "l2".
        space: the model's.
        sigma_range: [model units] what the integral runs over (`Engine.sigma_range`).

    Raises:
        InputError: the distance is another.

    Source:
        Chen et al. 2024, section 3.2 (arXiv:2402.02316), the idea; the constants are derived in docs/certificates.md.
    """
    from scipy.integrate import quad

    if objective.distance != "l2":
        raise InputError(f"A Lipschitz bound needs the distance 'l2'. Got {objective.distance!r}.")
    scale = abs(space.sigma_to_model(1.0))
    diameter = scale * sqrt(space.dimension)

    def moment(power: float) -> float:
        """Integrate w(sigma) sigma^power against d log(sigma)."""

        def value(log_sigma: float) -> float:
            sigma = np.exp([log_sigma])
            return float((objective.weight(sigma) * sigma**power)[0])

        return quad(value, *np.log(sigma_range), limit=500)[0]

    through_noise, through_target = diameter**2 * moment(-1.0), 2 * diameter * moment(0.0)
    return LipschitzBound(
        log_odds=scale * (sqrt(2 / pi) * through_noise + through_target),
        log_joint=scale * (through_noise / sqrt(2 * pi) + through_target),
    )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LipschitzCertificate:
    """What the Lipschitz bound proves about one image.

    With probability at least 1 - alpha over the draws, the classifier with unlimited draws gives `label` to every image
    in [0, 1] at a distance below `radius`.

    Args:
        label: the class in front, or None where the margin is not certain to be positive.
        radius: [image units] 0 for an abstention.
        margin: [nats] measured log-odds over the runner-up.
        margin_lower: [nats] what they exceed, for every rival, the error of so many draws taken off.
        bound: on how fast they change.
        n_draws: draws.
        alpha: chance that the statement is false.
    """

    label: str | None
    radius: float
    margin: float
    margin_lower: float
    bound: LipschitzBound
    n_draws: int
    alpha: float


def lipschitz_certificate(
    classifier: DiffusionClassifier, image: Float[Tensor, "channel height width"], *, alpha: float = 1e-3
) -> LipschitzCertificate:
    """Certify one image by the Lipschitz bound of the plain diffusion classifier.

    Every class is measured on the full budget of draws, by the classifier's denoiser with its answers clipped to the
    range of images. The margin's error is bounded by Hoeffding's inequality: draws are independent, each within its
    stratum, and none of them moves the log-odds by more than its largest weight times R^2.

    Args:
        classifier: with the target `Clean`; its race gives only the number of draws.
        image: in [0, 1].
        alpha: chance that the statement is false.

    Raises:
        RangeError: alpha is not in (0, 1).
        InputError: the classifier is a noised one, or its draws are not independent.

    Source:
        Chen et al. 2024, section 3.2 (arXiv:2402.02316); Hoeffding 1963, theorem 2. Derived in docs/certificates.md.
    """
    if not 0 < alpha < 1:
        raise RangeError(f"The 'alpha' parameter of lipschitz_certificate must be a float in (0, 1). Got {alpha}.")
    objective, race = _plain(classifier)
    check_images(image[None], classifier.denoiser.space.image_shape)
    clipped = replace(classifier, denoiser=Clipped(classifier.denoiser), race=race, temperature=None)
    engine = clipped.engine()
    evidence = next(iter(engine.run([(0, image)]))).evidence
    bound = lipschitz_bound(objective, clipped.denoiser.space, engine.sigma_range())
    odds = evidence.log_odds()
    leader = evidence.leader()
    margin = -float(np.delete(odds, leader).max())
    level = alpha / (len(odds) * (len(odds) - 1))  # any class may be in front, and any other behind it
    error = _hoeffding(objective, clipped.denoiser.space, engine.sigma_range(), race.n_draws, level)
    lower = margin - error
    return LipschitzCertificate(
        label=evidence.classes[leader] if lower > 0 else None,
        radius=bound.radius(lower),
        margin=margin,
        margin_lower=lower,
        bound=bound,
        n_draws=race.n_draws,
        alpha=alpha,
    )


def _plain(classifier: DiffusionClassifier) -> tuple[Objective, Exhaustive]:
    """Return the objective and the full budget of a classifier that the bound holds for."""
    objective, race = classifier.objective, classifier.race
    assert objective is not None
    assert race is not None
    if not isinstance(classifier.target, Clean):
        raise InputError("The Lipschitz bound is that of the plain classifier, with the target Clean().")
    if objective.antithetic:
        raise InputError("The error of draws in opposite pairs is not bounded here. Use an objective without them.")
    return objective, Exhaustive(n_draws=race.n_draws, block=race.block)


def _hoeffding(
    objective: Objective, space: Space, sigma_range: tuple[float, float], n: int, level: float
) -> float:  # fmt: skip
    """Return what the mean of n stratified draws of log-odds differs by from its expectation, but for a chance `level`.

    R^2 sqrt(2 sum_i W_i^2 log(1 / level)) / n, where W_i is the largest weight in stratum i: the log-odds of a draw lie
    between -W_i R^2 and W_i R^2. The largest is looked for at 17 places of each stratum.

    Source:
        Hoeffding 1963, theorem 2.
    """
    quantiles = np.linspace(0.0, 1.0, n * _WITHIN + 1)
    sigma = np.clip(objective.proposal.sigma(quantiles, *sigma_range), *sigma_range)
    weights = objective.weight(sigma) / objective.proposal.density(sigma, *sigma_range)
    inner = weights[:-1].reshape(n, _WITHIN).max(axis=1)
    largest = np.maximum(inner, weights[_WITHIN::_WITHIN])
    return space.scale**2 * space.dimension * sqrt(2 * float((largest**2).sum()) * log(1 / level)) / n


def log_odds_gradients(
    classifier: DiffusionClassifier, images: Images, *, pairs: Sequence[tuple[str, str]], n_draws: int = 64
) -> Float64[ndarray, " image"]:
    """Return the size of the gradient of log-odds at images: what a Lipschitz constant is not below.

    The gradient is that of the mean over draws whose noise is held fixed, through the denoiser. It is exact for the
    classifier with these draws; of the classifier with unlimited draws it is an estimate, whose size is on average too
    large, less so the more draws there are.

    Args:
        classifier: with the target `Clean`; its denoiser is clipped as the bound supposes.
        images: in [0, 1].
        pairs: of each image, the class and the one it is compared with.
        n_draws: draws, whole blocks.

    Returns:
        [nats per image unit] of each image.

    Raises:
        InputError: the classifier is a noised one, or there is not one pair for each image.
    """
    objective, race = _plain(classifier)
    if len(pairs) != len(images):
        raise InputError(
            f"log_odds_gradients needs a pair of classes for each image. Got {len(pairs)} for {len(images)} images."
        )
    check_images(images, classifier.denoiser.space.image_shape)
    span, denoiser = classifier.engine().sigma_range(), Clipped(classifier.denoiser)
    norms = []
    for image, pair in zip(images, pairs, strict=True):
        draws = Draws.place(
            objective, span, n=n_draws, block=race.block, seed=classifier.seed, key=image_key(image)
        )  # fmt: skip
        x = image[None].to(denoiser.device).clone().requires_grad_()
        encoded = denoiser.encode(x)
        sigma = torch.from_numpy(draws.sigmas).to(encoded)
        noise = draws.epsilon(range(n_draws), tuple(encoded.shape[1:])).to(encoded)
        noisy = encoded + sigma.reshape(-1, 1, 1, 1) * noise
        errors = []
        for name in pair:
            conditions = denoiser.condition_on([name])[torch.zeros(n_draws, dtype=torch.int64, device=denoiser.device)]
            errors.append((denoiser(noisy, sigma, conditions) - encoded).square().flatten(1).sum(dim=1))
        odds = (torch.from_numpy(draws.weights).to(encoded) * (errors[1] - errors[0])).mean()
        (gradient,) = torch.autograd.grad(odds, x)
        norms.append(float(gradient.double().norm()))
    return np.array(norms, dtype=np.float64)
