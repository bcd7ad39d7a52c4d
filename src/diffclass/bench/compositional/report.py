"""What a comparison found, as plain values: a table for each scorer and part, and scorers against each other."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from diffclass.bench.compositional.benchmarks.metric import published_metrics
from diffclass.bench.compositional.comparing import Rows
from diffclass.bench.compositional.counting import Tally, harmonic_mean, paired_gain
from diffclass.bench.compositional.part import Part
from diffclass.errors import InputError
from diffclass.stats.interval import Estimate

__all__ = ["shard_summary", "summarise"]

FORMAT = 1


def summarise(parts: Sequence[Part], rows: Rows, *, seed: int = 0) -> dict[str, Any]:
    """Count everything.

    Args:
        parts: that were compared.
        rows: as `compare` returns them.
        seed: of intervals that resample.

    Returns:
        {"results": one entry for each scorer and part, "generalised": harmonic means of GZSL, "gains": paired
        differences to the first scorer, "failures": [...]}; estimates are dicts with value, low, high and n.
    """
    tallies = {key: Tally.from_rows(found) for key, found in rows.items()}
    by_name = {part.name: part for part in parts}
    return {
        "format": FORMAT,
        "results": [
            {"scorer": scorer, "part": name} | _counted(by_name[name], tally, seed)
            for (scorer, name), tally in tallies.items()
        ],
        "generalised": _generalised(by_name, tallies),
        "gains": _gains(by_name, tallies),
        "failures": [
            {"scorer": scorer, "id": id, "error": error}
            for (scorer, _), tally in tallies.items()
            for id, error in tally.failures
        ],
    }


def shard_summary(rows: Rows, shard: str) -> dict[str, Any]:
    """Say what a shard has done, which says nothing of scorers: its items are no sample of whole clusters.

    Args:
        rows: as `compare` returns them.
        shard: "1/16".

    Returns:
        {"shard": "1/16", "rows": [{"scorer", "part", "n_rows", "n_failed"}, ...]}, without parts it has no item of.
    """
    counted = [
        {"scorer": scorer, "part": part, "n_rows": len(found), "n_failed": sum("error" in row for row in found)}
        for (scorer, part), found in rows.items()
        if found
    ]
    return {"format": FORMAT, "shard": shard, "rows": counted}


def _counted(part: Part, tally: Tally, seed: int) -> dict[str, Any]:
    """Count one scorer on one part."""
    first = part.items[0]
    head = {
        "task": first.task if len({item.task for item in part.items}) == 1 else part.name,
        "split": first.split,
        "setting": part.setting,
        "n_items": len(part.items),
        "n_failed": tally.n_failed,
        "ties": part.ties,
        "note": part.note,
    }
    if not tally.rows:
        return head | {"accuracy": None}
    return head | {
        "n_clusters": len(set(tally.clusters.tolist())),
        "seeds": sorted({row["seed"] for row in tally.rows}),
        "accuracy": asdict(tally.accuracy()),
        "strict": asdict(tally.accuracy("wrong")),
        "macro": asdict(tally.macro(part.groups, least=part.least, seed=seed)),
        "published": {name: asdict(value) for name, value in published_metrics(part, tally, seed=seed).items()},
        "by_task": _by_task(part, tally, seed),
        "chance": tally.chance(),
        "n_tied": tally.n_tied(),
        "preferred": tally.preferred(),
        "seen_share": asdict(tally.seen_share()),
        "seen_offered": tally.seen_offered(),
        "evaluations": asdict(tally.evaluations()),
        "seconds": sum(row["seconds"] for row in tally.rows),
        "by_target": {name: asdict(value) for name, value in tally.by_target().items()},
    }


def _by_task(part: Part, tally: Tally, seed: int) -> dict[str, Any]:
    """Return the benchmark's own figures for each of several tasks."""
    if len({item.task for item in part.items}) == 1:
        return {}
    return {
        task: {name: asdict(value) for name, value in published_metrics(part, rows, seed=seed).items()}
        for task, rows in tally.split_by(lambda row: row["task"]).items()
    }


def _generalised(parts: Mapping[str, Part], tallies: Mapping[tuple[str, str], Tally]) -> list[dict[str, Any]]:
    """Return seen and unseen accuracy and their harmonic mean, for each scorer and task under the GZSL setting."""
    found = []
    chosen = [
        (scorer, parts[name].items[0].task, tally)
        for (scorer, name), tally in tallies.items()
        if parts[name].setting == "gzsl"
    ]
    for (scorer, task), group in groupby(sorted(chosen, key=lambda one: one[:2]), key=lambda one: one[:2]):
        rows = [row for _, _, tally in group for row in tally.rows]
        halves = Tally.from_rows(rows).split_by(lambda row: "seen" if row["seen"][row["target"]] else "unseen")
        if halves.keys() == {"seen", "unseen"}:
            figures: dict[str, Estimate] = {name: half.accuracy() for name, half in halves.items()}
            figures["harmonic"] = harmonic_mean(halves["seen"], halves["unseen"])
            found.append({"scorer": scorer, "task": task} | {k: asdict(v) for k, v in figures.items()})
    return found


def _gains(parts: Mapping[str, Part], tallies: Mapping[tuple[str, str], Tally]) -> list[dict[str, Any]]:
    """Return the paired difference of every other scorer to the first one, on each part."""
    scorers = list(dict.fromkeys(scorer for scorer, _ in tallies))
    found = []
    for name in parts:
        for other in scorers[1:]:
            try:
                gain = paired_gain(tallies[scorers[0], name], tallies[other, name])
            except (InputError, KeyError):  # nothing that both answered
                continue
            found.append({"scorer": other, "over": scorers[0], "part": name, "gain": asdict(gain)})
    return found
