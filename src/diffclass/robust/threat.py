"""What an attacker may do: a norm and a budget."""

import re
from dataclasses import dataclass
from math import isfinite
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffclass.errors import InputError, RangeError
from diffclass.types import Images

__all__ = ["NORMS", "Threat"]

NORMS = ("linf", "l2")
Image = Float[Tensor, "channel height width"]
_THREAT = re.compile(r"(linf|l2):(-?[0-9.eE+-]+)(?:/([0-9.eE+-]+))?", re.IGNORECASE)


@final
@dataclass(frozen=True, slots=True)
class Threat:
    """All images within a distance of one, and within [0, 1].

    Args:
        norm: "linf" or "l2".
        epsilon: [image units] largest distance.

    Raises:
        RangeError: epsilon is not above 0.

    Source:
        Croce and Hein 2020, section 2 (arXiv:2003.01690).
    """

    norm: str
    epsilon: float

    def __post_init__(self) -> None:
        """Refuse what is no budget."""
        if self.norm not in NORMS:
            raise InputError(f"The norm of a threat must be one of {', '.join(NORMS)}. Got {self.norm!r}.")
        if not (isfinite(self.epsilon) and self.epsilon > 0):
            raise RangeError(
                f"The radius of a threat must be a finite number above 0 [image units]. Got {self.epsilon}."
            )

    @classmethod
    def parse(cls, text: str) -> "Threat":
        """Read "linf:8/255" or "l2:0.5".

        Raises:
            InputError: it is no threat.
            RangeError: its radius is not above 0.
        """
        found = _THREAT.fullmatch(text.strip())
        try:
            if found is None:
                raise ValueError
            over = 1.0 if found[3] is None else float(found[3])
            epsilon = float(found[2]) / over
        except (ValueError, ZeroDivisionError) as error:
            raise InputError(
                f"A threat must be a norm and a radius [image units], such as linf:8/255 or l2:0.5. Got {text!r}."
            ) from error
        return cls(found[1].lower(), epsilon)

    def __str__(self) -> str:
        return f"{self.norm}:{self.epsilon:.6g}"

    def distance(self, image: Image, other: Image) -> float:
        """Return how far apart two images are [image units]."""
        difference = (other.double() - image.double()).flatten()
        return float(difference.abs().max() if self.norm == "linf" else difference.norm())

    def project(self, image: Image, other: Image) -> Image:
        """Return the nearest image within the threat, or one that is nearly so under L2 where [0, 1] binds too."""
        other = other.clamp(0, 1)
        if self.norm == "linf":
            return torch.maximum(torch.minimum(other, image + self.epsilon), image - self.epsilon).clamp(0, 1)
        return image + (other - image) * min(1.0, self.epsilon / max(self.distance(image, other), 1e-12))

    def random(self, image: Image, n: int, generator: np.random.Generator) -> Images:
        """Return n images at random on the edge of the threat: corners under Linf, directions under L2."""
        noise = generator.standard_normal((n, *image.shape)).astype(np.float32)
        noise = torch.from_numpy(np.sign(noise) if self.norm == "linf" else noise)
        radius = self.epsilon * (1.0 if self.norm == "linf" else 1 - 1e-6)
        length = torch.ones(n) if self.norm == "linf" else noise.flatten(1).norm(dim=1)
        return (image + radius * noise / length.reshape(-1, 1, 1, 1)).clamp(0, 1)

    def enlarged(self, factor: float) -> "Threat":
        """Return the same norm with a larger budget, at most one that reaches every image under Linf."""
        return Threat(self.norm, min(self.epsilon * factor, 1.0) if self.norm == "linf" else self.epsilon * factor)
