"""Models by name: the ones in the package, directories, and the Hugging Face hub."""

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

import torch

from diffclass.denoisers.card import ModelCard, card_of, read_json
from diffclass.denoisers.pixel import load_pixel
from diffclass.denoisers.precision import fastest_dtype
from diffclass.denoisers.protocol import Denoiser
from diffclass.denoisers.weights import fetch
from diffclass.errors import ConditionError, InputError, WeightsMissing

__all__ = ["choose_device", "list_models", "load", "read_card"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def load(
    model: str | Path | Denoiser,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    classes: Sequence[str] | None = None,
    compile: bool = False,
    batch_size: int = 256,
) -> Denoiser:
    """Load a denoiser that classifies images.

    Args:
        model: the name of a bundled model (`list_models`), a directory, "owner/name" on the Hugging Face hub, or a
            denoiser, which is returned as it is.
        device: "auto" takes a GPU where there is one.
        dtype: of a network. "auto" is bfloat16 where the machine computes with it, else float32. Mixtures choose
            their own.
        classes: names in the order of the network's class ids, for networks that have none.
        compile: compile the network, which takes half a minute the first time and seconds with what the disk keeps of
            it. Where that fails, a warning says so and the network runs as it is. Mixtures have no network.
        batch_size: of the calls that run compiled; others run eagerly.

    Raises:
        ModelError: there is no such model, its files are damaged, or it is not one that can classify.
        InputError: the device is not there, or the classes do not fit.
    """
    denoiser = model if not isinstance(model, str | Path) else _open(model, device, dtype, classes)
    if compile:
        from diffclass.denoisers.compiled import compile_denoiser

        return compile_denoiser(denoiser, batch_size=batch_size)
    return denoiser


def _open(
    model: str | Path, device: str | torch.device, dtype: str | torch.dtype, classes: Sequence[str] | None
) -> Denoiser:
    """Find and read a model."""
    place = choose_device(device)
    directory = _directory(model)
    if (directory / "config.json").is_file():
        kind = read_json(directory / "config.json").get("_class_name")
        if kind == "MixtureDenoiser":
            return _load_mixture(directory, place, classes)
    return load_pixel(directory, device=place, dtype=_dtype(dtype, place), classes=classes)


def list_models() -> list[ModelCard]:
    """Return the cards of the bundled models, by name."""
    return [card_of(directory) for directory in _bundled().values()]


def read_card(name: str | Path) -> ModelCard:
    """Return the card of a bundled model or of a directory that diffclass wrote.

    Raises:
        ModelError: there is no such model, or it has no card.
    """
    return card_of(_directory(name))


def _models() -> Path:
    """Return where the bundled models are."""
    return Path(str(files("diffclass"))) / "models"


def _bundled() -> dict[str, Path]:
    return {path.parent.name: path.parent for path in sorted(_models().glob("*/diffclass.json"))}


def _directory(model: str | Path) -> Path:
    """Find a model: bundled, here, or on the hub."""
    bundled = _bundled()
    if isinstance(model, str) and model in bundled:
        return bundled[model]
    if Path(model).is_dir():
        return Path(model)
    if isinstance(model, Path) or "/" in model:
        return fetch(str(model))
    near = get_close_matches(model, bundled, n=1)
    names = ", ".join(bundled) if bundled else "none"
    raise WeightsMissing(
        f"The model must be a bundled one ({names}), a directory or 'owner/name' on the Hugging Face hub. "
        f"Got {model!r}." + (f" Did you mean {near[0]!r}?" if near else "")
    )


def _load_mixture(directory: Path, device: torch.device, classes: Sequence[str] | None) -> Denoiser:
    from diffclass.denoisers.mixture import MixtureDenoiser

    denoiser = MixtureDenoiser.load(directory, device=device)
    if classes is not None and tuple(classes) != tuple(denoiser.classes):
        raise ConditionError(
            f"The mixture in {str(directory)!r} names its own classes: {', '.join(map(repr, denoiser.classes))}. "
            "Leave the 'classes' parameter of load out."
        )
    return denoiser


def choose_device(device: str | torch.device) -> torch.device:
    """Turn a device's name into a device that is there; "auto" is a GPU if there is one.

    Raises:
        InputError: this machine has none of that name.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"The 'device' parameter of load must be a device of this machine, as 'cpu' or 'cuda'. Got {str(device)!r}."
        ) from error
    return place


def _dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Turn a number format's name into a dtype."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return fastest_dtype(device)
    if dtype not in _DTYPES:
        raise InputError(f"The 'dtype' parameter of load must be auto, {', '.join(_DTYPES)}. Got {dtype!r}.")
    return _DTYPES[dtype]
