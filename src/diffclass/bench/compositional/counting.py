"""From rows to figures: credit under a rule for ties, accuracy with clustered intervals, and what was preferred."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from diffclass.stats.interval import Estimate, bootstrap, clustered_mean, clustered_proportion
from diffclass.stats.paired import clustered_difference

__all__ = ["Tally", "credit", "harmonic_mean", "numbered", "paired_gain"]

Row = Mapping[str, Any]


def credit(row: Row, ties: str) -> float:
    """Return what an answer counts: 1 if right, 0 if wrong; a tie that holds the target 1 / number tied, or 0.

    Args:
        row: of a result file.
        ties: "shared" or "wrong".
    """
    chosen = row["chosen"]
    if row["target"] not in chosen:
        return 0.0
    return 1 / len(chosen) if ties == "shared" else float(len(chosen) == 1)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tally:
    """The answered rows of one scorer on one part, seeds included.

    Args:
        rows: those without an error.
        n_failed: rows with one.
        failures: id and error of each.
    """

    rows: tuple[Row, ...]
    n_failed: int
    failures: tuple[tuple[str, str], ...]

    @classmethod
    def from_rows(cls, rows: Sequence[Row]) -> "Tally":
        """Set the failures apart."""
        failures = tuple((row["id"], row["error"]) for row in rows if "error" in row)
        return cls(rows=tuple(row for row in rows if "error" not in row), n_failed=len(failures), failures=failures)

    @property
    def clusters(self) -> Int64[ndarray, " image"]:
        """A number for the cluster of each row."""
        return numbered([f"{row['split']}/{row['cluster']}" for row in self.rows])

    def credits(self, ties: str = "shared") -> Float64[ndarray, " image"]:
        """Return what each answer counts."""
        return np.array([credit(row, ties) for row in self.rows])

    def accuracy(self, ties: str = "shared") -> Estimate:
        """Return the mean credit over items, with an interval clustered by picture."""
        return clustered_proportion(self.credits(ties), self.clusters)

    def macro(self, groups: Mapping[str, str], *, ties: str = "shared", least: int = 1, seed: int = 0) -> Estimate:
        """Return the mean over groups of each group's mean credit, with a bootstrap over clusters.

        Where every cluster has the same credit there is nothing to resample, and the interval is that of `accuracy`.

        Args:
            groups: by the key of an item; the target's caption if there are none.
            ties: rule for ties.
            least: different items of a group below which it is left out.
            seed: of the bootstrap.
        """
        names = [groups.get(row["key"], row["captions"][row["target"]]) for row in self.rows]
        keys: dict[str, set[str]] = defaultdict(set)
        for name, row in zip(names, self.rows, strict=True):
            keys[name].add(row["key"])
        kept = np.array([len(keys[name]) >= least for name in names], dtype=bool)
        if not kept.any():
            return Estimate(value=float("nan"), low=0.0, high=1.0, n=0, confidence=0.95, method="no group is left")
        group, cluster = numbered([n for n, k in zip(names, kept, strict=True) if k]), numbered(self.clusters[kept])
        values, shape = self.credits(ties)[kept], (cluster.max() + 1, group.max() + 1)
        sums, counts = np.zeros(shape), np.zeros(shape)
        np.add.at(sums, (cluster, group), values)
        np.add.at(counts, (cluster, group), 1)

        def mean(sums: ndarray, counts: ndarray) -> float:
            total = counts.sum(axis=0)
            return float((sums.sum(axis=0)[total > 0] / total[total > 0]).mean())

        if len(sums) < 2 or np.ptp(values) == 0:
            plain = clustered_proportion(values, cluster)
            return replace(plain, value=mean(sums, counts))
        found = bootstrap(mean, sums, counts, seed=seed)
        return replace(found, n=len(values), method=f"{found.method} over {len(sums)} clusters")

    def by_target(self, ties: str = "shared") -> dict[str, Estimate]:
        """Return the accuracy of each true caption."""
        return {
            name: part.accuracy(ties)
            for name, part in self.split_by(lambda row: row["captions"][row["target"]]).items()
        }

    def split_by(self, name: Any) -> dict[str, "Tally"]:
        """Return the rows of each value of a function of a row, in the order of the values."""
        found: dict[str, list[Row]] = defaultdict(list)
        for row in self.rows:
            found[name(row)].append(row)
        return {key: Tally(rows=tuple(found[key]), n_failed=0, failures=()) for key in sorted(found)}

    def preferred(self) -> dict[str, float]:
        """Return the share of answers that name a candidate of each tag; ties are shared. They sum to 1."""
        shares: dict[str, float] = defaultdict(float)
        for row in self.rows:
            for index in row["chosen"]:
                shares[row["tags"][index]] += 1 / len(row["chosen"]) / len(self.rows)
        return dict(sorted(shares.items(), key=lambda pair: (pair[0] != "target", pair[0])))

    def seen_share(self) -> Estimate:
        """Return the share of answers that name a seen candidate; ties are shared."""
        share = [sum(row["seen"][i] for i in row["chosen"]) / len(row["chosen"]) for row in self.rows]
        return clustered_proportion(np.array(share, dtype=np.float64), self.clusters)

    def seen_offered(self) -> float:
        """Return the share of candidates that are seen: what `seen_share` would be by chance."""
        return float(np.mean([np.mean(row["seen"]) for row in self.rows]))

    def chance(self) -> float:
        """Return the accuracy of guessing."""
        return float(np.mean([1 / len(row["captions"]) for row in self.rows]))

    def n_tied(self) -> int:
        """Count the answers that name several candidates."""
        return sum(len(row["chosen"]) > 1 for row in self.rows)

    def evaluations(self) -> Estimate:
        """Return network evaluations an item."""
        return clustered_mean(np.array([row["evaluations"] for row in self.rows], dtype=np.float64), self.clusters)


def numbered(names: Sequence[Any] | ndarray) -> Int64[ndarray, " image"]:
    """Number the values of a list."""
    return np.unique(np.asarray(names), return_inverse=True)[1].astype(np.int64)


def harmonic_mean(seen: Tally, unseen: Tally, *, ties: str = "shared") -> Estimate:
    """Return the harmonic mean of the accuracies on items whose target is seen and on those whose target is not.

    The interval reaches from the harmonic mean of both lower ends to that of both upper ends, at a confidence for each
    that makes them hold together: it is wide rather than short.

    Accuracies are over items. Xian et al. average over classes first, which is the same where classes have equally many
    pictures, as they have in the splits of Pearson et al.

    Source:
        Xian et al. 2019 (arXiv:1707.00600), generalised zero-shot learning; Bonferroni's inequality.
    """
    parts = [clustered_proportion(tally.credits(ties), tally.clusters, confidence=0.975) for tally in (seen, unseen)]

    def mean(name: str) -> float:
        a, b = (getattr(part, name) for part in parts)
        return 0.0 if a + b == 0 else 2 * a * b / (a + b)

    return Estimate(
        value=mean("value"), low=mean("low"), high=mean("high"), n=sum(part.n for part in parts), confidence=0.95,
        method="ends of both Wilson intervals",
    )  # fmt: skip


def paired_gain(first: Tally, second: Tally, *, ties: str = "shared") -> Estimate:
    """Return how much more often the second scorer is right than the first, over the items that both answered.

    Seeds of one item are averaged first.
    """
    means = []
    for tally in (first, second):
        by_key: dict[str, list[float]] = defaultdict(list)
        for row in tally.rows:
            by_key[row["key"]].append(credit(row, ties))
        means.append({key: float(np.mean(values)) for key, values in by_key.items()})
    shared = sorted(means[0].keys() & means[1].keys())
    clusters = dict(zip((row["key"] for row in first.rows), first.clusters.tolist(), strict=True))
    one, other = (np.array([found[key] for key in shared], dtype=np.float64) for found in means)
    return clustered_difference(one, other, numbered([clusters[key] for key in shared]))
