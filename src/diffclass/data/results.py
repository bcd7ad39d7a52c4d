"""Result files that survive a crash, a full disk and a second run: a line an image, and what produced them."""

import errno
import json
import math
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import Any, final

import numpy as np

from diffclass.errors import InputError, MissingExtra, ResultError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

__all__ = ["ResultFile", "errors_path", "read_results", "versions", "write_json_atomic", "write_text_atomic"]

_FORMAT = 1
_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@final
class ResultFile:
    """An append-only file of results, one JSON object a line, that a later run with the same configuration continues.

    The first line is {"config": ..., "config_hash": ..., "format": 1}; every other one is a row with an "id". A line
    that was cut off by a crash is dropped on opening. JSON has no NaN and no infinities: they are written as the texts
    "NaN", "Infinity" and "-Infinity", which `rows` reads back as numbers; rows may not hold these texts as texts.
    Tuples and arrays come back as lists. One process at a time may hold the file; use it in a `with` statement.

    Args:
        path: of the file; its folders are made.
        config: everything that the results depend on.

    Raises:
        ResultError: the file belongs to another configuration or process, is no result file, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], config: Mapping[str, object]) -> None:
        self.path = Path(path)
        self.config: dict[str, Any] = json.loads(_dumps(config, "The configuration"))
        self._done: set[str] = set()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise ResultError(f"The result file '{self.path}' cannot be opened: {error.strerror}.") from error
        self._lock_file: Path | None = None
        try:
            self._lock()
            self._recover()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "ResultFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._done)

    @property
    def done(self) -> AbstractSet[str]:
        """Ids that have a row; it grows with the file."""
        return self._done

    def append(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Write rows and wait until they are on the disk.

        Raises:
            InputError: a row has no id or one that is done, or a value that JSON does not hold. Nothing is written.
            ResultError: the disk is full or fails. The file keeps the rows of earlier calls, and can be continued.
        """
        lines, ids = [], set()
        for row in rows:
            name = row.get("id")
            if not isinstance(name, str):
                raise InputError(f"The 'id' of a row must be a text. Got {name!r}.")
            if name in self._done or name in ids:
                raise InputError(f"The row '{name}' is in '{self.path}' already.")
            lines.append(_dumps(row, f"The row '{name}'"))
            ids.add(name)
        if lines:
            self._write("".join(f"{line}\n" for line in lines).encode("ascii"))
            self._done |= ids

    def is_of(self, config: Mapping[str, object], *, apart_from: Iterable[str] = ()) -> bool:
        """Return whether the rows are those of a configuration, but for some of its keys."""
        ignored = set(apart_from)
        written = json.loads(_dumps({k: v for k, v in config.items() if k not in ignored}, "The configuration"))
        return written == {k: v for k, v in self.config.items() if k not in ignored}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Read the rows back in the order they were written."""
        with self.path.open("rb") as file:
            next(file)
            for line in file:
                yield _decoded(json.loads(line))

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the rows as one parquet table, with the configuration as JSON in its metadata under "diffclass".

        A column that only some rows have is null in the others.

        Raises:
            ResultError: a column mixes kinds of values, or the file cannot be written.
        """
        try:
            import pyarrow as pa
            from pyarrow.parquet import write_table
        except ImportError as error:
            raise MissingExtra("Writing parquet needs pyarrow: pip install pyarrow.") from error
        rows = list(self.rows())
        columns: dict[str, Any] = {}
        for name in dict.fromkeys(key for row in rows for key in row):
            try:
                columns[name] = pa.array([row.get(name) for row in rows])
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
                reason = "must hold values of one kind to be written as parquet"
                raise ResultError(f"The column '{name}' of '{self.path}' {reason}.") from error
        table = pa.table(columns or {"id": pa.array([], pa.string())})
        table = table.replace_schema_metadata({"diffclass": json.dumps({"config": self.config, "format": _FORMAT})})
        target = Path(path)
        scratch = _scratch(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_table(table, scratch)
            scratch.replace(target)
        except (OSError, pa.ArrowException) as error:
            scratch.unlink(missing_ok=True)
            raise ResultError(f"The file '{target}' cannot be written: {error}.") from error

    def close(self) -> None:
        """Let go of the file; what was appended is on the disk already."""
        if self._file >= 0:
            if fcntl is not None:
                with suppress(OSError):
                    fcntl.flock(self._file, fcntl.LOCK_UN)  # for forked workers too, which share the lock
            os.close(self._file)
            self._file = -1
        if self._lock_file is not None:
            self._lock_file.unlink(missing_ok=True)
            self._lock_file = None

    def _lock(self) -> None:
        """Take the file for this process, by the kernel's lock where there is one: it goes when the process does."""
        refusal = f"The result file '{self.path}' is being written by another run. Wait for it, or use another --out."
        if fcntl is not None:
            try:
                return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ResultError(refusal) from error
            except OSError:  # a file system without locks
                pass
        lock = self.path.with_name(f"{self.path.name}.lock")
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
        except FileExistsError as error:
            raise ResultError(f"{refusal} If no run is left, delete '{lock}'.") from error
        self._lock_file = lock
        return None

    def _recover(self) -> None:
        """Read what an earlier run left, drop a torn last line, and check that it was the same run."""
        header = {"config": self.config, "config_hash": _hash(self.config), "format": _FORMAT}
        first = f"{json.dumps(header)}\n".encode("ascii")
        content = self.path.read_bytes()
        self._size = content.rfind(b"\n") + 1
        if self._size == 0:
            if not first.startswith(content):
                raise ResultError(f"'{self.path}' is not a result file. Use another --out.")
            return self._write(first)
        self._check_header(content[: content.index(b"\n")])
        lines = content[: self._size].split(b"\n")[1:-1]
        for number, line in enumerate(lines, start=2):
            row = _parsed(line)
            if row is None or not isinstance(row.get("id"), str):
                raise ResultError(f"Line {number} of '{self.path}' is damaged. Delete the line, or use another --out.")
            self._done.add(row["id"])
        os.ftruncate(self._file, self._size)
        return None

    def _check_header(self, line: bytes) -> None:
        """Refuse to continue another format or another configuration."""
        header = _header(self.path, line)
        if header["config_hash"] != _hash(self.config):
            old, new = _flat(header["config"]), _flat(self.config)
            keys = [key for key in old | new if old.get(key) != new.get(key)]
            changes = ", ".join(f"{k} (was {_short(old.get(k))}, now {_short(new.get(k))})" for k in keys)
            raise ResultError(
                f"'{self.path}' holds results of another configuration. It differs in: {changes}. Use another --out."
            )

    def _write(self, content: bytes) -> None:
        """Append bytes, or leave the file as it was."""
        if self._file < 0:
            raise ResultError(f"The result file '{self.path}' is closed.")
        try:
            os.ftruncate(self._file, self._size)  # nothing to do, unless an append was interrupted
            os.lseek(self._file, self._size, os.SEEK_SET)
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = "the disk is full" if full else error.strerror or str(error)
            kept = f"It keeps {len(self)} finished rows"
            remedy = "Make room and run the same command again" if full else "Run the same command again to continue"
            raise ResultError(f"The result file '{self.path}' cannot grow: {reason}. {kept}. {remedy}.") from error
        self._size += len(content)


def read_results(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read the configuration and the rows of a result file, even while a run writes it; a torn last line is left out.

    Raises:
        ResultError: it is missing, damaged or no result file.
    """
    source = Path(path)
    try:
        content = source.read_bytes()
    except OSError as error:
        raise ResultError(f"The result file '{source}' cannot be read: {error.strerror}.") from error
    first, *lines = content[: content.rfind(b"\n") + 1].split(b"\n")
    config = _header(source, first)["config"]
    rows = [_parsed(line) for line in lines[:-1]]
    if None in rows:
        raise ResultError(f"Line {rows.index(None) + 2} of '{source}' is damaged. Delete the line.")
    return _decoded(config), [_decoded(row) for row in rows]


def errors_path(folder: Path, id: str) -> Path:
    """Return where the errors behind a row are kept; named by a hash, so that any id makes a file name."""
    return folder / "errors" / f"{blake2b(id.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}.npz"


def write_json_atomic(path: str | os.PathLike[str], data: object) -> None:
    """Write JSON so that a reader sees the old file or the new one whole; NaN and infinities as in `ResultFile`.

    Raises:
        InputError: a value is of a kind that JSON does not hold.
        ResultError: the file cannot be written; the old one is still there.
    """
    text = _dumps(data, f"The content of '{Path(path)}'", indent=2)
    write_text_atomic(path, f"{text}\n")


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Write text so that a reader sees the old file or the new one whole.

    Raises:
        ResultError: the file cannot be written; the old one is still there.
    """
    target = Path(path)
    scratch = _scratch(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(target)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise ResultError(f"The file '{target}' cannot be written: {error.strerror or error}.") from error


def versions(*, device: str | None = None) -> dict[str, Any]:
    """Say what produced a result: packages, platform and device; the accelerator that is there by default."""
    import torch

    found: dict[str, Any] = {"python": platform.python_version()}
    for name in ("diffclass", "torch", "numpy", "diffusers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    cuda = torch.cuda.is_available() and (device is None or device.startswith("cuda"))
    found |= {"platform": platform.platform(), "cpus": os.cpu_count(), "device": device or ("cuda" if cuda else "cpu")}
    return found | ({"gpu": torch.cuda.get_device_name(device)} if cuda else {})


def _dumps(value: object, name: str, *, indent: int | None = None) -> str:
    """Write strict JSON in ASCII."""
    return json.dumps(_encoded(value, name), allow_nan=False, indent=indent)


def _encoded(value: object, name: str) -> object:
    """Turn a value into what strict JSON holds."""
    match value:
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
        case str() if value in _NUMBERS:
            raise InputError(f"{name} holds the text '{value}', which stands for a number in a result file.")
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            if wrong := [key for key in value if not isinstance(key, str)]:
                raise InputError(f"{name} has a key that is not a text: {wrong[0]!r}.")
            return {key: _encoded(item, name) for key, item in value.items()}
        case list() | tuple():
            return [_encoded(item, name) for item in value]
        case np.generic() | np.ndarray():
            return _encoded(value.tolist(), name)
    raise InputError(f"{name} holds a {type(value).__name__}, which JSON does not. Try a number, text, list or dict.")


def _decoded(value: Any) -> Any:
    """Turn the texts that stand for numbers back into numbers."""
    match value:
        case str():
            return _NUMBERS.get(value, value)
        case dict():
            return {key: _decoded(item) for key, item in value.items()}
        case list():
            return [_decoded(item) for item in value]
    return value


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Read one line, or None if it is damaged."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _header(path: Path, line: bytes) -> dict[str, Any]:
    """Read the first line of a result file."""
    header = _parsed(line)
    if header is None or not {"config", "config_hash", "format"} <= set(header):
        raise ResultError(f"'{path}' is not a result file. Use another --out.")
    if header["format"] != _FORMAT:
        raise ResultError(f"'{path}' has result format {header['format']}; this version of diffclass has {_FORMAT}.")
    if header["config_hash"] != _hash(header["config"]):
        raise ResultError(f"The first line of '{path}' has been altered. Use another --out.")
    return header


def _hash(config: Mapping[str, Any]) -> str:
    """Identify a configuration, whatever the order of its keys."""
    content = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return blake2b(content.encode("ascii"), digest_size=16).hexdigest()


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Name nested values by dotted keys, and write them as JSON."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": json.dumps(value, sort_keys=True)}
    return flat


def _short(value: str | None) -> str:
    """Show a value in a message."""
    if value is None:
        return "absent"
    return value if len(value) <= 40 else f"{value[:37]}..."


def _scratch(target: Path) -> Path:
    """Name a file beside another, to be moved onto it."""
    return target.with_name(f".{target.name}.{os.getpid()}.tmp")
