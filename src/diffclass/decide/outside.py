"""How unlike the training pictures an image is: errors larger than validation images have at the same noise level."""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float, Float64
from numpy import ndarray

from diffclass.errors import InputError
from diffclass.evidence import ErrorMatrices

__all__ = ["OutsideScore", "fit_outside_score"]

LEAST_IMAGES = 20


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideScore:
    """Errors of the best class, standardised at each noise level by validation images, and averaged over the levels.

    A plain picture (a black one, say) is easy to denoise and may look more typical than a typical one; a score on both
    sides of the usual counts that too.

    Args:
        edges: [model units] of the noise bins, ascending.
        mean: of log error of validation images in each bin.
        sd: of the same.
        both_sides: average |z| in place of z.
        n: validation images.

    Source:
        Graham et al. 2023, section 3.2 (arXiv:2211.07740), reconstruction errors z-scored by validation images; the
        minimum over classes is for a conditional model.
    """

    edges: tuple[float, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    both_sides: bool
    n: int

    def __call__(self, matrices: ErrorMatrices) -> Float64[ndarray, " image"]:
        """Return the score of each image, 0 on average for validation images (if one-sided); larger is more foreign.

        Raises:
            InputError: an image has no draw in some noise bin.
        """
        return self.averaged(self.levels(matrices))

    def levels(self, matrices: ErrorMatrices) -> Float64[ndarray, "image _"]:
        """Return how many standard deviations the error of each image is above the mean, at each noise level.

        Raises:
            InputError: an image has no draw in some noise bin.
        """
        return (_binned(matrices.errors, matrices.sigmas, self.edges) - self.mean) / self.sd

    def averaged(self, z: Float64[ndarray, "image _"]) -> Float64[ndarray, " image"]:
        """Return the score of what `levels` returned."""
        return (np.abs(z) if self.both_sides else z).mean(axis=1)


def fit_outside_score(validation: ErrorMatrices, *, n_bins: int | None = None, both_sides: bool = True) -> OutsideScore:
    """Fit the score on validation images, whose labels are not used.

    Args:
        validation: images that the model was not trained on, measured as those to be judged will be.
        n_bins: of the noise range, with about as many draws each; 8, or as many as have 4 draws each, if None.
        both_sides: whether errors smaller than usual count as foreign too.

    Raises:
        InputError: there are too few images, or too few draws for so many bins.
    """
    if len(validation) < LEAST_IMAGES:
        raise InputError(f"fit_outside_score needs at least {LEAST_IMAGES} validation images. Got {len(validation)}.")
    n_bins = max(1, min(8, validation.n_draws // 4)) if n_bins is None else n_bins
    if not 1 <= n_bins <= validation.n_draws // 4:
        raise InputError(
            f"fit_outside_score needs at least 4 draws for each of its 'n_bins'. Got {n_bins} bins and "
            f"{validation.n_draws} draws."
        )
    edges = tuple(np.quantile(validation.sigmas, np.linspace(0, 1, n_bins + 1)[1:-1]).tolist())
    made = _binned(validation.errors, validation.sigmas, edges)
    sd = np.maximum(made.std(axis=0, ddof=1), 1e-9)
    return OutsideScore(
        edges=edges, mean=tuple(made.mean(axis=0).tolist()), sd=tuple(sd.tolist()), both_sides=both_sides,
        n=len(validation),
    )  # fmt: skip


def _binned(
    errors: Float[ndarray, "image draw class"], sigmas: Float64[ndarray, "image draw"], edges: tuple[float, ...]
) -> Float64[ndarray, "image _"]:
    """Return the log of the least mean error of any class in each noise bin."""
    place = np.searchsorted(np.array(edges), sigmas, side="right")
    found = np.empty((len(errors), len(edges) + 1))
    for b in range(len(edges) + 1):
        inside = place == b
        counts = inside.sum(axis=1)
        if not counts.all():
            raise InputError(
                f"Every image needs a draw in each of the {len(edges) + 1} noise bins. Image {int(counts.argmin())} "
                f"has none in bin {b}. Measure more draws, or fit with fewer bins."
            )
        totals = np.where(inside[:, :, None], errors.astype(np.float64), 0.0).sum(axis=1)
        found[:, b] = np.log(np.maximum((totals / counts[:, None]).min(axis=1), 1e-30))
    return found
