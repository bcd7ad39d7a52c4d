"""How a model is asked where nobody says how: the weight that its training loss gave to noise levels."""

from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from diffclass.denoisers.parametrisation import Flow, Parametrisation

__all__ = ["classifier_settings"]

_KNOTS = 64
_CELLS_PER_BATCH = 32 * 64 * 64  # latent cells a call: 32 latents of 64 x 64
_Knots = Float64[ndarray, " _"]


def classifier_settings(
    parametrisation: Parametrisation, sigma_range: tuple[float, float], cells: tuple[int, int], shift: float
) -> dict[str, Any]:
    """Return the weight and proposal of a classifier as `Objective.from_settings` reads them, and a batch size.

    Networks of a schedule: the error of the predicted noise, uniform over the schedule's times, as Li et al. measure
    it. Flows: the error of the predicted velocity under the density of times that they are trained with, a logit-normal
    one: t = sigma / (1 + sigma), so log(sigma) is normal, around log(shift).

    Args:
        parametrisation: of the network.
        sigma_range: [model units] where it was trained.
        cells: height and width of a latent.
        shift: of a flow's noise levels.

    Source:
        Li et al. 2023, equation 6 (arXiv:2303.16203); Esser et al. 2024, section 3.1, equation 19, and 5.3.2, equation
        23 (arXiv:2403.03206); |v error|^2 = |x error|^2 / t^2.
    """
    low, high = np.log(sigma_range)
    if isinstance(parametrisation, Flow):
        log_sigma = np.linspace(low, high, _KNOTS)
        log_density = -0.5 * (log_sigma - np.log(shift)) ** 2
        log_weight = log_density + 2 * np.log1p(np.exp(-log_sigma))
    else:
        log_sigma, log_density = _uniform_time(parametrisation)
        log_weight = log_density - 2 * log_sigma
    return {
        "weight": {"kind": "tabulated", "log_sigma": log_sigma.tolist(), "log_weight": log_weight.tolist()},
        "proposal": {"kind": "tabulated", "log_sigma": log_sigma.tolist(), "log_density": log_density.tolist()},
        "batch_size": max(1, _CELLS_PER_BATCH // (cells[0] * cells[1])),
    }


def _uniform_time(parametrisation: Any) -> tuple[_Knots, _Knots]:
    """Return knots of log(sigma), and the log-density there when the schedule's time is uniform."""
    log_sigma = np.log(parametrisation.schedule.sigmas.cpu().numpy())
    density = np.gradient(np.linspace(0.0, 1.0, len(log_sigma)), log_sigma)
    knots = np.linspace(log_sigma[0], log_sigma[-1], _KNOTS)
    return knots, np.log(np.interp(knots, log_sigma, density))
