"""What the denoiser is asked to return: the clean image, or what stands for it when the input itself is noisy."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from diffclass.types import Latents, Sigmas

__all__ = ["Clean", "NoisedApproximate", "NoisedConditional", "NoisedExact", "Target"]


ClassTargets = Float[Tensor, "class _ _ _"]  # [model units]


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


class Target(ABC):
    """(x, sigma, epsilon) -> (noisy, target): one error, several classifiers.

    `tau` [model units] is the standard deviation of the Gaussian noise already in the input; noise levels start above.
    """

    tau: float

    @property
    def sigma_floor(self) -> float:
        """[model units] Noise levels must lie above this."""
        return self.tau

    def prepare(self, x: Latents, denoise: Callable[[Latents, Sigmas], Latents]) -> Latents:
        """Turn the inputs, once, into what draws start from; `denoise` is the model without a class."""
        return x

    def class_targets(
        self, x: Latents, n_classes: int, denoise: Callable[[Latents, Sigmas], Latents]
    ) -> ClassTargets | None:
        """Return one target a class, once, if classes differ in it; `denoise` is told a class a row, in their order."""
        return None

    @abstractmethod
    def __call__(self, x: Latents, sigma: Sigmas, epsilon: Latents) -> tuple[Latents, Latents]:
        """Return what the denoiser sees at noise level sigma, and what it should return."""


@final
@dataclass(frozen=True, slots=True)
class Clean(Target):
    """The diffusion classifier: the target is the image itself.

    Source:
        Li et al. 2023, equation 6 (arXiv:2303.16203); Chen et al. 2024, section 3.1 (arXiv:2402.02316).
    """

    tau: float = 0.0

    def __call__(self, x: Latents, sigma: Sigmas, epsilon: Latents) -> tuple[Latents, Latents]:
        """Return x + sigma epsilon, and x."""
        return x + _column(sigma, x) * epsilon, x


@final
@dataclass(frozen=True, slots=True)
class NoisedExact(Target):
    """EPNDC: the input is x_tau, and the bound on log p(x_tau | class) uses the exact posterior.

    The published form regresses q-means on p-means; both differ from this by a factor that no class changes.

    Args:
        tau: [model units] noise already in the input.

    Source:
        Chen et al. 2024, theorem 3.4 (arXiv:2402.02316), rearranged:
        p_mean - q_mean = ((A - B) / A) (D - (x_tau - tau^2 / sqrt(sigma^2 - tau^2) epsilon)).
    """

    tau: float

    @property
    def sigma_floor(self) -> float:
        """Stay 2% above tau, where the variance of the target diverges."""
        return 1.02 * self.tau

    def __call__(self, x: Latents, sigma: Sigmas, epsilon: Latents) -> tuple[Latents, Latents]:
        """Return x_tau + sqrt(sigma^2 - tau^2) epsilon, and x_tau - tau^2 / sqrt(sigma^2 - tau^2) epsilon."""
        added = (_column(sigma, x) ** 2 - self.tau**2).sqrt()
        return x + added * epsilon, x - self.tau**2 / added * epsilon


@final
@dataclass(frozen=True, slots=True)
class NoisedApproximate(Target):
    """APNDC: the input is denoised once without a class, and the result classified as if it were clean.

    Args:
        tau: [model units] noise already in the input.

    Source:
        Chen et al. 2024, section 3.4 (arXiv:2402.02316).
    """

    tau: float

    def prepare(self, x: Latents, denoise: Callable[[Latents, Sigmas], Latents]) -> Latents:
        """Return D(x_tau; tau)."""
        return denoise(x, torch.full((len(x),), self.tau, device=x.device))

    def __call__(self, x: Latents, sigma: Sigmas, epsilon: Latents) -> tuple[Latents, Latents]:
        """Return D(x_tau) + sigma epsilon, and D(x_tau)."""
        return x + _column(sigma, x) * epsilon, x


@final
@dataclass(frozen=True, slots=True)
class NoisedConditional(Target):
    """APNDC whose first step is told the class: every class has a denoised image of its own to return.

    All classes of a draw see the same noisy image, x_tau and more noise, so that they stay paired; what differs is the
    target, D(x_tau; tau, class). No condition without a class is needed.

    Args:
        tau: [model units] noise already in the input.

    Source:
        The code published with Chen et al. 2024 (arXiv:2402.02316), class CorrectAPNDCCondY.
    """

    tau: float

    def class_targets(
        self, x: Latents, n_classes: int, denoise: Callable[[Latents, Sigmas], Latents]
    ) -> ClassTargets | None:
        """Return D(x_tau; tau, class) for each class."""
        same = x.expand(n_classes, *x.shape[1:])
        return denoise(same, torch.full((n_classes,), self.tau, device=x.device))

    def __call__(self, x: Latents, sigma: Sigmas, epsilon: Latents) -> tuple[Latents, Latents]:
        """Return x_tau + sqrt(sigma^2 - tau^2) epsilon, and x_tau, in whose place classes have targets."""
        return x + (_column(sigma, x) ** 2 - self.tau**2).clamp(min=0).sqrt() * epsilon, x
