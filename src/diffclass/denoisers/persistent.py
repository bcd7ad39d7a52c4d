"""Networks in pickles that carry their own source code: the record of what they hold, without running any of it."""

import io
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor

from diffclass.data.pickled import NUMPY, ForbiddenGlobal, read_pickle
from diffclass.errors import UnsupportedModel, WeightsMismatch, WeightsMissing

__all__ = ["PersistentObject", "read_persistent"]

_WANTED = re.compile(r"GLOBAL ([\w.]+)")


@final
class PersistentObject:
    """An object that was pickled with its source code, as its class's name and what it held; it can do nothing."""

    class_name: str = ""
    state: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.class_name = str(content["class_name"])
        self.state = dict(content["state"])

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a persistent object has its state from the start")

    @property
    def options(self) -> dict[str, Any] | None:
        """What it was built with, by name; None where that was not recorded."""
        named, unnamed = self.state.get("_init_kwargs"), self.state.get("_init_args")
        return dict(named) if isinstance(named, Mapping) and not unnamed else None

    def part(self, name: str) -> "PersistentObject | None":
        """Return a network in this one."""
        found = self.state.get("_modules", {}).get(name)
        return found if isinstance(found, PersistentObject) else None

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and buffers by their dotted names, in the order of the network's parts."""
        return dict(_tensors(self.state, ""))


@final
class _Container:
    """A list or dictionary of networks."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.state = dict(state)


@final
class _Dictionary(dict[str, Any]):
    """A dictionary whose keys were attributes, too."""

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a dictionary has no state")


def _tensors(state: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Walk through a network's parts."""
    for kind in ("_parameters", "_buffers"):
        for name, tensor in state.get(kind, {}).items():
            if isinstance(tensor, Tensor):
                yield f"{prefix}{name}", tensor
    for name, part in state.get("_modules", {}).items():
        if isinstance(part, PersistentObject | _Container):
            yield from _tensors(part.state, f"{prefix}{name}.")


def _storage(content: bytes) -> Any:
    """Read a tensor's numbers, which torch pickles as a file of its own."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if wanted := _WANTED.search(str(error)):
            raise ForbiddenGlobal(wanted[1]) from error
        raise


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    """Lay a tensor out over its numbers; torch refuses one that would reach beyond them."""
    if not isinstance(storage, torch.storage.TypedStorage):
        raise pickle.UnpicklingError("a tensor must have numbers")
    flat = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)  # pyright: ignore[reportArgumentType]
    if prod(size) > flat.numel():
        raise pickle.UnpicklingError("a tensor must not have more places than numbers")
    return flat.as_strided(size, stride, offset).clone()


_ALLOWED: Mapping[str, Any] = {
    **NUMPY,
    "torch_utils.persistence._reconstruct_persistent_obj": PersistentObject,
    "torch.nn.modules.container.ModuleDict": _Container,
    "torch.nn.modules.container.ModuleList": _Container,
    "torch.nn.modules.container.Sequential": _Container,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch.storage._load_from_bytes": _storage,
    "collections.OrderedDict": dict,
    "dnnlib.util.EasyDict": _Dictionary,
    "builtins.set": set,
    "__builtin__.set": set,
}


def read_persistent(path: Path) -> Any:
    """Read a pickle of NVlabs' kind; every object that came with source code is a `PersistentObject`.

    Raises:
        WeightsMissing: there is no such file.
        WeightsMismatch: it is truncated or altered.
        UnsupportedModel: it wants something that no network needs.

    Source:
        Karras et al. 2022 (arXiv:2206.00364) publish their networks in this format.
    """
    try:
        with path.open("rb") as file:
            return read_pickle(file, _ALLOWED)
    except ForbiddenGlobal as error:
        raise UnsupportedModel(
            f"The file {str(path)!r} wants {error.name!r} when it is opened, which is no part of a network, so nothing "
            "in it was run. Open it with no other program unless you trust where it came from."
        ) from error
    except pickle.UnpicklingError as error:
        raise WeightsMismatch(
            f"The file {str(path)!r} is truncated, altered or no pickle. Copy or download it again."
        ) from error
    except OSError as error:
        raise WeightsMissing(f"The file {str(path)!r} cannot be read: {error.strerror or error}.") from error
