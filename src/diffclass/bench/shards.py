"""Runs in parts: a shard of a data set a process, and rows that other processes made."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any, final

from diffclass.data.results import ResultFile, errors_path, read_results
from diffclass.errors import ConfigError, ResultError

__all__ = ["Elsewhere", "Rows", "Shard", "adopt", "gather"]

Rows = Sequence[Mapping[str, Any]]
Elsewhere = Callable[[Sequence[int]], Iterator[Rows]]  # from indices of images to their rows, in any order

_OWN = ("shard", "machine")  # what may differ between the parts of one run: the last bits of an answer, at most


@final
@dataclass(frozen=True, slots=True)
class Shard:
    """One of several equal parts of a data set, every count-th image, so that each has all kinds.

    Args:
        index: from 1 to count.
        count: of shards.

    Raises:
        ConfigError: the index is outside 1 to count.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        """Refuse a part that is not there."""
        if not 1 <= self.index <= self.count:
            raise ConfigError(f"A shard must be i/N with i from 1 to N. Got {self.index}/{self.count}.")

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read "3/16".

        Raises:
            ConfigError: the text is of another form.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal()):
            raise ConfigError(f"A shard must be i/N with i from 1 to N, such as 3/16. Got {text!r}.")
        return cls(int(index), int(count))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def indices(self, n: int) -> range:
        """Return which of n images are in it."""
        return range(self.index - 1, n, self.count)

    def folder(self, out: Path) -> Path:
        """Return where its rows are kept, within the folder of the whole run."""
        return out / "shards" / f"{self.index}-of-{self.count}"


def adopt(results: ResultFile, *, home: Path | None = None) -> None:
    """Take over the rows that shards of the same run have left, finished or not, and the errors behind them.

    Args:
        results: of the whole run.
        home: folder of the run, in which its shards are; that of the result file if None.

    Raises:
        ResultError: a shard is of another configuration, or damaged, or its errors cannot be copied.
    """
    home = results.path.parent if home is None else home
    within = results.path.relative_to(home)
    for shard in sorted((home / "shards").glob("*")):
        path = shard / within
        if not path.is_file():
            continue
        config, rows = read_results(path)
        if not results.is_of(config, apart_from=_OWN):
            raise ResultError(
                f"'{path}' holds a shard of another configuration. Use the options that it was made with, or another "
                "--out."
            )
        fresh = [row for row in rows if row["id"] not in results.done]
        _take_errors(path.parent, results.path.parent, [row["id"] for row in fresh])
        results.append(fresh)


def _take_errors(shard: Path, folder: Path, ids: Sequence[str]) -> None:
    """Copy the errors behind the rows of a shard, where it kept them."""
    if not ids or not errors_path(shard, ids[0]).parent.is_dir():
        return
    for id in ids:
        kept, path = errors_path(shard, id), errors_path(folder, id)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if kept.is_file():
                copyfile(kept, path)
        except OSError as error:
            raise ResultError(f"The file '{path}' cannot be written: {error.strerror or error}.") from error


def gather(elsewhere: Elsewhere, indices: Sequence[int], results: ResultFile) -> Iterator[int]:
    """Keep the rows of images that others answer, as they come, and yield how many rows there are."""
    yield len(results)
    if indices:
        for rows in elsewhere(indices):
            results.append([row for row in rows if row["id"] not in results.done])
            yield len(results)
