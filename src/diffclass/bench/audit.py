"""What could let a model be right about a data set for the wrong reason."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, final

import numpy as np
from numpy import ndarray

from diffclass.bench.shortcuts import Kind, Shortcut, border, column_features, file_facts, guess, middle
from diffclass.data.datasets import Dataset, Progress, dataset_splits, open_dataset
from diffclass.data.duplicates import Seen, exact_pairs, look, near_pairs
from diffclass.errors import DiffclassError, InputError

__all__ = ["Audit", "audit"]

_TOLD = 0.1  # of the way from chance to perfection, at the lower end of the interval
_IMBALANCED = 10.0  # largest class over smallest
_DARK = 1 / 8  # [image units] what 12 bits in 16 reach at most is half of this
_NAMED = 5  # pairs and groups that are named


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Audit:
    """What was found.

    Args:
        name: of the data set.
        counts: images by split and class; "" is a set without splits.
        shortcuts: classifiers that saw the file, the border or the middle of the picture alone.
        exact: pairs of pictures with the same bytes, by the splits they are in.
        near: pairs that look the same.
        examples: some of these pairs, by id.
        leaks: groups that are in two splits, by the pair of splits; None without a group column.
        leaked: some of them.
        failures: id and reason of pictures that could not be opened.
        notes: what could not be looked at.
        warnings: what should be read before any accuracy.
    """

    name: str
    counts: Mapping[str, Mapping[str, int]]
    shortcuts: tuple[Shortcut, ...]
    exact: Mapping[str, int]
    near: Mapping[str, int]
    examples: tuple[tuple[str, str], ...]
    leaks: Mapping[str, int] | None
    leaked: tuple[str, ...]
    failures: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def told_without_pixels(self) -> tuple[str, ...]:
        """What tells the class without a pixel: files and columns whose interval is clear of chance."""
        return tuple(s.name for s in self.shortcuts if s.kind == "file" and s.excess > _TOLD)

    def summary(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "name": self.name, "counts": {s: dict(c) for s, c in self.counts.items()},
            "told_without_pixels": list(self.told_without_pixels),
            "shortcuts": [s.row() for s in self.shortcuts], "exact_duplicates": dict(self.exact),
            "near_duplicates": dict(self.near), "examples": [list(pair) for pair in self.examples],
            "group_leaks": None if self.leaks is None else dict(self.leaks), "leaked_groups": list(self.leaked),
            "failures": [{"id": i, "error": e} for i, e in self.failures], "notes": list(self.notes),
            "warnings": list(self.warnings),
        }  # fmt: skip


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pictures:
    """All pictures of a set, split after split, without those that could not be opened."""

    names: list[str]
    splits: list[str]
    labels: ndarray
    groups: list[str] | None
    facts: list[dict[str, float]]
    columns: dict[str, list[Any]]
    seen: list[Seen]
    failures: list[tuple[str, str]]


def audit(
    path: str,
    *,
    group_by: str | None = None,
    split: str | None = None,
    limit: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Audit:
    """Look for confounds, duplicates, imbalance and leaks in a data set.

    Args:
        path: as `open_dataset` takes it.
        group_by: column that says which images belong together, as those of a patient or a lesion.
        split: look at this one only; all if None.
        limit: images that classifiers are cross-validated on, at most; duplicates are looked for among all.
        seed: of that choice, and of classifiers.
        progress: called with the images done, and of how many.

    Raises:
        InputError: the set cannot be opened, or has no such column.
    """
    names = [split] if split is not None else [*(dataset_splits(path) or (None,))]
    order = {"train": 0, "validation": 1, "test": 2}
    parts = [open_dataset(path, split=s) for s in sorted(names, key=lambda s: (order.get(s or "", 3), s or ""))]
    found = _look(parts, group_by, progress)
    notes: list[str] = []
    shortcuts = _shortcuts(found, len(parts[0].classes), limit, seed, notes)
    pairs = {"exact": exact_pairs(found.seen), "near": near_pairs(found.seen)}
    exact, near = (Counter(_between(found.splits, pair) for pair in pairs[kind]) for kind in ("exact", "near"))
    across = sorted(
        (pair for kind in pairs.values() for pair in kind.tolist()),
        key=lambda pair: found.splits[pair[0]] == found.splits[pair[1]],
    )
    leaks, leaked = (None, ()) if found.groups is None else _leaks(found)
    counts = {p.split or "": {c: int((p.labels == i).sum()) for i, c in enumerate(p.classes)} for p in parts}
    made = Audit(
        name=parts[0].name, counts=counts, shortcuts=shortcuts, exact=exact, near=near,
        examples=tuple((found.names[i], found.names[j]) for i, j in across[:_NAMED]), leaks=leaks, leaked=leaked,
        failures=tuple(found.failures), notes=tuple(notes), warnings=(),
    )  # fmt: skip
    return _warned(made, found)


def _look(parts: Sequence[Dataset], group_by: str | None, progress: Progress | None) -> _Pictures:
    """Open every picture once."""
    found = _Pictures(names=[], splits=[], labels=np.empty(0), groups=None, facts=[], columns={}, seen=[], failures=[])
    labels: list[int] = []
    groups: list[str] | None = None if group_by is None else []
    total, done = sum(map(len, parts)), 0
    for part in parts:
        columns = {name: part.column(name) for name in part.columns()}
        belongs = None if group_by is None else part.column(group_by)
        for index, item in enumerate(part):
            done += 1
            if progress is not None and (done % 100 == 0 or done == total):
                progress(done, total)
            try:
                source = item.read()
                path = columns["path"][index] if "path" in columns else (None if _numbered(part) else item.id)
                seen, facts = look(source, item.id), file_facts(source, path)
            except (DiffclassError, OSError) as error:
                found.failures.append((item.id, str(error)))
                continue
            found.names.append(item.id)
            found.splits.append(part.split or "")
            found.seen.append(seen)
            found.facts.append(facts)
            labels.append(-1 if item.label is None else item.label)
            if groups is not None and belongs is not None:
                groups.append(item.id if belongs[index] is None else str(belongs[index]))
            for name, values in columns.items():
                if name not in (group_by, "path", "folder"):
                    found.columns.setdefault(name, []).append(values[index])
    if not found.seen:
        raise InputError(f"No picture of '{parts[0].name}' could be opened: {found.failures[0][1]}")
    return _Pictures(
        names=found.names, splits=found.splits, labels=np.array(labels, dtype=np.int64), groups=groups,
        facts=found.facts, columns=found.columns, seen=found.seen, failures=found.failures,
    )  # fmt: skip


def _numbered(part: Dataset) -> bool:
    """Tell whether ids only number the rows of a file, as those of npz and parquet do."""
    return all(name.rpartition("/")[2].isdecimal() for name in part.ids)


def _shortcuts(found: _Pictures, n_classes: int, limit: int, seed: int, notes: list[str]) -> tuple[Shortcut, ...]:
    """Cross-validate what saw no pixel, the border alone, and the middle alone."""
    rows = np.flatnonzero(found.labels >= 0)
    if len(rows) > limit:
        rows = np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
    facts = {name: np.array([f.get(name, np.nan) for f in found.facts]) for name in found.facts[0]}
    facts |= {name: column_features(values) for name, values in found.columns.items()}
    told = {n: v[rows] for n, v in facts.items() if v is not None and len(np.unique(v[rows][~np.isnan(v[rows])])) > 1}
    wanted = {name: values[:, None] for name, values in told.items()}
    if len(wanted) > 1:
        wanted = {"all metadata": np.stack(list(told.values()), axis=1), **wanted}
    if not wanted:
        notes.append("no metadata differs between the pictures")
    groups = None if found.groups is None else [found.groups[i] for i in rows]
    made = []
    seen = [found.seen[i].thumbnail for i in rows]
    every: list[tuple[str, Kind, ndarray]] = [(name, "file", features) for name, features in wanted.items()]
    every.append(("border of the picture", "border", np.stack([border(one) for one in seen])))
    every.append(("middle of the picture, to compare", "middle", np.stack([middle(one) for one in seen])))
    for name, kind, features in every:
        try:
            made.append(guess(name, features, found.labels[rows], n_classes, kind=kind, groups=groups, seed=seed))
        except (InputError, ValueError) as error:
            notes.append(f"{name}: {error}")
    return tuple(made)


def _between(splits: Sequence[str], pair: ndarray) -> str:
    """Name the splits of a pair."""
    a, b = splits[pair[0]], splits[pair[1]]
    return f"within {a or 'the set'}" if a == b else f"{a} and {b}"


def _leaks(found: _Pictures) -> tuple[dict[str, int], tuple[str, ...]]:
    assert found.groups is not None
    members: dict[str, set[str]] = {}
    for group, split in zip(found.groups, found.splits, strict=True):
        members.setdefault(split, set()).add(group)
    leaks, named = {}, []
    for a, b in combinations(members, 2):
        shared = sorted(members[a] & members[b])
        if shared:
            leaks[f"{a} and {b}"] = len(shared)
            named += shared
    return leaks, tuple(dict.fromkeys(named))[:_NAMED]


def _shortcut_warnings(shortcuts: Sequence[Shortcut]) -> list[str]:
    """Say what tells the class, against what guessing gives; a border may hold the subject, and is not accused."""
    texts = []
    told = sorted((s for s in shortcuts if s.excess > _TOLD), key=lambda s: -s.excess)
    for s in [s for s in told if s.kind == "file"][:3]:
        size = " A file's size says how busy its picture is, too, which may be the subject." if "size" in s.name else ""
        texts.append(
            f"Possibly confounded: '{s.name}' alone, without a pixel, gives {_figure(s)}. If pictures show it, as a "
            "scanner or an archive may, a model can learn it in place of the subject; find out why it tells the class, "
            f"or measure on a set where it does not.{size}"
        )
    middles = [s for s in shortcuts if s.kind == "middle"]
    for s in (s for s in told if s.kind == "border"):
        against = ""
        if middles:
            b = middles[0].balanced_accuracy
            apart = s.balanced_accuracy.low > b.high
            against = f" As many pixels of the middle give {b.value:.1%} ({b.low:.1%} to {b.high:.1%}), " + (
                "less than the border, so look at the borders first." if apart else "which is not clearly less."
            )
        texts.append(
            f"The border alone gives {_figure(s)}.{against} This says nothing of a confound where the subject reaches "
            "into the border, as a chest fills its X-ray; where the border is background, it points to one. Crop or "
            "mask it and measure again."
        )
    return texts


def _figure(s: Shortcut) -> str:
    """Write a balanced accuracy with its interval, against what needs no picture."""
    b = s.balanced_accuracy
    return (
        f"{b.value:.1%} balanced accuracy ({b.low:.1%} to {b.high:.1%}, {b.n} images), where guessing, or always "
        f"naming the commonest class, gives {s.chance:.1%}"
    )


def _warned(made: Audit, found: _Pictures) -> Audit:
    """Say in sentences what should be read before any accuracy."""
    texts = _shortcut_warnings(made.shortcuts)
    crossing = {
        kind: sum(n for where, n in found_pairs.items() if " and " in where)
        for kind, found_pairs in (("the same", made.exact), ("nearly the same", made.near))
    }
    for kind, n in crossing.items():
        if n:
            texts.append(f"{n} pairs of {kind} pictures are in two splits: remove them from one before measuring.")
    if made.leaks:
        texts.append(
            f"{sum(made.leaks.values())} groups have images in two splits, as {made.leaked[0]!r}: split by group."
        )
    for split, counts in made.counts.items():
        missing = [name for name, n in counts.items() if n == 0]
        where = f"the split '{split}'" if split else "the set"
        if missing:
            texts.append(f"Class {missing[0]!r} has no image in {where}: nothing can be said of it there.")
        elif max(counts.values()) > _IMBALANCED * min(counts.values()):
            least, most = min(counts, key=lambda c: counts[c]), max(counts, key=lambda c: counts[c])
            texts.append(
                f"In {where} {most!r} has {counts[most]} images and {least!r} {counts[least]}: read balanced accuracy "
                "and AUC, not accuracy."
            )
    deep = [one for one in found.seen if one.deep]
    if deep and max(float(one.thumbnail.max()) for one in deep) < _DARK:
        texts.append(
            "The pictures have 16 bits and none is brighter than an eighth of the range, as 12 bits in 16 are: they "
            "are nearly black to a model. Scale them before use."
        )
    return replace(made, warnings=tuple(texts))
