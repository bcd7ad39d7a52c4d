"""Pictures of answers: the image, how far the classes are apart, and how the race went."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from diffclass.bench.answers import Answer
from diffclass.decide.decision import Decision
from diffclass.errors import InputError, ResultError
from diffclass.evidence.evidence import Evidence

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check_figure_path", "draw_answers", "running"]

_ENDINGS = (".png", ".svg", ".pdf")
_CLASSES = 10  # the most that are drawn
_LEADER, _RIVAL, _OTHER, _INK, _MUTED, _GRID = "#0b6e69", "#d1495b", "#a3adb8", "#1f2933", "#6b7683", "#e4e8ec"
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _MUTED,
    "xtick.color": _MUTED,
    "ytick.color": _INK,
    "text.color": _INK,
    "axes.axisbelow": True,
}
_ROW, _HEAD, _FOOT, _WIDTH = 2.3, 0.95, 0.1, 11.0  # [inches]
_COLUMNS = {0.25: "what the model saw", 2.75: "log-odds against the leader, ± 2 standard errors",
            6.75: "the same while network evaluations were spent; ● class dropped"}  # fmt: skip


def draw_answers(
    answers: Sequence[Answer], path: str | os.PathLike[str], *, title: str = "", captions: Sequence[str] = ()
) -> Path:
    """Draw one row an answer: the picture, log-odds against the leader, and the race.

    Pictures that failed are left out. At most ten classes are drawn, the best ones.

    Args:
        answers: with their evidence.
        path: ends in .png, .svg or .pdf.
        title: above all of it.
        captions: below each picture; its id if there are none.

    Raises:
        InputError: there is no answer to draw, or the file's ending names no format.
        ResultError: the file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    check_figure_path(Path(path))
    texts = captions or [answer.id for answer in answers]
    shown = [(a, a.decision, text) for a, text in zip(answers, texts, strict=True) if a.decision is not None]
    if not shown:
        raise InputError("A figure needs at least one picture that was classified. Got none.")
    height = _HEAD + _ROW * len(shown) + _FOOT
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height), dpi=160, facecolor="white")
        for row, (answer, decision, caption) in enumerate(shown):
            _row(figure, answer, decision, caption, top=height - _HEAD - _ROW * row, height=height)
        for left, heading in _COLUMNS.items():
            figure.text(left / _WIDTH, 1 - 0.68 / height, heading, fontsize=8.5, color=_MUTED, va="center")
        figure.text(0.25 / _WIDTH, 1 - 0.32 / height, title, fontsize=13, fontweight="bold", va="center")
        return _save(figure, Path(path))


def check_figure_path(path: Path) -> None:
    """Refuse a file whose ending names no format that is drawn here."""
    if path.suffix.lower() not in _ENDINGS:
        raise InputError(f"The figure '{path}' must end in {', '.join(_ENDINGS[:-1])} or {_ENDINGS[-1]}.")


def _save(figure: "Figure", path: Path) -> Path:
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(part)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise ResultError(f"The figure '{path}' cannot be written: {error.strerror or error}.") from error
    return path


def _row(figure: "Figure", answer: Answer, decision: Decision, caption: str, *, top: float, height: float) -> None:
    """Draw one answer below `top` [inches from the bottom]."""

    def place(left: float, width: float) -> "Axes":
        box = (left / _WIDTH, (top - _ROW + 0.42) / height, width / _WIDTH, (_ROW - 0.8) / height)
        return figure.add_axes(box)

    wrong = answer.truth is not None and answer.truth != decision.label
    figure.text(0.25 / _WIDTH, (top - 0.16) / height, _verdict(answer, decision), fontsize=11, fontweight="bold",
                color=_RIVAL if wrong else _INK, va="center")  # fmt: skip
    figure.text(2.75 / _WIDTH, (top - 0.16) / height, _detail(decision), fontsize=9, va="center")
    order = _order(decision.evidence, decision.leader)
    _picture(place(0.25, 1.5), answer, caption)
    odds = place(2.75, 3.3)
    _odds(odds, decision, order)
    odds.set_xlabel(f"[{answer.unit}]", fontsize=7.5, loc="right", labelpad=1)
    _race(place(6.75, 3.4), decision, order)


def _verdict(answer: Answer, decision: Decision) -> str:
    """Return the answer, and the truth where it is another one."""
    said = "no answer" if decision.label is None else decision.label
    return said if answer.truth in (None, decision.label) else f"{said}  (it is {answer.truth})"


def _detail(decision: Decision) -> str:
    full = len(decision.evidence.draws) * len(decision.evidence.classes)
    parts = [f"log-odds {decision.log_odds:.1f} ± {decision.log_odds_se:.1f} over {decision.runner_up}"]
    if decision.probability is not None:
        parts.append(f"{decision.probability:.1%} calibrated")
    parts.append(f"{decision.evaluations:,} of {full:,} evaluations")
    return "   ·   ".join(parts)


def _picture(axes: "Axes", answer: Answer, caption: str) -> None:
    """Draw the image as the model saw it."""
    assert answer.image is not None
    pixels = answer.image.permute(1, 2, 0).numpy()
    pixels = pixels if pixels.shape[2] == 3 else pixels[..., 0]
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[], anchor="W")
    axes.set_xlabel(_shortened(caption, 34), fontsize=7.5, loc="left")


def _shortened(name: str, most: int) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _order(evidence: Evidence, leader: str) -> list[int]:
    """Return the classes to draw, best first."""
    first = evidence.classes.index(leader)
    odds = [evidence.difference(c, first).mean for c in range(len(evidence.classes))]
    tried = (c for c in np.flatnonzero(evidence.n_measured > 0).tolist() if c != first)
    others = sorted(tried, key=lambda c: -odds[c])
    return [first, *others[: _CLASSES - 1]]


def _colour(place: int) -> str:
    return (_LEADER, _RIVAL)[place] if place < 2 else _OTHER


def _odds(axes: "Axes", decision: Decision, order: list[int]) -> None:
    """Draw the log-odds of each class against the leader, with two standard errors either way."""
    evidence, leader = decision.evidence, order[0]
    for place, c in enumerate(order):
        difference = evidence.difference(c, leader)
        half = 2 * difference.se if c != leader and np.isfinite(difference.se) else 0.0
        colour = _colour(place)
        axes.plot([difference.mean, 0], [place, place], color=_GRID, linewidth=2, zorder=1)
        axes.errorbar(difference.mean, place, xerr=half, fmt="o", color=colour, markersize=5, elinewidth=1.6, zorder=3)
    axes.axvline(0, color=_LEADER, linewidth=1, zorder=0)
    axes.set_yticks(range(len(order)), [_shortened(evidence.classes[c], 16) for c in order])
    for place, tick in enumerate(axes.get_yticklabels()):
        tick.set_color(_colour(place) if place < 2 else _INK)
        tick.set_fontweight("bold" if place < 1 else "normal")
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.tick_params(length=0)
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="x", color=_GRID, linewidth=0.7)
    axes.spines[:].set_visible(False)


def running(evidence: Evidence, c: int, leader: int) -> tuple[Float64[ndarray, " block"], Float64[ndarray, " block"]]:
    """Return, after each block that both classes saw, the evaluations spent so far and the mean log-odds."""
    blocks = evidence.blocks(c, leader)
    prior = evidence.log_prior[c] - evidence.log_prior[leader]
    mean = blocks.cumsum() / np.arange(1, len(blocks) + 1) + prior
    spent = np.isfinite(evidence.errors).sum(axis=1).cumsum().astype(np.float64)
    return spent[evidence.draws.block - 1 :: evidence.draws.block][: len(blocks)], mean


def _race(axes: "Axes", decision: Decision, order: list[int]) -> None:
    """Draw how the log-odds settled while evaluations were spent; a line ends where its class was dropped."""
    evidence, leader = decision.evidence, order[0]
    axes.axhline(0, color=_LEADER, linewidth=1.6, zorder=2)
    for place, c in reversed(list(enumerate(order))):
        if c == leader:
            continue
        spent, mean = running(evidence, c, leader)
        colour = _colour(place)
        axes.plot(spent, mean, color=colour, linewidth=1.6 if place == 1 else 1.0, zorder=3 if place == 1 else 1)
        axes.plot(spent[-1], mean[-1], "o", color=colour, markersize=3.5, zorder=3 if place == 1 else 1)
        if place == 1:
            axes.annotate(evidence.classes[c], (spent[-1], mean[-1]), (6, 0), textcoords="offset points", color=colour,
                          va="center", annotation_clip=False)  # fmt: skip
    axes.tick_params(length=0, labelcolor=_MUTED)
    axes.grid(color=_GRID, linewidth=0.7)
    axes.spines[:].set_visible(False)
    axes.set_xlim(0, 1.02 * decision.evaluations)
