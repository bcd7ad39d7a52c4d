"""Pickles read without running what they hold: only what the caller allows can be called or built."""

import pickle
from collections.abc import Callable, Mapping
from io import BufferedIOBase
from typing import Any, final

import numpy as np
from numpy import ndarray

__all__ = ["NUMPY", "ForbiddenGlobal", "encoded", "read_pickle"]

_DTYPES = {kind: np.dtype(kind) for kind in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")}


@final
class ForbiddenGlobal(pickle.UnpicklingError):
    """A pickle wants something that is not allowed; `name` says what."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the pickle wants {name!r}")
        self.name = name


@final
class _Function:
    """What a pickle may call and not change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        """Call the function."""
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        """Refuse to be changed, which pickles ask for in this way."""
        raise pickle.UnpicklingError("a function has no state")


@final
class _Reader(pickle.Unpickler):
    """An unpickler that knows the names that it was given, and no others."""

    def __init__(self, file: Any, allowed: Mapping[str, Callable[..., Any]], encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self._allowed = {
            name: thing if isinstance(thing, type) else _Function(thing) for name, thing in allowed.items()
        }

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Look a name up among those that are allowed; nothing is imported."""
        name = f"{module_name}.{global_name}"
        if name not in self._allowed:
            raise ForbiddenGlobal(name)
        return self._allowed[name]


def read_pickle(file: BufferedIOBase, allowed: Mapping[str, Callable[..., Any]], *, encoding: str = "ASCII") -> Any:
    """Read a pickle that may name nothing but what is allowed.

    Args:
        file: open for reading.
        allowed: what "module.name" stands for: a function, or a class that has a `__setstate__` of its own.
        encoding: of the text in pickles that Python 2 wrote; "bytes" leaves it as it is.

    Raises:
        ForbiddenGlobal: the pickle names something else; none of its calls to it is made.
        UnpicklingError: the pickle is damaged.
        OSError: the file cannot be read.
    """
    try:
        return _Reader(file, allowed, encoding).load()
    except (ForbiddenGlobal, OSError):
        raise
    except Exception as error:  # a damaged pickle ends in any of a dozen kinds of error
        raise pickle.UnpicklingError("the pickle is damaged") from error


@final
class _DType:
    """The type of an array's numbers, as numpy pickles it."""

    def __init__(self, name: str | bytes, *_: object) -> None:
        little = _DTYPES[name.decode() if isinstance(name, bytes) else name]
        self.dtype = little.newbyteorder("<")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in (b">", ">"):
            self.dtype = self.dtype.newbyteorder(">")


@final
class _Array:
    """An array, as numpy pickles it: made empty, then filled."""

    def __init__(self, *_: object) -> None:
        self.values = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, content = state
        order = "F" if fortran else "C"
        self.values: ndarray = np.frombuffer(content, _dtype(kind)).reshape(shape, order=order)


def _dtype(kind: object) -> np.dtype:
    """Return numpy's type of the one that was read."""
    if not isinstance(kind, _DType):
        raise pickle.UnpicklingError("an array must say its type")
    return kind.dtype


def _scalar(kind: object, content: bytes) -> bool | int | float:
    """Return a number that numpy pickled."""
    return np.frombuffer(content, _dtype(kind), count=1)[0].item()


def _from_buffer(content: bytes | bytearray, kind: object, shape: tuple[int, ...], order: str, *_: object) -> _Array:
    """Return an array as pickles of protocol 5 make it."""
    array = _Array()
    array.values = np.frombuffer(content, _dtype(kind)).reshape(shape, order="F" if order == "F" else "C")
    return array


@final
class _NDArray:
    """Stands for numpy.ndarray, which pickles name and do not call."""

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("an array is not made in this way")


def encoded(text: str, encoding: str) -> bytes:
    """Return the bytes that Python 3 pickled, for Python 2, as text of 256 characters (`_codecs.encode`)."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("bytes are pickled as latin1")
    return text.encode("latin1")


# Arrays come back with their content in `values`, numbers and bytes as Python's own.
NUMPY: Mapping[str, Callable[..., Any]] = {
    "_codecs.encode": encoded,
    "numpy.dtype": _DType,
    "numpy.ndarray": _NDArray,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
}
