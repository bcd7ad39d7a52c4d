"""Models by name: the ones in the package, directories, and the Hugging Face hub."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from diffclass.denoisers.card import ModelCard, card_of, read_json, read_metadata
from diffclass.denoisers.pixel import load_pixel
from diffclass.denoisers.precision import fastest_dtype
from diffclass.denoisers.protocol import Denoiser
from diffclass.denoisers.weights import fetch, is_hub_id
from diffclass.errors import ConditionError, InputError, UnsupportedModel, WeightsMissing

__all__ = ["LOAD_OPTIONS", "choose_device", "list_models", "load", "read_card"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
# Of text-to-image models, with their defaults: PipelineOptions, which is not imported before it is needed.
LOAD_OPTIONS: Mapping[str, Any] = {
    "size": None,
    "lora": None,
    "lora_scale": 1.0,
    "vae": None,
    "config": None,
    "force": False,
    "offload": False,
    "attention": None,
}
_KEPT = (
    "classes",
    "prompts",
    "classifier",
    "description",
    "licence",
    "data",
    "datasets",
    "base_model",
    "figures",
    "calibration",
)


def load(
    model: str | Path | Denoiser,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    classes: Sequence[str] | None = None,
    compile: bool = False,
    batch_size: int = 256,
    **options: Any,
) -> Denoiser:
    """Load a denoiser that classifies images.

    Args:
        model: the name of a bundled model (`list_models`), a directory, a safetensors file, "owner/name" on the
            Hugging Face hub, or a denoiser, which is returned as it is.
        device: "auto" takes a GPU where there is one.
        dtype: of a network. "auto" is bfloat16 where the machine computes with it, else float32. Mixtures choose
            their own.
        classes: names in the order of the network's class ids, for networks that have none.
        compile: compile the network, which takes half a minute the first time and seconds with what the disk keeps of
            it. Where that fails, a warning says so and the network runs as it is. Mixtures have no network.
        batch_size: of the calls that run compiled; others run eagerly.
        options: of text-to-image models and others on latents: the arguments of `PipelineOptions`.

    Raises:
        ModelError: there is no such model, its files are damaged, or it is not one that can classify.
        InputError: the device is not there, or the classes do not fit.
    """
    denoiser = model if not isinstance(model, str | Path) else _open(model, device, dtype, classes, options)
    if compile:
        from diffclass.denoisers.compiled import compile_denoiser

        return compile_denoiser(denoiser, batch_size=batch_size)
    return denoiser


def _open(
    model: str | Path,
    device: str | torch.device,
    dtype: str | torch.dtype,
    classes: Sequence[str] | None,
    options: Mapping[str, Any],
) -> Denoiser:
    """Find and read a model."""
    place = choose_device(device)
    unknown = options.keys() - LOAD_OPTIONS.keys()
    if unknown:
        raise TypeError(f"load() got an unexpected keyword argument {min(unknown)!r}")
    if Path(model).is_file():
        return _load_pipeline(model, Path(model), place, _dtype(dtype, place), classes, options)
    directory = _directory(model)
    index = directory / "model_index.json"
    if index.is_file() and any(part in read_json(index) for part in ("vae", "text_encoder")):
        return _load_pipeline(model, directory, place, _dtype(dtype, place), classes, options)
    if (directory / "diffclass.json").is_file() and "weights_of" in read_json(directory / "diffclass.json"):
        return _load_referenced(directory, place, _dtype(dtype, place), classes, options)
    given = [name for name, value in options.items() if value != LOAD_OPTIONS[name]]
    if given:
        raise InputError(f"The {given[0]!r} option is one of text-to-image models, and {str(model)!r} is none.")
    if (directory / "diffclass.json").is_file() and (directory / "text_encoder").is_dir():
        from diffclass.denoisers.text_to_image.pixels import load_pixel_text

        return load_pixel_text(directory, device=place, dtype=_dtype(dtype, place), classes=classes)
    if (directory / "config.json").is_file():
        kind = read_json(directory / "config.json").get("_class_name")
        if kind == "MixtureDenoiser":
            return _load_mixture(directory, place, classes)
    return load_pixel(directory, device=place, dtype=_dtype(dtype, place), classes=classes)


def _load_pipeline(
    model: str | Path,
    path: Path,
    device: torch.device,
    dtype: torch.dtype,
    classes: Sequence[str] | None,
    options: Mapping[str, Any],
) -> Denoiser:
    """Load a diffusers pipeline, with what a diffclass.json beside it says."""
    from diffclass.denoisers.text_to_image import PipelineOptions, load_pipeline

    stored = read_json(path / "diffclass.json") if (path / "diffclass.json").is_file() else {}
    chosen = PipelineOptions(**_merged(stored.get("opened_with", {}), options, path))
    denoiser = load_pipeline(path, name=str(model), device=device, dtype=dtype, classes=classes, options=chosen)
    found = dict(denoiser.metadata)
    if path.parent.name == "snapshots" and is_hub_id(str(model)):
        found["weights_of"] = {"model": str(model), "revision": path.name}
    found["classifier"] = {**found["classifier"], **stored.get("classifier", {})}
    return replace(denoiser, metadata={**{key: stored[key] for key in _KEPT if key in stored}, **found})


def _load_referenced(
    directory: Path, device: torch.device, dtype: torch.dtype, classes: Sequence[str] | None, options: Mapping[str, Any]
) -> Denoiser:
    """Load a directory that holds a classifier's settings and says whose weights it takes."""
    from diffclass.denoisers.text_to_image.files import fetch_pipeline

    where, stored = directory / "diffclass.json", read_metadata(directory)
    told = stored["weights_of"]
    model, revision = (told.get(key) if isinstance(told, Mapping) else None for key in ("model", "revision"))
    if not isinstance(model, str) or not is_hub_id(model):
        raise UnsupportedModel(
            f"The 'weights_of' of {str(where)!r} must hold the 'model' as 'owner/name' on the Hugging Face hub. "
            f"Got {told!r}."
        )
    path = fetch_pipeline(model, revision=revision)
    if path is None:
        raise WeightsMissing(
            f"The model in {str(directory)!r} takes its weights from {model!r}, which is no text-to-image model on the "
            "Hugging Face hub, or cannot be reached. Check the connection, or download it first."
        )
    merged = _merged(stored.get("opened_with", {}), options, where)
    denoiser: Any = _load_pipeline(model, path, device, dtype, classes, merged)
    found = {**denoiser.metadata, **{key: stored[key] for key in ("name", *_KEPT) if key in stored}}
    return replace(denoiser, metadata=found | {"weights_of": dict(told)})


def _merged(stored: Mapping[str, Any], given: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Return what a saved model was opened with, where nothing else is asked for."""
    if unknown := stored.keys() - LOAD_OPTIONS.keys():
        raise UnsupportedModel(f"The 'opened_with' of {str(where)!r} has {min(unknown)!r}, which is unknown.")
    asked = {key: value for key, value in given.items() if value != LOAD_OPTIONS[key]}
    return {**stored, **asked}


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
        return _fetch_any(str(model))
    near = get_close_matches(model, bundled, n=1)
    names = ", ".join(bundled) if bundled else "none"
    raise WeightsMissing(
        f"The model must be a bundled one ({names}), a directory or 'owner/name' on the Hugging Face hub. "
        f"Got {model!r}." + (f" Did you mean {near[0]!r}?" if near else "")
    )


def _fetch_any(model_id: str) -> Path:
    """Download a model from the hub: the parts of a pipeline, or everything of a small model."""
    if is_hub_id(model_id):
        from diffclass.denoisers.text_to_image.files import fetch_pipeline

        found = fetch_pipeline(model_id)
        if found is not None:
            return found
    return fetch(model_id)


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
