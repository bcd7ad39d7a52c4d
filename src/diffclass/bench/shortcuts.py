"""How well the class can be guessed without the whole picture: from its file, its other columns, or its border."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray
from PIL import Image

from diffclass.data.images import Source
from diffclass.errors import InputError
from diffclass.stats.interval import Estimate
from diffclass.stats.metric import auc, balanced_accuracy

__all__ = ["Kind", "Shortcut", "border", "column_features", "file_facts", "guess", "middle"]

_FOLDS, _TREES = 5, 50
_RING, _SIDE = 2, 16  # [pixels] width of the border, of a picture shrunk to this side
_DISTINCT = 0.5  # texts of which more than this share differ are names, not kinds

Kind = Literal["file", "border", "middle"]
Features = Float[ndarray, "image _"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcut:
    """How well a small classifier does on something else than the whole picture, cross-validated.

    What a file or a column says is not the subject of the picture. Its border may be: a subject that fills the frame
    reaches into it. The middle is there to compare the border with.

    Args:
        name: of what it saw.
        kind: "file" is what is known without a pixel, columns included; "border" and "middle" are as many pixels each.
        balanced_accuracy: of it.
        auc: of it; None where it could not be measured.
        chance: balanced accuracy of guessing, and of always naming the commonest class.
    """

    name: str
    kind: Kind
    balanced_accuracy: Estimate
    auc: Estimate | None
    chance: float

    @property
    def excess(self) -> float:
        """How much of the way from chance to perfection even the lower end of the interval is."""
        return (self.balanced_accuracy.low - self.chance) / (1 - self.chance)

    def row(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "name": self.name, "kind": self.kind, "balanced_accuracy": asdict(self.balanced_accuracy),
            "auc": None if self.auc is None else asdict(self.auc), "chance": self.chance, "excess": self.excess,
        }  # fmt: skip


def file_facts(source: Source, path: str | None) -> dict[str, float]:
    """Return what the file of a picture says without its pixels; NaN where it says nothing.

    Args:
        source: what the data set reads.
        path: the name of the file; None where it has none.
    """
    digits = re.findall(r"\d+", Path(path).stem) if path else []
    facts = {
        "file number": float(digits[-1][-15:]) if digits else np.nan,
        "digits in the file name": float(sum(map(len, digits))) if path else np.nan,
    }
    if isinstance(source, ndarray):
        return facts | {"height": float(source.shape[0]), "width": float(source.shape[1])}
    if isinstance(source, str | os.PathLike):
        facts["file size"] = float(Path(source).stat().st_size)
    elif isinstance(source, bytes):
        facts["file size"] = float(len(source))
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as opened:  # pyright: ignore
            facts |= {"height": float(opened.height), "width": float(opened.width)}
            facts["channels"] = float(len(opened.getbands()))
            facts["JPEG quality"] = _quality(getattr(opened, "quantization", None))
    except OSError:  # not a picture that Pillow opens: looking at its pixels will say so
        pass
    return facts


def _quality(tables: Mapping[int, Sequence[int]] | None) -> float:
    """Estimate the quality that a JPEG was saved with, 1 to 100, from the sum of its luminance table.

    Quality q scales the table of quality 50 by 50 / q below 50 and by 2 - q / 50 above (libjpeg).
    """
    if not tables:
        return np.nan
    buffer = BytesIO()
    Image.new("L", (8, 8)).save(buffer, "jpeg", quality=50)
    with Image.open(buffer) as half:
        base: Any = getattr(half, "quantization", {0: (1,)})
        scale = sum(tables[min(tables)]) / sum(base[0])
    return float(np.clip(100 - 50 * scale if scale <= 1 else 50 / scale, 1, 100))


def column_features(values: Sequence[Any]) -> Float[ndarray, " image"] | None:
    """Return a column as numbers: kinds are numbered, names known by their digits; None if it says nothing."""
    texts = [None if v is None else str(v) for v in values]
    known = [text for text in texts if text is not None]
    try:
        numbers = np.array([np.nan if text is None else float(text) for text in texts])
    except ValueError:
        kinds = {text: float(i) for i, text in enumerate(sorted(set(known)))}
        if len(kinds) <= _DISTINCT * len(known):
            numbers = np.array([np.nan if text is None else kinds[text] for text in texts])
        else:
            found = [re.findall(r"\d+", text or "") for text in texts]
            numbers = np.array([float(d[-1][-15:]) if d else np.nan for d in found])
    return numbers if len(np.unique(numbers[np.isfinite(numbers)])) > 1 else None


def border(thumbnail: ndarray) -> ndarray:
    """Return the outer eighth of a thumbnail on each side, shrunk to 16 x 16.

    Args:
        thumbnail: [channel, height, width] in [0, 1], sides of 32 pixels.
    """
    ring = np.ones((_SIDE, _SIDE), dtype=bool)
    ring[_RING:-_RING, _RING:-_RING] = False
    return _shrunk(thumbnail)[:, ring].reshape(-1)


def middle(thumbnail: ndarray) -> ndarray:
    """Return as many pixels as `border`, those nearest to the centre of a thumbnail shrunk to 16 x 16.

    Args:
        thumbnail: [channel, height, width] in [0, 1], sides of 32 pixels.
    """
    place = np.arange(_SIDE) - (_SIDE - 1) / 2
    far = (place[:, None] ** 2 + place[None] ** 2).reshape(-1)
    nearest = np.argsort(far, kind="stable")[: _SIDE**2 - (_SIDE - 2 * _RING) ** 2]
    small = _shrunk(thumbnail)
    return small.reshape(len(small), -1)[:, nearest].reshape(-1)


def _shrunk(thumbnail: ndarray) -> ndarray:
    channels, height, width = thumbnail.shape
    return thumbnail.reshape(channels, _SIDE, height // _SIDE, _SIDE, width // _SIDE).mean(axis=(2, 4))


def guess(
    name: str,
    features: Features,
    labels: Int64[ndarray, " image"],
    n_classes: int,
    *,
    kind: Kind = "file",
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> Shortcut:
    """Cross-validate a random forest with classes weighted alike; images of a group are kept in one fold.

    Args:
        name: of the features.
        features: NaN where one is missing.
        labels: the right class of each image.
        n_classes: that there are.
        kind: of the features, as `Shortcut` has it.
        groups: of each image.
        seed: of forest, folds and intervals.

    Raises:
        InputError: there are fewer than two classes, or two images of some class.

    Source:
        Breiman 2001 (random forests).
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    present, counts = np.unique(labels, return_counts=True)
    folds = min(_FOLDS, int(counts.min()))
    if folds < 2 or len(present) < 2:
        rare = f"{counts.min()} of class {present[counts.argmin()]}"
        raise InputError(f"Guessing needs two classes and two images of each. Got {rare}.")
    folding = StratifiedKFold if groups is None else StratifiedGroupKFold
    split = folding(folds, shuffle=True, random_state=seed).split(features, labels, groups)
    chances = np.zeros((len(labels), n_classes))
    for fit, rest in split:
        forest = RandomForestClassifier(
            _TREES, min_samples_leaf=max(1, len(fit) // 200), class_weight="balanced", random_state=seed
        )
        forest.fit(features[fit], labels[fit])
        chances[np.ix_(rest, np.asarray(forest.classes_, dtype=np.int64))] = forest.predict_proba(features[rest])
    accuracy = balanced_accuracy(labels, chances.argmax(axis=1), seed=seed)
    try:
        area = auc(labels, chances)
    except InputError:
        area = None
    return Shortcut(name=name, kind=kind, balanced_accuracy=accuracy, auc=area, chance=1 / len(present))
