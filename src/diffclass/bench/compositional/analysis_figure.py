"""Pictures of embeddings (t-SNE) and of margins by noise level."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from diffclass.bench.compositional.comparison_figure import COLOURS, save_figure, tidy
from diffclass.bench.compositional.embedding import Embedded, parse_relation
from diffclass.bench.compositional.item import Item

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_embeddings", "draw_margins"]

_PERPLEXITY, _SEED, _OF_EACH = 7, 42, 5  # as in the authors' code: 5 pictures of each caption
_MARKERS = "^so*DvPX"
_MUTED = "#6b7683"


def draw_embeddings(embedded: Sequence[Embedded], items: Sequence[Item], path: Path) -> Path:
    """Draw t-SNE of pictures (above) and captions (below), a column for each CLIP.

    Where captions name relations, those with "left" are drawn, or all if there are none; the marker is the first
    object and the colour the second. Distances between far points mean nothing in such a picture: read cosines and the
    probe for what is there.

    Args:
        embedded: of each CLIP.
        items: whose targets are drawn, 5 pictures of each.
        path: of the figure.

    Source:
        Pearson et al. 2025, the figure of their embedding analysis: perplexity 7.
    """
    from matplotlib.figure import Figure

    pictures, captions = _chosen(items)
    figure = Figure(figsize=(4.2 * len(embedded) + 0.6, 8.0), dpi=160, facecolor="white", layout="constrained")
    axes = figure.subplots(2, len(embedded), squeeze=False)
    for column, one in enumerate(embedded):
        shown = np.stack([one.pictures[file] for file, _ in pictures])
        _scatter(axes[0, column], _tsne(shown), [caption for _, caption in pictures], captions)
        axes[0, column].set_title(f"{one.scorer}: pictures", loc="left", fontsize=9)
        _scatter(axes[1, column], _tsne(np.stack([one.texts[c] for c in captions])), captions, captions)
        axes[1, column].set_title(f"{one.scorer}: captions", loc="left", fontsize=9)
    handles = {label.get_label(): label for label in axes[0, 0].collections}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=6)
    return save_figure(figure, path)


def _chosen(items: Sequence[Item]) -> tuple[list[tuple[str, str]], list[str]]:
    """Return (picture, caption) of the first pictures of each target, and these captions."""
    targets = {item.candidates[item.target].caption: None for item in items}
    left = [c for c in targets if (parsed := parse_relation(c)) is not None and parsed[1] == "left"]
    captions = sorted(left or targets)
    pictures: list[tuple[str, str]] = []
    for caption in captions:
        files = dict.fromkeys(i.image.as_posix() for i in items if i.candidates[i.target].caption == caption)
        pictures += [(file, caption) for file in list(files)[:_OF_EACH]]
    return pictures, captions


def _tsne(vectors: Float[ndarray, "image _"]) -> Float[ndarray, "image _"]:
    """Return points in the plane; for fewer than 4 vectors there is nothing to arrange."""
    from sklearn.manifold import TSNE

    if len(vectors) < 4:
        return np.stack([np.arange(len(vectors)), np.zeros(len(vectors))], axis=1).astype(np.float64)
    perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
    return TSNE(perplexity=perplexity, init="random", random_state=_SEED).fit_transform(vectors.astype(np.float64))


def _scatter(axes: "Axes", points: ndarray, captions: Sequence[str], all_captions: Sequence[str]) -> None:
    """Draw points by their captions."""
    parsed = {caption: parse_relation(caption) for caption in all_captions}
    firsts = sorted({p[0] for p in parsed.values() if p is not None})
    seconds = sorted({p[2] for p in parsed.values() if p is not None})
    for number, caption in enumerate(all_captions):
        relation = parsed[caption]
        marker, colour = _MARKERS[0], COLOURS[number % len(COLOURS)]
        if relation is not None:
            marker = _MARKERS[firsts.index(relation[0]) % len(_MARKERS)]
            colour = COLOURS[seconds.index(relation[2]) % len(COLOURS)]
        here = np.array([c == caption for c in captions])
        axes.scatter(points[here, 0], points[here, 1], marker=marker, color=colour, s=26, label=caption)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#e4e8ec")


def draw_margins(found: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path) -> Path:
    """Draw, by noise level, on how many draws the true caption denoises better than candidates of each tag.

    Args:
        found: by scorer, part and tag, as `margins` returns them.
        path: of the figure.
    """
    from matplotlib.figure import Figure

    panels = [(scorer, part, tags) for scorer, parts in found.items() for part, tags in parts.items() if tags]
    figure = Figure(figsize=(6.4, 2.9 * len(panels)), dpi=160, facecolor="white", layout="constrained")
    for axes, (scorer, part, tags) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        for number, (tag, bins) in enumerate(tags.items()):
            sigma = [one["sigma"] for one in bins]
            low, value, high = ([one["wins"][name] for one in bins] for name in ("low", "value", "high"))
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(sigma, value, "o-", color=colour, linewidth=1.6, markersize=3, label=tag)
            axes.fill_between(sigma, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.axhline(0.5, color=_MUTED, linewidth=0.8, linestyle=":")
        axes.set_xscale("log")
        axes.set_ylim(0, 1)
        axes.set_xlabel("noise level sigma [model units]", color=_MUTED, fontsize=8)
        axes.set_ylabel("draws won by the true caption", color=_MUTED, fontsize=8)
        axes.set_title(f"{scorer}, {part}", loc="left", fontsize=9)
        axes.legend(frameon=False, fontsize=7)
        tidy(axes)
    return save_figure(figure, path)
