"""Weights on disk: read safely, written all or nothing."""

import json
import os
import pickle
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffclass.errors import ResultError, UnsupportedModel, WeightsMismatch, WeightsMissing

__all__ = [
    "cast_weights",
    "fetch",
    "find_weights",
    "is_hub_id",
    "misfits",
    "put_weights",
    "read_weights",
    "save_model",
    "write_directory",
]

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_SAFE = (_WEIGHTS, "model.safetensors")
_PICKLED = ("diffusion_pytorch_model.bin", "pytorch_model.bin", "model.bin", "model.pt", "model.pth")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_MODEL_FILES = {*_SAFE, "config.json", "diffclass.json", "README.md"}


def fetch(model_id: str) -> Path:
    """Download a model from the Hugging Face hub, or find it in the local cache.

    Raises:
        WeightsMissing: it is no "owner/name", there is no such model, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    if not _HUB_ID.fullmatch(model_id):
        raise WeightsMissing(f"The model directory {model_id!r} does not exist. Check the path.")
    try:
        return Path(snapshot_download(model_id, allow_patterns=["*.safetensors", "*.json", "*.md"]))
    except (OSError, ValueError) as error:
        raise WeightsMissing(
            f"The model {model_id!r} is neither a directory here nor to be had from the Hugging Face hub "
            f"({type(error).__name__}). Check the name and the connection, or download it first and give its directory."
        ) from error


def is_hub_id(model_id: str) -> bool:
    """Tell whether a name could be one on the Hugging Face hub: "owner/name"."""
    return _HUB_ID.fullmatch(model_id) is not None


def find_weights(directory: Path) -> Path:
    """Return the weight file of a model directory: safetensors where there is a choice.

    Raises:
        WeightsMissing: there is none.
    """
    for name in (*_SAFE, *_PICKLED):
        if (directory / name).is_file():
            return directory / name
    raise WeightsMissing(f"The model directory {str(directory)!r} holds no weights. It must hold {_WEIGHTS!r}.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weight file onto the CPU, without running code that it may hold.

    Raises:
        WeightsMismatch: the file is truncated or not what its name says.
        UnsupportedModel: the file needs the pickle module, which runs code.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # either it can be read, or it is refused
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsupportedModel(
            f"The file {str(path)!r} holds more than tensors, and opening it could run code. "
            "Convert it to safetensors with safetensors.torch.save_file, on a machine that may run it."
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise WeightsMismatch(f"The file {str(path)!r} is truncated or altered. Copy or download it again.") from error
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UnsupportedModel(
            f"The file {str(path)!r} must hold a dictionary of tensors. Save the network's state_dict() alone."
        )
    return dict(state)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsMismatch(f"The file {str(path)!r} is truncated or altered. Copy or download it again.") from error


def put_weights(network: nn.Module, weights: Mapping[str, Tensor], *, source: Path) -> None:
    """Copy weights into a network, cast to its dtype.

    Raises:
        WeightsMismatch: a tensor is missing, unexpected or of another shape; some are named.
    """
    if told := misfits(network, weights):
        raise WeightsMismatch(
            f"The weights in {str(source)!r} do not fit the network of its config.json: {told}. "
            "Use the two files that were saved together."
        )
    network.load_state_dict(weights)


def misfits(network: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """Say which weights a network lacks, has not or has in another shape; nothing if they fit."""
    wanted = network.state_dict()
    reshaped = [k for k, tensor in weights.items() if k in wanted and wanted[k].shape != tensor.shape]
    faults = {
        "missing": [name for name in wanted if name not in weights],
        "unexpected": [name for name in weights if name not in wanted],
        "of another shape": reshaped,
    }
    return ", ".join(f"{len(names)} {fault} ({_some(names)})" for fault, names in faults.items() if names)


def _some(names: list[str]) -> str:
    """Name the first three."""
    return ", ".join([*map(repr, names[:3]), *["..."] * (len(names) > 3)])


def save_model(
    directory: str | Path,
    network: nn.Module,
    metadata: Mapping[str, Any],
    card: str,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """Write a model directory that `load` reads and diffusers opens; it appears whole or not at all.

    Args:
        directory: replaced if it holds a model already.
        network: a diffusers network; the weights are saved as they are (put the averaged ones in first).
        metadata: the content of diffclass.json.
        card: the content of README.md.
        dtype: of the saved weights.

    Returns:
        The directory.

    Raises:
        ResultError: the directory holds other files, or it cannot be written.
    """
    from safetensors.torch import save_file

    weights = cast_weights(network, dtype)
    text = json.dumps(dict(metadata), indent=2, ensure_ascii=False, allow_nan=False)

    def fill(part: Path) -> None:
        network.save_config(part)  # pyright: ignore[reportCallIssue]
        save_file(weights, part / _WEIGHTS, metadata={"format": "pt"})
        (part / _WEIGHTS).chmod(0o644)  # safetensors writes for its owner alone
        (part / "diffclass.json").write_text(text + "\n", encoding="utf-8")
        (part / "README.md").write_text(card, encoding="utf-8")

    return write_directory(directory, fill, own=_MODEL_FILES)


def cast_weights(network: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return a network's tensors on the CPU, in a number format."""
    return {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in network.state_dict().items()
    }


def write_directory(directory: str | Path, fill: Callable[[Path], None], *, own: Collection[str]) -> Path:
    """Write a directory that appears whole or not at all.

    Args:
        directory: replaced if it holds nothing but `own`.
        fill: writes the files into a scratch directory.
        own: names that may be replaced.

    Raises:
        ResultError: the directory holds other files, or it cannot be written.
    """
    target = Path(directory).absolute()
    strangers = sorted(p.name for p in target.iterdir() if p.name not in own) if target.is_dir() else []
    if strangers:
        raise ResultError(
            f"The model directory {str(target)!r} must be new or hold only a model. It holds {strangers[0]!r}."
        )
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        fill(part)
        _replace(target, part)
    except OSError as error:
        raise ResultError(f"The model could not be saved in {str(target)!r}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _replace(target: Path, part: Path) -> None:
    """Move a finished directory into place; two renames, since a directory with files cannot be renamed over."""
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        target.rename(old)
    try:
        part.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
