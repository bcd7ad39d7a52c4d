"""Pickles that would run code: nothing of them is run, whatever way they try."""

import io
import pickle
import pickletools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffclass.data.pickled import NUMPY, ForbiddenGlobal, read_pickle
from diffclass.denoisers.persistent import _ALLOWED, read_persistent
from diffclass.errors import UnsupportedModel, WeightsMismatch
from published_layout import MODULE_SOURCE, Saved, edm_bytes


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.made = (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.made


def command(module: str, name: str, argument: str, *, tail: bytes = b"") -> bytes:
    """A pickle of module.name(argument), by hand, in protocol 2."""
    text = argument.encode()
    start = b"\x80\x02c" + f"{module}\n{name}\n(X".encode()
    return start + len(text).to_bytes(4, "little") + text + b"tR" + tail + b"."


def attacks(mark: Path) -> dict[str, tuple[bytes, str]]:
    """Pickles that write `mark` when they are opened by pickle, and the name that each is refused for."""
    touch, code = f"touch {mark}", f"open({str(mark)!r}, 'w').close()"
    import os

    return {
        "os.system": (command("os", "system", touch), "os.system"),
        "posix.system": (pickle.dumps(Call(os.system, touch)), "posix.system"),
        "eval": (pickle.dumps(Call(eval, code)), "builtins.eval"),
        "exec, Python 2": (command("__builtin__", "exec", code), "__builtin__.exec"),
        "getattr": (pickle.dumps(Call(getattr, 1, "real")), "builtins.getattr"),
        "subprocess": (command("subprocess", "getoutput", touch), "subprocess.getoutput"),
        "nested in a list": (pickle.dumps({"ema": [1, {"a": Call(os.system, touch)}]}), "posix.system"),
        "as an argument": (pickle.dumps(Call(np.dtype, Call(os.system, touch))), "posix.system"),
        "as a state": (pickle.dumps(Call(np.dtype, "u1", state=Call(os.system, touch))), "posix.system"),
        "in a call within": (pickle.dumps(Call(set, [Call(eval, code)])), "builtins.eval"),
        "dotted name": (b"\x80\x04\x8c\x05torch\x8c\x12serialization.load\x93.", "torch.serialization.load"),
        "instance, protocol 0": (f"(S'{touch}'\nios\nsystem\n.".encode(), "os.system"),
        "torch.load": (command("torch", "load", str(mark)), "torch.load"),
        "storage from shared memory": (
            command("torch.storage", "_new_shared_filename_cpu", str(mark)), "torch.storage._new_shared_filename_cpu",
        ),
        "storage of a file": (
            command("torch.storage", "UntypedStorage.from_file", str(mark)), "torch.storage.UntypedStorage.from_file",
        ),
        "pickle in a storage": (
            pickle.dumps(Call(torch.storage._load_from_bytes, _legacy(Call(os.system, touch)))), "posix.system",
        ),
    }  # fmt: skip


def _legacy(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


NAMES = tuple(attacks(Path("x")))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_run(name: str, tmp_path: Path) -> None:
    content, wanted = attacks(tmp_path / "mark")[name]
    (tmp_path / "net.pkl").write_bytes(content)
    with pytest.raises(UnsupportedModel) as refused:
        read_persistent(tmp_path / "net.pkl")
    assert str(refused.value) == (
        f"The file '{tmp_path}/net.pkl' wants '{wanted}' when it is opened, which is no part of a network, so nothing "
        "in it was run. Open it with no other program unless you trust where it came from."
    )
    assert not (tmp_path / "mark").exists()


def test_the_attacks_are_real(tmp_path: Path) -> None:
    """They do run where pickle is let loose on them."""
    for name in ("os.system", "eval", "nested in a list", "as a state", "instance, protocol 0"):
        mark = tmp_path / "mark"
        with suppress(TypeError):  # the state of a dtype is no exit code
            pickle.loads(attacks(mark)[name][0])  # what the library never does
        assert mark.exists(), name
        mark.unlink()


def test_source_code_in_a_checkpoint_is_passed_over(tmp_path: Path) -> None:
    inner = Saved("SongUNet", {"img_resolution": 8})
    (tmp_path / "net.pkl").write_bytes(edm_bytes(inner))
    assert MODULE_SOURCE.encode() in (tmp_path / "net.pkl").read_bytes()
    content = read_persistent(tmp_path / "net.pkl")
    assert content["ema"].class_name == "EDMPrecond"
    assert content["ema"].part("model").options == {"img_resolution": 8}
    assert content["dataset_kwargs"] == {"a": {1}}


def overwrites() -> dict[str, bytes]:
    """Pickles that try to change what the reader hands out, rather than to call something else."""
    reconstruct = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"
    end, state = b"}X\x05\x00\x00\x00classI\x01\nsb.", b"}X\x0c\x00\x00\x00__setstate__I1\nsb."
    return {
        "state of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + state,
        "state of a class": b"\x80\x02" + reconstruct + state,
        "state of a builtin class": b"\x80\x02cbuiltins\nset\n" + state,
        "state of numpy.ndarray": b"\x80\x02cnumpy\nndarray\n" + end,
        "attributes of a network": b"\x80\x02" + reconstruct + b"(}X\n\x00\x00\x00class_nameX\x01\x00\x00\x00as"
        b"X\x05\x00\x00\x00state}stR" + b"}X\x05\x00\x00\x00stateI1\nsb.",
        "state of a dictionary": b"\x80\x02cdnnlib.util\nEasyDict\n)\x81}X\x05\x00\x00\x00itemsI1\nsb.",
        "an extension": b"\x80\x02\x82\x01.",
        "a persistent id": b"Pstorage\n.",
        "new of a function": b"\x80\x02ctorch._utils\n_rebuild_parameter\n)\x81.",
    }


@pytest.mark.parametrize("name", overwrites())
def test_nothing_is_changed(name: str, tmp_path: Path) -> None:
    (tmp_path / "net.pkl").write_bytes(overwrites()[name])
    with pytest.raises(WeightsMismatch, match="is truncated, altered or no pickle"):
        read_persistent(tmp_path / "net.pkl")


def test_a_tensor_has_no_more_places_than_numbers() -> None:
    storage = _storage(torch.zeros(4))
    for size, stride, offset in (((10**12,), (0,), 0), ((5,), (1,), 0), ((4,), (1,), 1)):
        with pytest.raises((pickle.UnpicklingError, RuntimeError)):
            _ALLOWED["torch._utils._rebuild_tensor_v2"](storage, offset, size, stride)
    with pytest.raises(pickle.UnpicklingError):
        _ALLOWED["torch._utils._rebuild_tensor_v2"]("no storage", 0, (1,), (1,))


def _storage(tensor: torch.Tensor) -> Any:
    """The numbers of a tensor, through the bytes in which torch pickles them."""
    for operation, argument, _ in pickletools.genops(pickle.dumps(tensor, protocol=4)):
        if operation.name in ("BINBYTES", "SHORT_BINBYTES"):
            return _ALLOWED["torch.storage._load_from_bytes"](argument)
    raise AssertionError("torch pickles tensors in another way")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["uint8", "int64", ">i4", "float32", "float64", "bool"])
def test_arrays_and_numbers_come_back(protocol: int, dtype: str) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    content = {"c": array, "fortran": np.asfortranarray(array), "one": np.float64(0.5), "bytes": b"\x00\xff"}
    content |= {"few": {1, 2}} if protocol > 2 else {}
    found = read_pickle(io.BytesIO(pickle.dumps(content, protocol=protocol)), NUMPY | {"builtins.set": set})
    assert np.array_equal(found["c"].values, array)
    assert np.array_equal(found["fortran"].values, array)
    assert (found["one"], found["bytes"]) == (0.5, b"\x00\xff")


def test_sets_and_bytes_of_old_protocols_come_back(tmp_path: Path) -> None:
    for protocol in (2, 3, 4):
        (tmp_path / "net.pkl").write_bytes(pickle.dumps({"set": {1, 2}, "bytes": b"\xe9"}, protocol=protocol))
        assert read_persistent(tmp_path / "net.pkl") == {"set": {1, 2}, "bytes": b"\xe9"}


def test_only_latin1_is_encoded() -> None:
    content = command("_codecs", "encode", "abc", tail=b"")
    with pytest.raises(pickle.UnpicklingError):
        read_pickle(io.BytesIO(content), NUMPY)
    rot = b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR."
    with pytest.raises(pickle.UnpicklingError):
        read_pickle(io.BytesIO(rot), NUMPY)


def test_what_is_not_allowed_has_a_name() -> None:
    with pytest.raises(ForbiddenGlobal) as refused:
        read_pickle(io.BytesIO(pickle.dumps(Path("x"))), NUMPY)
    assert refused.value.name.startswith("pathlib")
