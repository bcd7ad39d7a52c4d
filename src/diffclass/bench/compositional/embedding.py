"""Whether CLIP's embeddings tell captions apart at all: cosines of texts and of pictures, and a linear probe."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from diffclass.bench.compositional.counting import numbered
from diffclass.bench.compositional.encoders import ClipScorer
from diffclass.bench.compositional.item import Item
from diffclass.bench.compositional.picture import Crop, open_picture
from diffclass.stats.interval import clustered_mean, clustered_proportion

__all__ = ["Embedded", "embed", "parse_relation", "probe_relation", "similarities"]

_WINDOW = 32
_FOLDS = 5
_OPPOSITE = {"left": "right", "right": "left", "front": "behind", "behind": "front", "above": "below", "below": "above"}
_RELATION = re.compile(
    r"(?:an? (?:photo|picture|image) of )?(?:an?|the) (?P<first>[\w ]+?) (?:is )?(?:to the |in |on the )?"
    r"(?P<relation>left|right|front|behind|above|below)(?: of)? (?:an?|the) (?P<second>[\w ]+?)\.?"
)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embedded:
    """Unit vectors of what one CLIP makes of captions and pictures.

    Args:
        scorer: its name.
        texts: of every caption.
        pictures: of every picture, by file.
    """

    scorer: str
    texts: Mapping[str, Float64[ndarray, " _"]]
    pictures: Mapping[str, Float64[ndarray, " _"]]


def embed(scorer: ClipScorer, items: Sequence[Item], *, crop: Crop = "crop") -> Embedded:
    """Embed every caption and every picture of some items, once.

    Raises:
        InputError: a picture cannot be opened.
    """
    captions = list(dict.fromkeys(c.caption for item in items for c in item.candidates))
    files = list(dict.fromkeys(item.image for item in items))
    texts, _ = scorer.embed_texts(captions)
    pictures: dict[str, ndarray] = {}
    for start in range(0, len(files), _WINDOW):
        part = files[start : start + _WINDOW]
        vectors = scorer.embed_pictures([open_picture(file, crop=crop) for file in part]).numpy()
        pictures |= {file.as_posix(): vector for file, vector in zip(part, vectors, strict=True)}
    return Embedded(scorer=scorer.name, texts=dict(zip(captions, texts.numpy(), strict=True)), pictures=pictures)


def similarities(embedded: Embedded, items: Sequence[Item]) -> dict[str, dict[str, Any]]:
    """Return the mean cosine of true captions with candidates of each tag, and of the centroids of their pictures.

    A centroid is the mean of the unit vectors of all pictures that a caption is the target of; a pair of captions
    counts once, however many items have it. Captions that no picture has as target have no centroid.

    Args:
        embedded: captions and pictures.
        items: whose targets and candidates are compared.

    Returns:
        For each tag "text" and "image", each an estimate over pairs of captions with an interval clustered by the true
        caption, or None; "n" is the number of pairs.

    Source:
        Pearson et al. 2025, whose abstract says that embeddings of left and right are overly similar.
    """
    of_target: dict[str, set[str]] = defaultdict(set)
    pairs: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for item in items:
        target = item.candidates[item.target].caption
        of_target[target].add(item.image.as_posix())
        for candidate in item.candidates:
            if candidate.caption != target:
                pairs[candidate.tag].add((target, candidate.caption))
    centroids = {
        caption: np.mean([embedded.pictures[file] for file in sorted(files)], axis=0)
        for caption, files in of_target.items()
    }
    return {
        tag: {"text": _mean_cosine(embedded.texts, found), "image": _mean_cosine(centroids, found)}
        for tag, found in sorted(pairs.items())
    }


def _mean_cosine(vectors: Mapping[str, ndarray], pairs: set[tuple[str, str]]) -> dict[str, Any] | None:
    known = sorted((a, b) for a, b in pairs if a in vectors and b in vectors)
    if not known:
        return None
    cosines = [
        float(vectors[a] @ vectors[b] / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b])) for a, b in known
    ]
    return asdict(clustered_mean(np.array(cosines), numbered([a for a, _ in known])))


def parse_relation(caption: str) -> tuple[str, str, str] | None:
    """Return the objects and the relation of "a photo of a cube to the left of a cone", or None.

    Example:
        >>> parse_relation("a photo of a cube to the left of a cone")
        ('cube', 'left', 'cone')
    """
    found = _RELATION.fullmatch(caption.strip())
    return None if found is None else (found["first"], found["relation"], found["second"])


def probe_relation(embedded: Embedded, items: Sequence[Item], *, seed: int = 0) -> dict[str, Any] | None:
    """Ask a linear classifier for the relation of two objects, from the picture's embedding alone.

    For each pair of objects it learns on which side the first of them by the alphabet is, and is judged on other
    pictures (five folds). Where it is right, the relation is in the embedding, whether or not cosines use it.

    Returns:
        "accuracy" over pictures with its interval, "chance" (the larger class), and the accuracy of each "pair"; None
        where no caption names a relation, or no pair has two pictures of each side in every fold.

    Source:
        Alain and Bengio 2017 (arXiv:1610.01644), linear probes.
    """
    sides: dict[str, dict[str, str]] = defaultdict(dict)
    for item in items:
        relation = parse_relation(item.candidates[item.target].caption)
        if relation is None:
            continue
        first, word, second = relation
        pair = "+".join(sorted((first, second)))
        sides[pair][item.image.as_posix()] = word if first <= second else _OPPOSITE[word]
    right: dict[str, list[bool]] = {}
    guesses: list[float] = []
    for pair, labels in sorted(sides.items()):
        counts = Counter(labels.values())
        if len(counts) < 2 or min(counts.values()) < 2 * _FOLDS:
            continue
        vectors = np.stack([embedded.pictures[file] for file in labels])
        right[pair] = _probed(vectors, np.array(list(labels.values())), seed)
        guesses += [max(counts.values()) / len(labels)] * len(labels)
    if not right:
        return None
    every = np.concatenate([np.array(values, dtype=np.float64) for values in right.values()])
    return {
        "accuracy": asdict(clustered_proportion(every, np.arange(len(every)))),
        "chance": float(np.mean(guesses)),
        "pairs": {pair: float(np.mean(values)) for pair, values in right.items()},
    }


def _probed(vectors: Float64[ndarray, "image _"], labels: ndarray, seed: int) -> list[bool]:
    """Return whether each picture's label is found by a classifier that has not seen it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    found = np.asarray(cross_val_predict(model, vectors, labels, cv=folds))
    return [bool(right) for right in found == labels]
