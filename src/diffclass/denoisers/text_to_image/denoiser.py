"""A diffusers pipeline as a denoiser: its network, its autoencoder, and text encoders that leave after their work."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, final

import torch
from torch import Tensor, nn

from diffclass.denoisers.parametrisation import Parametrisation
from diffclass.denoisers.protocol import Conditions, Space
from diffclass.denoisers.text_to_image import autoencoder
from diffclass.denoisers.text_to_image.family import Family
from diffclass.denoisers.text_to_image.tokens import check_prompts
from diffclass.errors import ConditionError
from diffclass.types import Images, Latents, Sigmas

__all__ = ["PipelineDenoiser"]

_CHUNK = 32  # prompts embedded at once


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PipelineDenoiser:
    """The network of a diffusers pipeline, told prompts, as a denoiser of latents (or of pixels, without a vae).

    Args:
        family: how the network is called and prompts are embedded.
        pipe: the diffusers pipeline.
        network: its UNet or transformer.
        vae: its autoencoder; None where the network sees pixels.
        parametrisation: what the network's input, time and output mean.
        space: of images, and of latents.
        sigma_range: [model units] of the scheduler.
        device: where the network computes.
        classes: names it was trained on; empty for free text.
        metadata: defaults of a classifier, under "classifier".
        note: what to know before trusting it, or None.
        embedded: what was embedded last.
    """

    family: Family
    pipe: Any
    network: nn.Module
    vae: nn.Module | None
    parametrisation: Parametrisation
    space: Space
    sigma_range: tuple[float, float]
    device: torch.device
    classes: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    note: str | None = None
    embedded: dict[tuple[str, ...], Conditions] = field(default_factory=dict, repr=False)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the network."""
        return next(self.network.parameters()).dtype

    def encode(self, images: Images) -> Latents:
        """Convert images in [0, 1] to latents: the mean of the encoder, shifted and scaled."""
        if tuple(images.shape[1:]) != self.space.image_shape or self.vae is None:
            return self.space.to_model(images)  # which says what shape it wants
        return autoencoder.encode(self.vae, images)

    def decode(self, latents: Latents) -> Images:
        """Convert latents to images in [0, 1], without clipping."""
        return self.space.to_images(latents) if self.vae is None else autoencoder.decode(self.vae, latents)

    @torch.no_grad()
    def condition_on(self, prompts: Sequence[str]) -> Conditions:
        """Embed prompts, once: the same prompts again are not embedded again.

        Text encoders are on the network's device while they work, and on the CPU before and after.

        Raises:
            ConditionError: a prompt is empty or longer than every tokenizer reads, two give the model the same, or the
                model knows its classes and this is none.
        """
        key = tuple(prompts)
        if key in self.embedded:
            return self.embedded[key]
        if self.classes:
            self._check_classes(key)
        else:
            check_prompts(key, self.pipe, self.family.limits(self.pipe))
        with torch.inference_mode(False), _encoders_on(self.pipe, self.device):
            chunks = [list(key[i : i + _CHUNK]) for i in range(0, len(key), _CHUNK)]
            parts = [self.family.embed(self.pipe, chunk, self.device) for chunk in chunks]
            null = None if self.family.null is None else self.family.null(self.pipe, self.device)
        tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        conditions = Conditions(self._cast(tensors), null and self._cast(null))
        self.embedded.clear()
        self.embedded[key] = conditions
        return conditions

    def __call__(self, noisy: Latents, sigma: Sigmas, conditions: Conditions) -> Latents:
        """Return E[x | noisy, prompt]: the network in its own dtype, everything around it in at least float32."""
        noisy = noisy.to(torch.promote_types(noisy.dtype, torch.float32))
        sample, time = self.parametrisation.prepare(noisy, sigma)
        size = self.space.height, self.space.width
        output = self.family.call(self.network, sample.to(self.dtype), time, conditions.tensors, size)
        output = output[:, : noisy.shape[1]].to(noisy.dtype)  # learned variances come after
        return self.parametrisation.denoised(noisy, sigma, output)

    def _cast(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Bring embeddings to the network's device and dtype, masks and ids to the device alone."""
        return {
            name: tensor.to(self.device, self.dtype if tensor.is_floating_point() else tensor.dtype)
            for name, tensor in tensors.items()
        }

    def _check_classes(self, prompts: tuple[str, ...]) -> None:
        """Refuse a class that the model was not trained on."""
        wrong = next((prompt for prompt in prompts if prompt not in self.classes), None)
        if prompts and wrong is None:
            return
        near = get_close_matches(wrong or "", self.classes, n=1)
        raise ConditionError(
            f"The model was trained on {len(self.classes)} classes by name, from {self.classes[0]!r} to "
            f"{self.classes[-1]!r}, and reads no other text. Got {wrong!r}."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )


@contextmanager
def _encoders_on(pipe: Any, device: torch.device) -> Iterator[None]:
    """Put the text encoders on a device, and back on the CPU in the end."""
    encoders = [part for name, part in pipe.components.items() if name.startswith("text_encoder") and part is not None]
    try:
        for encoder in encoders:
            encoder.to(device)
        yield
    finally:
        for encoder in encoders:
            encoder.to("cpu")
