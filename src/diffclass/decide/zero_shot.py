"""Zero-shot classification with the call that people know from transformers' pipeline."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import torch
from PIL import Image
from torch import Tensor

from diffclass.data.images import Resize, Source, check_images, prepare_image
from diffclass.decide.classifier import DiffusionClassifier
from diffclass.decide.decision import Decision
from diffclass.decide.prompts import DEFAULT_TEMPLATE, Prompts
from diffclass.denoisers import LOAD_OPTIONS, Denoiser, load
from diffclass.errors import ConditionError, DiffclassWarning, InputError

__all__ = ["ZeroShotClassifier"]

Labels = Sequence[str] | str
Found = list[dict[str, Any]]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ZeroShotClassifier:
    """A text-to-image model that sorts any pictures into any classes, named when it is called.

    Called as transformers' zero-shot-image-classification pipeline is, it returns what that returns. `classify` gives
    the whole `Decision`, and `classifier` a `DiffusionClassifier` with predict, predict_proba and classes_.

    Args:
        denoiser: a model that reads text.
        options: arguments of `DiffusionClassifier` for every call.

    Examples:
        >>> ZeroShotClassifier.from_pretrained("owner/model")("photo.jpg", ["cat", "dog"])  # doctest: +SKIP
        [{'score': 0.98, 'label': 'cat'}, {'score': 0.02, 'label': 'dog'}]
    """

    denoiser: Denoiser
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_pretrained(
        cls, model: str | Path | Denoiser, *, device: str = "auto", dtype: str = "auto", **options: Any
    ) -> "ZeroShotClassifier":
        """Load a text-to-image model.

        Args:
            model: "owner/name" on the hub, a directory, a safetensors file, or a denoiser.
            device: "auto", "cpu", "cuda", ...
            dtype: "auto", "float32", "bfloat16" or "float16".
            options: arguments of `PipelineOptions` and of `DiffusionClassifier`.

        Raises:
            ModelError: the model cannot be had or used.
            ConditionError: it knows its classes by number and reads no text.
        """
        to_load = {name: options.pop(name) for name in list(options) if name in LOAD_OPTIONS}
        denoiser = load(model, device=device, dtype=dtype, **to_load)
        if denoiser.classes:
            raise ConditionError(
                "A zero-shot classifier needs a model that reads text. This one knows its classes by number: use "
                "DiffusionClassifier."
            )
        return cls(denoiser=denoiser, options=options)

    def classifier(
        self, labels: Labels | Prompts, templates: Sequence[str] | str = DEFAULT_TEMPLATE
    ) -> DiffusionClassifier:
        """Return a classifier among these classes.

        Args:
            labels: class names, in a list or with commas between them; or prompts.
            templates: prompts with {} in the place of the class.
        """
        templates = (templates,) if isinstance(templates, str) else tuple(templates)
        prompts = labels if isinstance(labels, Prompts) else Prompts.from_templates(_names(labels), templates)
        return DiffusionClassifier.from_pretrained(self.denoiser, prompts=prompts, **self.options)

    def classify(
        self,
        images: Source | Sequence[Source] | Tensor,
        labels: Labels | Prompts,
        templates: Sequence[str] | str = DEFAULT_TEMPLATE,
        *,
        resize: Resize = "crop",
        convert: bool = True,
    ) -> list[Decision]:
        """Classify pictures and return everything about each answer.

        Args:
            images: paths, encoded bytes, Pillow images or arrays: one, or a list of them; or a tensor in [0, 1] of the
                model's own shape, with an axis for images or without.
            labels: as in `classifier`, and so are templates.
            resize: for another size, "crop" the centre to a square and resample, "stretch", or "refuse".
            convert: allow grey to become colour, and lay transparent pictures on white.

        Raises:
            ConditionError: the labels or templates cannot be used.
            InputError: a picture cannot be opened.
        """
        batch = self.tensors(images, resize=resize, convert=convert)
        return self.classifier(labels, templates).classify(batch)

    def __call__(
        self,
        images: Source | Sequence[Source] | Tensor,
        candidate_labels: Labels | Prompts,
        hypothesis_template: Sequence[str] | str = DEFAULT_TEMPLATE,
    ) -> Found | list[Found]:
        """Return [{"score", "label"}, ...] for a picture, best first; for a list of pictures, a list of these.

        A score is the calibrated probability where the classifier has a temperature, and else `certainty`: how sure
        the draws are which class the model prefers.

        Args:
            images: as in `classify`.
            candidate_labels: class names.
            hypothesis_template: prompts with {} in the place of the class.
        """
        decisions = self.classify(images, candidate_labels, hypothesis_template)
        found = [
            sorted(({"score": score, "label": name} for name, score in d.scores.items()), key=lambda row: -row["score"])
            for d in decisions
        ]
        return found[0] if _is_one(images) else found

    def tensors(
        self, images: Source | Sequence[Source] | Tensor, *, resize: Resize = "crop", convert: bool = True
    ) -> Tensor:
        """Open pictures as the model takes them, and warn where one frame of several was taken."""
        if isinstance(images, Tensor):
            batch = images[None] if _is_one(images) else images
            check_images(batch, self.denoiser.space.image_shape)
            return batch
        sources: Any = [images] if _is_one(images) else images
        if not sources:
            raise InputError("There must be at least one picture. Got none.")
        prepared = [
            prepare_image(source, self.denoiser.space.image_shape, resize=resize, convert=convert) for source in sources
        ]
        for number, picture in enumerate(prepared):
            for change in picture.changes:
                if change.startswith("took frame"):
                    warnings.warn(
                        f"Picture {number} is animated or has several pages: {change}.", DiffclassWarning, stacklevel=3
                    )
        return torch.stack([picture.image for picture in prepared])

    def configured(self, **options: Any) -> "ZeroShotClassifier":
        """Return the same model with other arguments for `DiffusionClassifier`."""
        return replace(self, options=self.options | options)


def _is_one(images: Any) -> bool:
    """Tell one picture from several."""
    if isinstance(images, Tensor):
        return images.ndim == 3
    return not isinstance(images, Sequence) or isinstance(images, str | bytes | Image.Image)


def _names(labels: Labels) -> tuple[str, ...]:
    """Return class names; a string is a list with commas, as in transformers."""
    return tuple(name.strip() for name in labels.split(",")) if isinstance(labels, str) else tuple(labels)
