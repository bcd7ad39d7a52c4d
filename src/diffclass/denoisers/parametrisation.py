"""What a network predicts, turned into the posterior mean D(x; sigma).

A parametrisation is a value: it says what the network is given and how its output F becomes D.
With x = x0 + sigma * epsilon:

    Epsilon  D = x - sigma F(x / sqrt(1 + sigma^2), t)
    V        D = x / (1 + sigma^2) - sigma / sqrt(1 + sigma^2) F
    X0       D = F
    Flow     D = z - t F(z, t),  z = x / (1 + sigma),  t = sigma / (1 + sigma)
    EDM      D = c_skip x + c_out F(c_in x; ln(sigma) / 4)
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from torch import Tensor

from diffclass.denoisers.schedule import DiscreteSchedule
from diffclass.types import Latents, Sigmas

__all__ = ["EDM", "X0", "Epsilon", "Flow", "Parametrisation", "V"]


def _column(sigma: Sigmas, like: Tensor) -> Tensor:
    """Shape one value for each image so that it multiplies a batch."""
    return sigma.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


class Parametrisation(ABC):
    """How a network's input, time and output relate to x0 + sigma * epsilon."""

    @abstractmethod
    def prepare(self, noisy: Latents, sigma: Sigmas) -> tuple[Latents, Tensor]:
        """Return the network's input and its own time."""

    @abstractmethod
    def denoised(self, noisy: Latents, sigma: Sigmas, output: Latents) -> Latents:
        """Turn the network's output into the posterior mean."""

    def target(self, x: Latents, noisy: Latents, sigma: Sigmas) -> Latents:
        """Return the output for which the posterior mean is x: what the network is trained to predict.

        D is affine in the output, with a slope that depends on sigma alone, so no parametrisation says it twice.

        Args:
            x: the clean image [model units].
            noisy: x + sigma * epsilon.
            sigma: noise of each.
        """
        zero = noisy.new_zeros(noisy.shape)
        slope = self.denoised(zero, sigma, noisy.new_ones(noisy.shape))
        return (x - self.denoised(noisy, sigma, zero)) / slope


class _VariancePreserving(Parametrisation):
    """Networks that see alpha x0 + sqrt(1 - alpha^2) epsilon at a time of a discrete schedule."""

    schedule: DiscreteSchedule

    def prepare(self, noisy: Latents, sigma: Sigmas) -> tuple[Latents, Tensor]:
        return noisy / (1 + _column(sigma, noisy) ** 2).sqrt(), self.schedule.time(sigma)


@final
@dataclass(frozen=True, slots=True)
class Epsilon(_VariancePreserving):
    """The network predicts the noise.

    Source:
        Ho et al. 2020 (arXiv:2006.11239), equation 11; Karras et al. 2022, Table 1, column "VP".
    """

    schedule: DiscreteSchedule

    def denoised(self, noisy: Latents, sigma: Sigmas, output: Latents) -> Latents:
        """Return x - sigma F."""
        return noisy - _column(sigma, noisy) * output


@final
@dataclass(frozen=True, slots=True)
class V(_VariancePreserving):
    """The network predicts v = alpha epsilon - sigma_vp x0.

    Source:
        Salimans and Ho 2022, Appendix D (arXiv:2202.00512).
    """

    schedule: DiscreteSchedule

    def denoised(self, noisy: Latents, sigma: Sigmas, output: Latents) -> Latents:
        """Return x / (1 + sigma^2) - sigma / sqrt(1 + sigma^2) F."""
        s = _column(sigma, noisy)
        return noisy / (1 + s**2) - s / (1 + s**2).sqrt() * output


@final
@dataclass(frozen=True, slots=True)
class X0(_VariancePreserving):
    """The network predicts the clean image.

    Source:
        Ho et al. 2020, section 3.2 (arXiv:2006.11239).
    """

    schedule: DiscreteSchedule

    def denoised(self, noisy: Latents, sigma: Sigmas, output: Latents) -> Latents:
        """Return F."""
        return output


@final
@dataclass(frozen=True, slots=True)
class Flow(Parametrisation):
    """The network predicts epsilon - x0 on z = (1 - t) x0 + t epsilon (rectified flow).

    Args:
        time_scale: the network's own time is time_scale * t (1000 for SD3, 1 for Flux).

    Source:
        Esser et al. 2024, equation 13 (arXiv:2403.03206).
    """

    time_scale: float = 1000.0

    def prepare(self, noisy: Latents, sigma: Sigmas) -> tuple[Latents, Tensor]:
        """Return z = x / (1 + sigma) and t = sigma / (1 + sigma)."""
        return noisy / (1 + _column(sigma, noisy)), self.time_scale * sigma / (1 + sigma)

    def denoised(self, noisy: Latents, sigma: Sigmas, output: Latents) -> Latents:
        """Return z - t F."""
        s = _column(sigma, noisy)
        return (noisy - s * output) / (1 + s)


@final
@dataclass(frozen=True, slots=True)
class EDM(Parametrisation):
    """Karras et al.'s preconditioning: unit variance for input and output at every noise level.

    Args:
        sigma_data: [model units] standard deviation of the data.
        time_scale: the network's own time is time_scale * ln(sigma) / 4 (1 in EDM; more gives the sinusoidal
            embedding of a diffusers network a finer view of the noise level).
        sign: -1 where the network predicts the opposite of EDM's output (diffusers' "v_prediction").

    Source:
        Karras et al. 2022, equation 7 and Table 1, column "Ours" (arXiv:2206.00364).
    """

    sigma_data: float = 0.5
    time_scale: float = 1.0
    sign: float = 1.0

    def prepare(self, noisy: Latents, sigma: Sigmas) -> tuple[Latents, Tensor]:
        """Return c_in x and c_noise."""
        c_in = 1 / (_column(sigma, noisy) ** 2 + self.sigma_data**2).sqrt()
        return c_in * noisy, self.time_scale * sigma.log() / 4

    def denoised(self, noisy: Latents, sigma: Sigmas, output: Latents) -> Latents:
        """Return c_skip x + sign c_out F."""
        s = _column(sigma, noisy)
        total = s**2 + self.sigma_data**2
        return self.sigma_data**2 / total * noisy + self.sign * s * self.sigma_data / total.sqrt() * output
