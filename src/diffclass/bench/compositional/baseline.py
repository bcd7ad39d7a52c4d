"""What can be had without looking: chance, and a scorer that is shown other pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from diffclass.bench.compositional.scorer import Asked, Scored, Scorer, best
from diffclass.errors import RangeError

__all__ = ["Blind", "Chance"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chance(Scorer):
    """Gives every caption the same score: all tie, so that its accuracy is one over the number of captions."""

    name: str = "chance"
    seeded: bool = field(default=False, init=False)
    n_others: int = field(default=0, init=False)

    def configuration(self) -> dict[str, Any]:
        """Return its kind: it has no settings."""
        return {"kind": "chance"}

    def answer(
        self, asked: Sequence[Asked], *, seed: int, whole: bool = False, comparable: bool = False
    ) -> Iterator[tuple[int, Scored]]:
        """Score nothing."""
        for index, one in enumerate(asked):
            n = len(one.captions)
            yield index, Scored(scores=(0.0,) * n, chosen=tuple(range(n)), evaluations=0)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blind(Scorer):
    """A scorer that never sees the picture: the mean of another one's scores over pictures of other clusters.

    What it gets right is in the captions and in what the scorer prefers whatever the picture: a benchmark on which it
    does well can be won without looking.

    Args:
        base: the scorer, which measures every caption in full.
        n_others: pictures that it is shown in place of each item's own.

    Source:
        The question is that of Hsieh et al. 2023 (arXiv:2306.14610), who ask models of text alone.
    """

    base: Scorer
    n_others: int = 8
    name: str = ""

    def __post_init__(self) -> None:
        if self.n_others < 1:
            raise RangeError(f"The 'n_others' parameter of Blind must be at least 1. Got {self.n_others}.")
        if not self.name:
            object.__setattr__(self, "name", f"blind-{self.base.name}")

    @property
    def seeded(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the scorer depends on a seed."""
        return self.base.seeded

    def configuration(self) -> dict[str, Any]:
        """Return the scorer's configuration and the number of pictures."""
        return {"kind": "blind", "n_others": self.n_others, "base": self.base.configuration()}

    def answer(
        self, asked: Sequence[Asked], *, seed: int, whole: bool = False, comparable: bool = False
    ) -> Iterator[tuple[int, Scored]]:
        """Average the scores of each item's captions over the other pictures."""
        shown = [(index, Asked(item=one.item, picture=p)) for index, one in enumerate(asked) for p in one.others]
        sums = [np.zeros(len(one.captions)) for one in asked]
        spent, draws = np.zeros(len(asked), dtype=int), np.zeros(len(asked), dtype=int)
        found = dict(self.base.answer([one for _, one in shown], seed=seed, whole=True))
        for place, (index, _) in enumerate(shown):  # in one order, so that sums do not depend on which ended first
            scored = found[place]
            sums[index] += np.array(scored.scores) - np.mean(scored.scores)
            spent[index] += scored.evaluations
            draws[index] = scored.draws
        for index, one in enumerate(asked):
            scores = (sums[index] / len(one.others)).tolist()
            yield index, Scored(
                scores=tuple(scores), chosen=best(scores), evaluations=int(spent[index]), draws=int(draws[index]),
                facts={"others": len(one.others)},
            )  # fmt: skip
