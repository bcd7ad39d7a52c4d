"""The one extension point: what a model must be to classify."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from diffclass.denoisers.haar import haar, inverse_haar
from diffclass.errors import ShapeError, UnsupportedModel
from diffclass.types import Images, Latents, Sigmas

__all__ = ["Conditions", "Denoiser", "SharesDraws", "Space"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Where a model lives, and the only place that converts between images and models.

    model = pixel_unshuffle(scale * image + offset, patch). The patch step is a permutation of pixels, so that
    Gaussian noise stays Gaussian noise and squared errors keep their value. With `haar` an orthonormal transform, of
    which the same is true, comes before it.

    A model on the latents of an autoencoder says their shape in `latent`; its own encode and decode convert, and scale,
    offset and patch mean nothing.
    """

    channels: int  # of an image
    height: int  # [pixels]
    width: int  # [pixels]
    scale: float = 2.0  # model units for one image unit: 2 for images in [-1, 1]
    offset: float = -1.0
    patch: int = 1  # patch x patch pixels become channels
    data_std: float = 0.5  # [model units] standard deviation of the data
    haar: bool = False  # one level of the Haar transform: 2 x 2 pixels become channels, before the patches
    latent: tuple[int, int, int] | None = None  # channels, height and width of a latent

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.channels, self.height, self.width

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the denoiser sees."""
        if self.latent is not None:
            return self.latent
        side = self.patch * (2 if self.haar else 1)
        return self.channels * side**2, self.height // side, self.width // side

    @property
    def dimension(self) -> int:
        """Number of values in what the denoiser sees."""
        return prod(self.shape)

    def to_model(self, images: Images) -> Latents:
        """Convert images in [0, 1] to model units."""
        if tuple(images.shape[1:]) != self.image_shape:
            raise ShapeError(
                f"Images must have shape {self.image_shape} (channels, height, width). Got {tuple(images.shape[1:])}."
            )
        self._refuse_latents()
        model = images * self.scale + self.offset
        return pixel_unshuffle(haar(model) if self.haar else model, self.patch)

    def to_images(self, latents: Latents) -> Images:
        """Convert model units to images in [0, 1], without clipping."""
        self._refuse_latents()
        model = pixel_shuffle(latents, self.patch)
        return ((inverse_haar(model) if self.haar else model) - self.offset) / self.scale

    def located(self, parts: Latents) -> Float[Tensor, "batch height width"]:
        """Add up over channels what the values of a latent stand for, where they are in the image.

        The grid is that of the pixels, or of an autoencoder's latents, each of which is a square of pixels. What a Haar
        coefficient stands for is shared evenly by its 2x2 pixels.
        """
        located = (parts if self.latent is not None else pixel_shuffle(parts, self.patch)).sum(dim=1)
        return located.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2) / 4 if self.haar else located

    def sigma_to_model(self, sigma: float) -> float:
        """Convert a noise standard deviation from image units to model units."""
        self._refuse_latents()
        return sigma * self.scale

    def _refuse_latents(self) -> None:
        if self.latent is not None:
            raise UnsupportedModel(
                "This model sees the latents of an autoencoder, in which noise of pixels is not Gaussian noise of "
                "known "
                "size. Use a model of pixels."
            )


@dataclass(frozen=True, slots=True)
class Conditions:
    """Embedded classes or prompts, indexed along their first axis.

    Args:
        tensors: what the model is given for each class, by the model's own argument names.
        null: the same for "no condition" (first axis 1), or None where the model was not trained without one.
    """

    tensors: Mapping[str, Tensor]
    null: Mapping[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, classes: Tensor) -> "Conditions":
        """Pick one condition for each element of a batch of class indices."""
        return Conditions({name: tensor[classes] for name, tensor in self.tensors.items()}, self.null)

    def without_class(self, n: int) -> "Conditions":
        """Return n copies of the null condition."""
        if self.null is None:
            raise ShapeError("This model has no null condition, because it was trained without label dropout.")
        return Conditions({name: t.expand(n, *t.shape[1:]) for name, t in self.null.items()}, self.null)


@runtime_checkable
class Denoiser(Protocol):
    """A conditional posterior mean E[x | x + sigma * epsilon, condition].

    Outsiders conform without importing anything from here; `check_denoiser` tells whether they do.
    """

    @property
    def space(self) -> Space:
        """Where the model lives, in relation to images."""
        ...

    @property
    def sigma_range(self) -> tuple[float, float]:
        """[model units] Where the model can be trusted."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names it was trained on; empty if it takes free text."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        ...

    def encode(self, images: Images) -> Latents:
        """Convert images in [0, 1] to what the denoiser sees."""
        ...

    def decode(self, latents: Latents) -> Images:
        """Convert back to images in [0, 1]."""
        ...

    def condition_on(self, prompts: Sequence[str]) -> Conditions:
        """Embed classes or prompts, once."""
        ...

    def __call__(self, noisy: Latents, sigma: Sigmas, conditions: Conditions) -> Latents:
        """Return E[x | noisy, condition], one condition for each element of the batch."""
        ...


@runtime_checkable
class SharesDraws(Protocol):
    """A denoiser that does part of its work once for all conditions of a noisy image; the engine uses it if it can."""

    def denoise_each(
        self,
        noisy: Float[Tensor, "group _ _ _"],
        sigma: Float[Tensor, " group"],
        conditions: Conditions,
        rows: Int64[Tensor, " batch"],
    ) -> Latents:
        """Return what the denoiser returns for noisy[rows], sigma[rows] and conditions, one for each row."""
        ...
