"""What every scorer of captions is asked and must answer: the same pictures, captions and rule for ties for all."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from jaxtyping import Float32, Float64
from numpy import ndarray
from PIL import Image

from diffclass.bench.compositional.item import Item

__all__ = ["Asked", "Measured", "Scored", "Scorer", "best"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """One item with its picture.

    Args:
        item: whose candidates are to be scored.
        picture: in RGB, cropped already: scorers only resample it to their own square.
        others: pictures of other clusters, for baselines that must not see the item's own.
    """

    item: Item
    picture: Image.Image
    others: tuple[Image.Image, ...] = ()

    @property
    def captions(self) -> tuple[str, ...]:
        """What the candidates say."""
        return tuple(candidate.caption for candidate in self.item.candidates)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """The paired errors behind a diffusion model's scores.

    Args:
        errors: [model units] of each candidate on each draw; NaN where it had left the race.
        unconditional: the same without a caption; None where that was not measured.
        sigmas: [model units] noise levels.
        weights: w(sigma) / q(sigma).
    """

    errors: Float32[ndarray, "draw class"]
    unconditional: Float32[ndarray, " draw"] | None
    sigmas: Float64[ndarray, " draw"]
    weights: Float64[ndarray, " draw"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """A scorer's answer to one item.

    Args:
        scores: of the candidates, larger is better; -inf where one was never measured. Where a race dropped some, they
            are log-odds over the winner, each over the draws both saw.
        chosen: the candidates that win; several if they tie.
        evaluations: network evaluations spent.
        draws: noise draws behind the winner's score; 0 for scorers without noise.
        measured: the errors themselves, for a diffusion model.
        facts: what else to keep in the row.
    """

    scores: tuple[float, ...]
    chosen: tuple[int, ...]
    evaluations: int
    draws: int = 0
    measured: Measured | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Scorer(ABC):
    """Scores the candidate captions of pictures.

    `name` is short and names files. `seeded` says whether answers depend on a seed: others are asked once, however many
    seeds are wanted. `n_others` is how many pictures of other clusters it is given with each item.
    """

    name: str
    seeded: bool
    n_others: int

    @abstractmethod
    def configuration(self) -> dict[str, Any]:
        """Return everything that the answers depend on, as plain values."""

    @abstractmethod
    def answer(
        self, asked: Sequence[Asked], *, seed: int, whole: bool = False, comparable: bool = False
    ) -> Iterator[tuple[int, Scored]]:
        """Score some items and yield (index, answer) in any order.

        Args:
            asked: items with their pictures.
            seed: of noise.
            whole: measure every candidate on every draw, whatever the race.
            comparable: make scores of one caption comparable between pictures; it implies `whole`.
        """


def best(scores: Sequence[float]) -> tuple[int, ...]:
    """Return the candidates with the largest score; several if they tie exactly."""
    top = max(scores)
    return tuple(i for i, score in enumerate(scores) if score == top)
