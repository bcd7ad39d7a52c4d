"""What differs from one family of text-to-image models to the next, as a value."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from diffclass.denoisers.parametrisation import Parametrisation
from diffclass.denoisers.scheduler import parametrisation_of

__all__ = ["Family", "Size", "by_scheduler", "says_nothing", "shift_of"]

Embed = Callable[[Any, list[str], torch.device], dict[str, Tensor]]
Size = tuple[int, int]
Call = Callable[[Any, Tensor, Tensor, Mapping[str, Tensor], Size], Tensor]
Found = tuple[Parametrisation, tuple[float, float]]


def by_scheduler(pipe: Any, distilled: bool) -> Found:
    """Read the parametrisation and the noise range from the pipeline's own scheduler."""
    return parametrisation_of(pipe.scheduler.config, distilled=distilled)


def says_nothing(pipe: Any) -> str | None:
    """Have nothing to say of a pipeline."""
    return None


def shift_of(pipe: Any, tokens: int) -> float:
    """Return by how much a flow's noise level is shifted at this many tokens: sigma becomes shift * sigma.

    Source:
        Esser et al. 2024, equation 23 (arXiv:2403.03206); dynamic shifts grow with the number of tokens.
    """
    config = pipe.scheduler.config
    if not config.get("use_dynamic_shifting", False):
        return float(config.get("shift") or config.get("flow_shift") or 1.0)
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return float(torch.tensor(low + (high - low) * (tokens - few) / (many - few)).exp())


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family of models: how prompts are embedded and how the network is called.

    Args:
        name: for people.
        pipelines: diffusers' pipeline classes whose models are of this family.
        part: attribute of the pipeline that is the network, "unet" or "transformer".
        encoders: attributes that are text encoders which the model cannot do without.
        embed: (pipeline, prompts, device) to what the network is given for each, by its own argument names.
        call: (network, noisy input, time, embedded prompts, height and width of the image [pixels]) to its output.
        cells: pipeline to the height and width [latent cells] that the model was trained on.
        limits: pipeline to the tokens that each tokenizer reads, by its attribute. What one cuts, another may read.
        parametrisation: (pipeline, whether a distilled model is wanted) to what input, time and output mean.
        distilled: pipeline to why its network does not estimate the mean of the clean image, or None.
        note: pipeline to what a user of it should know, or None.
        null: (pipeline, device) to the condition "no prompt", or None where the model was not trained without one.
        packs: latent cells a side that are packed into one token before the network, beyond its own patches.
        classes: pipeline to the class names it was trained on; empty for free text.
    """

    name: str
    pipelines: tuple[str, ...]
    part: str
    encoders: tuple[str, ...]
    embed: Embed
    call: Call
    cells: Callable[[Any], int]
    limits: Callable[[Any], dict[str, int]]
    parametrisation: Callable[[Any, bool], Found] = by_scheduler
    distilled: Callable[[Any], str | None] = says_nothing
    note: Callable[[Any], str | None] = says_nothing
    null: Callable[[Any, torch.device], dict[str, Tensor]] | None = None
    packs: int = 1
    classes: Callable[[Any], tuple[str, ...]] = lambda pipe: ()
