"""One level of the orthonormal Haar transform: four half-size pictures of each channel, of the same squared length."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

__all__ = ["haar", "inverse_haar"]


def haar(images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch _ _ _"]:
    """Return sum, horizontal, vertical and diagonal differences of every 2x2 pixels, each halved.

    The transform is orthonormal: squared errors keep their value, and white Gaussian noise of a standard deviation
    stays white Gaussian noise of that standard deviation.

    Source:
        Haar 1910; Mallat 2008, section 7.7.1.
    """
    return _mixed(pixel_unshuffle(images, 2))


def inverse_haar(bands: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch channel height width"]:
    """Return the images whose transform this is.

    Source:
        Haar 1910; Mallat 2008, section 7.7.1 (the 4x4 matrix of a block is its own inverse).
    """
    return pixel_shuffle(_mixed(bands), 2)


def _mixed(blocks: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch _ _ _"]:
    """Apply the 4x4 Hadamard matrix over 2 to every four channels."""
    a, b, c, d = blocks.unflatten(1, (-1, 4)).unbind(2)
    top, bottom, left, right = a + b, c + d, a - b, c - d
    mixed = (top + bottom, left + right, top - bottom, left - right)
    return (torch.stack(mixed, dim=2) / 2).flatten(1, 2)
