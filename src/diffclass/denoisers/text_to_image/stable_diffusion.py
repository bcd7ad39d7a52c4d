"""Stable Diffusion 1.x and 2.x: a UNet on the latents of a KL autoencoder that reads one CLIP encoder's states."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffclass.denoisers.text_to_image.family import Family, Size

__all__ = ["STABLE_DIFFUSION"]


def _embed(pipe: Any, prompts: list[str], device: torch.device) -> dict[str, Tensor]:
    states, _ = pipe.encode_prompt(prompts, device, 1, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": states}


def _call(network: Any, sample: Tensor, time: Tensor, given: Mapping[str, Tensor], size: Size) -> Tensor:
    return network(sample, time, encoder_hidden_states=given["encoder_hidden_states"], return_dict=False)[0]


def _distilled(pipe: Any) -> str | None:
    if getattr(pipe.unet.config, "time_cond_proj_dim", None) is None:
        return None
    return "its network takes a guidance scale (time_cond_proj_dim), as latent consistency models do"


STABLE_DIFFUSION = Family(
    name="Stable Diffusion 1 and 2",
    pipelines=("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"),
    part="unet",
    encoders=("text_encoder",),
    embed=_embed,
    call=_call,
    cells=lambda pipe: pipe.unet.config.sample_size,
    limits=lambda pipe: {"tokenizer": pipe.tokenizer.model_max_length},
    distilled=_distilled,
    null=lambda pipe, device: _embed(pipe, [""], device),
)
