"""Autoencoders of latent models: pixels in [0, 1] to the latents that a network was trained on, and back."""

from typing import Any

import torch
from torch import Tensor

from diffclass.types import Images, Latents

__all__ = ["decode", "encode", "latent_channels", "reduction"]


def reduction(vae: Any) -> int:
    """Return how many pixels a side of one latent cell has."""
    config = vae.config
    blocks = config.get("block_out_channels") or config["encoder_block_out_channels"]
    return 2 ** (len(blocks) - 1)


def latent_channels(vae: Any) -> int:
    """Return the channels of a latent."""
    return vae.config["latent_channels"]


def encode(vae: Any, images: Images) -> Latents:
    """Return the mean of the encoder's distribution, shifted and scaled as the autoencoder's configuration says.

    Source:
        Li et al. 2023, section 4 (arXiv:2303.16203): the mean and not a sample; Rombach et al. 2022, appendix G
        (arXiv:2112.10752): latents are scaled to unit variance.
    """
    found = vae.encode(images.to(vae.dtype) * 2 - 1)
    latents = found.latent_dist.mean if "latent_dist" in found else found.latent
    shift, scale = _statistics(vae, latents.float())
    return (latents.float() - shift) * scale


def decode(vae: Any, latents: Latents) -> Images:
    """Return pixels in [0, 1], without clipping."""
    shift, scale = _statistics(vae, latents)
    return (vae.decode((latents / scale + shift).to(vae.dtype)).sample.float() + 1) / 2


def _statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is taken off a latent and what it is then multiplied by: numbers, or one a channel."""
    config = vae.config
    scale = torch.tensor(float(config.get("scaling_factor") or 1.0)).to(like)
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        mean, std = (torch.as_tensor(values).to(like).reshape(1, -1, 1, 1) for values in (mean, std))
        return mean, scale / std
    return torch.tensor(float(config.get("shift_factor") or 0.0)).to(like), scale
