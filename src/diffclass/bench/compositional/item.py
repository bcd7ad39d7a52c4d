"""A picture and the captions that compete for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

__all__ = ["Candidate", "Item"]


@final
@dataclass(frozen=True, slots=True)
class Candidate:
    """One caption.

    Args:
        caption: the text.
        tag: how it differs from the target: one of those in candidates.TAGS.
        seen: whether what it says occurs in the training split.
    """

    caption: str
    tag: str
    seen: bool


@final
@dataclass(frozen=True, slots=True)
class Item:
    """One question: which caption belongs to the picture?

    Args:
        key: unique among the items of a task and split, and the same in every setting.
        image: the picture's file.
        candidates: captions, of which exactly one is true.
        target: index of the true one.
        task: one of concepts.TASKS.
        split: one of concepts.SPLITS.
        cluster: the scene; items that share it are about one picture.
    """

    key: str
    image: Path
    candidates: tuple[Candidate, ...]
    target: int
    task: str
    split: str
    cluster: str
