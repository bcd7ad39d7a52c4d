"""Reading the parts of a pipeline: whole directories, single files, LoRAs and autoencoders; nothing that runs code."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from diffclass.denoisers.card import read_json
from diffclass.denoisers.text_to_image.family import Family
from diffclass.denoisers.text_to_image.table import family_of
from diffclass.denoisers.weights import fetch
from diffclass.errors import InputError, MissingExtra, UnsupportedModel, WeightsMismatch, WeightsMissing

__all__ = [
    "DIFFCLASS_MARK",
    "fetch_pipeline",
    "index_of",
    "open_file",
    "open_pipeline",
    "put_lora",
    "replace_vae",
    "require_peft",
]

DIFFCLASS_MARK = "_diffclass_format"  # in a model_index.json: a diffclass.json lies beside it

_WHOLE = ("cond_stage_model.", "conditioner.", "first_stage_model.", "text_encoders.", "vae.")
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


def fetch_pipeline(model_id: str, *, without: str | None = None, revision: str | None = None) -> Path | None:
    """Download the parts that a pipeline on the hub is made of, or find them in the cache; None if it is no pipeline.

    Args:
        model_id: "owner/name".
        without: a part to leave out.
        revision: a commit; the newest if None.

    Raises:
        WeightsMissing: the hub asks for an account that has accepted the model's licence.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError

    at: dict[str, Any] = {} if revision is None else {"revision": revision}
    try:
        index = read_json(Path(hf_hub_download(model_id, "model_index.json", **at)))
    except GatedRepoError as error:
        raise WeightsMissing(
            f"The model {model_id!r} is given to those who accepted its licence. Accept it on its page on the Hugging "
            "Face hub, log in with `hf auth login`, and try again."
        ) from error
    except (OSError, ValueError):
        return None  # no pipeline, or no connection, which `fetch` tells
    if not any(part in index for part in ("vae", "text_encoder")):
        return None
    from diffusers import DiffusionPipeline

    left_out: dict[str, Any] = at if without is None else {without: None, **at}
    try:
        path = Path(str(DiffusionPipeline.download(model_id, use_safetensors=True, **left_out)))
    except (OSError, ValueError) as error:
        raise WeightsMissing(
            f"The parts of {model_id!r} could not be downloaded: {_first_line(error)}. Check the connection, and that "
            "the model has safetensors."
        ) from error
    if DIFFCLASS_MARK in index:
        hf_hub_download(model_id, "diffclass.json", **at)  # into the same folder
    return path


def index_of(directory: Path) -> dict[str, Any]:
    """Read which parts a pipeline has."""
    return read_json(directory / "model_index.json")


def open_pipeline(directory: Path, family: Family, dtype: torch.dtype, **parts: Any) -> Any:
    """Build the pipeline of a directory, without what only generating needs.

    Args:
        directory: with model_index.json.
        family: of the pipeline.
        dtype: of everything but the autoencoder.
        parts: that are there already.

    Raises:
        WeightsMissing: a part is not there.
        UnsupportedModel: a part cannot be built.
    """
    import diffusers

    index = index_of(directory)
    _check_parts(directory, index, family, parts)
    absent = [name for name, value in index.items() if isinstance(value, list) and value[0] is None]
    unused = {name: None for name in index if name in _UNUSED or name in absent}
    if "requires_safety_checker" in index:
        unused["requires_safety_checker"] = False  # pyright: ignore[reportArgumentType]
    with _one_sentence(directory):
        return getattr(diffusers, index["_class_name"]).from_pretrained(
            directory,
            torch_dtype={"default": dtype, "vae": torch.float32},
            use_safetensors=True,
            local_files_only=True,
            variant=_variant(directory, family.part),
            **unused,
            **parts,
        )


def _check_parts(directory: Path, index: Mapping[str, Any], family: Family, parts: Mapping[str, Any]) -> None:
    """Check that what the family needs is listed and there."""
    wanted = [family.part, "vae", "scheduler", *family.encoders]
    for name in wanted:
        listed = index.get(name) or [None, None]
        if name in parts or (listed[0] is not None and (directory / name / _config_name(name)).is_file()):
            continue
        what = "no text encoder" if name.startswith("text_encoder") else f"no {name!r}"
        raise WeightsMissing(
            f"The model in {str(directory)!r} has {what}: a {index.get('_class_name')} must come with the directory "
            f"{name!r}. Download or save all of it."
        )


def _config_name(part: str) -> str:
    return "scheduler_config.json" if part == "scheduler" else "config.json"


def _variant(directory: Path, part: str) -> str | None:
    """Return "fp16" where only weights of that name are there."""
    names = [path.name for path in (directory / part).glob("*.safetensors")]
    half = [name for name in names if ".fp16" in name]
    return "fp16" if half and len(half) == len(names) else None


def open_file(path: Path, config: str | Path | None, dtype: torch.dtype) -> tuple[Any, Family]:
    """Build a pipeline around a single file: all of a model, or its network alone.

    Args:
        path: a safetensors file.
        config: directory or hub id of the other parts; if None, what diffusers takes the file for.
        dtype: of everything but the autoencoder.

    Raises:
        ModelError: the file is damaged or of no family, or the other parts are not to be had.
    """
    import diffusers

    whole = any(key.startswith(_WHOLE) for key in _keys(path))
    directory = _others(path, config, whole)
    index = index_of(directory)
    family = family_of(index.get("_class_name"), str(path))
    if whole:
        with _one_sentence(path):
            kind = getattr(diffusers, index["_class_name"])
            unused = {name: None for name in _UNUSED if name in index}
            pipe = kind.from_single_file(str(path), config=str(directory), torch_dtype=dtype, **unused)
            return pipe, family
    with _one_sentence(path):
        kind = getattr(diffusers, index[family.part][1])
        network = kind.from_single_file(
            str(path), config=str(directory), subfolder=family.part, torch_dtype=dtype, local_files_only=True
        )
    return open_pipeline(directory, family, dtype, **{family.part: network}), family


def _keys(path: Path) -> list[str]:
    """List the tensors of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise UnsupportedModel(
            f"A model in a single file must be a safetensors file. Got {str(path)!r}. Convert it on a machine that may "
            "run what it holds."
        )
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise WeightsMismatch(f"The file {str(path)!r} is truncated or altered. Copy or download it again.") from error


def _others(path: Path, config: str | Path | None, whole: bool) -> Path:
    """Find the directory with the parts that a single file has not: all but the network, or configurations alone."""
    if config is None:
        from diffusers.loaders.single_file_utils import fetch_diffusers_config, load_single_file_checkpoint

        config = fetch_diffusers_config(load_single_file_checkpoint(str(path)))["pretrained_model_name_or_path"]
    if Path(config).is_dir():
        return Path(config)
    from huggingface_hub import snapshot_download

    try:  # the folder of a revision is the same one whatever is downloaded of it
        directory = Path(snapshot_download(str(config), allow_patterns=["*.json", "*.txt", "*.model"]))
    except (OSError, ValueError) as error:
        raise WeightsMissing(
            f"The file {str(path)!r} holds no tokenizer, and the other parts of its model, {str(config)!r}, are not to "
            "be had from the Hugging Face hub. Give the directory of a model of its family with config (--config)."
        ) from error
    if not whole:
        family = family_of(index_of(directory).get("_class_name"), str(config))
        fetch_pipeline(str(config), without=family.part)
    return directory


def require_peft() -> None:
    """Check that peft is there.

    Raises:
        MissingExtra: it is not.
    """
    from importlib.util import find_spec

    if find_spec("peft") is None:
        raise MissingExtra("A LoRA needs peft. Install it with: pip install 'diffclass[lora]'.")


def put_lora(pipe: Any, lora: str | Path, scale: float) -> None:
    """Fuse a LoRA into the network and the text encoders of a pipeline.

    Raises:
        MissingExtra: peft is not installed.
        WeightsMissing: it is not to be had.
        WeightsMismatch: it is of another network.
    """
    require_peft()
    path = Path(lora)
    if not path.exists():
        path = fetch(str(lora))
    place = {"weight_name": path.name} if path.is_file() else {}
    try:
        pipe.load_lora_weights(path.parent if path.is_file() else path, **place)
        if not pipe.get_active_adapters():
            raise ValueError("none of its layers is in the model")
        pipe.fuse_lora(lora_scale=scale)
        pipe.unload_lora_weights()
    except Exception as error:  # whatever diffusers and peft come up with for layers that they do not find
        raise WeightsMismatch(
            f"The LoRA {str(lora)!r} does not fit the model: {_first_line(error)}. Use one that was trained on it."
        ) from error


def replace_vae(pipe: Any, vae: str | Path) -> None:
    """Put another autoencoder into a pipeline.

    Raises:
        ModelError: it is not to be had, or cannot be built.
        InputError: the pipeline has none.
    """
    import diffusers

    if getattr(pipe, "vae", None) is None:
        raise InputError(f"A {type(pipe).__name__} without an autoencoder takes none. Leave the 'vae' out.")
    path = Path(vae)
    with _one_sentence(path):
        if path.is_file():
            _keys(path)
            pipe.vae = type(pipe.vae).from_single_file(str(path), config=dict(pipe.vae.config))
            return
        directory = path if path.is_dir() else fetch(str(vae))
        kind = read_json(directory / "config.json").get("_class_name", "")
        if not str(kind).startswith("Autoencoder"):
            raise UnsupportedModel(f"The 'vae' must be an autoencoder. The config.json of {str(vae)!r} says {kind!r}.")
        pipe.vae = getattr(diffusers, kind).from_pretrained(directory, use_safetensors=True, local_files_only=True)


@contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    """Turn what diffusers and transformers raise for a part that they cannot read into one sentence."""
    try:
        yield
    except OSError as error:
        raise WeightsMissing(
            f"The model {str(path)!r} cannot be opened: {_first_line(error)}. Download or save all of it as "
            "safetensors."
        ) from error
    except ImportError as error:
        raise MissingExtra(
            f"The model {str(path)!r} needs a package that is not here: {_first_line(error)}."
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        if isinstance(error, (UnsupportedModel, WeightsMissing, WeightsMismatch)):
            raise
        raise UnsupportedModel(f"diffusers cannot build the model {str(path)!r}: {_first_line(error)}.") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(".: ")
