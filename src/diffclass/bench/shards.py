"""Runs in parts: a shard of a data set a process, and rows that other processes made."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from diffclass.data.results import ResultFile, read_results
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


def adopt(results: ResultFile) -> None:
    """Take over the rows that shards of the same run have left beside its result file, finished or not.

    Raises:
        ResultError: a shard is of another configuration, or damaged.
    """
    for path in sorted((results.path.parent / "shards").glob("*/results.jsonl")):
        config, rows = read_results(path)
        if not results.is_of(config, apart_from=_OWN):
            raise ResultError(
                f"'{path}' holds a shard of another configuration. Use the options that it was made with, or another "
                "--out."
            )
        results.append([row for row in rows if row["id"] not in results.done])


def gather(elsewhere: Elsewhere, indices: Sequence[int], results: ResultFile) -> Iterator[int]:
    """Keep the rows of images that others answer, as they come, and yield how many rows there are."""
    yield len(results)
    if indices:
        for rows in elsewhere(indices):
            results.append([row for row in rows if row["id"] not in results.done])
            yield len(results)
