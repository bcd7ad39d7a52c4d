"""guided-diffusion's checkpoints: state dictionaries of ADM networks, and the flags that they were trained with."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffclass.denoisers.foreign import ForeignModel, sorted_heads
from diffclass.denoisers.scheduler import read_parametrisation
from diffclass.errors import InputError, UnsupportedModel

__all__ = ["PUBLISHED", "config_of", "guided_flags", "is_guided", "read_guided"]

_LICENCE = "MIT, the licence of OpenAI's guided-diffusion"
_COMMON = (
    "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --learn_sigma True "
    "--resblock_updown True --use_scale_shift_norm True"
)

# The flags that the published class-conditional checkpoints come with, largest number of weights last. Unconditional
# ones (256x256_diffusion_uncond) have the same but for the class.
PUBLISHED: Mapping[str, str] = {
    "64x64_diffusion": f"{_COMMON} --image_size 64 --noise_schedule cosine --num_channels 192 --num_head_channels 64 "
    "--num_res_blocks 3 --use_new_attention_order True",
    "128x128_diffusion": f"{_COMMON} --image_size 128 --num_channels 256 --num_heads 4 --num_res_blocks 2",
    "256x256_diffusion": f"{_COMMON} --image_size 256 --num_channels 256 --num_head_channels 64 --num_res_blocks 2",
    "512x512_diffusion": f"{_COMMON} --image_size 512 --num_channels 256 --num_head_channels 64 --num_res_blocks 2",
}

_DEFAULTS: dict[str, Any] = {
    "image_size": 64, "num_channels": 128, "num_res_blocks": 2, "num_heads": 4, "num_heads_upsample": -1,
    "num_head_channels": -1, "attention_resolutions": "16,8", "channel_mult": "", "dropout": 0.0, "class_cond": False,
    "use_checkpoint": False, "use_scale_shift_norm": True, "resblock_updown": False, "use_fp16": False,
    "use_new_attention_order": False, "learn_sigma": False, "diffusion_steps": 1000, "noise_schedule": "linear",
    "timestep_respacing": "", "use_kl": False, "predict_xstart": False, "rescale_timesteps": False,
    "rescale_learned_sigmas": False,
}  # fmt: skip
_WIDTHS = {64: "1,2,3,4", 128: "1,1,2,3,4", 256: "1,1,2,2,4,4", 512: "0.5,1,1,2,2,4,4"}

_ENDS = {
    "time_embed.0": "time_in", "time_embed.2": "time_out", "label_emb": "label", "input_blocks.0.0": "conv_in",
    "out.0": "norm_out", "out.2": "conv_out",
}  # fmt: skip
_PARTS = {
    "in_layers.0": "norm_in", "in_layers.2": "conv_in", "emb_layers.1": "modulation", "out_layers.0": "norm_out",
    "out_layers.3": "conv_out", "skip_connection": "shortcut", "norm": "attention.norm", "qkv": "attention.qkv",
    "proj_out": "attention.out",
}  # fmt: skip


def guided_flags(text: str) -> dict[str, Any]:
    """Read flags as guided-diffusion's scripts take them (MODEL_FLAGS), its defaults filled in.

    Raises:
        InputError: a flag is unknown, or its value is not of its kind.
    """
    try:
        words = shlex.split(text.replace("=", " "))
    except ValueError as error:
        raise InputError(f"The flags of a checkpoint must be pairs, as '--num_channels 192'. Got {text!r}.") from error
    flags = dict(_DEFAULTS)
    if len(words) % 2 or not all(word.startswith("--") for word in words[::2]):
        raise InputError(f"The flags of a checkpoint must be pairs, as '--num_channels 192'. Got {text!r}.")
    for name, value in zip((word[2:] for word in words[::2]), words[1::2], strict=True):
        if name not in _DEFAULTS:
            raise InputError(f"The flags of a checkpoint must be among {', '.join(_DEFAULTS)}. Got {name!r}.")
        flags[name] = _value(name, value)
    return flags


def _numbers(flags: Mapping[str, Any], name: str) -> list[float]:
    """Read a flag that lists numbers above 0."""
    try:
        numbers = [float(part) for part in flags[name].split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < float("inf") for number in numbers):
        raise InputError(f"The flag {name!r} of a checkpoint must be numbers above 0, as '1,2,4'. Got {flags[name]!r}.")
    return numbers


def _value(name: str, text: str) -> Any:
    """Read a flag's value."""
    kind = type(_DEFAULTS[name])
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        return kind(text)
    except (KeyError, ValueError) as error:
        raise InputError(f"The flag {name!r} of a checkpoint must be of type {kind.__name__}. Got {text!r}.") from error


def is_guided(weights: Mapping[str, Tensor]) -> bool:
    """Tell whether these are the weights of one of guided-diffusion's networks."""
    return "time_embed.0.weight" in weights and "input_blocks.0.0.weight" in weights


def read_guided(given: Mapping[str, Tensor], flags: Mapping[str, Any], path: Path) -> ForeignModel:
    """Turn a state dictionary into a model.

    Args:
        given: its tensors, as guided-diffusion names them.
        flags: what `guided_flags` returns.
        path: of the file, for messages.

    Raises:
        InputError: the value of a flag cannot be.
        UnsupportedModel: the flags or the weights are of a network that is no ADM.

    Source:
        Dhariwal and Nichol 2021, section 3 and Appendix I (arXiv:2105.05233).
    """
    label = given.get("label_emb.weight")
    if label is not None and label.ndim != 2:
        raise UnsupportedModel(
            f"The weight 'label_emb.weight' of {str(path)!r} must have two axes. Got {tuple(label.shape)}."
        )
    config = config_of(flags, n_classes=0 if label is None else len(label))
    parametrisation = _parametrisation(flags)
    schedule: Any = read_parametrisation(parametrisation)
    return ForeignModel(
        network="ADMUNet",
        config=config,
        weights=_renamed(given, flags, path),
        parametrisation=parametrisation,
        sigma_range=schedule.schedule.sigma_range,
        data_std=0.5,
        null_class=label is None,
        licence=_LICENCE,
        description=f"ADM (Dhariwal and Nichol 2021), {flags['noise_schedule']} schedule.",
    )


def config_of(flags: Mapping[str, Any], *, n_classes: int) -> dict[str, Any]:
    """Say in our words what a network is built with; `n_classes` is 0 for an unconditional one.

    Raises:
        InputError: the value of a flag cannot be.
        UnsupportedModel: the flags are of another network than ADM.
    """
    wanted = {"resblock_updown": True, "use_scale_shift_norm": True, "timestep_respacing": ""}
    for name, value in wanted.items():
        if flags[name] != value:
            raise UnsupportedModel(f"The flag {name!r} of an ADM checkpoint must be {value!r}. Got {flags[name]!r}.")
    counts = ("image_size", "num_channels", "num_res_blocks", "num_heads", "diffusion_steps")
    for name in (*counts, *["num_head_channels"] * (flags["num_head_channels"] != -1)):
        if flags[name] < 1:
            raise InputError(f"The flag {name!r} of a checkpoint must be at least 1. Got {flags[name]}.")
    size, channels = flags["image_size"], 3
    if not flags["channel_mult"] and size not in _WIDTHS:
        raise UnsupportedModel(f"The flag 'channel_mult' must be given for images of {size} pixels.")
    widths = _numbers(flags if flags["channel_mult"] else {"channel_mult": _WIDTHS[size]}, "channel_mult")
    fixed = flags["num_head_channels"] == -1
    if fixed and flags["num_heads_upsample"] not in (-1, flags["num_heads"]):
        raise UnsupportedModel("The flag 'num_heads_upsample' must be that of 'num_heads'.")
    return {
        "sample_size": size,
        "in_channels": channels,
        "out_channels": 2 * channels if flags["learn_sigma"] else channels,
        "num_classes": n_classes,
        "base_channels": flags["num_channels"],
        "channel_mult": widths,
        "blocks_per_level": flags["num_res_blocks"],
        "attention_sizes": [int(number) for number in _numbers(flags, "attention_resolutions")],
        "heads": flags["num_heads"] if fixed else None,
        "head_width": 64 if fixed else flags["num_head_channels"],
        "group_width": 1,
    }


def _parametrisation(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Say what the network predicts, at which noise levels."""
    steps = flags["diffusion_steps"]
    if flags["rescale_timesteps"] and steps != 1000:
        raise UnsupportedModel("The flag 'rescale_timesteps' of a checkpoint must be False unless it has 1000 steps.")
    if flags["noise_schedule"] == "cosine":
        schedule: dict[str, Any] = {"num_train_timesteps": steps, "beta_schedule": "squaredcos_cap_v2"}
    elif flags["noise_schedule"] == "linear":
        ends = {"beta_start": 0.1 / steps, "beta_end": 20 / steps}
        schedule = {"num_train_timesteps": steps, "beta_schedule": "linear", **ends}
    else:
        raise UnsupportedModel(
            f"The flag 'noise_schedule' of a checkpoint must be linear or cosine. Got {flags['noise_schedule']!r}."
        )
    return {"kind": "x0" if flags["predict_xstart"] else "epsilon", "schedule": schedule}


def _renamed(given: Mapping[str, Tensor], flags: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Give weights our names, and images' two axes to attention's projections."""
    homes = _homes(given)
    weights: dict[str, Tensor] = {}
    for name, tensor in given.items():
        place, _, leaf = name.rpartition(".")
        ours = _ENDS.get(place)
        if ours is None:
            home = next((h for h in homes if place.startswith(f"{h}.")), "")
            part = _PARTS.get(place.removeprefix(f"{home}."))
            if part is None or not home:
                raise UnsupportedModel(f"The file {str(path)!r} has the weight {name!r}, which no ADM network has.")
            ours = f"{homes[home]}.{part}"
            if part == "attention.qkv" and not flags["use_new_attention_order"]:
                fixed = flags["num_head_channels"]
                heads = flags["num_heads"] if fixed == -1 else len(tensor) // (3 * fixed)
                tensor = sorted_heads(tensor, heads, "head, part, channel")
            if part.startswith("attention.") and tensor.ndim == 3:
                tensor = tensor[..., None]  # a convolution along a line of pixels is one over an image
        weights[f"{ours}.{leaf}"] = tensor.t().contiguous() if ours == "label" else tensor
    return weights


def _homes(given: Mapping[str, Tensor]) -> dict[str, str]:
    """Say which of our blocks every part of theirs is, in the order in which they are called."""
    homes = {"middle_block.0": "decoder.0", "middle_block.1": "decoder.0", "middle_block.2": "decoder.1"}
    count = 1
    while any(name.startswith(f"input_blocks.{count}.") for name in given):
        homes |= {f"input_blocks.{count}.{part}": f"encoder.{count - 1}" for part in (0, 1)}
        count += 1
    group, index = 0, 1
    while any(name.startswith(f"output_blocks.{group}.") for name in given):
        for part in range(3):  # a block, its attention, and a block that doubles the size
            index += f"output_blocks.{group}.{part}.in_layers.0.weight" in given
            homes[f"output_blocks.{group}.{part}"] = f"decoder.{index}"
        group += 1
    return homes
