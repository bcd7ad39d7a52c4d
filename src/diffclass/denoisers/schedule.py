"""From a model's own time to sigma, and back."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffclass.errors import InputError
from diffclass.types import Sigmas

__all__ = ["DiscreteSchedule"]


@dataclass(frozen=True, slots=True, eq=False)
class DiscreteSchedule:
    """A table of sigma for the integer times 0, 1, ... of a variance-preserving model.

    sigma(t) = sqrt((1 - abar_t) / abar_t); between the integers log(sigma) is linear in t.

    Args:
        sigmas: strictly increasing, one for each time.

    Source:
        Karras et al. 2022, Table 1 and Appendix C.3 (arXiv:2206.00364).
    """

    sigmas: Tensor

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Tensor) -> "DiscreteSchedule":
        """Build the table from abar_t, as diffusers' schedulers hold it."""
        abar = alphas_cumprod.double().clamp(1e-12, 1 - 1e-12)
        sigmas = ((1 - abar) / abar).sqrt()
        if not bool((sigmas.diff() > 0).all()):
            raise InputError("A schedule must have strictly decreasing 'alphas_cumprod'.")
        return cls(sigmas)

    @property
    def sigma_range(self) -> tuple[float, float]:
        """[model units] The smallest and largest sigma of the table."""
        return float(self.sigmas[0]), float(self.sigmas[-1])

    def time(self, sigma: Sigmas) -> Tensor:
        """Return the (fractional) time at which the model's noise is sigma."""
        logs = self.sigmas.log().cpu().numpy()
        times = np.interp(sigma.detach().double().log().cpu().numpy(), logs, np.arange(len(logs)))
        return torch.as_tensor(times, dtype=torch.float32, device=sigma.device)

    def sigma(self, time: Tensor) -> Tensor:
        """Return sigma at a (fractional) time."""
        logs = self.sigmas.log().cpu().numpy()
        values = np.exp(np.interp(time.detach().double().cpu().numpy(), np.arange(len(logs)), logs))
        return torch.as_tensor(values, dtype=torch.float32, device=time.device)
