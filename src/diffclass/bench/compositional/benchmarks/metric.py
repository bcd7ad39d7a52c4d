"""The figures that benchmarks publish, from rows."""

from collections import defaultdict

import numpy as np

from diffclass.bench.compositional.counting import Row, Tally, numbered
from diffclass.bench.compositional.part import Part
from diffclass.stats.interval import Estimate, clustered_proportion

__all__ = ["published_metrics"]


def published_metrics(part: Part, tally: Tally, *, seed: int = 0) -> dict[str, Estimate]:
    """Return a benchmark's own figures, under its own rule for ties.

    Args:
        part: with its metric.
        tally: of rows without errors.
        seed: of intervals that resample.
    """
    if part.metric == "winoground":
        return _winoground(tally)
    if part.metric == "sets":
        return {"individual": tally.accuracy(part.ties)} | _sets(tally, part)
    if part.metric == "macro":
        return {"macro": tally.macro(part.groups, ties=part.ties, least=part.least, seed=seed)}
    return {"accuracy": tally.accuracy(part.ties)}


def _winoground(tally: Tally) -> dict[str, Estimate]:
    """Return text, image and group score: every comparison must be won strictly, so that ties fail.

    Text: each picture prefers its own caption. Image: each caption prefers its own picture. Group: both.

    Source:
        Thrush et al. 2022 (arXiv:2204.03162).
    """
    pairs: dict[tuple[str, int], dict[int, Row]] = defaultdict(dict)
    for row in tally.rows:
        pairs[row["cluster"], row["seed"]][row["target"]] = row
    whole = {key: pair for key, pair in pairs.items() if pair.keys() == {0, 1}}
    text, image = [], []
    for pair in whole.values():
        scores = np.array([pair[0]["scores"], pair[1]["scores"]])  # of picture and caption
        text.append(scores[0, 0] > scores[0, 1] and scores[1, 1] > scores[1, 0])
        image.append(scores[0, 0] > scores[1, 0] and scores[1, 1] > scores[0, 1])
    if not whole:
        return {}
    clusters = numbered([cluster for cluster, _ in whole])
    figures = {"text": np.array(text), "image": np.array(image), "group": np.array(text) & np.array(image)}
    return {name: clustered_proportion(values.astype(np.float64), clusters) for name, values in figures.items()}


def _sets(tally: Tally, part: Part) -> dict[str, Estimate]:
    """Return how often both pictures of opposite relations are right, and all of a set of objects.

    Pairs and sets that are not whole in the data are left out.

    Source:
        Kamath, Hessel and Chang 2023 (arXiv:2310.19785), pair and set accuracy.
    """
    right = {(row["key"], row["seed"]): row["target"] in row["chosen"] for row in tally.rows}
    if part.ties == "wrong":
        right = {(row["key"], row["seed"]): row["chosen"] == [row["target"]] for row in tally.rows}
    found = {}
    for name, size in (("pair", 2), ("set", 4)):
        members: dict[tuple[str, int], list[bool]] = defaultdict(list)
        for row in tally.rows:
            group = part.groups[row["key"]]  # objects|axis
            group = group if name == "pair" else group.rpartition("|")[0]
            members[group, row["seed"]].append(right[row["key"], row["seed"]])
        whole = {key: all(values) for key, values in members.items() if len(values) == size}
        if whole:
            clusters = numbered([key.partition("|")[0] for key, _ in whole])
            found[name] = clustered_proportion(np.array(list(whole.values()), dtype=np.float64), clusters)
    return found
