"""Denoisers on disk: each in its own format, in a directory that `load` opens."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffclass.denoisers.card import read_json
from diffclass.denoisers.mixture import MixtureDenoiser
from diffclass.denoisers.pixel import PixelDenoiser, network_class
from diffclass.denoisers.protocol import Denoiser
from diffclass.denoisers.scheduler import parametrisation_settings
from diffclass.denoisers.weights import save_model, write_directory
from diffclass.errors import InputError, UnsupportedModel

__all__ = ["described", "save_denoiser"]

_PASSED_ON = ("description", "licence", "data", "datasets", "base_model", "training", "fit", "command", "recipe")
_OWN = ("README.md", "diffclass.json")


def described(denoiser: Denoiser, *, weights: bool | None = None) -> dict[str, Any]:
    """Return what diffclass.json must say for `load` to build a denoiser again, and what is known of it.

    Args:
        denoiser: a mixture, a network on pixels, or a text-to-image model.
        weights: see `save_denoiser`.

    Raises:
        UnsupportedModel: it is none of these, or its network is one that `load` does not know.
        InputError: a reference is asked for, and the model did not come from the hub.
    """
    known: Mapping[str, Any] = getattr(denoiser, "metadata", {})
    found = {"format": 1, **{key: known[key] for key in _PASSED_ON if known.get(key)}}
    found |= {"classes": list(denoiser.classes), "space": asdict(denoiser.space)}
    found["sigma_range"] = list(denoiser.sigma_range)
    if isinstance(denoiser, MixtureDenoiser):
        _refuse_reference(denoiser, weights)
        return found
    if isinstance(denoiser, PixelDenoiser):
        _refuse_reference(denoiser, weights)
        _network(denoiser)
        found["parametrisation"] = parametrisation_settings(denoiser.parametrisation)
        return found | {"null_class": denoiser.null_class} | ({"clip": True} if denoiser.clip else {})
    from diffclass.denoisers.text_to_image import PipelineDenoiser
    from diffclass.denoisers.text_to_image.pixels import TextParts

    if not isinstance(denoiser, PipelineDenoiser):
        raise UnsupportedModel(
            f"A model can be saved if it is a mixture, a network on pixels or a text-to-image model. "
            f"Got {type(denoiser).__name__}. Keep what built it instead."
        )
    if isinstance(denoiser.pipe, TextParts):
        _refuse_reference(denoiser, weights)
        return found | {"parametrisation": parametrisation_settings(denoiser.parametrisation)}
    return found | _pipeline(denoiser, weights)


def save_denoiser(directory: str | Path, denoiser: Denoiser, metadata: Mapping[str, Any], card: str) -> Path:
    """Write a model directory that `load` opens; it appears whole or not at all.

    Weights are saved in the number format that they have in the memory, or in bfloat16 where that changes none of them.

    Args:
        directory: new, or holding a model of the same kind, which is replaced.
        denoiser: as `described` takes it.
        metadata: the content of diffclass.json: what `described` returned, and what else is to be known. With
            "weights_of" no weights are written: the directory says on which model of the hub it builds.
        card: the content of README.md; mixtures write their own.

    Raises:
        UnsupportedModel: the model is of a kind that no directory can hold.
        ResultError: the directory holds other files, or it cannot be written.
    """
    if isinstance(denoiser, MixtureDenoiser):
        own = {*_OWN, "config.json", "model.safetensors"}
        facts = {"figures": {}, "calibration": "", **metadata}  # else those of the mixture as it was

        def fill(part: Path) -> None:
            denoiser.save(part, metadata=facts, dtype=denoiser.means.dtype)

        return write_directory(directory, fill, own=own)
    if isinstance(denoiser, PixelDenoiser):
        network = _network(denoiser)
        return save_model(directory, network, metadata, card, _smallest(network))
    from diffclass.denoisers.text_to_image.pixels import TextParts, save_pixel_text

    pipeline: Any = denoiser
    if isinstance(pipeline.pipe, TextParts):
        parts = pipeline.pipe
        dtype = torch.promote_types(_smallest(parts.unet), _smallest(parts.text_encoder))
        return save_pixel_text(directory, parts, metadata, card, dtype)
    return _save_pipeline(directory, pipeline, metadata, card)


def _network(denoiser: PixelDenoiser) -> nn.Module:
    """Return a denoiser's network as it is without compiling, if `load` knows its kind."""
    from diffclass.denoisers.compiled import CompiledLateNetwork, CompiledNetwork

    network: Any = denoiser.network
    if isinstance(network, CompiledNetwork | CompiledLateNetwork):
        network = network.network
    name = type(network).__name__
    try:
        known = isinstance(network, network_class(name))
    except ValueError:
        known = False
    if not known:
        raise UnsupportedModel(
            f"A network can be saved if diffclass.load opens its kind, as a UNet2DModel of diffusers. Got {name}. "
            "Save its weights yourself, and keep what builds it."
        )
    return network


def _smallest(network: nn.Module) -> torch.dtype:
    """Return bfloat16 if every weight is one, else the format that the network has."""
    tensors = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    if all(bool((tensor == tensor.bfloat16()).all()) for tensor in tensors):
        return torch.bfloat16
    return next(network.parameters()).dtype


def _refuse_reference(denoiser: Denoiser, weights: bool | None) -> None:
    if weights is False:
        raise InputError(
            "A model can be saved without its weights if it is a text-to-image model opened by its name on the Hugging "
            f"Face hub, with nothing local added. Got a {type(denoiser).__name__} of another origin: leave 'weights' "
            "out."
        )


def _pipeline(denoiser: Any, weights: bool | None) -> dict[str, Any]:
    """Say of a pipeline where its weights are, or what it must be opened with beside them."""
    opened_with = denoiser.metadata.get("opened_with", {})
    reference = denoiser.metadata.get("weights_of")
    local = [opened_with[key] for key in ("lora", "vae", "config") if Path(str(opened_with.get(key, "\0"))).exists()]
    if reference is None or local:
        _refuse_reference(denoiser, weights)
        reference = None
    base = {} if reference is None else {"base_model": reference["model"]}
    if reference is not None and not weights:
        return {**base, "weights_of": dict(reference), "opened_with": dict(opened_with)}
    inside = {key: opened_with[key] for key in ("size", "force") if key in opened_with}  # LoRA and vae are in the parts
    return {**base, "opened_with": inside}


def _save_pipeline(directory: str | Path, denoiser: Any, metadata: Mapping[str, Any], card: str) -> Path:
    """Write a pipeline's parts, or only its settings where it says whose weights it takes."""
    from diffclass.denoisers.text_to_image.files import DIFFCLASS_MARK
    from diffclass.denoisers.text_to_image.quiet import libraries_quiet

    text = json.dumps(dict(metadata), indent=2, ensure_ascii=False, allow_nan=False)
    parts = {name for name, value in denoiser.pipe.config.items() if isinstance(value, list | tuple)}

    def fill(part: Path) -> None:
        if "weights_of" not in metadata:
            with libraries_quiet():
                denoiser.pipe.save_pretrained(part, safe_serialization=True)
            index = read_json(part / "model_index.json") | {DIFFCLASS_MARK: 1}
            labels = denoiser.pipe.config.get("id2label")
            index |= {} if labels is None else {"id2label": dict(labels)}  # which diffusers drops
            (part / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        (part / "diffclass.json").write_text(text + "\n", encoding="utf-8")
        (part / "README.md").write_text(card, encoding="utf-8")

    return write_directory(directory, fill, own={*_OWN, "model_index.json", *parts})
