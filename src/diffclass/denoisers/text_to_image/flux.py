"""Flux.1: a rectified flow on latents in 2x2 patches, whose time is in [0, 1] and whose guidance is an input."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from diffclass.denoisers.parametrisation import Flow, Parametrisation
from diffclass.denoisers.scheduler import parametrisation_of
from diffclass.denoisers.text_to_image.family import Family, Size

__all__ = ["FLUX"]

_T5_TOKENS = 512  # as the pipeline reads; 256 for the model without guidance
_CELLS = 128  # the configuration of the network does not say
_GUIDANCE = 1.0


def _embed(pipe: Any, prompts: list[str], device: torch.device) -> dict[str, Tensor]:
    states, pooled, _ = pipe.encode_prompt(prompts, device=device, max_sequence_length=_tokens(pipe))
    return {"encoder_hidden_states": states, "pooled_projections": pooled}


def _tokens(pipe: Any) -> int:
    return _T5_TOKENS if pipe.transformer.config.guidance_embeds else _T5_TOKENS // 2


def _positions(height: int, width: int, like: Tensor) -> Tensor:
    """Return a row (0, row, column) for each patch."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).to(like)


def _call(network: Any, sample: Tensor, time: Tensor, given: Mapping[str, Tensor], size: Size) -> Tensor:
    states = given["encoder_hidden_states"]
    patches = pixel_unshuffle(sample, 2)  # channel by channel, its four places side by side: as the pipeline packs
    height, width = patches.shape[2:]
    guidance = torch.full((len(sample),), _GUIDANCE, device=sample.device) if network.config.guidance_embeds else None
    output = network(
        hidden_states=patches.flatten(2).transpose(1, 2),
        timestep=time,
        encoder_hidden_states=states,
        pooled_projections=given["pooled_projections"],
        img_ids=_positions(height, width, states),
        txt_ids=states.new_zeros(states.shape[1], 3),
        guidance=guidance,
        return_dict=False,
    )[0]
    return pixel_shuffle(output.transpose(1, 2).unflatten(2, (height, width)), 2)


def _parametrisation(pipe: Any, distilled: bool) -> tuple[Parametrisation, tuple[float, float]]:
    _, sigma_range = parametrisation_of(pipe.scheduler.config, distilled=distilled)
    return Flow(time_scale=1.0), sigma_range


def _distilled(pipe: Any) -> str | None:
    if pipe.transformer.config.guidance_embeds:
        return None
    return "its network takes no guidance (guidance_embeds is false), as Flux.1 schnell, which takes four steps"


def _note(pipe: Any) -> str | None:
    if not pipe.transformer.config.guidance_embeds:
        return None
    return (
        "This Flux is guidance-distilled: it was trained to imitate a guided model, so its answer is not quite the "
        "mean "
        f"of the clean image. It is called with guidance {_GUIDANCE:g}, where it comes closest."
    )


FLUX = Family(
    name="Flux.1",
    pipelines=("FluxPipeline",),
    part="transformer",
    encoders=("text_encoder", "text_encoder_2"),
    embed=_embed,
    call=_call,
    cells=lambda pipe: _CELLS,
    limits=lambda pipe: {"tokenizer": pipe.tokenizer.model_max_length, "tokenizer_2": _tokens(pipe)},
    parametrisation=_parametrisation,
    distilled=_distilled,
    note=_note,
    packs=2,
)
