"""Between an image and its noise: the probability flow, up and down, and ancestral sampling, down."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import atan, inf, pi, sqrt, tan

from diffclass.types import Latents

__all__ = ["SOLVERS", "Denoise", "ancestral", "follow", "sigma_grid", "sigma_of_strength", "strength_of_sigma"]

SOLVERS = ("heun", "euler")
_RHO = 7.0

Denoise = Callable[[Latents, float], Latents]  # E[x | noisy] at one noise level for the whole batch


def sigma_grid(low: float, high: float, n_steps: int) -> tuple[float, ...]:
    """Return n_steps + 1 noise levels from low up to high [model units], closer together where noise is small.

    Source:
        Karras et al. 2022, equation 5 with rho = 7 (arXiv:2206.00364).
    """
    first, last = low ** (1 / _RHO), high ** (1 / _RHO)
    inside = ((first + i / n_steps * (last - first)) ** _RHO for i in range(1, n_steps))
    return (low, *inside, high)


def sigma_of_strength(strength: float, *, data_std: float) -> float:
    """Return the noise level [model units] at a time of the cosine schedule; infinite at 1.

    At strength 0.5 there is as much noise as there is data.

    Source:
        Nichol and Dhariwal 2021, section 3.2 (arXiv:2102.09672): alpha = cos(pi t / 2), for data of unit variance.
    """
    return inf if strength >= 1 else data_std * tan(pi * strength / 2)


def strength_of_sigma(sigma: float, *, data_std: float) -> float:
    """Return the time of the cosine schedule at a noise level: the inverse of `sigma_of_strength`."""
    return 2 / pi * atan(sigma / data_std)


def follow(denoise: Denoise, x: Latents, sigmas: Sequence[float], *, solver: str = "heun") -> Latents:
    """Follow the probability flow dx/dsigma = (x - D(x; sigma)) / sigma through noise levels, up or down.

    Down from pure noise it samples; up from an image it finds the noise that the image comes from. It draws no random
    numbers. "euler" is DDIM, with one evaluation a step; "heun" corrects each step by the slope at its end.

    Args:
        denoise: the posterior mean under one condition.
        x: [model units] at the first of the noise levels.
        sigmas: [model units] all above 0, in the order of the visit.
        solver: "heun" or "euler".

    Returns:
        x at the last of the noise levels.

    Source:
        Karras et al. 2022, equation 4 with s = 1 and sigma(t) = t, and Algorithm 1 (arXiv:2206.00364); Song et al.
        2021, equation 13 (DDIM, arXiv:2010.02502).
    """
    for here, there in pairwise(sigmas):
        slope = (x - denoise(x, here)) / here
        ahead = x + (there - here) * slope
        if solver == "heun":
            ahead = x + (there - here) * (slope + (ahead - denoise(ahead, there)) / there) / 2
        x = ahead
    return x


def ancestral(
    denoise: Denoise, x: Latents, sigmas: Sequence[float], *, noise: Callable[[int], Latents]
) -> Latents:  # fmt: skip
    """Sample down through noise levels, with fresh noise at each, and denoise at the last one.

    Args:
        denoise: the posterior mean under one condition.
        x: [model units] at the first of the noise levels.
        sigmas: [model units] descending, all above 0.
        noise: unit Gaussian noise of each step, the same for all that are to be compared.

    Returns:
        Clean latents.

    Source:
        Ho et al. 2020, equations 6 and 7 (arXiv:2006.11239), the posterior of the next level given x and the denoised
        image, with variances that explode; the variance that Favero et al. 2025 sample with (arXiv:2502.03687).
    """
    for number, (here, there) in enumerate(pairwise(sigmas)):
        kept = (there / here) ** 2
        x = denoise(x, here) * (1 - kept) + kept * x + there * sqrt(1 - kept) * noise(number)
    return denoise(x, sigmas[-1])
