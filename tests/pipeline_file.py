"""The tiny Stable Diffusion as one file, with the names that its first authors gave to the tensors."""

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

_UNET = (
    ("conv_in.", "input_blocks.0.0."), ("down_blocks.0.resnets.0.", "input_blocks.1.0."),
    ("down_blocks.0.downsamplers.0.conv.", "input_blocks.2.0.op."), ("down_blocks.1.resnets.0.", "input_blocks.3.0."),
    ("down_blocks.1.attentions.0.", "input_blocks.3.1."), ("mid_block.resnets.0.", "middle_block.0."),
    ("mid_block.attentions.0.", "middle_block.1."), ("mid_block.resnets.1.", "middle_block.2."),
    ("up_blocks.0.resnets.0.", "output_blocks.0.0."), ("up_blocks.0.attentions.0.", "output_blocks.0.1."),
    ("up_blocks.0.resnets.1.", "output_blocks.1.0."), ("up_blocks.0.attentions.1.", "output_blocks.1.1."),
    ("up_blocks.0.upsamplers.0.conv.", "output_blocks.1.2.conv."), ("up_blocks.1.resnets.0.", "output_blocks.2.0."),
    ("up_blocks.1.resnets.1.", "output_blocks.3.0."), ("time_embedding.linear_1.", "time_embed.0."),
    ("time_embedding.linear_2.", "time_embed.2."), ("conv_norm_out.", "out.0."), ("conv_out.", "out.2."),
)  # fmt: skip
_RESNET = (
    ("norm1.", "in_layers.0."), ("conv1.", "in_layers.2."), ("time_emb_proj.", "emb_layers.1."),
    ("norm2.", "out_layers.0."), ("conv2.", "out_layers.3."), ("conv_shortcut.", "skip_connection."),
)  # fmt: skip
_VAE = (
    (r"down_blocks\.(\d)\.resnets\.(\d)\.", r"down.\1.block.\2."),
    (r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample."),
    (r"mid_block\.resnets\.0\.", "mid.block_1."), (r"mid_block\.resnets\.1\.", "mid.block_2."),
    (r"mid_block\.attentions\.0\.", "mid.attn_1."), ("conv_norm_out", "norm_out"), ("conv_shortcut", "nin_shortcut"),
    (r"up_blocks\.0\.resnets\.(\d)\.", r"up.1.block.\1."), (r"up_blocks\.1\.resnets\.(\d)\.", r"up.0.block.\1."),
    (r"up_blocks\.0\.upsamplers\.0\.", "up.1.upsample."),
    ("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), (r"to_out\.0", "proj_out"),
)  # fmt: skip


def save_single_file(pipe: Any, path: Path) -> Path:
    """Write all weights of a tiny Stable Diffusion into one file."""
    tensors = {f"model.diffusion_model.{_unet_name(k)}": t for k, t in pipe.unet.state_dict().items()}
    for key, tensor in pipe.vae.state_dict().items():
        name = key
        for pattern, replacement in _VAE:
            name = re.sub(pattern, replacement, name)
        attention = "attn_1" in name and name.endswith("weight") and "norm" not in name
        tensors[f"first_stage_model.{name}"] = tensor[:, :, None, None] if attention else tensor
    text = {
        k if k.startswith("text_model.") else f"text_model.{k}": t for k, t in pipe.text_encoder.state_dict().items()
    }
    tensors |= {f"cond_stage_model.transformer.{key}": tensor for key, tensor in text.items()}
    save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, path)
    return path


def _unet_name(key: str) -> str:
    for ours, theirs in _UNET:
        if key.startswith(ours):
            rest = key.removeprefix(ours)
            if ".resnets." in f".{ours}":
                for part, original in _RESNET:
                    rest = rest.replace(part, original)
            return theirs + rest
    raise AssertionError(key)
