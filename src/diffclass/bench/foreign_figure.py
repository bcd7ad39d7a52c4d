"""Scores of pictures from inside and outside, a row a set."""

from pathlib import Path

import numpy as np

from diffclass.bench.figure import check_figure_path
from diffclass.bench.foreign import Foreign
from diffclass.errors import ResultError
from diffclass.stats.selective import threshold_at_tpr

__all__ = ["draw_foreign"]

_OWN, _OTHER, _INK, _MUTED, _GRID = "#0b6e69", "#d1495b", "#1f2933", "#6b7683", "#e4e8ec"


def draw_foreign(found: Foreign, path: Path, *, title: str = "") -> Path:
    """Draw the score of every picture, a row a set, and the threshold that 95% of those inside pass.

    Args:
        found: with at least one outside set that was measured.
        path: ends in .png, .svg or .pdf.
        title: above it.

    Raises:
        InputError: the file's ending names no format.
        ResultError: the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    check_figure_path(path)
    measured = {name: one for name, one in found.sets.items() if one is not None}
    rows = [("inside", found.inside, f"{len(found.inside)} pictures", _OWN)]
    for name, one in sorted(measured.items(), key=lambda pair: pair[1].auroc.value):
        a, f = one.auroc, one.fpr95
        told = f"AUROC {a.value:.3f} ({a.low:.3f} – {a.high:.3f}), FPR95 {f.value:.0%} ({f.low:.0%} – {f.high:.0%})"
        rows.append((name, one.scores, f"{len(one.scores)} pictures, {told}", _OTHER))
    figure = Figure(figsize=(7.6, 1.3 + 0.62 * len(rows)), dpi=160, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    low = min(float(scores.min()) for _, scores, _, _ in rows)
    log = low > 0  # a mean of |z| is positive, and foreign ones are often ten times as large
    random = np.random.default_rng(0)
    for place, (_, scores, text, colour) in enumerate(rows):
        jitter = place + random.uniform(0.02, 0.34, len(scores))
        axes.plot(scores, jitter, "o", markersize=2.6, color=colour, alpha=0.45, markeredgewidth=0)
        axes.plot(np.median(scores), place + 0.18, "|", markersize=13, markeredgewidth=2, color=_INK)
        axes.text(0.0, place - 0.2, text, fontsize=7.5, color=_MUTED, va="center", transform=axes.get_yaxis_transform())
    threshold = threshold_at_tpr(found.inside)
    axes.axvline(threshold, color=_INK, linewidth=0.9, linestyle=":")
    axes.text(
        threshold, len(rows) - 0.42, " 95% of those inside are left of this", fontsize=7.5, color=_INK, va="center"
    )
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks([place + 0.18 for place in range(len(rows))], [name for name, *_ in rows])
    axes.set_ylim(len(rows) - 0.25, -0.45)
    sides = "mean |z| over noise levels" if found.score.both_sides else "mean z over noise levels"
    axes.set_xlabel(f"{sides}, larger is more foreign (fitted on {found.score.n} validation pictures)", color=_MUTED)
    axes.set_title(title, loc="left", color=_INK, fontsize=10)
    axes.grid(axis="x", color=_GRID, linewidth=0.7)
    axes.tick_params(length=0, labelcolor=_INK)
    axes.spines[:].set_visible(False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise ResultError(f"The figure '{path}' cannot be written: {error.strerror or error}.") from error
    return path
