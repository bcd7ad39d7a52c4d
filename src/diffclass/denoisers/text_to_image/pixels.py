"""Text-to-image models of pixels, as `diffclass train` makes them: a small UNet that reads a small CLIP encoder.

A directory holds unet/, text_encoder/ and tokenizer/, which diffusers and transformers open, and diffclass.json.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from diffclass.denoisers.card import read_metadata
from diffclass.denoisers.precision import place_network
from diffclass.denoisers.protocol import Space
from diffclass.denoisers.scheduler import read_parametrisation
from diffclass.denoisers.text_to_image.denoiser import PipelineDenoiser
from diffclass.denoisers.text_to_image.family import Family, Size
from diffclass.denoisers.text_to_image.quiet import libraries_quiet
from diffclass.denoisers.weights import cast_weights, write_directory
from diffclass.errors import ConditionError, UnsupportedModel

__all__ = ["PIXEL_TEXT", "TextParts", "load_pixel_text", "save_pixel_text", "small_tokenizer"]

_OWN = {"unet", "text_encoder", "tokenizer", "diffclass.json", "README.md"}
_START, _END = "<|startoftext|>", "<|endoftext|>"
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;'-"


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TextParts:
    """What reads text, in the place of a pipeline.

    Args:
        tokenizer: a CLIP tokenizer.
        text_encoder: a CLIP text encoder.
        unet: the network.
    """

    tokenizer: Any
    text_encoder: nn.Module
    unet: nn.Module

    @property
    def components(self) -> dict[str, Any]:
        """Name the parts, as pipelines do."""
        return {"tokenizer": self.tokenizer, "text_encoder": self.text_encoder, "unet": self.unet}


def _embed(pipe: Any, prompts: list[str], device: torch.device) -> dict[str, Tensor]:
    tokens = pipe.tokenizer(
        prompts, padding="max_length", max_length=pipe.tokenizer.model_max_length, return_tensors="pt"
    )
    return {"encoder_hidden_states": pipe.text_encoder(tokens.input_ids.to(device)).last_hidden_state}


def _call(network: Any, sample: Tensor, time: Tensor, given: Mapping[str, Tensor], size: Size) -> Tensor:
    return network(sample, time, encoder_hidden_states=given["encoder_hidden_states"], return_dict=False)[0]


PIXEL_TEXT = Family(
    name="pixels and text",
    pipelines=(),
    part="unet",
    encoders=("text_encoder",),
    embed=_embed,
    call=_call,
    cells=lambda pipe: pipe.unet.config.sample_size,
    limits=lambda pipe: {"tokenizer": pipe.tokenizer.model_max_length},
    null=lambda pipe, device: _embed(pipe, [""], device),
)


def small_tokenizer(texts: Sequence[str], *, length: int = 16) -> Any:
    """Make a CLIP tokenizer that knows the words of some texts, and spells every other word.

    Args:
        texts: whose words, in lower case, are tokens of their own.
        length: [tokens] that a prompt may have, the first and the last included.
    """
    from transformers import CLIPTokenizer

    names = [_START, _END, *_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)]
    merges: list[tuple[str, str]] = []
    words = dict.fromkeys(word for text in texts for word in re.findall("[a-z]+", text.lower()))
    for word in words:  # from the end: every merge holds a word's end, so that no word's merges break up another
        piece = f"{word[-1]}</w>"
        for letter in reversed(word[:-1]):
            merges.append((letter, piece))
            piece = letter + piece
    names += [left + right for left, right in merges]
    vocab = {name: i for i, name in enumerate(dict.fromkeys(names))}
    ranked: Any = list(dict.fromkeys(merges))
    return CLIPTokenizer(vocab=vocab, merges=ranked, model_max_length=length)


def save_pixel_text(
    directory: str | Path,
    parts: TextParts,
    metadata: Mapping[str, Any],
    card: str,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """Write a model directory that `load` reads; it appears whole or not at all.

    Args:
        directory: replaced if it holds a model already.
        parts: the network, its text encoder and tokenizer.
        metadata: the content of diffclass.json.
        card: the content of README.md.
        dtype: of the saved weights.

    Raises:
        ResultError: the directory holds other files, or it cannot be written.
    """
    text = json.dumps(dict(metadata), indent=2, ensure_ascii=False, allow_nan=False)

    def fill(part: Path) -> None:
        with libraries_quiet():
            _save_unet(parts.unet, part / "unet", dtype)
            encoder: Any = parts.text_encoder
            encoder.save_pretrained(part / "text_encoder", state_dict=cast_weights(encoder, dtype))
            parts.tokenizer.save_pretrained(part / "tokenizer")
        (part / "diffclass.json").write_text(text + "\n", encoding="utf-8")
        (part / "README.md").write_text(card, encoding="utf-8")

    return write_directory(directory, fill, own=_OWN)


def _save_unet(network: Any, directory: Path, dtype: torch.dtype) -> None:
    from safetensors.torch import save_file

    network.save_config(directory)
    path = directory / "diffusion_pytorch_model.safetensors"
    save_file(cast_weights(network, dtype), path, metadata={"format": "pt"})
    path.chmod(0o644)


def load_pixel_text(
    directory: Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    classes: Sequence[str] | None = None,
) -> PipelineDenoiser:
    """Load a directory that `save_pixel_text` wrote.

    Args:
        directory: with diffclass.json.
        device: where the network goes.
        dtype: of the network and the text encoder; the preconditioning stays in float32.
        classes: refused: the model reads prompts.

    Raises:
        ModelError: the files are missing or damaged.
        ConditionError: classes were given.
    """
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    if classes is not None:
        raise ConditionError("This model reads prompts. Give the classes to the classifier, not to load.")
    metadata = read_metadata(directory)
    try:
        with libraries_quiet(), torch.random.fork_rng(devices=[]):
            encoder = CLIPTextModel.from_pretrained(directory / "text_encoder", local_files_only=True)
            unet: Any = UNet2DConditionModel.from_pretrained(
                directory / "unet", local_files_only=True, use_safetensors=True, torch_dtype=torch.float32
            )
            tokenizer = CLIPTokenizer.from_pretrained(directory / "tokenizer", local_files_only=True)
    except (OSError, ValueError) as error:
        raise UnsupportedModel(
            f"The text-to-image model in {str(directory)!r} cannot be opened: {str(error).splitlines()[0].rstrip('.')}."
        ) from error
    for part in (unet, encoder):
        part.eval().requires_grad_(False)
    nn.Module.to(encoder, dtype=dtype)
    low, high = map(float, metadata["sigma_range"])
    return PipelineDenoiser(
        family=PIXEL_TEXT,
        pipe=TextParts(tokenizer=tokenizer, text_encoder=encoder, unet=unet),
        network=place_network(unet, device=device, dtype=dtype),
        vae=None,
        parametrisation=read_parametrisation(metadata.get("parametrisation", {})),
        space=Space(**metadata["space"]),
        sigma_range=(low, high),
        device=torch.device(device),
        metadata=metadata,
    )
