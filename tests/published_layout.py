"""Checkpoints as EDM and guided-diffusion name and pickle them, made from networks of ours with random weights.

The names are written by rule here, where the reader goes by the order of the parts: each checks the other.
"""

import io
import pickle
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffclass.denoisers.adm_unet import ADMUNet
from diffclass.denoisers.song_unet import SongUNet

# Options of EDM's networks as their files spell them, at sizes for a test.
DDPMPP: dict[str, Any] = {
    "img_resolution": 16, "in_channels": 3, "out_channels": 3, "label_dim": 4, "augment_dim": 9, "model_channels": 16,
    "channel_mult": [2, 2, 1], "num_blocks": 2, "attn_resolutions": [8],
}  # fmt: skip
NCSNPP: dict[str, Any] = DDPMPP | {
    "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1],
}  # fmt: skip
ADM: dict[str, Any] = DDPMPP | {"model_channels": 64, "channel_mult": [1, 2], "num_blocks": 1, "augment_dim": 0}
MODULE_SOURCE = "raise RuntimeError('the source of a network was run')"

_BLOCK = {
    "norm_in": "norm0", "conv_in": "conv0", "modulation": "affine", "norm_out": "norm1", "conv_out": "conv1",
    "shortcut": "skip", "attention.norm": "norm2", "attention.qkv": "qkv", "attention.out": "proj",
}  # fmt: skip
_GUIDED = {
    "norm_in": "in_layers.0", "conv_in": "in_layers.2", "modulation": "emb_layers.1", "norm_out": "out_layers.0",
    "conv_out": "out_layers.3", "shortcut": "skip_connection",
}  # fmt: skip


def shared(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of EDM's under our names."""
    return {
        "sample_size": options["img_resolution"], "in_channels": options["in_channels"],
        "out_channels": options["out_channels"], "num_classes": options.get("label_dim", 0),
        "base_channels": options["model_channels"], "channel_mult": options["channel_mult"],
        "blocks_per_level": options.get("num_blocks", 4), "attention_sizes": options.get("attn_resolutions", [16]),
    }  # fmt: skip


def song(options: Mapping[str, Any]) -> SongUNet:
    """Our DDPM++ or NCSN++ with EDM's options."""
    return SongUNet(
        **shared(options), noise_mult=options.get("channel_mult_noise", 1),
        fourier=options.get("embedding_type") == "fourier", residual_input=options.get("encoder_type") == "residual",
        taps=options.get("resample_filter", [1, 1]),
    ).eval()  # fmt: skip


def adm(options: Mapping[str, Any]) -> ADMUNet:
    """Our ADM with EDM's options."""
    defaults = {"num_blocks": 3, "attn_resolutions": [32, 16, 8]}
    return ADMUNet(**shared(defaults | dict(options))).eval()


def mixed(rows: Tensor, heads: int, order: str) -> Tensor:
    """Put rows of queries, then keys, then values, in the order of another library, one at a time."""
    width = len(rows) // (3 * heads)
    out = torch.empty_like(rows)
    for part in range(3):
        for head in range(heads):
            for channel in range(width):
                ours = (part * heads + head) * width + channel
                theirs = (head * width + channel) * 3 + part if order == "edm" else (head * 3 + part) * width + channel
                out[theirs] = rows[ours]
    return out


def _leaves(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in module.named_parameters(recurse=False)}


def _edm_block(prefix: str, block: Any, taps: list[int], *, one_head: bool) -> dict[str, Tensor]:
    """Weights of one residual block, and the filters that EDM keeps beside those that resample."""
    found: dict[str, Tensor] = {}
    for ours, theirs in _BLOCK.items():
        try:
            found |= _leaves(f"{prefix}.{theirs}", block.get_submodule(ours))
        except AttributeError:
            continue  # no attention, or a shortcut without weights
    if f"{prefix}.qkv.weight" in found:
        for leaf in ("weight", "bias"):
            rows = found[f"{prefix}.qkv.{leaf}"]
            found[f"{prefix}.qkv.{leaf}"] = mixed(rows, 1 if one_head else len(rows) // 192, "edm")
    if not isinstance(block.resample, nn.Identity):
        for part in ("conv0", "skip"):
            found[f"{prefix}.{part}.resample_filter"] = window(taps)
    return found


def window(taps: list[int]) -> Tensor:
    line = torch.tensor(taps, dtype=torch.float32)
    return (torch.outer(line, line) / line.sum() ** 2)[None, None]


def _told_weights(network: Any, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights that embed the noise level and the class, and EDM's for how an image was augmented."""
    found: dict[str, Tensor] = {}
    if hasattr(network, "frequency_bits"):
        found["map_noise.freqs"] = network.frequency_bits.view(torch.float32)
    for ours, theirs in {"time_in": "map_layer0", "time_out": "map_layer1", "label": "map_label"}.items():
        if getattr(network, ours) is not None:
            found |= _leaves(theirs, getattr(network, ours))
    if options.get("augment_dim"):
        found["map_augment.weight"] = torch.randn(network.time_in.in_features, options["augment_dim"])
    return found


def _places(options: Mapping[str, Any], n: int) -> tuple[list[str], list[str]]:
    """Names of the blocks of encoder and decoder, in the order of EDM's files."""
    size, last = options["img_resolution"], len(options["channel_mult"]) - 1
    sides = [f"{size >> level}x{size >> level}" for level in range(last + 1)]
    down = [[*([f"{side}_down"] * (level > 0)), *(f"{side}_block{i}" for i in range(n))]
            for level, side in enumerate(sides)]  # fmt: skip
    up = [[*([f"{side}_in0", f"{side}_in1"] if level == last else [f"{side}_up"]),
           *(f"{side}_block{i}" for i in range(n + 1))] for level, side in enumerate(sides)]  # fmt: skip
    return [f"enc.{name}" for names in down for name in names], [f"dec.{name}" for names in up[::-1] for name in names]


def edm_weights(network: Any, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Name the weights of a network of ours as EDM's files do."""
    is_song, n, side = isinstance(network, SongUNet), options["num_blocks"], "{0}x{0}".format(options["img_resolution"])
    taps, inputs = options.get("resample_filter", [1, 1]), iter(getattr(network, "inputs", ()))
    found = _told_weights(network, options) | _leaves(f"enc.{side}_conv", network.conv_in)
    names = _places(options, n)
    for name, block in zip([*names[0], *names[1]], [*network.encoder, *network.decoder], strict=True):
        found |= _edm_block(name, block, taps, one_head=is_song)
        if name.startswith("enc.") and name.endswith("_down") and options.get("encoder_type") == "residual":
            place = name.replace("_down", "_aux_residual")
            found |= _leaves(place, next(inputs).conv) | {f"{place}.resample_filter": window(taps)}
    ends = (f"dec.{side}_aux_norm", f"dec.{side}_aux_conv") if is_song else ("out_norm", "out_conv")
    assert next(inputs, None) is None
    return found | _leaves(ends[0], network.norm_out) | _leaves(ends[1], network.conv_out)


def _guided_attention(prefix: str, module: Any, heads: int | None) -> dict[str, Tensor]:
    """Weights of attention; `heads` where their rows are sorted by head first."""
    found = _leaves(f"{prefix}.norm", module.norm)
    for ours, theirs in (("qkv", "qkv"), ("out", "proj_out")):
        for leaf, tensor in getattr(module, ours).named_parameters():
            tensor = tensor[..., 0] if leaf == "weight" else tensor
            mixes = ours == "qkv" and heads is not None
            found[f"{prefix}.{theirs}.{leaf}"] = mixed(tensor, heads or 1, "guided") if mixes else tensor
    return found


def guided_weights(network: ADMUNet, *, mixes: bool = False) -> dict[str, Tensor]:
    """Name the weights of a network of ours as guided-diffusion's files do; `mixes`: in its legacy order of heads."""
    levels, n = len(network.config.channel_mult), network.config.blocks_per_level
    found = _leaves("time_embed.0", network.time_in) | _leaves("time_embed.2", network.time_out)
    if network.label is not None:
        found["label_emb.weight"] = network.label.weight.t()

    def block(prefix: str, module: Any, place: int = 0) -> int:
        for ours, theirs in _GUIDED.items():
            found.update(_leaves(f"{prefix}.{place}.{theirs}", getattr(module, ours)))
        if isinstance(module.attention, nn.Identity):
            return place + 1
        heads = module.attention.heads if mixes else None
        found.update(_guided_attention(f"{prefix}.{place + 1}", module.attention, heads))
        return place + 2

    found |= _leaves("input_blocks.0.0", network.conv_in)
    for index, module in enumerate(network.encoder):
        block(f"input_blocks.{index + 1}", module)
    decoder = iter(network.decoder)
    block("middle_block", next(decoder))
    block("middle_block", next(decoder), place=2)
    for group in range(levels * (n + 1)):
        place = block(f"output_blocks.{group}", next(decoder))
        if group % (n + 1) == n and group < levels * (n + 1) - 1:
            block(f"output_blocks.{group}", next(decoder), place)
    assert next(decoder, None) is None
    return found | _leaves("out.0", network.norm_out) | _leaves("out.2", network.conv_out)


class Saved(nn.Module):
    """A module that is pickled with its source code, as NVlabs' persistence does."""

    def __init__(self, class_name: str, options: Mapping[str, Any] | None = None, **state: Any) -> None:
        super().__init__()
        self._class_name = class_name
        if options is not None:
            self._init_args, self._init_kwargs = (), dict(options)
        for name, value in state.items():
            setattr(self, name, value)

    def __reduce__(self) -> Any:
        reconstruct = sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj
        state = {name: value for name, value in self.__dict__.items() if name != "_class_name"}
        meta = {"type": "class", "version": 6, "module_src": MODULE_SOURCE, "class_name": self._class_name}
        return reconstruct, ({**meta, "state": state},)


@contextmanager
def persistence() -> Iterator[None]:
    """Let pickle find the functions that EDM's files name."""

    def _reconstruct_persistent_obj(meta: object) -> None:
        raise AssertionError("a network was rebuilt by its own code")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    modules = {name: types.ModuleType(name) for name in ("torch_utils", "torch_utils.persistence")}
    modules["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def tree(weights: Mapping[str, Tensor], class_name: str, options: Mapping[str, Any] | None) -> Saved:
    """Build the modules that these weights are named after."""
    root = Saved(class_name, options)
    for name, tensor in weights.items():
        *path, leaf = name.split(".")
        here: Any = root
        for depth, part in enumerate(path):
            if part not in here._modules:
                here._modules[part] = nn.ModuleDict() if depth == 0 and part in ("enc", "dec") else Saved("Part")
            here = here._modules[part]
        if leaf in ("freqs", "resample_filter"):
            here.register_buffer(leaf, tensor)
        else:
            here.register_parameter(leaf, nn.Parameter(tensor.detach().clone()))
    return root


def edm_bytes(inner: Saved, outer: str = "EDMPrecond", *, protocol: int = 4, **state: Any) -> bytes:
    """Pickle a network under its preconditioning, as EDM's training does."""
    net = Saved(outer, {"label_dim": 4}, **{"sigma_min": 0, "sigma_max": float("inf"), "sigma_data": 0.5, **state})
    net.model = inner
    content = {"ema": net, "loss_fn": Saved("EDMLoss", P_mean=-1.2), "augment_pipe": None, "dataset_kwargs": {"a": {1}}}
    with persistence():
        file = io.BytesIO()
        pickle.dump(content, file, protocol=protocol)
    return file.getvalue()


def save_edm(path: Path, options: Mapping[str, Any], *, protocol: int = 4, weights: Any = None) -> Any:
    """Write an EDM checkpoint of a random network; return the network."""
    kind = "DhariwalUNet" if options["model_channels"] == 64 else "SongUNet"
    network: Any = adm(options) if kind == "DhariwalUNet" else song(options)
    given = edm_weights(network, options) if weights is None else weights
    path.write_bytes(edm_bytes(tree(given, kind, options), protocol=protocol))
    return network
