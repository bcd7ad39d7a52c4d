"""How good explanations are: nearness, sparsity, and what a classifier says while pixels change hands."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from torch import Tensor

from diffclass.errors import MissingExtra, RangeError, ShapeError

__all__ = ["Curve", "Proximity", "agreement", "blurred", "cout", "deletion", "insertion", "proximity", "ssim"]

CHANGED = 0.1  # [image units] a pixel changed visibly if it did by more than this
STEPS = 20

Image = Float[Tensor, "_ _ _"]  # [image units] channel, height, width
Map = Float64[ndarray, "_ _"]  # height, width
Judge = Callable[[Float[Tensor, "batch channel height width"]], Float64[ndarray, "batch class"]]  # probabilities


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Proximity:
    """How far an image is from another.

    Args:
        l1: [image units] mean absolute difference.
        l2: [image units] root of the mean squared difference.
        changed: share of pixels of which some channel differs by more than 0.1.
        ssim: structural similarity, 1 for equal images; None without scikit-image, or for images too small for it.

    Source:
        What counterfactuals are judged by: Jeanneret et al. 2023 (arXiv:2303.09962), section 4.
    """

    l1: float
    l2: float
    changed: float
    ssim: float | None


def proximity(image: Image, reference: Image) -> Proximity:
    """Measure how far an image is from a reference.

    Raises:
        ShapeError: they have different shapes.

    Source:
        As `Proximity` and `ssim` say.
    """
    if image.shape != reference.shape:
        raise ShapeError(
            f"Images that are compared must have one shape. Got {tuple(image.shape)} and {tuple(reference.shape)}."
        )
    apart = (image.double() - reference.double()).abs()
    try:
        similar = ssim(image, reference)
    except MissingExtra:
        similar = None
    return Proximity(
        l1=float(apart.mean()),
        l2=float(apart.square().mean().sqrt()),
        changed=float((apart.amax(dim=0) > CHANGED).double().mean()),
        ssim=similar,
    )


def ssim(image: Image, reference: Image) -> float | None:
    """Return the mean structural similarity over windows of 7x7 pixels; None for images with fewer.

    Raises:
        MissingExtra: scikit-image is not installed.

    Source:
        Wang et al. 2004, equation 13, with even windows.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise MissingExtra("SSIM needs scikit-image: pip install 'diffclass[explain]'.") from error
    if min(image.shape[1:]) < 7:
        return None
    one, other = image.double().numpy(), reference.double().numpy()
    similar: Any = structural_similarity(one, other, data_range=1.0, channel_axis=0)
    return float(similar)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """What a judge says while pixels change hands.

    Args:
        shares: of pixels that have changed, from 0 to 1.
        probabilities: of the class, at each share.
    """

    shares: Float64[ndarray, " _"]
    probabilities: Float64[ndarray, " _"]

    @property
    def area(self) -> float:
        """Area under the curve, in [0, 1], by trapezoids."""
        return float(np.trapezoid(self.probabilities, self.shares))


def deletion(
    judge: Judge, image: Image, ranking: Map, label: int, *, baseline: Image | None = None, steps: int = STEPS
) -> Curve:
    """Take pixels away, those of the largest rank first: a good map makes the probability fall at once.

    Args:
        judge: gives probabilities.
        image: in [0, 1].
        ranking: pixels of the largest values go first.
        label: index of the class whose probability is followed.
        baseline: what takes their place; the blurred image if None.
        steps: looks after the first.

    Raises:
        ShapeError: the ranking is not of the image's pixels.
        RangeError: `steps` is below 1.

    Source:
        Petsiuk, Das and Saenko 2018, section 3.2 (RISE, arXiv:1806.07421); they delete to grey.
    """
    baseline = blurred(image) if baseline is None else baseline
    return _curve(judge, image, baseline, ranking, label, steps)


def insertion(
    judge: Judge, image: Image, ranking: Map, label: int, *, baseline: Image | None = None, steps: int = STEPS
) -> Curve:
    """Bring pixels back, those of the largest rank first: a good map makes the probability rise at once.

    Arguments and errors are those of `deletion`.

    Source:
        Petsiuk, Das and Saenko 2018, section 3.2 (RISE, arXiv:1806.07421).
    """
    baseline = blurred(image) if baseline is None else baseline
    return _curve(judge, baseline, image, ranking, label, steps)


def cout(judge: Judge, image: Image, counterfactual: Image, source: int, to: int, *, steps: int = STEPS) -> float:
    """Put the counterfactual's pixels into the image, those that differ most first, and follow both classes.

    Returns:
        Area under the probability of `to` minus that of `source`, in [-1, 1]: large where few pixels suffice.

    Raises:
        ShapeError: the two images have different shapes.
        RangeError: `steps` is below 1.

    Source:
        Khorram and Fuxin 2022, section 4.1 (COUT, arXiv:2203.15064).
    """
    if image.shape != counterfactual.shape:
        raise ShapeError(
            f"Images that are compared must have one shape. Got {tuple(image.shape)} and {tuple(counterfactual.shape)}."
        )
    ranking = (counterfactual - image).abs().double().sum(dim=0).numpy()
    shares, rows = _exchange(judge, image, counterfactual, ranking, steps)
    return float(np.trapezoid(rows[:, to] - rows[:, source], shares))


def blurred(image: Image) -> Image:
    """Blur an image until only its large parts are left: a Gaussian of an eighth of its shorter side.

    Source:
        Petsiuk, Das and Saenko 2018, section 3.2 (arXiv:1806.07421), with a width in proportion to the image.
    """
    from scipy.ndimage import gaussian_filter

    width = min(image.shape[1:]) / 8
    return torch.from_numpy(gaussian_filter(image.numpy(), sigma=(0, width, width), mode="nearest"))


def agreement(one: Map, other: Map) -> float:
    """Return Spearman's rank correlation of the sizes of two maps; NaN where one is constant.

    A map that explains a model should change when the model's weights are shuffled.

    Source:
        Adebayo et al. 2018, section 3 (arXiv:1810.03292); Spearman 1904.
    """
    from scipy.stats import spearmanr

    sizes = np.abs(one).ravel(), np.abs(other).ravel()
    if any(np.ptp(size) == 0 for size in sizes):
        return float("nan")
    found: Any = spearmanr(*sizes)
    return float(found.statistic)


def _curve(judge: Judge, start: Image, end: Image, ranking: Map, label: int, steps: int) -> Curve:
    shares, rows = _exchange(judge, start, end, ranking, steps)
    return Curve(shares=shares, probabilities=rows[:, label])


def _exchange(
    judge: Judge, start: Image, end: Image, ranking: Map, steps: int
) -> tuple[Float64[ndarray, " _"], Float64[ndarray, "_ class"]]:
    """Replace the pixels of one image by another's, those of the largest rank first, and ask the judge on the way."""
    if ranking.shape != tuple(start.shape[1:]):
        raise ShapeError(
            f"A ranking must have a number for each pixel, {tuple(start.shape[1:])}. Got {tuple(ranking.shape)}."
        )
    if steps < 1:
        raise RangeError(f"The 'steps' parameter of a curve must be at least 1. Got {steps}.")
    order = np.argsort(-ranking, axis=None, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))  # 0 for the pixel that goes first
    counts = np.round(np.linspace(0, len(order), steps + 1)).astype(int)
    gone = torch.from_numpy(place[None, :] < counts[:, None]).reshape(-1, 1, *ranking.shape)
    return counts / len(order), judge(torch.where(gone, end, start))
