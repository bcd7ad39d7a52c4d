"""A recipe that starts from a model, or trains a baseline on captions: the parts of its TOML file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from typing import Any, Literal, final

from diffclass.errors import ConfigError
from diffclass.train.recipe import Recipe, read_part, read_recipe

__all__ = ["CaptionPart", "LoraPart", "StartPart", "TuningPart", "TuningRecipe", "load_any_recipe"]

_KINDS = ("text-to-image", "contrastive", "matching")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StartPart:
    """What training starts from.

    Args:
        model: directory or "owner/name"; None for random weights, of the sizes in `options`.
        vae: another autoencoder of a text-to-image model.
        size: [pixels] height and width of the images of a text-to-image model; what it was trained on if None.
        options: of a network with random weights: arguments of ViltConfig, or under "vision" and "text" those of
            CLIPVisionConfig and CLIPTextConfig.
    """

    model: str | None = None
    vae: str | None = None
    size: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionPart:
    """How images and captions are read (`open_captions`).

    Args:
        title: how the card calls the data; the name of its folder if empty.
        licence: of the data.
        resize: "refuse", "crop" or "stretch" images of another size (text-to-image).
        flip: mirror half of the images (only where captions say nothing of left and right).
        text_column: of the captions in the metadata.
        template: captions of labelled images, with {} in the place of the class.
        sentences: captions of labelled images, by class.
    """

    title: str = ""
    licence: str = "that of the data"
    resize: Literal["refuse", "crop", "stretch"] = "crop"
    flip: bool = False
    text_column: str = "text"
    template: str | None = None
    sentences: Mapping[str, str] | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TuningPart:
    """How weights are changed.

    Args:
        learning_rate: of AdamW at its peak.
        steps: optimiser steps; or
        epochs: how often every image is seen.
        batch_size: images a forward pass; a contrastive one may hold fewer, as no two of its images share a caption.
        accumulate: forward passes an optimiser step.
        decay: of the learning rate after the warm-up: "constant", "linear" or "cosine", to zero.
        warmup: [fraction of the run].
        weight_decay: of AdamW.
        gradient_clip: largest gradient norm; 0 for none.
        ema_half_life: [fraction of the run] half-life of averaged weights; 0 for the last weights.
        caption_dropout: share of captions replaced by the empty one (text-to-image).
        text_encoder: whether the text encoders are trained too (text-to-image).
        checkpointing: compute activations twice, to save memory.
        negatives: wrong captions an image (matching).
        seed: of everything.

    Raises:
        ConfigError: a number is outside its range.
    """

    learning_rate: float
    steps: int = 0
    epochs: int = 0
    batch_size: int = 8
    accumulate: int = 1
    decay: str = "constant"
    warmup: float = 0.0
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    ema_half_life: float = 0.0
    caption_dropout: float = 0.0
    text_encoder: bool = False
    checkpointing: bool = False
    negatives: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be used."""
        if (self.steps > 0) == (self.epochs > 0):
            raise ConfigError(
                f"[train] must give either 'steps' or 'epochs'. Got {self.steps} steps and {self.epochs} epochs."
            )
        for name in ("batch_size", "accumulate", "negatives"):
            if getattr(self, name) < 1:
                raise ConfigError(f"The '{name}' of [train] must be at least 1. Got {getattr(self, name)}.")
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(f"The 'learning_rate' of [train] must be positive. Got {self.learning_rate}.")
        if self.decay not in ("constant", "linear", "cosine"):
            raise ConfigError(f"The 'decay' of [train] must be constant, linear or cosine. Got {self.decay!r}.")
        for name in ("warmup", "ema_half_life", "caption_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"The '{name}' of [train] must be in [0, 1). Got {getattr(self, name)}.")

    def n_steps(self, n_images: int) -> int:
        """Return the optimiser steps of a run on so many images."""
        return self.steps or ceil(self.epochs * n_images / (self.batch_size * self.accumulate))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LoraPart:
    """Which low-rank matrices are learned beside frozen weights.

    Args:
        rank: of each.
        alpha: their product is scaled by alpha / rank; the rank if None.
        targets: layers of the network that get them, by the end of their names.

    Source:
        Hu et al. 2021, section 4.1 (arXiv:2106.09685).
    """

    rank: int = 16
    alpha: int | None = None
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TuningRecipe:
    """Everything a run depends on but the images.

    Args:
        name: of the recipe.
        description: for people.
        kind: "text-to-image", "contrastive" (CLIP) or "matching" (ViLT).
        start: what it starts from.
        data: how images and captions are read.
        train: how weights are changed.
        lora: low-rank matrices in place of all weights (text-to-image).

    Raises:
        ConfigError: parts do not go together.
    """

    name: str
    description: str
    kind: str
    train: TuningPart
    start: StartPart = field(default_factory=StartPart)
    data: CaptionPart = field(default_factory=CaptionPart)
    lora: LoraPart | None = None

    def __post_init__(self) -> None:
        """Refuse parts that do not go together."""
        if self.kind not in _KINDS:
            raise ConfigError(f"The 'kind' of a recipe must be one of {', '.join(_KINDS)}. Got {self.kind!r}.")
        if self.lora is not None and (self.kind != "text-to-image" or self.train.text_encoder):
            raise ConfigError("A [lora] is for the network of a text-to-image model, with text encoders as they are.")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as they are written beside the weights."""
        return asdict(self)

    @property
    def identity(self) -> str:
        """What the weights depend on; names and texts of the card may change."""
        data = (self.data.resize, self.data.flip)
        return repr((self.kind, self.start, data, self.train, self.lora))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "the recipe") -> "TuningRecipe":
        """Read what `as_dict` wrote, or a table of TOML; `where` names it in errors.

        Raises:
            ConfigError: a key is missing or unknown, or a value cannot be used.
        """
        table = dict(values)
        parts = {"start": StartPart, "data": CaptionPart, "train": TuningPart, "lora": LoraPart}
        for key, kind in parts.items():
            if table.get(key) is not None:
                table[key] = read_part(kind, table[key], f"[{key}] of {where}")
        return read_part(cls, table, where)


def load_any_recipe(source: str | Path) -> Recipe | TuningRecipe:
    """Read a recipe of either sort, from a TOML file or by the name of one that comes with the package.

    Raises:
        ConfigError: there is no such recipe, or it cannot be used.
    """
    table, where = read_recipe(source)
    return (TuningRecipe if "kind" in table else Recipe).from_dict(table, where)
