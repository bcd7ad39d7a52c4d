"""Accuracies of scorers side by side, and which candidates they preferred."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffclass.bench.figure import check_figure_path
from diffclass.errors import InputError, ResultError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "draw_comparison", "save_figure", "tidy"]

COLOURS = ("#0b6e69", "#d1495b", "#3a6ea5", "#c98a1b", "#6b4e9b", "#6b7683")
_INK, _MUTED, _GRID = "#1f2933", "#6b7683", "#e4e8ec"
_TAGS = {"target": "#0b6e69", "colour swap": "#d1495b", "shape swap": "#e08e79", "relation flip": "#d1495b"}
_TAGS |= {"object swap": "#e08e79", "foil": "#d1495b", "random": "#a3adb8"}


def draw_comparison(summary: Mapping[str, Any], path: Path) -> Path:
    """Draw accuracy with its 95% interval against chance, and the share of answers that name each kind of candidate.

    Args:
        summary: as `summarise` returns it.
        path: ends in .png, .svg or .pdf.

    Raises:
        InputError: nothing was answered, or the file's ending names no format.
        ResultError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    check_figure_path(path)
    counted = [result for result in summary["results"] if result["accuracy"] is not None]
    if not counted:
        raise InputError("A figure of a comparison needs answers. Got none.")
    parts = list(dict.fromkeys(result["part"] for result in counted))
    scorers = list(dict.fromkeys(result["scorer"] for result in counted))
    height = 1.1 + 0.26 * sum(1 + len(scorers) for _ in parts)
    figure = Figure(figsize=(9.5, height), dpi=160, facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    labels: dict[int, str] = {}
    for result in counted:
        place = parts.index(result["part"]) * (len(scorers) + 1) + scorers.index(result["scorer"])
        labels[place] = f"{result['part']}  {result['scorer']}"
        _accuracy(left, result, place, COLOURS[scorers.index(result["scorer"]) % len(COLOURS)])
        _preferred(right, result, place)
    left.set_yticks(list(labels), list(labels.values()), fontsize=7)
    left.invert_yaxis()
    left.set_xlabel("accuracy, 95% interval clustered by picture; | is chance", color=_MUTED, fontsize=8)
    right.set_xlabel("share of answers", color=_MUTED, fontsize=8)
    handles = {bar.get_label(): bar for bar in right.containers}
    figure.legend(
        handles.values(), handles.keys(), frameon=False, fontsize=7, loc="outside upper right", ncols=len(handles)
    )
    for axes in (left, right):
        axes.set_xlim(0, 1)
        tidy(axes)
    return save_figure(figure, path)


def _accuracy(axes: "Axes", result: Mapping[str, Any], place: int, colour: str) -> None:
    accuracy = result["accuracy"]
    axes.plot([accuracy["low"], accuracy["high"]], [place, place], color=colour, linewidth=2.2, alpha=0.45)
    axes.plot([accuracy["value"]], [place], "o", color=colour, markersize=5)
    axes.plot([result["chance"]], [place], "|", color=_INK, markersize=9)


def _preferred(axes: "Axes", result: Mapping[str, Any], place: int) -> None:
    start = 0.0
    for number, (tag, share) in enumerate(result["preferred"].items()):
        colour = _TAGS.get(tag, COLOURS[number % len(COLOURS)])
        axes.barh(place, share, left=start, height=0.7, color=colour, label=tag)
        start += share


def tidy(axes: "Axes") -> None:
    """Take away what carries no information."""
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=_MUTED)
    axes.spines[:].set_visible(False)


def save_figure(figure: "Figure", path: Path) -> Path:
    """Write a figure.

    Raises:
        ResultError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise ResultError(f"The figure '{path}' cannot be written: {error.strerror or error}.") from error
    return path
