"""What a recipe says about noise, as the numbers that the loop and the finished denoiser need."""

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from scipy.special import ndtri
from torch import Tensor

from diffclass.denoisers.parametrisation import EDM
from diffclass.denoisers.protocol import Space
from diffclass.train.recipe import NoisePart, Recipe

__all__ = ["cosine_sigma", "draw_sigmas", "loss_factor", "parametrisation", "trained_range"]

_TAIL = 0.00135  # of a normal distribution beyond three standard deviations


def cosine_sigma(noise: NoisePart, quantile: Float64[ndarray, " batch"], side: int) -> Float64[ndarray, " batch"]:
    """Return the noise levels [model units] of the shifted cosine schedule at times in (0, 1).

    log(alpha^2 / sigma^2) is -2 log tan(a + t (b - a)) - 2 log(side / base_side), so that the standard deviation of the
    noise beside an unscaled image is side / base_side times the tangent: pixels averaged to the base size are then as
    noisy as they would be there. Images smaller than that are not shifted.

    Args:
        noise: its log_snr and base_side.
        quantile: times.
        side: [pixels] of the images, whatever transform they enter the network by.

    Source:
        Hoogeboom, Heek and Salimans 2023, section 3.1 and appendix B (arXiv:2301.11093).
    """
    low, high = (np.arctan(np.exp(-end / 2)) for end in reversed(noise.log_snr))
    return max(1.0, side / noise.base_side) * np.tan(low + quantile * (high - low))


def draw_sigmas(recipe: Recipe, side: int, random: torch.Generator) -> Float[Tensor, " batch"]:
    """Draw the noise levels of one step, one in each of batch_size strata of equal probability."""
    train = recipe.train
    strata = torch.randperm(train.batch_size, generator=random) + torch.rand(train.batch_size, generator=random)
    quantile = (strata / train.batch_size).double().clamp(1e-6, 1 - 1e-6).numpy()
    if recipe.noise.schedule == "shifted-cosine":
        return torch.from_numpy(cosine_sigma(recipe.noise, quantile, side)).float()
    return torch.from_numpy(np.exp(train.log_sigma_mean + train.log_sigma_std * ndtri(quantile))).float()


def trained_range(recipe: Recipe, side: int) -> tuple[float, float]:
    """Return between which noise levels [model units] all but 0.3% of the training images were."""
    if recipe.noise.schedule == "shifted-cosine":
        low, high = cosine_sigma(recipe.noise, np.array([_TAIL, 1 - _TAIL]), side)
    else:
        low, high = np.exp(recipe.train.log_sigma_mean + np.array([-3, 3]) * recipe.train.log_sigma_std)
    return float(low), float(high)


def parametrisation(recipe: Recipe, space: Space) -> EDM:
    """Return what the network's output means.

    A network that predicts v = alpha epsilon - sigma x0 of a variance-preserving process answers D = x / (1 + s^2) -
    s / sqrt(1 + s^2) v, where s = sigma / alpha: EDM's preconditioning for data of unit variance, but for the sign.

    Source:
        Salimans and Ho 2022, appendix D (arXiv:2202.00512); Karras et al. 2022, equation 7 (arXiv:2206.00364).
    """
    if recipe.noise.prediction == "v":
        return EDM(sigma_data=1.0, time_scale=recipe.train.time_scale, sign=-1.0)
    return EDM(space.data_std, recipe.train.time_scale)


def loss_factor(noise: NoisePart, sigma: Float[Tensor, " batch"], edm: EDM) -> Float[Tensor, " batch"] | None:
    """Return what the squared error of the network's output is multiplied by; None: by 1.

    Under min-SNR the squared error of the image counts min(SNR, gamma), where SNR = sigma^-2. Of the error of v that
    makes min(SNR, gamma) / (SNR + 1), of that of the noise min(SNR, gamma) / SNR.

    Source:
        Hang et al. 2023, equation 8 and section 3.3 (arXiv:2303.09556).
    """
    if noise.weighting == "edm":
        return None
    image_per_output = (sigma * edm.sigma_data) ** 2 / (sigma**2 + edm.sigma_data**2)  # c_out^2
    return (sigma**-2.0).clamp(max=noise.gamma) * image_per_output
