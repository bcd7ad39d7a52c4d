"""A training recipe: one TOML file, read into the frozen values that the loop takes."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, final

from diffclass.errors import ConfigError

__all__ = [
    "DataPart",
    "NetworkPart",
    "NoisePart",
    "Recipe",
    "TrainPart",
    "list_recipes",
    "load_recipe",
    "read_part",
    "read_recipe",
]

_NOISE = {
    "schedule": ("log-normal", "shifted-cosine"),
    "prediction": ("edm", "v"),
    "weighting": ("edm", "min-snr"),
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DataPart:
    """What is learned from.

    Args:
        name: data set directory, file or built-in name; the command line's --data replaces it.
        title: how the card calls the data.
        licence: of the data, and so of the weights.
        shape: channels, height and width [pixels] of an image; those of the data if None.
        classes: names, where the data has none.
        resize: "refuse", "crop" or "stretch" images of another size.
        flip: mirror half of the images (only where left and right do not matter).
        shift: [pixels] largest random shift, with edge padding.
        captions: templates with {} in the place of the class, for a network that reads text.
        spoken: what stands in that place for each class, in the order of the classes; their names if None. Of
            captioned images, every caption, which the data tells.
        captioned: whether every image has captions of its own (`open_captions`), in place of a class.
    """

    name: str
    title: str
    licence: str
    shape: tuple[int, int, int] | None = None
    classes: tuple[str, ...] | None = None
    resize: Literal["refuse", "crop", "stretch"] = "refuse"
    flip: bool = False
    shift: int = 0
    captions: tuple[str, ...] = ()
    spoken: tuple[str, ...] | None = None
    captioned: bool = False


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPart:
    """Which diffusers network, and how images enter it.

    Args:
        kind: "UNet2DModel", "DiTTransformer2DModel", or "UNet2DConditionModel", which reads captions.
        patch: [pixels] patch x patch pixels become channels.
        haar: whether one level of the orthonormal Haar transform comes before that.
        fit: a UNet keeps of its levels those that the image's side can be halved for and attends where that side is at
            most 16; a transformer's patches are as small as 256 tokens allow.
        options: the network's own constructor arguments; channels, size and number of classes are filled in.
        text: arguments of the CLIP text encoder that a network which reads captions is trained with.
    """

    kind: str = "UNet2DModel"
    patch: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict, repr=False)  # a checkpoint of old is known by the others
    haar: bool = field(default=False, repr=False)
    fit: bool = field(default=False, repr=False)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPart:
    """EDM training (Karras et al. 2022, Table 1, "Training").

    Args:
        steps: optimiser steps.
        batch_size: images a step.
        optimizer: "adamw", or "muon" for the matrices and AdamW for the rest.
        learning_rate: of AdamW at its peak, after a linear warm-up and before a cosine decay to zero.
        matrix_learning_rate: of Muon at its peak.
        compile: whether torch.compile fuses the network; worth its half a minute in runs of many minutes.
        warmup: [fraction of the run].
        weight_decay: of either.
        log_sigma_mean: mean of log(sigma) in training.
        log_sigma_std: its standard deviation.
        label_dropout: share of labels replaced by the null class.
        ema_half_life: [fraction of the run] half-life of the averaged weights.
        gradient_clip: largest gradient norm.
        time_scale: the network's time is time_scale * ln(sigma) / 4.
        seed: of everything.
        validate_every: steps between measurements of validation accuracy; 0: only at the end.
        validation_images: how many images each of those measurements classifies.
    """

    steps: int
    batch_size: int = 128
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    matrix_learning_rate: float = 3e-3
    compile: bool = False
    warmup: float = 0.03
    weight_decay: float = 0.0
    log_sigma_mean: float = -0.5
    log_sigma_std: float = 1.2
    label_dropout: float = 0.1
    ema_half_life: float = 0.02
    gradient_clip: float = 1.0
    time_scale: float = 250.0
    seed: int = 0
    validate_every: int = 0
    validation_images: int = 500


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NoisePart:
    """How noisy training images are, what the network predicts, and how much each noise level counts.

    Args:
        schedule: "log-normal", by log_sigma_mean and log_sigma_std of [train], or "shifted-cosine".
        prediction: "edm", or "v", which is EDM's preconditioning for data of unit variance with the opposite sign.
        weighting: "edm", the plain error of the network's output, or "min-snr".
        gamma: largest weight of an image's squared error under "min-snr".
        log_snr: lowest and highest log(alpha^2 / sigma^2) of the schedule before it is shifted.
        base_side: [pixels] side of images that need no shift.

    Raises:
        ConfigError: a name is unknown, or a number is outside its range.

    Source:
        Hoogeboom, Heek and Salimans 2023, section 3.1 (shifted cosine, arXiv:2301.11093); Salimans and Ho 2022 (v,
        arXiv:2202.00512); Hang et al. 2023, equation 8 (min-SNR, arXiv:2303.09556).
    """

    schedule: str = "log-normal"
    prediction: str = "edm"
    weighting: str = "edm"
    gamma: float = 5.0
    log_snr: tuple[float, float] = (-15.0, 15.0)
    base_side: int = 64

    def __post_init__(self) -> None:
        """Refuse settings that cannot be used."""
        for name, known in _NOISE.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"The '{name}' of [noise] must be one of {', '.join(known)}. "
                                  f"Got {getattr(self, name)!r}.")  # fmt: skip
        if not (self.gamma > 0 and self.base_side > 0 and len(self.log_snr) == 2 and self.log_snr[0] < self.log_snr[1]):
            raise ConfigError(
                "[noise] needs a gamma and a base_side above 0, and a log_snr of two ascending numbers. "
                f"Got {self.gamma}, {self.base_side} and {list(self.log_snr)}."
            )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything a training run depends on but the images."""

    name: str
    description: str
    data: DataPart
    network: NetworkPart
    train: TrainPart
    noise: NoisePart = field(default_factory=NoisePart)
    classifier: Mapping[str, Any] = field(default_factory=dict)  # default objective, as in diffclass.json

    def captions(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Return every caption, template by template, in the order of the classes; none without templates.

        Raises:
            ConfigError: the spoken names are not as many as the classes, or a template has no place for them.
        """
        spoken = classes if self.data.spoken is None else self.data.spoken
        if len(spoken) != len(classes):
            raise ConfigError(f"'spoken' must name each of the {len(classes)} classes. Got {len(spoken)} names.")
        bad = [template for template in self.data.captions if "{}" not in template]
        if bad:
            raise ConfigError(f"A caption must hold {{}} where the class goes. Got {bad[0]!r}.")
        return tuple(template.replace("{}", name) for template in self.data.captions for name in spoken)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as they are written beside the weights."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "the recipe") -> "Recipe":
        """Read what `as_dict` wrote, or a table of TOML; `where` names it in errors.

        Raises:
            ConfigError: a key is missing or unknown.
        """
        table = dict(values)
        for key, kind in (("data", DataPart), ("network", NetworkPart), ("train", TrainPart), ("noise", NoisePart)):
            if key in table:
                table[key] = read_part(kind, table[key], f"[{key}] of {where}")
        return read_part(cls, table, where)


def read_part(kind: type, table: object, where: str) -> Any:
    """Build one part of a recipe from its table.

    Raises:
        ConfigError: a key is missing, or unknown: the nearest known one is named.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} must be a table.")
    known = {f.name: f for f in fields(kind)}
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else f" Known keys: {', '.join(known)}."
            raise ConfigError(f"{where} has the unknown key '{key}'.{hint}")
    missing = [
        name for name, f in known.items() if name not in table and f.default is MISSING and f.default_factory is MISSING
    ]
    if missing:
        raise ConfigError(f"{where} lacks the key '{missing[0]}'.")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    return kind(**values)


def list_recipes() -> tuple[str, ...]:
    """Name the recipes that come with the package."""
    files = resources.files("diffclass.train").joinpath("recipes").iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def load_recipe(source: str | Path) -> Recipe:
    """Read a recipe for training from scratch from a TOML file, or by the name of one that comes with the package.

    Raises:
        ConfigError: there is no such recipe, it cannot be used, or it is one of another kind.
    """
    table, where = read_recipe(source)
    if "kind" in table:
        raise ConfigError(f"{where} is a recipe of the kind {table['kind']!r}. Read it with load_any_recipe.")
    return Recipe.from_dict(table, where)


def read_recipe(source: str | Path) -> tuple[dict[str, Any], str]:
    """Find a recipe's table, and name it for messages.

    Raises:
        ConfigError: there is no such recipe, or its file is no TOML.
    """
    path = Path(source)
    if path.suffix != ".toml" and str(source) in list_recipes():
        path = Path(str(resources.files("diffclass.train").joinpath(f"recipes/{source}.toml")))
    if not path.is_file():
        raise ConfigError(
            f"There is no recipe '{source}'. Give a TOML file, or one of the names {', '.join(list_recipes())}."
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    return table, str(path)
