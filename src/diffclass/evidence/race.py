"""What a race must say: when it is judged, and who goes on."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from diffclass.evidence.evidence import Evidence, StandIns
from diffclass.types import Survivors

__all__ = ["Race"]


class Race(ABC):
    """A rule that drops classes while their errors are being measured; pure: no network, no clock.

    `n_draws` is the full budget of draws for a class, `block` the size of the exchangeable unit.
    """

    n_draws: int
    block: int
    abstains: ClassVar[bool]  # whether several survivors at the end mean that there is no answer

    @property
    def stand_ins(self) -> StandIns | None:
        """What stands for each class until it joins; None where every class is measured from the start.

        The classes that stand for themselves start. After the first look others may join, once, and are measured on
        the draws so far; those that do not join are never measured.
        """
        return None

    def joins(self, evidence: Evidence) -> Survivors:
        """Return which classes join, given the first look of those that started."""
        return np.zeros(len(evidence.classes), dtype=bool)

    @abstractmethod
    def next_look(self, n_draws: int) -> int:
        """Return after how many draws the race is judged next, given how many have been measured."""

    @abstractmethod
    def survivors(self, evidence: Evidence) -> Survivors:
        """Return which classes go on; never empty, and never a class that had left already."""
