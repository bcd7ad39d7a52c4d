"""What a race must say: when it is judged, and who goes on."""

from abc import ABC, abstractmethod
from typing import ClassVar

from diffclass.evidence.evidence import Evidence
from diffclass.types import Survivors

__all__ = ["Race"]


class Race(ABC):
    """A rule that drops classes while their errors are being measured; pure: no network, no clock.

    `n_draws` is the full budget of draws for a class, `block` the size of the exchangeable unit.
    """

    n_draws: int
    block: int
    abstains: ClassVar[bool]  # whether several survivors at the end mean that there is no answer

    @abstractmethod
    def next_look(self, n_draws: int) -> int:
        """Return after how many draws the race is judged next, given how many have been measured."""

    @abstractmethod
    def survivors(self, evidence: Evidence) -> Survivors:
        """Return which classes go on; never empty, and never a class that had left already."""
