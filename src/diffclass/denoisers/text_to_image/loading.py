"""From a directory, a hub id or a single file to a denoiser: with its LoRA, its autoencoder, and in its place."""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from diffclass.denoisers.card import read_json
from diffclass.denoisers.precision import place_network
from diffclass.denoisers.protocol import Space
from diffclass.denoisers.text_to_image import autoencoder
from diffclass.denoisers.text_to_image.defaults import classifier_settings
from diffclass.denoisers.text_to_image.denoiser import PipelineDenoiser
from diffclass.denoisers.text_to_image.family import Family, shift_of
from diffclass.denoisers.text_to_image.files import index_of, open_file, open_pipeline, put_lora, replace_vae
from diffclass.denoisers.text_to_image.quiet import libraries_quiet
from diffclass.denoisers.text_to_image.table import check_distillation, family_of
from diffclass.errors import ConditionError, DiffclassWarning, InputError, RangeError, UnsupportedModel

__all__ = ["PipelineOptions", "is_pipeline", "load_pipeline"]

_OF_MACHINE = ("offload", "attention")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineOptions:
    """What can be asked of a diffusers pipeline.

    Args:
        size: [pixels] height and width of the images; what the model was trained on if None. Half of it costs a
            quarter or less, and the accuracy has to be measured.
        lora: a safetensors file, a directory or a hub id of a LoRA, which is fused into the network.
        lora_scale: how much of it.
        vae: a directory, hub id or safetensors file of another autoencoder.
        config: for a model in a single file: a directory or hub id that has its other parts. Without it diffusers
            guesses the model and asks the hub.
        force: take a model that was distilled to take few steps, whose errors say little about likelihood.
        offload: keep the network on the CPU and bring each of its layers to the GPU when it is needed: slow, for
            networks that do not fit.
        attention: one of diffusers' attention backends, as "flash" or "sage".
    """

    size: int | None = None
    lora: str | Path | None = None
    lora_scale: float = 1.0
    vae: str | Path | None = None
    config: str | Path | None = None
    force: bool = False
    offload: bool = False
    attention: str | None = None

    def kept(self) -> dict[str, Any]:
        """Return what a saved model must be opened with again, as plain values: what is not of the machine."""
        usual = asdict(PipelineOptions())
        changed = {key: value for key, value in asdict(self).items() if value != usual[key]}
        return {key: str(v) if isinstance(v, Path) else v for key, v in changed.items() if key not in _OF_MACHINE}


def is_pipeline(directory: Path) -> bool:
    """Tell whether a directory holds a pipeline with an autoencoder or text encoders."""
    if not (directory / "model_index.json").is_file():
        return False
    index = read_json(directory / "model_index.json")
    return any(part in index for part in ("vae", "text_encoder"))


def load_pipeline(
    model: str | Path,
    *,
    name: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    classes: Sequence[str] | None = None,
    options: PipelineOptions | None = None,
) -> PipelineDenoiser:
    """Load a text-to-image pipeline, or a class-conditional one on latents.

    Args:
        model: a directory, or a single safetensors file.
        name: of the model, for messages; the path if None.
        device: where the network computes.
        dtype: of the network and the text encoders. Autoencoders are in float32.
        classes: refused: text-to-image models read prompts.
        options: everything else.

    Raises:
        ModelError: parts are missing or damaged, the pipeline is of no family, or its network was distilled.
        InputError: an option does not fit.
    """
    options, path, place = options or PipelineOptions(), Path(model), torch.device(device)
    if classes is not None:
        raise ConditionError(
            "The 'classes' parameter of load names the classes of networks without names. A text-to-image model reads "
            "prompts: give the classes to the classifier."
        )
    name = name or str(model)
    with torch.random.fork_rng(devices=[]), libraries_quiet():
        if path.is_file():
            pipe, family = open_file(path, options.config, dtype)
        else:
            family = family_of(index_of(path).get("_class_name"), name)
            pipe = open_pipeline(path, family, dtype)
        names = (name, *([] if options.lora is None else [str(options.lora)]))
        check_distillation(family, pipe, names, force=options.force)
        if options.lora is not None:
            put_lora(pipe, options.lora, options.lora_scale)
        if options.vae is not None:
            replace_vae(pipe, options.vae)
        denoiser = _denoiser(pipe, family, name, place, options)
        _place(denoiser, place, dtype, options)
    if denoiser.note is not None:
        warnings.warn(denoiser.note, DiffclassWarning, stacklevel=2)
    return denoiser


def _denoiser(pipe: Any, family: Family, name: str, device: torch.device, options: PipelineOptions) -> PipelineDenoiser:
    """Read from the configurations of a pipeline's parts what a denoiser must know."""
    network, vae = getattr(pipe, family.part), getattr(pipe, "vae", None)
    parametrisation, sigma_range = family.parametrisation(pipe, options.force)
    space = _space(family, pipe, vae, options.size)
    height, width = space.shape[1:]
    tokens = height * width // (getattr(network.config, "patch_size", 1) * family.packs) ** 2
    settings = classifier_settings(parametrisation, sigma_range, (height, width), shift_of(pipe, tokens))
    return PipelineDenoiser(
        family=family,
        pipe=pipe,
        network=network,
        vae=vae,
        parametrisation=parametrisation,
        space=space,
        sigma_range=sigma_range,
        device=device,
        classes=family.classes(pipe),
        metadata={"name": name, "classifier": settings, "opened_with": options.kept()},
        note=family.note(pipe),
    )


def _space(family: Family, pipe: Any, vae: Any, size: int | None) -> Space:
    """Say how images and what the network sees relate."""
    network, cells = getattr(pipe, family.part), family.cells(pipe)
    channels = network.config.in_channels
    if vae is None:
        return Space(channels=channels, height=cells, width=cells)
    channels //= family.packs**2
    if autoencoder.latent_channels(vae) != channels:
        raise UnsupportedModel(
            f"The autoencoder makes latents of {autoencoder.latent_channels(vae)} channels and the network takes "
            f"{channels}. Give the autoencoder that it was trained with."
        )
    side = autoencoder.reduction(vae)
    if size is not None:
        halved = 2 ** (len(network.config.get("block_out_channels") or ()) - 1) if family.part == "unet" else 1
        step = side * halved * getattr(network.config, "patch_size", 1) * family.packs
        if size < step or size % step:
            raise RangeError(f"The 'size' must be a positive multiple of {step} pixels for this model. Got {size}.")
        cells = size // side
    pixels = cells * side
    latent = (channels, cells, cells)
    return Space(channels=3, height=pixels, width=pixels, data_std=1.0, latent=latent)


def _place(denoiser: PipelineDenoiser, device: torch.device, dtype: torch.dtype, options: PipelineOptions) -> None:
    """Put the parts where they compute: frozen, in evaluation mode, text encoders on the CPU until they are needed."""
    for part in denoiser.pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval().requires_grad_(False)
    if denoiser.vae is not None:
        denoiser.vae.to(device, torch.float32)
        with suppress(NotImplementedError):  # it would only save memory
            denoiser.vae.enable_slicing()  # pyright: ignore[reportCallIssue]
    network: Any = denoiser.network
    if options.attention is not None:
        try:
            network.set_attention_backend(options.attention)
        except (ValueError, RuntimeError, ImportError) as error:
            raise InputError(
                f"The attention backend {options.attention!r} is not to be had here: {str(error).rstrip('.')}."
            ) from error
    if not options.offload:
        place_network(network, device=device, dtype=dtype)
        return
    nn.Module.to(network, dtype=dtype)
    stream = device.type == "cuda"
    network.enable_group_offload(onload_device=device, offload_type="leaf_level", use_stream=stream)
