"""EDM's checkpoints: pickles of DDPM++, NCSN++ and ADM networks under EDM preconditioning."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffclass.denoisers.foreign import ForeignModel, sorted_heads
from diffclass.denoisers.persistent import PersistentObject, read_persistent
from diffclass.errors import UnsupportedModel

__all__ = ["read_edm"]

_SIGMA_RANGE = (0.002, 80.0)  # [model units] of Karras et al. 2022, Table 1, where the file sets no limit
_LICENCE = "CC BY-NC-SA 4.0, the licence of NVIDIA's EDM checkpoints"
_BASELINES = ("VPPrecond", "VEPrecond", "iDDPMPrecond")

# What a network is built with where the file does not say.
_SONG: dict[str, Any] = {
    "label_dim": 0, "augment_dim": 0, "model_channels": 128, "channel_mult": [1, 2, 2, 2], "channel_mult_emb": 4,
    "num_blocks": 4, "attn_resolutions": [16], "dropout": 0.1, "label_dropout": 0, "embedding_type": "positional",
    "channel_mult_noise": 1, "encoder_type": "standard", "decoder_type": "standard", "resample_filter": [1, 1],
}  # fmt: skip
_ADM: dict[str, Any] = {
    "label_dim": 0, "augment_dim": 0, "model_channels": 192, "channel_mult": [1, 2, 3, 4], "channel_mult_emb": 4,
    "num_blocks": 3, "attn_resolutions": [32, 16, 8], "dropout": 0.1, "label_dropout": 0,
}  # fmt: skip
_SHAPE = ("img_resolution", "in_channels", "out_channels")
_CHOICES = {"embedding_type": ("positional", "fourier"), "encoder_type": ("standard", "residual"),
            "decoder_type": ("standard",)}  # fmt: skip

_ENDS = {
    "map_layer0": "time_in", "map_layer1": "time_out", "map_label": "label",
    "out_norm": "norm_out", "out_conv": "conv_out",
}  # fmt: skip
_PARTS = {
    "norm0": "norm_in", "conv0": "conv_in", "affine": "modulation", "norm1": "norm_out", "conv1": "conv_out",
    "skip": "shortcut", "norm2": "attention.norm", "qkv": "attention.qkv", "proj": "attention.out",
}  # fmt: skip


def read_edm(path: Path) -> ForeignModel:
    """Read one of EDM's pickles: a dictionary whose "ema" is the network, or the network alone.

    Raises:
        ModelError: the file is missing, damaged or unsafe, or no network under EDM preconditioning.

    Source:
        Karras et al. 2022, Table 1 and Appendix F (arXiv:2206.00364).
    """
    content = read_persistent(path)
    try:
        return _model(content, path)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UnsupportedModel(
            f"The network in {str(path)!r} is not put together as EDM's are ({type(error).__name__}: {error})."
        ) from error


def _model(content: Any, path: Path) -> ForeignModel:
    """Make a model of what a pickle holds."""
    outer = content.get("ema") if isinstance(content, dict) else content
    inner = outer.part("model") if isinstance(outer, PersistentObject) else None
    if not isinstance(outer, PersistentObject) or inner is None:
        raise UnsupportedModel(f"The file {str(path)!r} must hold a network of EDM's under 'ema'. Got none.")
    if outer.class_name in _BASELINES:
        raise UnsupportedModel(
            f"The network in {str(path)!r} must be under EDM preconditioning (EDMPrecond). Got {outer.class_name}, one "
            "of the baselines that EDM was compared with. Take the file whose name begins with 'edm-'."
        )
    if outer.class_name != "EDMPrecond" or inner.class_name not in ("SongUNet", "DhariwalUNet"):
        raise UnsupportedModel(
            f"The file {str(path)!r} must hold a SongUNet or DhariwalUNet under EDMPrecond. "
            f"Got {inner.class_name} under {outer.class_name}."
        )
    options = _options(inner, path)
    config = _adm_config(options, path) if inner.class_name == "DhariwalUNet" else _song_config(options, path)
    given = inner.tensors()
    heads = 1 if inner.class_name == "SongUNet" else None
    low, high = float(outer.state.get("sigma_min", 0.0)), float(outer.state.get("sigma_max", float("inf")))
    sigma_data = float(outer.state.get("sigma_data", 0.5))
    return ForeignModel(
        network="SongUNet" if heads else "ADMUNet",
        config=config,
        weights=_renamed(given, heads, path),
        parametrisation={"kind": "edm", "sigma_data": sigma_data, "time_scale": 1.0},
        sigma_range=(max(low, _SIGMA_RANGE[0]), min(high, _SIGMA_RANGE[1])),
        data_std=sigma_data,
        null_class=options["label_dropout"] > 0 or options["label_dim"] == 0,
        licence=_LICENCE,
        description=f"{_family(inner.class_name, options)} under EDM preconditioning (Karras et al. 2022).",
        left_out=tuple(name for name in given if "map_augment" in name),
    )


def _family(name: str, options: Mapping[str, Any]) -> str:
    """Name the network as the paper does."""
    if name == "DhariwalUNet":
        return "ADM (Dhariwal and Nichol 2021)"
    kind = "NCSN++" if options["encoder_type"] == "residual" else "DDPM++"
    return f"{kind} (Song et al. 2021)"


def _options(network: PersistentObject, path: Path) -> dict[str, Any]:
    """Return what the network was built with, and refuse what ours cannot be."""
    given, defaults = network.options, _ADM if network.class_name == "DhariwalUNet" else _SONG
    if given is None or any(name not in given for name in _SHAPE):
        raise UnsupportedModel(
            f"The network in {str(path)!r} must say what it was built with. It does not: train with named arguments."
        )
    if unknown := [name for name in given if name not in defaults and name not in _SHAPE]:
        raise UnsupportedModel(
            f"The {network.class_name} in {str(path)!r} has the option {unknown[0]!r}, which EDM's own has not."
        )
    options = defaults | given
    for name, choices in _CHOICES.items():
        if name in options and options[name] not in choices:
            raise UnsupportedModel(
                f"The {name} of the network in {str(path)!r} must be {' or '.join(choices)}. Got {options[name]}."
            )
    return options


def _shared_config(options: Mapping[str, Any]) -> dict[str, Any]:
    """Say in our words what both families are built with."""
    return {
        "sample_size": int(options["img_resolution"]),
        "in_channels": int(options["in_channels"]),
        "out_channels": int(options["out_channels"]),
        "num_classes": int(options["label_dim"]),
        "base_channels": int(options["model_channels"]),
        "channel_mult": list(options["channel_mult"]),
        "blocks_per_level": int(options["num_blocks"]),
        "attention_sizes": list(options["attn_resolutions"]),
    }


def _song_config(options: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Say in our words what a DDPM++ or NCSN++ network is built with."""
    taps = list(options["resample_filter"])
    if len(taps) % 2 or taps != taps[::-1]:
        raise UnsupportedModel(
            f"The resample_filter of the network in {str(path)!r} must be symmetric and even. Got {taps}."
        )
    return _shared_config(options) | {
        "embedding_mult": int(options["channel_mult_emb"]),
        "noise_mult": int(options["channel_mult_noise"]),
        "fourier": options["embedding_type"] == "fourier",
        "residual_input": options["encoder_type"] == "residual",
        "taps": taps,
    }


def _adm_config(options: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Say in our words what an ADM network is built with."""
    if options["channel_mult_emb"] != 4:
        raise UnsupportedModel(
            f"The channel_mult_emb of the network in {str(path)!r} must be 4. Got {options['channel_mult_emb']}."
        )
    return _shared_config(options) | {"heads": None, "head_width": 64}


def _renamed(given: Mapping[str, Tensor], heads: int | None, path: Path) -> dict[str, Tensor]:
    """Give weights our names; `heads` of attention, or None where a head has 64 channels."""
    homes = _homes(given)
    weights: dict[str, Tensor] = {}
    for name, tensor in given.items():
        if name.endswith("resample_filter") or name.startswith("map_augment."):
            continue  # the filter is in the configuration; nothing is augmented here
        if name == "map_noise.freqs":
            weights["frequency_bits"] = tensor.float().view(torch.int32)
            continue
        place, _, leaf = name.rpartition(".")
        home, part = ".".join(place.split(".")[:2]), place.split(".")[2:]
        ours = _ENDS.get(place) or homes.get(home)
        if ours is None or any(one not in _PARTS for one in part):
            raise UnsupportedModel(f"The file {str(path)!r} has the weight {name!r}, which EDM's networks have not.")
        ours = ".".join([ours, *(_PARTS[one] for one in part)])
        if part == ["qkv"]:
            tensor = sorted_heads(tensor, heads or len(tensor) // (3 * 64), "head, channel, part")
        weights[f"{ours}.{leaf}"] = tensor
    return weights


def _homes(given: Mapping[str, Tensor]) -> dict[str, str]:
    """Number the parts of encoder and decoder in their order, which is the order in which they are called."""
    homes: dict[str, str] = {}
    counts = {"encoder": 0, "decoder": 0, "inputs": 0}
    for name in given:
        side, _, rest = name.partition(".")
        home = ".".join(name.split(".")[:2])
        if side not in ("enc", "dec") or home in homes:
            continue
        kind = rest.split(".")[0].split("_", 1)[-1]
        ends = {"conv": "conv_in", "aux_norm": "norm_out", "aux_conv": "conv_out"}
        if kind in ends:
            homes[home] = ends[kind]
            continue
        group = "inputs" if kind == "aux_residual" else "encoder" if side == "enc" else "decoder"
        homes[home] = f"{group}.{counts[group]}" + (".conv" if group == "inputs" else "")
        counts[group] += 1
    return homes
