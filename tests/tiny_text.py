"""A model that reads text and whose answer is known: Gaussian classes, named by the last word of a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffclass.denoisers import Conditions, GaussianDenoiser, Space

NAMES = ("dark", "grey", "bright")


@dataclass(frozen=True, kw_only=True, eq=False)
class TextDenoiser:
    """Three Gaussians of 2 x 2 grey images; what it is told is recorded."""

    told: list[list[int]] = field(default_factory=list)  # for each call, the prompt of each element
    noisy: list[Tensor] = field(default_factory=list)
    embedded: list[tuple[str, ...]] = field(default_factory=list)
    classes: tuple[str, ...] = ()

    @property
    def exact(self) -> GaussianDenoiser:
        means = torch.tensor([0.2, 0.5, 0.8])[:, None, None, None].expand(3, 1, 2, 2)
        return GaussianDenoiser(means.clone(), 0.1, classes=NAMES)

    @property
    def space(self) -> Space:
        return self.exact.space

    @property
    def sigma_range(self) -> tuple[float, float]:
        return self.exact.sigma_range

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def encode(self, images: Tensor) -> Tensor:
        return self.exact.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        return self.exact.decode(latents)

    def condition_on(self, prompts: Sequence[str]) -> Conditions:
        """Find the class in the last word; the prompt itself is told too, and only recorded."""
        self.embedded.append(tuple(prompts))
        ids = [NAMES.index(prompt.rstrip(".").split()[-1]) for prompt in prompts]
        return Conditions({"ids": torch.tensor(ids), "prompt": torch.arange(len(prompts))})

    def __call__(self, noisy: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        self.told.append(conditions.tensors["prompt"].tolist())
        self.noisy.append(noisy)
        exact = self.exact
        return exact(noisy, sigma, exact.condition_on(NAMES)[conditions.tensors["ids"]])
