"""One question of a compositional benchmark: a picture and the captions to choose from."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

__all__ = ["Candidate", "Item"]


@final
@dataclass(frozen=True, slots=True)
class Candidate:
    """A caption that may or may not be true of a picture.

    Args:
        caption: as models are told it.
        tag: what it is: target, colour swap, shape swap, relation flip, object swap or random.
        seen: whether what it says was in the training part.
    """

    caption: str
    tag: str
    seen: bool


@final
@dataclass(frozen=True, slots=True)
class Item:
    """A picture and its candidates.

    Args:
        key: the same in every run, and unique in the split.
        image: file of the picture.
        candidates: captions to choose from, of which one is true.
        target: index of that one.
        task: single, two-object, relational, or the part of another benchmark.
        split: which part of the data.
        cluster: items with the same one share a picture, and are not independent.
    """

    key: str
    image: Path
    candidates: tuple[Candidate, ...]
    target: int
    task: str
    split: str
    cluster: str
