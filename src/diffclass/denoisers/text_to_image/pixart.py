"""PixArt alpha and Sigma: a transformer that reads a T5 under a mask, and returns variances after its noise."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffclass.denoisers.text_to_image.family import Family, Size

__all__ = ["PIXART"]


def _tokens(pipe: Any) -> int:
    """Return how many tokens the pipeline reads: 120 for alpha, 300 for Sigma."""
    return 300 if "Sigma" in type(pipe).__name__ else 120


def _embed(pipe: Any, prompts: list[str], device: torch.device) -> dict[str, Tensor]:
    states, mask, _, _ = pipe.encode_prompt(
        prompts, do_classifier_free_guidance=False, device=device, max_sequence_length=_tokens(pipe)
    )
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


def _call(network: Any, sample: Tensor, time: Tensor, given: Mapping[str, Tensor], size: Size) -> Tensor:
    sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if network.use_additional_conditions:  # the size in pixels, and height over width
        height, width = size
        pixels = torch.tensor([[height, width]], dtype=sample.dtype, device=sample.device)
        ratio = torch.tensor([[height / width]], dtype=sample.dtype, device=sample.device)
        sizes = {"resolution": pixels.expand(len(sample), -1), "aspect_ratio": ratio.expand(len(sample), -1)}
    return network(sample, timestep=time, added_cond_kwargs=sizes, return_dict=False, **given)[0]


PIXART = Family(
    name="PixArt alpha and Sigma",
    pipelines=("PixArtAlphaPipeline", "PixArtSigmaPipeline"),
    part="transformer",
    encoders=("text_encoder",),
    embed=_embed,
    call=_call,
    cells=lambda pipe: pipe.transformer.config.sample_size,
    limits=lambda pipe: {"tokenizer": _tokens(pipe)},
    null=lambda pipe, device: _embed(pipe, [""], device),
)
