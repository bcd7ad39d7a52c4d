"""Sana: a linear transformer on a flow, that reads a Gemma which was first told how to elaborate prompts."""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diffclass.denoisers.parametrisation import Flow, Parametrisation
from diffclass.denoisers.scheduler import parametrisation_of
from diffclass.denoisers.text_to_image.family import Family, Size

__all__ = ["SANA"]

_TOKENS = 300  # as the pipeline reads, after its instruction


def _embed(pipe: Any, prompts: list[str], device: torch.device) -> dict[str, Tensor]:
    """Embed prompts behind the pipeline's own instruction, which is the same for all of them."""
    instruction = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default
    states, mask, _, _ = pipe.encode_prompt(
        prompts,
        do_classifier_free_guidance=False,
        device=device,
        max_sequence_length=_TOKENS,
        complex_human_instruction=instruction,
    )
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


def _null(pipe: Any, device: torch.device) -> dict[str, Tensor]:
    """Return the empty prompt, without an instruction, as the pipeline does."""
    states, mask, _, _ = pipe.encode_prompt("", False, device=device, max_sequence_length=_TOKENS)
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


def _call(network: Any, sample: Tensor, time: Tensor, given: Mapping[str, Tensor], size: Size) -> Tensor:
    return network(sample, timestep=time, return_dict=False, **given)[0]


def _parametrisation(pipe: Any, distilled: bool) -> tuple[Parametrisation, tuple[float, float]]:
    flow, sigma_range = parametrisation_of(pipe.scheduler.config, distilled=distilled)
    if isinstance(flow, Flow):
        flow = replace(flow, time_scale=flow.time_scale * pipe.transformer.config.timestep_scale)
    return flow, sigma_range


def _distilled(pipe: Any) -> str | None:
    if not pipe.transformer.config.guidance_embeds:
        return None
    return "its network takes a guidance scale (guidance_embeds), as Sana Sprint does"


SANA = Family(
    name="Sana",
    pipelines=("SanaPipeline",),
    part="transformer",
    encoders=("text_encoder",),
    embed=_embed,
    call=_call,
    cells=lambda pipe: pipe.transformer.config.sample_size,
    limits=lambda pipe: {"tokenizer": _TOKENS},
    parametrisation=_parametrisation,
    distilled=_distilled,
    null=_null,
)
