"""Purification: an image is moved to where the model finds it likelier, and classified there."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffclass.denoisers import Denoiser
from diffclass.errors import RangeError, UnsupportedModel
from diffclass.evidence.distance import distance
from diffclass.noise import derived_key, epsilons, placement
from diffclass.types import Images

__all__ = ["LikelihoodMaximisation"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodMaximisation:
    """A few steps down the denoising error without a class, within a small ball around the image.

    Every step is differentiable, the gradient inside it included: where the image asks for a gradient, the purified
    image carries the exact one (second derivatives of the denoiser). Published results of this defence rest on a
    gradient that takes purification for the identity (BPDA), and most of its robustness went away with the exact one.

    The published step is the sign of a momentum, whose derivative is zero nearly everywhere, or Adam's; this one is the
    momentum itself, over the mean size of its gradient, so that no derivative is hidden.

    Args:
        n_steps: of the descent.
        step: [image units] mean size of a pixel's change in the first step.
        radius: [image units] how far a pixel may move (Linf).
        momentum: share of the last step that is kept.
        sigma_range: [image units] a step draws its noise level from here, uniformly.
        seed: of the noise.

    Raises:
        RangeError: a number is outside its range.

    Source:
        Chen et al. 2023, section 4.2 (arXiv:2305.15241); Dong et al. 2018, algorithm 1 (arXiv:1710.06081).
    """

    n_steps: int = 5
    step: float = 0.01
    radius: float = 8 / 255
    momentum: float = 0.9
    sigma_range: tuple[float, float] = (0.2, 0.3)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be used."""
        if self.n_steps < 1:
            raise RangeError(f"The 'n_steps' parameter of purification must be at least 1. Got {self.n_steps}.")
        for name in ("step", "radius"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise RangeError(f"The '{name}' parameter of purification must be above 0 [image units]. Got {value}.")
        if not 0 <= self.momentum <= 1:
            raise RangeError(f"The 'momentum' parameter of purification must be in [0, 1]. Got {self.momentum}.")
        low, high = self.sigma_range
        if not 0 < low <= high < float("inf"):
            raise RangeError(f"The 'sigma_range' of purification must be 0 < low <= high. Got {self.sigma_range}.")

    def __call__(self, denoiser: Denoiser, images: Images, keys: Sequence[int]) -> Images:
        """Purify images, in [0, 1] or not; the result is in [0, 1].

        Args:
            denoiser: with a condition for "no class".
            images: differentiated through where they ask for it.
            keys: of the noise of each image.

        Raises:
            UnsupportedModel: the model has no condition without a class, or gives no gradients.
        """
        images = images.to(denoiser.device)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # other kinds of attention have no second derivative
            return self._descend(denoiser, images, keys, exact=images.requires_grad)

    def _descend(self, denoiser: Denoiser, images: Images, keys: Sequence[int], *, exact: bool) -> Images:
        if not exact:
            images = images.detach().requires_grad_()
        x, velocity = images, torch.zeros_like(images)
        for number in range(self.n_steps):
            error = self._error(denoiser, x, keys, number)
            (gradient,) = torch.autograd.grad(error.sum(), x, create_graph=exact)
            size = gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
            velocity = self.momentum * velocity + gradient / (size + 1e-12)
            x = x - self.step * velocity
            x = torch.maximum(torch.minimum(x, images + self.radius), images - self.radius).clamp(0, 1)
            if not exact:
                x, velocity = x.detach().requires_grad_(), velocity.detach()
        return x if exact else x.detach()

    def _error(self, denoiser: Denoiser, x: Images, keys: Sequence[int], number: int) -> Tensor:
        """Return the denoising error of each image at one draw, both of whose arguments hold the image."""
        conditions = denoiser.condition_on(denoiser.classes[:1])
        if conditions.null is None:
            raise UnsupportedModel("Purification needs a model that was trained without a class too. This one was not.")
        low, high = (denoiser.space.sigma_to_model(level) for level in self.sigma_range)
        latents = denoiser.encode(x)
        sigma = [placement(self.seed, derived_key(key, number), 1).uniform(low, high) for key in keys]
        sigma = torch.tensor(sigma).to(latents)
        noise = epsilons(self.seed, [derived_key(key, number) for key in keys], [0] * len(keys), latents.shape[1:])
        noisy = latents + sigma.reshape(-1, 1, 1, 1) * noise.to(latents)
        denoised = denoiser(noisy, sigma, conditions.without_class(len(x)))
        if not denoised.requires_grad:
            raise UnsupportedModel("Purification climbs the model's likelihood, and this model gives no gradients.")
        return distance(denoised, latents, "l2")
