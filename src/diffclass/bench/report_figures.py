"""Figures of a report as SVG that takes its colours from the page, light or dark."""

import re
from collections.abc import Callable
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from diffclass.bench.report import DROPPED, Report
from diffclass.decide.uncertainty import MEASURES
from diffclass.stats.selective import risk_coverage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["report_figures"]

# Colours that are drawn, and the variables of the page that take their place.
_INK, _GRID, _LINES = "#101112", "#d0d1d2", ("#0b6e69", "#d1495b", "#b7791f", "#5a67d8")
_VARIABLES = {_INK: "var(--ink)", _GRID: "var(--grid)", **{c: f"var(--line{i})" for i, c in enumerate(_LINES)}}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "diffclass",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
}
_CURVES = 4  # the most that are drawn
_SHOWN = ("probability", "margin", "vote_share", "margin_z", "mutual_information")
_BINS = 15


def report_figures(report: Report) -> dict[str, str]:
    """Draw the figures of a report that its numbers allow, by name, each an <svg> element."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        found = {
            "risk_coverage": _svg(lambda axes: _risk_coverage(axes, report)),
            "filtering": _svg(lambda axes: _filtering(axes, report)),
            "evaluations": _svg(lambda axes: _evaluations(axes, report)),
        }
        if report.probabilities is not None:
            found["reliability"] = _svg(lambda axes: _reliability(axes, report))
    return found


def _svg(draw: Callable[["Axes"], None]) -> str:
    """Return what is drawn as an element that refers to nothing outside."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 3.6), layout="constrained")
    draw(figure.subplots())
    text = StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(xmlns(:xlink)?)="[^"]*"', "", svg)  # a page knows what <svg> is
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*"', r'<svg \1role="img"', svg)
    svg = re.sub(r'(<svg [^>]*?)height="[^"]*" ', r"\1", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg


def _measures(report: Report) -> list[str]:
    """Return the measures that are drawn, the primary one first; of two that rank images alike, one."""
    chosen: list[str] = []
    ranks: list[np.ndarray] = []
    for name in (report.primary, *_SHOWN):
        if name not in report.uncertainties:
            continue
        rank = np.unique(report.uncertainties[name].round(9), return_inverse=True)[1]
        if not any((rank == other).all() for other in ranks):
            chosen.append(name)
            ranks.append(rank)
    return chosen[:_CURVES]


def _risk_coverage(axes: "Axes", report: Report) -> None:
    for name, colour in zip(_measures(report), _LINES, strict=False):
        curve = risk_coverage(report.wrong, report.uncertainties[name])
        area = report.selective[name]["aurc"]
        told = "" if area is None else f", AURC {area.value:.3f} ({area.low:.3f} to {area.high:.3f})"
        width = 2.0 if name == report.primary else 1.0
        axes.plot(100 * curve.coverage, 100 * curve.risk, color=colour, linewidth=width,
                  label=MEASURES[name] + told)  # fmt: skip
    kept = np.arange(1, len(report.wrong) + 1)
    best = np.maximum(0, kept - (~report.wrong).sum())
    axes.plot(100 * kept / len(kept), 100 * best / kept, color=_INK, linewidth=0.8,
              linestyle=":", label="all mistakes last")  # fmt: skip
    axes.set(xlabel="images kept, the surest first [%]", ylabel="wrong among them [%]", xlim=(0, 100))
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7.5, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)  # above: curves go anywhere


def _filtering(axes: "Axes", report: Report) -> None:
    dropped = 100 * np.array(DROPPED)
    for name, colour in zip(_measures(report), _LINES, strict=False):
        curve = report.filtering[name]
        width = 2.0 if name == report.primary else 1.0
        axes.plot(dropped, [100 * e.value for e in curve], color=colour, linewidth=width, label=MEASURES[name])
        if name == report.primary:
            low, high = [100 * e.low for e in curve], [100 * e.high for e in curve]
            axes.fill_between(dropped, low, high, color=colour, alpha=0.15, linewidth=0, label="its 95% interval")
    axes.set(xlabel="most uncertain images dropped [%]", ylabel="accuracy of the rest [%]", xlim=(0, 95))
    axes.set_ylim(top=100.5)
    axes.legend(fontsize=7.5, loc="lower right")


def _reliability(axes: "Axes", report: Report) -> None:
    assert report.probabilities is not None
    labels = report.run.scores.labels[report.measured_on]
    sure, right = report.probabilities.max(axis=1), report.probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(sure * _BINS).astype(np.int64) - 1, 0, _BINS - 1)
    axes.plot([0, 100], [0, 100], color=_INK, linewidth=0.8, linestyle=":", label="calibrated")
    counts = np.bincount(place, minlength=_BINS)
    axes.bar(100 * (np.arange(_BINS) + 0.5) / _BINS, 100 * counts / counts.sum(), width=100 / _BINS * 0.9,
             color=_GRID, label="share of the images")  # fmt: skip
    from diffclass.stats.interval import wilson

    for b in np.flatnonzero(counts):
        inside = place == b
        made = wilson(int(right[inside].sum()), int(counts[b]))
        mean = 100 * sure[inside].mean()
        axes.plot([mean, mean], [100 * made.low, 100 * made.high], color=_LINES[0], linewidth=1.2)
        axes.plot(mean, 100 * made.value, "o", color=_LINES[0], markersize=4.5)
    axes.plot([], [], "o-", color=_LINES[0], markersize=4.5, label="right, with 95% interval")
    axes.set(xlabel="probability of the likeliest class [%]", ylabel="[%]", xlim=(0, 100), ylim=(0, 103))
    axes.legend(fontsize=7.5, loc="upper left")


def _evaluations(axes: "Axes", report: Report) -> None:
    spent = report.run.scores.evaluations
    bins = np.histogram_bin_edges(spent, bins=min(30, max(1, len(np.unique(spent)))))
    groups = [spent[~report.wrong], spent[report.wrong]]
    axes.hist(groups, bins=bins.tolist(), stacked=True, color=list(_LINES[:2]), label=["right", "wrong"])
    axes.set(xlabel="network evaluations an image", ylabel="images")
    axes.legend(fontsize=7.5)
