"""Stable Diffusion XL: two CLIP encoders, a pooled embedding, and the size of the picture as a condition."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffclass.denoisers.text_to_image.family import Family, Size

__all__ = ["STABLE_DIFFUSION_XL"]


def _embed(pipe: Any, prompts: list[str], device: torch.device) -> dict[str, Tensor]:
    states, _, pooled, _ = pipe.encode_prompt(prompts, device=device, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": states, "text_embeds": pooled}


def _null(pipe: Any, device: torch.device) -> dict[str, Tensor]:
    """Return zeros where the model was trained so, else the empty prompt."""
    empty = _embed(pipe, [""], device)
    if pipe.config.get("force_zeros_for_empty_prompt", True):
        return {name: torch.zeros_like(tensor) for name, tensor in empty.items()}
    return empty


def _call(network: Any, sample: Tensor, time: Tensor, given: Mapping[str, Tensor], size: Size) -> Tensor:
    # Podell et al. 2023, section 2.2: the original size, a crop at the corner, and the target size [pixels].
    height, width = size
    sizes = torch.tensor([height, width, 0, 0, height, width], dtype=sample.dtype, device=sample.device)
    return network(
        sample,
        time,
        encoder_hidden_states=given["encoder_hidden_states"],
        added_cond_kwargs={"text_embeds": given["text_embeds"], "time_ids": sizes.expand(len(sample), -1)},
        return_dict=False,
    )[0]


def _distilled(pipe: Any) -> str | None:
    if getattr(pipe.unet.config, "time_cond_proj_dim", None) is None:
        return None
    return "its network takes a guidance scale (time_cond_proj_dim), as latent consistency models do"


STABLE_DIFFUSION_XL = Family(
    name="Stable Diffusion XL",
    pipelines=("StableDiffusionXLPipeline",),
    part="unet",
    encoders=("text_encoder", "text_encoder_2"),
    embed=_embed,
    call=_call,
    cells=lambda pipe: pipe.unet.config.sample_size,
    limits=lambda pipe: {
        "tokenizer": pipe.tokenizer.model_max_length,
        "tokenizer_2": pipe.tokenizer_2.model_max_length,
    },
    distilled=_distilled,
    null=_null,
)
