"""How far a denoised latent is from what it should be."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from diffclass.types import Latents

__all__ = ["distance", "distances", "total"]


def distance(denoised: Latents, target: Latents, name: str) -> Float[Tensor, " batch"]:
    """Return the distance summed over each latent, in float32, or in float64 where the latents are.

    Args:
        denoised: what the model returned.
        target: what it should have returned.
        name: "l2" (squared), or the heuristics "l1" and "huber".
    """
    return total(distances(denoised, target, name))


def distances(denoised: Latents, target: Latents, name: str) -> Latents:
    """Return what each value of a latent adds to its distance; the arguments are those of `distance`."""
    wide = torch.promote_types(torch.promote_types(denoised.dtype, target.dtype), torch.float32)
    difference = denoised.to(wide) - target.to(wide)
    if name == "l2":
        return difference**2
    if name == "l1":
        return difference.abs()
    return smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none")


def total(parts: Latents) -> Float[Tensor, " batch"]:
    """Sum distances over each latent."""
    return parts.flatten(1).sum(dim=1)
