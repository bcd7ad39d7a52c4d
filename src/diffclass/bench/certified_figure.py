"""Certified accuracy against the radius, drawn as the steps that it is made of."""

from pathlib import Path

import numpy as np

from diffclass.bench.certified import Certified
from diffclass.bench.figure import check_figure_path
from diffclass.errors import InputError, ResultError

__all__ = ["draw_certified"]

_COLOURS = ("#0b6e69", "#d1495b", "#3a6ea5", "#c98a1b", "#6b4e9b", "#6b7683")
_INK, _MUTED, _GRID = "#1f2933", "#6b7683", "#e4e8ec"


def draw_certified(certified: Certified, path: Path, *, title: str = "") -> Path:
    """Draw how often the smoothed label is right and proved, against the radius, a curve for each sigma.

    Bands are Wilson's 95% intervals, at each radius by itself.

    Args:
        certified: with at least one labelled image.
        path: ends in .png, .svg or .pdf.
        title: above it.

    Raises:
        InputError: there is no labelled image, or the file's ending names no format.
        ResultError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    check_figure_path(path)
    shown = [result for result in certified.results if result.labelled.any()]
    if not shown:
        raise InputError("A figure of certified accuracy needs labelled images. Got none.")
    figure = Figure(figsize=(6.4, 4.0), dpi=160, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    top = max(float(result.radii.max()) for result in shown) or 1.0
    for number, result in enumerate(shown):
        colour = _COLOURS[number % len(_COLOURS)]
        radii = np.unique(np.concatenate([[0.0], result.radii[result.correct], [1.05 * top]]))
        estimates = [e for radius in radii if (e := result.certified_accuracy(float(radius))) is not None]
        low, value, high = (np.array([getattr(e, name) for e in estimates]) for name in ("low", "value", "high"))
        # accuracy at a radius counts certificates of at least that radius: it falls just after each of them
        axes.step(radii, value, where="pre", color=colour, linewidth=1.6, label=f"σ = {result.sigma:g}")
        axes.fill_between(radii, low, high, step="pre", color=colour, alpha=0.15, linewidth=0)
    axes.set_xlim(0, 1.05 * top)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("L2 radius [image units]", color=_MUTED)
    axes.set_ylabel("certified accuracy", color=_MUTED)
    axes.set_title(title or f"{shown[0].labelled.sum()} images", loc="left", color=_INK, fontsize=10)
    axes.grid(color=_GRID, linewidth=0.7)
    axes.tick_params(length=0, labelcolor=_MUTED)
    axes.spines[:].set_visible(False)
    axes.legend(frameon=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise ResultError(f"The figure '{path}' cannot be written: {error.strerror or error}.") from error
    return path
