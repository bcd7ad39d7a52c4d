"""Items that are measured and reported together, and the rules of their benchmark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import final

from diffclass.bench.compositional.item import Item
from diffclass.bench.compositional.picture import Box
from diffclass.errors import InputError

__all__ = ["METRICS", "TIES", "Part"]

TIES = ("shared", "wrong")
METRICS = ("accuracy", "macro", "winoground", "sets")


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Items with the rules by which their benchmark counts.

    Args:
        name: in results; names files.
        items: with keys that differ.
        setting: "zsl", "gzsl", or the name of another benchmark.
        boxes: by key, the part of a picture that its item is about.
        metric: the benchmark's own figure: "accuracy" over items, "macro" over `groups`, "winoground" (text, image and
            group score) or "sets" (What'sUp's pairs and sets).
        ties: "shared": a tie counts one over the number tied; "wrong": it counts nothing, in the benchmark's figure.
        groups: by key, what a macro average is over; the target's caption if there are none.
        least: items of a group that a macro average asks for.
        note: what was left out of the benchmark, or is not as published.

    Raises:
        InputError: there is no item, a key is there twice, or an item cannot be answered.
    """

    name: str
    items: tuple[Item, ...]
    setting: str
    boxes: Mapping[str, Box] = field(default_factory=dict)
    metric: str = "accuracy"
    ties: str = "shared"
    groups: Mapping[str, str] = field(default_factory=dict)
    least: int = 1
    note: str = ""

    def __post_init__(self) -> None:
        assert self.metric in METRICS, self.metric
        assert self.ties in TIES, self.ties
        if not self.items:
            raise InputError(f"'{self.name}' has no items. Check the path, the task and the split.")
        keys: set[str] = set()
        for item in self.items:
            _check(item)
            if item.key in keys:
                raise InputError(f"The item '{item.key}' of '{self.name}' is there twice.")
            keys.add(item.key)

    @property
    def comparable(self) -> bool:
        """Whether scores of a caption are compared between pictures."""
        return self.metric == "winoground"

    @property
    def fingerprint(self) -> str:
        """Identify the items by what they ask (not by pixels): for a run's configuration."""
        asked = [
            (i.key, i.target, i.cluster, [(c.caption, c.tag, c.seen) for c in i.candidates], self.boxes.get(i.key))
            for i in self.items
        ]
        return blake2b(repr(asked).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    def first(self, n: int | None, *, seed: int = 0) -> "Part":
        """Return n items picked at random in whole clusters, so that none is compared with a part that is missing."""
        if n is None or n >= len(self.items):
            return self
        import numpy as np

        clusters = list(dict.fromkeys(item.cluster for item in self.items))
        chosen: set[str] = set()
        count = 0
        for index in np.random.default_rng(seed).permutation(len(clusters)):
            if count >= n:
                break
            chosen.add(clusters[index])
            count += sum(item.cluster == clusters[index] for item in self.items)
        return self._of([item for item in self.items if item.cluster in chosen])

    def _of(self, items: Sequence[Item]) -> "Part":
        from dataclasses import replace

        return replace(self, items=tuple(items))


def _check(item: Item) -> None:
    """Refuse an item that no scorer could answer."""
    captions = [candidate.caption for candidate in item.candidates]
    if len(captions) < 2:
        raise InputError(f"The item '{item.key}' must have at least 2 captions to choose from. Got {len(captions)}.")
    if len(set(captions)) < len(captions):
        twice = next(caption for caption in captions if captions.count(caption) > 1)
        raise InputError(f"The captions of '{item.key}' must differ. Got {twice!r} twice.")
    if not 0 <= item.target < len(captions):
        raise InputError(
            f"The target of '{item.key}' must be from 0 to {len(captions) - 1}, an index into its captions. "
            f"Got {item.target}."
        )
