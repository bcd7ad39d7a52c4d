"""What certificates of a set add up to: certified accuracy against the radius, each number with its interval."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from diffclass.stats.interval import Estimate, mean_interval, wilson

__all__ = ["Certified", "SigmaResult"]

_STEPS = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
_FORMAT = 1


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SigmaResult:
    """Certificates of a set at one sigma.

    Args:
        sigma: [image units] of the smoothing noise.
        radii: [image units] of each image; 0 for an abstention.
        correct: whether the label is the truth; an abstention is not.
        labelled: whether the truth of an image is known.
        evaluations: network evaluations of each image.
        copies: noisy copies of each image, those that chose the label included.
        seconds: of wall time of each image.
    """

    sigma: float
    radii: Float64[ndarray, " image"]
    correct: Bool[ndarray, " image"]
    labelled: Bool[ndarray, " image"]
    evaluations: Float64[ndarray, " image"]
    copies: Float64[ndarray, " image"]
    seconds: Float64[ndarray, " image"]

    def certified_accuracy(self, radius: float) -> Estimate | None:
        """Estimate how often the smoothed label is right and proved at a radius; None without labelled images.

        Source:
            Cohen, Rosenfeld and Kolter 2019, section 4 (arXiv:1902.02918).
        """
        n = int(self.labelled.sum())
        return wilson(int((self.correct & (self.radii >= radius)).sum()), n) if n else None

    @property
    def average_radius(self) -> Estimate | None:
        """Average certified radius [image units]: the mean of the radius, 0 where the label is wrong.

        Source:
            Zhai et al. 2020, section 3 (arXiv:2001.02378).
        """
        values = (self.radii * self.correct)[self.labelled]
        return mean_interval(values) if len(values) > 1 else None

    @property
    def abstentions(self) -> Estimate | None:
        """How often no radius was proved."""
        return wilson(int((self.radii == 0).sum()), len(self.radii)) if len(self.radii) else None

    def summary(self, radii: Sequence[float]) -> dict[str, Any]:
        """Return plain values, for JSON."""
        cost = {"evaluations": self.evaluations, "copies": self.copies, "seconds": self.seconds}
        return {
            "sigma": self.sigma,
            "n_images": len(self.radii),
            "certified_accuracy": [
                {"radius": r, **asdict(e)} for r in radii if (e := self.certified_accuracy(r)) is not None
            ],
            "average_certified_radius": None if self.average_radius is None else asdict(self.average_radius),
            "abstentions": None if self.abstentions is None else asdict(self.abstentions),
            **{f"{name}_per_image": float(v.mean()) if len(v) else None for name, v in cost.items()},
        }


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Certified:
    """Certificates of a set, at one sigma or several.

    Args:
        results: of each sigma.
        rows: a row for each image and sigma, failed pictures included.
        failures: id and reason of pictures that could not be opened, each once.
        n_images: of the set.
        config: everything that the certificates depend on.
    """

    results: tuple[SigmaResult, ...]
    rows: tuple[Mapping[str, Any], ...]
    failures: tuple[tuple[str, str], ...]
    n_images: int
    config: Mapping[str, Any]

    @classmethod
    def from_rows(
        cls, rows: Iterable[Mapping[str, Any]], *, sigmas: Sequence[float], seconds: Mapping[str, float],
        config: Mapping[str, Any],
    ) -> "Certified":  # fmt: skip
        """Gather the rows of a result file and the seconds each took."""
        every = tuple(rows)
        good = [row for row in every if "error" not in row]
        failures = {row["image"]: row["error"] for row in every if "error" in row}
        results = [_of_sigma(sigma, [row for row in good if row["sigma"] == sigma], seconds) for sigma in sigmas]
        images = {row["image"] for row in every}
        return cls(
            results=tuple(results), rows=every, failures=tuple(failures.items()), n_images=len(images), config=config
        )

    @property
    def radii(self) -> tuple[float, ...]:
        """[image units] Radii worth a column: from 0 up to the largest that was proved, and the one that was wanted."""
        top = max((float(result.radii.max()) for result in self.results if len(result.radii)), default=0.0)
        step = next((step for step in _STEPS if top / step <= 6), 1.0)
        wanted = self.config["smoothing"]["radius"]
        grid = {round(step * i, 6) for i in range(int(top / step) + 1)}
        return tuple(sorted(grid | (set() if wanted is None else {wanted})))

    def summary(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "format": _FORMAT,
            "n_images": self.n_images,
            "n_failed": len(self.failures),
            "failures": [{"id": name, "error": error} for name, error in self.failures],
            "results": [result.summary(self.radii) for result in self.results],
            "config": dict(self.config),
        }


def _of_sigma(sigma: float, rows: Sequence[Mapping[str, Any]], seconds: Mapping[str, float]) -> SigmaResult:
    def column(values: Iterable[float]) -> Float64[ndarray, " image"]:
        return np.array(list(values), dtype=np.float64)

    return SigmaResult(
        sigma=sigma,
        radii=column(row["radius"] for row in rows),
        correct=np.array([row["label"] is not None and row["label"] == row["truth"] for row in rows], dtype=bool),
        labelled=np.array([row["truth"] is not None for row in rows], dtype=bool),
        evaluations=column(row["evaluations"] for row in rows),
        copies=column(row["n0"] + row["n"] for row in rows),
        seconds=column(seconds.get(row["id"], 0.0) for row in rows),
    )
