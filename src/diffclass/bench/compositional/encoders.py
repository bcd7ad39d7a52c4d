"""CLIP and ViLT as scorers of captions, opened by transformers from any checkpoint."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffclass.bench.compositional.scorer import Asked, Scored, Scorer, best
from diffclass.bench.recording import fingerprint
from diffclass.decide.first_look import find_encoder
from diffclass.denoisers.card import read_json
from diffclass.errors import DiffclassWarning, UnsupportedModel, WeightsMissing

__all__ = ["ClipScorer", "ViltScorer"]

_PAIRS = 32  # image-text pairs, pictures or captions a call


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipScorer(Scorer):
    """Chooses the caption whose embedding has the largest cosine with the picture's.

    Args:
        name: in results.
        model: transformers' CLIPModel.
        tokenizer: of it.
        processor: of its pictures, on Pillow.
        source: where it came from.

    Source:
        Radford et al. 2021, section 3.1 (arXiv:2103.00020).
    """

    name: str
    model: Any
    tokenizer: Any
    processor: Any
    source: str
    seeded: bool = field(default=False, init=False)
    n_others: int = field(default=0, init=False)

    @classmethod
    def from_pretrained(cls, model: str | Path, *, name: str = "clip", device: str = "cpu") -> "ClipScorer":
        """Load a CLIP model: a directory or "owner/name" on the hub.

        Raises:
            ModelError: it is not there, or of another kind.
        """
        network, tokenizer, processor = _open(model, "clip", "CLIPModel", "CLIPImageProcessorPil", device)
        return cls(name=name, model=network, tokenizer=tokenizer, processor=processor, source=str(model))

    def configuration(self) -> dict[str, Any]:
        """Return everything that the answers depend on but captions and pictures."""
        return _configuration("clip", self.source, self.model)

    def answer(
        self, asked: Sequence[Asked], *, seed: int, whole: bool = False, comparable: bool = False
    ) -> Iterator[tuple[int, Scored]]:
        """Score captions by their scaled cosine with the picture; scores are comparable between pictures as they are.

        An item counts as one evaluation for its picture and one for each caption, whether or not another item shared
        them.
        """
        captions = list(dict.fromkeys(caption for one in asked for caption in one.captions))
        texts, cut = self.embed_texts(captions)
        pictures = self.embed_pictures([one.picture for one in asked])
        scale = float(self.model.logit_scale.exp())
        for index, one in enumerate(asked):
            columns = [captions.index(caption) for caption in one.captions]
            scores = [float(scale * (pictures[index] @ texts[column])) for column in columns]
            facts = _facts(columns, cut)
            yield (
                index,
                Scored(scores=tuple(scores), chosen=best(scores), evaluations=1 + len(set(columns)), facts=facts),
            )

    @torch.no_grad()
    def embed_texts(self, captions: Sequence[str]) -> tuple[Float[Tensor, "class _"], set[int]]:
        """Return a unit vector for each caption, in float64, and which captions are longer than the model reads."""
        limit = int(self.model.config.text_config.max_position_embeddings)
        cut = _too_long(captions, self.tokenizer, limit, self.name)
        rows = []
        for start in range(0, len(captions), _PAIRS):
            part = list(captions[start : start + _PAIRS])
            tokens = self.tokenizer(
                part, padding="max_length", truncation=True, max_length=limit, return_tensors="pt"
            ).to(self.model.device)
            found = self.model.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
            rows.append(_unit(found))
        return torch.cat(rows), cut

    @torch.no_grad()
    def embed_pictures(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "image _"]:
        """Return a unit vector for each picture, in float64."""
        size = int(self.model.config.vision_config.image_size)
        rows = []
        for start in range(0, len(pictures), _PAIRS):
            pixels = _pixels(self.processor, pictures[start : start + _PAIRS], size)["pixel_values"]
            rows.append(_unit(self.model.get_image_features(pixel_values=pixels.to(self.model.device))))
        return torch.cat(rows)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ViltScorer(Scorer):
    """Chooses the caption that a joint encoder of picture and text ranks first: one evaluation a caption.

    Args:
        name: in results.
        model: transformers' ViltForImageAndTextRetrieval.
        tokenizer: of it.
        processor: of its pictures, on Pillow.
        source: where it came from.

    Source:
        Kim, Son and Kim 2021 (arXiv:2102.03334), image and text retrieval.
    """

    name: str
    model: Any
    tokenizer: Any
    processor: Any
    source: str
    seeded: bool = field(default=False, init=False)
    n_others: int = field(default=0, init=False)

    @classmethod
    def from_pretrained(cls, model: str | Path, *, name: str = "vilt", device: str = "cpu") -> "ViltScorer":
        """Load a ViLT model with a retrieval head: a directory or "owner/name" on the hub.

        Raises:
            ModelError: it is not there, or of another kind.
        """
        network, tokenizer, processor = _open(
            model, "vilt", "ViltForImageAndTextRetrieval", "ViltImageProcessorPil", device
        )
        return cls(name=name, model=network, tokenizer=tokenizer, processor=processor, source=str(model))

    def configuration(self) -> dict[str, Any]:
        """Return everything that the answers depend on but captions and pictures."""
        return _configuration("vilt", self.source, self.model)

    @torch.no_grad()
    def answer(
        self, asked: Sequence[Asked], *, seed: int, whole: bool = False, comparable: bool = False
    ) -> Iterator[tuple[int, Scored]]:
        """Score captions by the retrieval head's number, which is comparable between pictures as it is."""
        limit = int(self.model.config.max_position_embeddings)
        captions = list(dict.fromkeys(caption for one in asked for caption in one.captions))
        cut = _too_long(captions, self.tokenizer, limit, self.name)
        for index, one in enumerate(asked):
            columns = [captions.index(caption) for caption in one.captions]
            logits = self._logits(one.picture, one.captions, limit)
            yield index, Scored(scores=logits, chosen=best(logits), evaluations=len(logits), facts=_facts(columns, cut))

    def _logits(self, picture: Image.Image, captions: Sequence[str], limit: int) -> tuple[float, ...]:
        """Return one logit for each caption of a picture."""
        device, found = self.model.device, []
        given = {
            key: tensor.to(device)
            for key, tensor in _pixels(self.processor, [picture], int(self.model.config.image_size)).items()
        }
        for start in range(0, len(captions), _PAIRS):
            part = list(captions[start : start + _PAIRS])
            tokens = self.tokenizer(
                part, padding="max_length", truncation=True, max_length=limit, return_tensors="pt"
            ).to(device)
            pictures = {key: tensor.expand(len(part), *tensor.shape[1:]) for key, tensor in given.items()}
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(0)  # it shuffles patches, which changes the last bits of a sum
                logits = self.model(**tokens, **pictures).logits
            found += logits.squeeze(1).double().tolist()
        return tuple(found)


def _open(model: str | Path, kind: str, network: str, processor: str, device: str) -> tuple[Any, Any, Any]:
    """Open a network, its tokenizer and its processor of pictures."""
    directory = find_encoder(model)
    found = str(read_json(directory / "config.json").get("model_type"))
    if found != kind:
        raise UnsupportedModel(
            f"The scorer {kind} takes a {kind.upper()} model. The config.json of {str(model)!r} says {found!r}."
        )
    import transformers

    from diffclass.denoisers.text_to_image.quiet import libraries_quiet

    try:
        with libraries_quiet(), torch.random.fork_rng(devices=[]):
            opened = getattr(transformers, network).from_pretrained(directory, local_files_only=True)
            tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
            pictures = getattr(transformers, processor).from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError) as error:
        raise WeightsMissing(
            f"The model {str(model)!r} cannot be opened: {str(error).splitlines()[0].rstrip('.')}."
        ) from error
    return opened.eval().requires_grad_(False).to(device), tokenizer, pictures


def _configuration(kind: str, source: str, model: Any) -> dict[str, Any]:
    return {"kind": kind, "model": {"name": source, "weights": fingerprint(model), "dtype": "float32"}}


def _pixels(processor: Any, pictures: Sequence[Image.Image], size: int) -> dict[str, Tensor]:
    """Resample pictures to the model's square with Pillow's bicubic filter, and normalise them as its processor does.

    Pictures come cropped, alike for all scorers: the processor neither crops nor resizes.
    """
    squares = [picture.resize((size, size), Image.Resampling.BICUBIC) for picture in pictures]
    options = {"do_resize": False, "return_tensors": "pt"}
    if hasattr(processor, "do_center_crop"):
        options["do_center_crop"] = False
    return dict(processor(images=squares, **options))


def _unit(found: Any) -> Tensor:
    """Return unit vectors in float64 of the projected features, which transformers 5 puts into an object."""
    features = found if isinstance(found, Tensor) else found.pooler_output
    return torch.nn.functional.normalize(features.double(), dim=-1).cpu()


def _too_long(captions: Sequence[str], tokenizer: Any, limit: int, name: str) -> set[int]:
    """Find captions that a model reads only the beginning of, and warn of them."""
    lengths = [len(ids) for ids in tokenizer(list(captions)).input_ids]
    cut = {index for index, length in enumerate(lengths) if length > limit}
    if cut:
        warnings.warn(
            f"The scorer {name!r} reads {limit} tokens and cuts longer captions: rows list them under 'truncated'.",
            DiffclassWarning,
            stacklevel=3,
        )
    return cut


def _facts(columns: Sequence[int], cut: set[int]) -> dict[str, Any]:
    truncated = [place for place, column in enumerate(columns) if column in cut]
    return {"truncated": truncated} if truncated else {}
