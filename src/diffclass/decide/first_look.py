"""A first look by CLIP or SigLIP: which classes a race should expect to lead, and perhaps which to try at all."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffclass.decide.prompts import Prompts
from diffclass.denoisers.card import read_json
from diffclass.denoisers.weights import fetch, is_hub_id
from diffclass.errors import DiffclassWarning, RangeError, UnsupportedModel, WeightsMissing
from diffclass.evidence import Foresight

__all__ = ["FirstLook", "find_encoder"]

_KINDS = {"clip": "CLIPModel", "siglip": "SiglipModel", "siglip2": "SiglipModel"}


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FirstLook:
    """An encoder of images and text that looks before the race.

    Without `keep` its guess only shares the race's delta: classes are dropped sooner by those that it expects to lead.
    The guarantee of `PairedRace` holds as before, whether the guess is right or wrong, because it is made before the
    first draw. With `keep` the other classes are not measured at all: then the guarantee holds among those that are
    kept, and the answer is wrong wherever the right class is not one of them.

    Args:
        name: of the model, for records.
        model: transformers' CLIPModel or SiglipModel.
        tokenizer: of it.
        size: [pixels] height and width of its images.
        mean: of each channel of its images, in [0, 1].
        std: of each channel.
        keep: classes that are measured; all if None.

    Source:
        Radford et al. 2021, section 3.1 (arXiv:2103.00020), the guess; Li et al. 2023, appendix B (arXiv:2303.16203),
        keeping the best of it.
    """

    name: str
    model: Any
    tokenizer: Any
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    keep: int | None = None
    told: dict[Prompts, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.keep is not None and self.keep < 2:
            raise RangeError(f"The 'keep' parameter of FirstLook must be at least 2. Got {self.keep}.")

    @classmethod
    def from_pretrained(
        cls, model: str | Path, *, keep: int | None = None, device: str | torch.device = "cpu"
    ) -> "FirstLook":
        """Load a CLIP or SigLIP model of transformers.

        Args:
            model: a directory or "owner/name" on the hub.
            keep: classes that are measured; all if None.
            device: where it computes, in float32.

        Raises:
            ModelError: it is not there, or of another kind.
        """
        directory = find_encoder(model)
        kind = _KINDS.get(str(read_json(directory / "config.json").get("model_type")))
        if kind is None:
            raise UnsupportedModel(
                f"A first look takes a CLIP or SigLIP model. The config.json of {str(model)!r} says "
                f"{read_json(directory / 'config.json').get('model_type')!r}."
            )
        images = read_json(directory / "preprocessor_config.json")
        import transformers

        from diffclass.denoisers.text_to_image.quiet import libraries_quiet

        try:
            with libraries_quiet(), torch.random.fork_rng(devices=[]):
                network = getattr(transformers, kind).from_pretrained(directory, local_files_only=True)
                tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
        except (OSError, ValueError) as error:
            raise WeightsMissing(
                f"The model {str(model)!r} cannot be opened: {str(error).splitlines()[0].rstrip('.')}."
            ) from error
        mean, std = (tuple(images.get(key, (0.5, 0.5, 0.5))) for key in ("image_mean", "image_std"))
        network = network.eval().requires_grad_(False).to(device)
        size = int(network.config.vision_config.image_size)
        return cls(name=str(model), model=network, tokenizer=tokenizer, size=size, mean=mean, std=std, keep=keep)

    def __call__(self, prompts: Prompts) -> Callable[[Tensor], Foresight]:
        """Return what guesses from an image in [0, 1], with the texts of all templates averaged for each class."""
        if prompts not in self.told:
            self.told.clear()
            self.told[prompts] = self._embed(prompts)
        texts = self.told[prompts]
        return lambda image: Foresight.from_probabilities(self.probabilities(image, texts), self.keep)

    @torch.no_grad()
    def probabilities(self, image: Tensor, texts: Tensor) -> np.ndarray:
        """Return the softmax over classes of the scaled cosines between an image and the texts."""
        pixels = self._pixels(image)
        found = self.model.get_image_features(pixel_values=pixels)
        features = torch.nn.functional.normalize(_pooled(found), dim=-1)
        logits = self.model.logit_scale.exp() * features @ texts.T
        return logits[0].double().softmax(dim=0).cpu().numpy()

    @torch.no_grad()
    def _embed(self, prompts: Prompts) -> Tensor:
        """Return one unit vector for each class."""
        rows = []
        limit = self.model.config.text_config.max_position_embeddings
        for texts in prompts.texts:
            longest = max(self.tokenizer(list(texts)).input_ids, key=len)
            if len(longest) > limit:
                warnings.warn(
                    f"A prompt has {len(longest)} tokens, of which the first look, {self.name!r}, reads {limit}.",
                    DiffclassWarning,
                    stacklevel=2,
                )
            tokens = self.tokenizer(
                list(texts), padding="max_length", truncation=True, max_length=limit, return_tensors="pt"
            )
            given = {name: tokens[name].to(self.model.device) for name in tokens if name != "token_type_ids"}
            if "Siglip" in type(self.model).__name__:
                given.pop("attention_mask", None)  # it was trained without
            found = self.model.get_text_features(**given)
            rows.append(torch.nn.functional.normalize(_pooled(found), dim=-1))
        return torch.nn.functional.normalize(torch.stack(rows).mean(dim=0), dim=-1)

    def _pixels(self, image: Tensor) -> Tensor:
        """Resample an image with Pillow's bicubic filter, and normalise it."""
        grey = image.expand(3, -1, -1) if len(image) == 1 else image
        array = (grey.float().cpu() * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        resized = Image.fromarray(np.ascontiguousarray(array)).resize((self.size, self.size), Image.Resampling.BICUBIC)
        values = torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (self.mean, self.std))
        return ((values - mean) / std)[None].to(self.model.device)


def _pooled(found: Any) -> Tensor:
    """Return the projected features, which transformers 5 puts into an object."""
    return found if isinstance(found, Tensor) else found.pooler_output


def find_encoder(model: str | Path) -> Path:
    """Find a model here, or on the hub with its tokenizer.

    Raises:
        WeightsMissing: it is neither a directory nor on the hub.
    """
    if Path(model).is_dir():
        return Path(model)
    if not is_hub_id(str(model)):
        return fetch(str(model))  # which refuses it
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(model), allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model"]))
    except (OSError, ValueError) as error:
        raise WeightsMissing(
            f"The model {str(model)!r} is neither a directory here nor to be had from the Hugging Face hub "
            f"({type(error).__name__}). Check the name and the connection, or download it first and give its directory."
        ) from error
