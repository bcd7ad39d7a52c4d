"""Stable Diffusion 3 and 3.5: a rectified flow that reads two CLIP encoders and, where there is one, a T5."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffclass.denoisers.text_to_image.family import Family, Size

__all__ = ["STABLE_DIFFUSION_3"]

_T5_TOKENS = 256  # as the pipeline reads


def _embed(pipe: Any, prompts: list[str], device: torch.device) -> dict[str, Tensor]:
    states, _, pooled, _ = pipe.encode_prompt(
        prompts, None, None, device=device, do_classifier_free_guidance=False, max_sequence_length=_T5_TOKENS
    )
    return {"encoder_hidden_states": states, "pooled_projections": pooled}


def _call(network: Any, sample: Tensor, time: Tensor, given: Mapping[str, Tensor], size: Size) -> Tensor:
    return network(
        hidden_states=sample,
        timestep=time,
        encoder_hidden_states=given["encoder_hidden_states"],
        pooled_projections=given["pooled_projections"],
        return_dict=False,
    )[0]


def _limits(pipe: Any) -> dict[str, int]:
    clip = pipe.tokenizer.model_max_length
    t5 = {} if pipe.tokenizer_3 is None or pipe.text_encoder_3 is None else {"tokenizer_3": _T5_TOKENS}
    return {"tokenizer": clip, "tokenizer_2": clip, **t5}


STABLE_DIFFUSION_3 = Family(
    name="Stable Diffusion 3 and 3.5",
    pipelines=("StableDiffusion3Pipeline",),
    part="transformer",
    encoders=("text_encoder", "text_encoder_2"),
    embed=_embed,
    call=_call,
    cells=lambda pipe: pipe.transformer.config.sample_size,
    limits=_limits,
    null=lambda pipe, device: _embed(pipe, [""], device),
)
