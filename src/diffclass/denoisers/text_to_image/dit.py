"""DiT on latents: a transformer that is told a class by number instead of reading a prompt."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffclass.denoisers.text_to_image.family import Family, Size

__all__ = ["DIT"]


def _classes(pipe: Any) -> tuple[str, ...]:
    """Return the first name of each class, or its number where the model has no names."""
    n = pipe.transformer.config.num_embeds_ada_norm
    labels = getattr(pipe.config, "id2label", None) or pipe.config.get("id2label") or {}
    names = [str(labels.get(str(i), labels.get(i, i))).split(",")[0].strip() for i in range(n)]
    twice = {name for name in names if names.count(name) > 1}  # "crane" the bird and the machine
    return tuple(f"{name} ({i})" if name in twice else name for i, name in enumerate(names))


def _embed(pipe: Any, prompts: list[str], device: torch.device) -> dict[str, Tensor]:
    classes = _classes(pipe)
    return {"class_labels": torch.tensor([classes.index(prompt) for prompt in prompts], device=device)}


def _call(network: Any, sample: Tensor, time: Tensor, given: Mapping[str, Tensor], size: Size) -> Tensor:
    return network(sample, timestep=time, class_labels=given["class_labels"], return_dict=False)[0]


DIT = Family(
    name="DiT",
    pipelines=("DiTPipeline",),
    part="transformer",
    encoders=(),
    embed=_embed,
    call=_call,
    cells=lambda pipe: pipe.transformer.config.sample_size,
    limits=lambda pipe: {},
    null=lambda pipe, device: {
        "class_labels": torch.tensor([pipe.transformer.config.num_embeds_ada_norm], device=device)
    },
    classes=_classes,
)
