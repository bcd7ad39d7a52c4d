"""What is believed of an image before any draw: which classes are likely to lead, and which are not tried at all."""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

__all__ = ["Foresight"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Foresight:
    """A belief about one image that does not depend on the noise of its draws.

    Args:
        weights: of each class as the one that will lead, positive and summing to 1 over those that are tried. A race
            shares its delta by them: it costs or saves draws and leaves the guarantee as it is.
        tried: classes that are measured. The guarantee of a race holds among them, and says nothing of the others.
    """

    weights: Float64[ndarray, " class"]
    tried: Bool[ndarray, " class"]

    @classmethod
    def from_probabilities(cls, probabilities: Float64[ndarray, " class"], keep: int | None = None) -> "Foresight":
        """Mix a guess evenly with no guess, so that a wrong one costs little; keep all classes or the likeliest.

        Args:
            probabilities: of the classes.
            keep: how many classes are tried; all if None.
        """
        n = len(probabilities)
        tried = np.ones(n, dtype=bool)
        if keep is not None and keep < n:
            tried[np.argsort(-probabilities, kind="stable")[keep:]] = False
        guess = np.where(tried, probabilities, 0.0)
        weights = 0.5 * guess / guess.sum() + 0.5 * tried / tried.sum()
        return cls(weights=weights, tried=tried)
