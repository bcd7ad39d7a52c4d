"""CLIP and ViLT with their processors: opened, or made small with random weights; and images as they take them."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor, nn

from diffclass.data.datasets import Item
from diffclass.data.images import prepare_image
from diffclass.decide.first_look import find_encoder
from diffclass.denoisers.text_to_image.pixels import small_tokenizer
from diffclass.denoisers.text_to_image.quiet import libraries_quiet
from diffclass.denoisers.weights import write_directory
from diffclass.errors import ConfigError, InputError, UnsupportedModel
from diffclass.train.tuning.recipe import StartPart

__all__ = ["Encoder", "build_encoder", "open_encoder", "save_encoder"]

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;'-"
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_OWN = {
    "README.md", "config.json", "diffclass.json", "merges.txt", "model.safetensors", "preprocessor_config.json",
    "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt",
}  # fmt: skip
_TOKENS = 24  # that small models read
_MODELS = {"contrastive": ("CLIPModel", "clip"), "matching": ("ViltForImageAndTextRetrieval", "vilt")}


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoder:
    """A transformers model of images and text.

    Args:
        kind: "contrastive" or "matching".
        model: CLIPModel or ViltForImageAndTextRetrieval.
        tokenizer: of it.
        processor: of its images, Pillow's.
    """

    kind: str
    model: Any
    tokenizer: Any
    processor: Any

    @property
    def length(self) -> int:
        """Tokens that the model reads."""
        config = self.model.config
        return int(getattr(config, "text_config", config).max_position_embeddings)

    def checkpoint_activations(self) -> None:
        """Compute activations twice, to save memory."""
        newer = getattr(self.model, "activation_checkpointing_enable", None)  # transformers 5 renamed it
        (newer or self.model.gradient_checkpointing_enable)()

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Turn captions into tokens, all of one length.

        Raises:
            InputError: a caption is longer than the model reads.
        """
        lengths = [len(ids) for ids in self.tokenizer(list(texts)).input_ids]
        longest = max(range(len(texts)), key=lengths.__getitem__)
        if lengths[longest] > self.length:
            raise InputError(
                f"The caption {texts[longest]!r} has {lengths[longest]} tokens and the model reads {self.length}. "
                "Shorten it."
            )
        found = self.tokenizer(list(texts), padding="max_length", max_length=max(lengths), return_tensors="pt")
        return {name: found[name] for name in ("input_ids", "attention_mask")}

    def picture(self, item: Item) -> UInt8[Tensor, "channel height width"]:
        """Open a picture and resize it as the processor does; it stays in 8 bits, and `batch` normalises it."""
        keep: dict[str, Any] = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
        keep |= {"do_pad": False} if self.kind == "matching" else {}
        return self.processor(images=[_picture(item)], **keep)["pixel_values"][0].to(torch.uint8)

    def batch(self, pixels: Sequence[Tensor], device: torch.device) -> dict[str, Tensor]:
        """Normalise pictures; those of ViLT are filled up to the largest, with a mask."""
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.processor.image_mean, self.processor.image_std))
        values = [(one.float() * self.processor.rescale_factor - mean) / std for one in pixels]
        if self.kind == "contrastive":
            return {"pixel_values": torch.stack(values).to(device)}
        height, width = (max(one.shape[axis] for one in values) for axis in (1, 2))
        filled = torch.zeros(len(values), 3, height, width)
        mask = torch.zeros(len(values), height, width, dtype=torch.int64)
        for row, one in enumerate(values):
            filled[row, :, : one.shape[1], : one.shape[2]] = one
            mask[row, : one.shape[1], : one.shape[2]] = 1
        return {"pixel_values": filled.to(device), "pixel_mask": mask.to(device)}


def _picture(item: Item) -> Image.Image:
    """Open a picture in its own size, as colour."""
    source = item.read()
    if isinstance(source, np.ndarray):
        size = source.shape[0], source.shape[1]
    elif isinstance(source, Image.Image):
        size = source.height, source.width
    else:
        try:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
                size = opened.height, opened.width
        except OSError:
            size = (1, 1)  # what is wrong is said below
    prepared = prepare_image(source, (3, size[0], size[1]), resize="refuse", convert=True, name=item.id)
    pixels = prepared.pixels if prepared.pixels.dtype == np.uint8 else np.rint(prepared.pixels * 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def open_encoder(kind: str, model: str | Path) -> Encoder:
    """Open a CLIP ("contrastive") or a ViLT ("matching") of transformers.

    Args:
        kind: of recipe.
        model: a directory or "owner/name" on the hub.

    Raises:
        ModelError: it is not there, or of another kind.
    """
    import transformers

    from diffclass.denoisers.card import read_json

    name, wanted = _MODELS[kind]
    directory = find_encoder(model)
    found = read_json(directory / "config.json").get("model_type")
    if found != wanted:
        raise UnsupportedModel(
            f"A {kind} recipe starts from a {name} (model_type {wanted!r}). The config.json of {str(model)!r} says "
            f"{found!r}."
        )
    processor = transformers.CLIPImageProcessorPil if kind == "contrastive" else transformers.ViltImageProcessorPil
    try:
        with libraries_quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # for a head that the weights do not have
            return Encoder(
                kind=kind,
                model=getattr(transformers, name).from_pretrained(
                    directory, local_files_only=True, dtype=torch.float32
                ),
                tokenizer=transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True),
                processor=processor.from_pretrained(directory, local_files_only=True),
            )
    except (OSError, ValueError) as error:
        raise UnsupportedModel(
            f"The model {str(model)!r} cannot be opened: {str(error).splitlines()[0].rstrip('.')}."
        ) from error


def build_encoder(kind: str, start: StartPart, texts: Sequence[str], seed: int) -> Encoder:
    """Make a small CLIP or ViLT with random weights, and a tokenizer that knows the words of some texts.

    Args:
        kind: "contrastive" or "matching".
        start: its options are those of transformers' configurations.
        texts: captions.
        seed: of the weights.

    Raises:
        ConfigError: transformers refuses the options.
    """
    from huggingface_hub.errors import StrictDataclassError

    try:
        with libraries_quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return (_small_clip if kind == "contrastive" else _small_vilt)(start.options, texts)
    except (StrictDataclassError, TypeError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[-1].strip().removeprefix("ValueError: ").rstrip(".")
        raise ConfigError(f"transformers cannot build {_MODELS[kind][0]} from these options: {reason}.") from error


def _small_clip(options: Mapping[str, Any], texts: Sequence[str]) -> Encoder:
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    tokenizer = small_tokenizer(texts, length=options["text"].get("max_position_embeddings", _TOKENS))
    text = {
        "vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    rest = {key: value for key, value in options.items() if key not in ("text", "vision")}
    config: Any = CLIPConfig(text_config={**text, **options["text"]}, vision_config=dict(options["vision"]), **rest)
    model = CLIPModel(config)
    side = config.vision_config.image_size
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side},
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip
    return Encoder(kind="contrastive", model=model, tokenizer=tokenizer, processor=processor)


def _small_vilt(options: Mapping[str, Any], texts: Sequence[str]) -> Encoder:
    from transformers import BertTokenizer, ViltConfig, ViltForImageAndTextRetrieval, ViltImageProcessorPil

    words = sorted({word for text in texts for word in re.findall("[a-z]+", text.lower())})
    pieces = dict.fromkeys((*_SPECIAL, *_LETTERS, *(f"##{letter}" for letter in _LETTERS), *words))
    length = options.get("max_position_embeddings", _TOKENS)
    tokenizer = BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, model_max_length=length)
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": length, "pad_token_id": tokenizer.pad_token_id}
    config = ViltConfig(**{**sizes, **options})
    sized: dict[str, Any] = {"size": {"shortest_edge": config.image_size}, "size_divisor": config.patch_size}
    processor = ViltImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3, **sized)
    model = ViltForImageAndTextRetrieval(config)
    return Encoder(kind="matching", model=model, tokenizer=tokenizer, processor=processor)


def save_encoder(directory: str | Path, encoder: Encoder, metadata: str, card: str) -> Path:
    """Write a directory that transformers opens: model, tokenizer and image processor.

    Args:
        directory: replaced if it holds such a model already.
        encoder: the model.
        metadata: the content of diffclass.json.
        card: the content of README.md.

    Raises:
        ResultError: the directory holds other files, or it cannot be written.
    """

    def fill(part: Path) -> None:
        with libraries_quiet():
            network: nn.Module = encoder.model
            network.save_pretrained(part)  # pyright: ignore[reportCallIssue]
            encoder.tokenizer.save_pretrained(part)
            encoder.processor.save_pretrained(part)
        (part / "diffclass.json").write_text(metadata, encoding="utf-8")
        (part / "README.md").write_text(card, encoding="utf-8")

    return write_directory(directory, fill, own=_OWN)
