"""Names for the arrays that recur, with their axes and units.

Axis names, here and everywhere: image class draw channel height width batch group view prompt.
"""

from jaxtyping import Bool, Float, Float32, Float64, Int
from numpy import ndarray
from torch import Tensor

__all__ = ["Classes", "Errors", "Images", "Latents", "LogJoint", "Sigmas", "Survivors", "Weights"]

Images = Float[Tensor, "batch channel height width"]  # [image units: pixels in 0..1]
Latents = Float[Tensor, "batch _ _ _"]  # [model units] what a denoiser sees
Sigmas = Float[Tensor, " batch"]  # [model units] noise standard deviation
Classes = Int[Tensor, " batch"]  # index of a class

Errors = Float32[ndarray, "draw class"]  # [model units squared, summed over the latent] NaN: not measured
Weights = Float64[ndarray, " draw"]  # importance weight w(sigma)/q(sigma) of a draw
LogJoint = Float64[ndarray, " class"]  # log p(class) + evidence for it
Survivors = Bool[ndarray, " class"]
