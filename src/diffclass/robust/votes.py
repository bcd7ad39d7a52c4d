"""What noisy copies of an image were called, counted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from diffclass.errors import InputError

__all__ = ["NO_LABEL", "Votes"]

NO_LABEL = -1  # of a copy whose race ended without an answer


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """How many noisy copies got each label.

    Args:
        counts: of each class, in the order of the classifier's.
        undecided: copies without a label. They are copies that were drawn, and count against every class.
    """

    counts: tuple[int, ...]
    undecided: int = 0

    @classmethod
    def none(cls, n_classes: int) -> "Votes":
        """Return the count before the first copy."""
        return cls(counts=(0,) * n_classes)

    @classmethod
    def of(cls, labels: Int64[ndarray, " batch"], n_classes: int) -> "Votes":
        """Count the labels of some copies."""
        counts = np.bincount(labels[labels >= 0], minlength=n_classes)
        return cls(counts=tuple(counts.tolist()), undecided=int((labels == NO_LABEL).sum()))

    @property
    def n(self) -> int:
        """Copies that were drawn."""
        return sum(self.counts) + self.undecided

    @property
    def leader(self) -> int:
        """The class with most votes (the first of equals), or `NO_LABEL` if no class has one."""
        return int(np.argmax(self.counts)) if sum(self.counts) else NO_LABEL

    def __add__(self, other: "Votes") -> "Votes":
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Votes(counts=counts, undecided=self.undecided + other.undecided)

    def row(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {"counts": list(self.counts), "undecided": self.undecided}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Votes":
        """Read what `row` wrote.

        Raises:
            InputError: these are no counts.
        """
        numbers = [*row["counts"], row["undecided"]]
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise InputError(f"Votes must be counts of copies. Got {dict(row)!r}.")
        return cls(counts=tuple(row["counts"]), undecided=row["undecided"])
