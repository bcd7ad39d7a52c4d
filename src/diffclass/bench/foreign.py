"""How well a model tells pictures from outside from its own, measured: a row a picture on the disk, then figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float64
from numpy import ndarray

from diffclass.bench.recording import configuration, recording
from diffclass.data.datasets import Dataset, Item
from diffclass.data.images import Resize
from diffclass.data.results import ResultFile, versions, write_json_atomic
from diffclass.decide.classifier import DiffusionClassifier
from diffclass.decide.measure import measure
from diffclass.decide.outside import LEAST_IMAGES, OutsideScore, fit_outside_score
from diffclass.errors import DiffclassError, InputError, RangeError
from diffclass.evidence import ErrorMatrices
from diffclass.stats.interval import Estimate
from diffclass.stats.selective import fpr_at_tpr, ood_auc

__all__ = ["Foreign", "ForeignSet", "Sets", "measure_foreign"]

_CHUNK = 25  # pictures whose errors reach the disk together
_FIT, _INSIDE = "fit", "inside"  # what rows are of, beside the names of outside sets

Stage = Callable[[str, int, int], None]  # what is done, how much of it, of how much
Scores = Float64[ndarray, " _"]  # one a picture; sets differ in size


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sets:
    """The pictures that a score is fitted on, and those that it judges.

    Args:
        fit: validation pictures of the model's own data, that it was not trained on; labels are not used.
        inside: other pictures of the same data.
        outside: pictures of something else, by a name for each.

    Raises:
        InputError: pictures to fit on are among those to be judged, or there are too few of them, or no outside set.
    """

    fit: Dataset
    inside: Dataset
    outside: Mapping[str, Dataset]

    def __post_init__(self) -> None:
        """Refuse to judge a score by the pictures that it was fitted on."""
        if not self.outside or {_FIT, _INSIDE} & set(self.outside):
            raise InputError(
                "There must be at least one outside set, none of them called 'fit' or 'inside'. "
                f"Got {', '.join(self.outside) or 'none'}."
            )
        if len(self.fit) < LEAST_IMAGES:
            raise InputError(f"The score is fitted on at least {LEAST_IMAGES} pictures. Got {len(self.fit)}.")
        if self.fit.source == self.inside.source and (shared := set(self.fit.ids) & set(self.inside.ids)):
            raise InputError(
                f"The pictures that the score is fitted on must not be those that it judges. {len(shared)} are both, "
                f"as '{min(shared)}'. Fit on a validation split."
            )

    def at_most(self, limit: int | None, *, seed: int = 0) -> "Sets":
        """Return the sets with at most so many pictures each."""
        outside = {name: part.at_most(limit, seed=seed) for name, part in self.outside.items()}
        return replace(
            self, fit=self.fit.at_most(limit, seed=seed), inside=self.inside.at_most(limit, seed=seed), outside=outside
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ForeignSet:
    """How well one outside set is told from the model's own pictures.

    Args:
        auroc: how often a picture from outside has a larger score than one from inside.
        fpr95: share of the outside pictures that pass a threshold which 95% of those inside pass.
        scores: of its pictures.
    """

    auroc: Estimate
    fpr95: Estimate
    scores: Scores


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Foreign:
    """What was measured.

    Args:
        sets: by name; None where fewer than two pictures of it could be measured.
        inside: scores of the pictures inside.
        score: as it was fitted.
        n_shared: pictures inside that are left out, because the score was fitted on the same pictures.
        n_images: in all sets.
        failures: set, id and reason of pictures that could not be opened; they are in no figure.
        config: everything that the rows depend on.
    """

    sets: Mapping[str, ForeignSet | None]
    inside: Scores
    score: OutsideScore
    n_shared: int
    n_images: int
    failures: tuple[tuple[str, str, str], ...]
    config: Mapping[str, Any]

    def summary(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        sets = {
            name: None if s is None else {"auroc": asdict(s.auroc), "fpr95": asdict(s.fpr95), "n": len(s.scores)}
            for name, s in self.sets.items()
        }
        return {
            "sets": sets, "n_inside": len(self.inside), "n_fit": self.score.n, "n_shared": self.n_shared,
            "score": asdict(self.score), "n_images": self.n_images,
            "failures": [{"set": name, "id": item, "error": error} for name, item, error in self.failures],
            "config": dict(self.config),
        }  # fmt: skip


def measure_foreign(
    classifier: DiffusionClassifier,
    sets: Sets,
    *,
    n_draws: int,
    both_sides: bool = True,
    out: Path | None = None,
    progress: Stage = lambda stage, done, total: None,
    resize: Resize = "refuse",
    convert: bool = False,
) -> Foreign:
    """Fit a score of foreignness on validation pictures, and measure how it tells sets apart.

    Every class is measured on every draw. Only pictures of `sets.fit` have a part in the means and standard deviations
    that errors are compared with; a picture inside that is among them, pixel for pixel, is left out. Errors and rows
    reach the disk as they come, and the same call with the same `out` goes on from them.

    Args:
        classifier: its race gives only the size of a block.
        sets: pictures.
        n_draws: of each picture, whole blocks.
        both_sides: whether errors smaller than usual count as foreign too. Rows hold both scores.
        out: folder of errors, results.jsonl, run.json and summary.json; nothing is kept if None.
        progress: called with what is being measured, how far it is, and of how much.
        resize: "refuse", "crop" or "stretch" pictures of another size than the model's.
        convert: allow grey to become colour and colour grey.

    Raises:
        RangeError: the draws are no whole number of blocks.
        InputError: too few pictures could be opened.
        ResultError: `out` holds another run, or cannot be written; it keeps what was finished.

    Source:
        Graham et al. 2023, section 3.2 (arXiv:2211.07740); see `fit_outside_score`.
    """
    assert classifier.race is not None
    if n_draws < 4 or n_draws % classifier.race.block:
        raise RangeError(
            f"The 'n_draws' parameter of measure_foreign must be whole blocks of {classifier.race.block} draws, at "
            f"least 4. Got {n_draws}."
        )
    pictures: dict[str, Any] = {"resize": resize, "convert": convert}
    config = _config(classifier, sets, n_draws, pictures)
    with recording(out, config, versions(device=str(classifier.denoiser.device))) as results:
        meter = _Meter(classifier, results, n_draws, pictures, progress)
        score = fit_outside_score(meter.fit(sets.fit), both_sides=both_sides)
        for name, part in {_INSIDE: sets.inside, **sets.outside}.items():
            meter.judge(name, part, score)
        found = _told(list(results.rows()), sets, score, config)
    if out is not None:
        write_json_atomic(out / "summary.json", found.summary())
    return found


def _config(classifier: DiffusionClassifier, sets: Sets, n_draws: int, pictures: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the rows depend on; not which of the two scores is judged."""
    config = {key: value for key, value in configuration(classifier).items() if key not in ("race", "temperature")}
    assert classifier.race is not None
    described = {
        name: {"name": d.name, "split": d.split, "n": len(d), "fingerprint": d.fingerprint}
        for name, d in {_FIT: sets.fit, _INSIDE: sets.inside, **sets.outside}.items()
    }
    return config | {
        "n_draws": n_draws, "block": classifier.race.block, "sets": described, "pictures": dict(pictures)
    }  # fmt: skip


@final
class _Meter:
    """Measures pictures in full, a chunk at a time, and keeps what is measured."""

    def __init__(
        self, classifier: DiffusionClassifier, results: ResultFile, n_draws: int, pictures: Mapping[str, Any],
        progress: Stage,
    ) -> None:  # fmt: skip
        self.classifier, self.results, self.n_draws = classifier, results, n_draws
        self.pictures, self.progress = pictures, progress

    def fit(self, part: Dataset) -> ErrorMatrices:
        """Measure the pictures to fit on, or read those that have been measured."""
        found: list[ErrorMatrices] = []
        for start in range(0, len(part), _CHUNK):
            items = [part[i] for i in range(start, min(start + _CHUNK, len(part)))]
            path = self.results.path.parent / "errors" / f"fit-{start:06d}.npz"
            known = {_row_id(_FIT, item) for item in items} <= self.results.done
            if not (known and path.is_file()):
                matrices, opened, rows = self._measured(_FIT, items)
                if matrices is not None:
                    matrices.save(path)
                    rows += [_head(_FIT, item, key) for item, key in zip(opened, matrices.keys, strict=True)]
                self.results.append([row for row in rows if row["id"] not in self.results.done])
            if path.is_file():
                found.append(ErrorMatrices.load(path))
            self.progress("measuring pictures to fit on", start + len(items), len(part))
        if not found:
            raise InputError(f"No picture of '{part.name}' could be opened: there is nothing to fit on.")
        return ErrorMatrices.concatenate(found)

    def judge(self, name: str, part: Dataset, score: OutsideScore) -> None:
        """Measure the pictures of a set that have no row yet, and keep their scores."""
        todo = [item for item in part if _row_id(name, item) not in self.results.done]
        for start in range(0, len(todo), _CHUNK):
            items = todo[start : start + _CHUNK]
            matrices, opened, rows = self._measured(name, items)
            if matrices is not None:
                for item, key, z in zip(opened, matrices.keys, score.levels(matrices), strict=True):
                    values = {"score": float(np.abs(z).mean()), "score_one_sided": float(z.mean())}
                    rows.append({**_head(name, item, key), **values, "z": z.tolist()})
            self.results.append(rows)
            self.progress(f"measuring {name}", len(part) - len(todo) + start + len(items), len(part))

    def _measured(
        self, name: str, items: Sequence[Item]
    ) -> tuple[ErrorMatrices | None, list[Item], list[dict[str, Any]]]:
        """Return the errors of the pictures that can be opened, which those are, and a row for every other one."""
        opened, images, rows = [], [], []
        for item in items:
            try:
                image = item.load(self.classifier.denoiser.space.image_shape, **self.pictures)
            except DiffclassError as error:
                rows.append({**_head(name, item), "error": str(error)})
                continue
            opened.append(item)
            images.append(image)
        if not images:
            return None, opened, rows
        unknown = np.zeros(len(images), dtype=np.int64)  # labels, which nothing here reads
        return measure(self.classifier, torch.stack(images), unknown, n_draws=self.n_draws), opened, rows


def _row_id(name: str, item: Item) -> str:
    return f"{name}/{item.id}"


def _head(name: str, item: Item, key: int | None = None) -> dict[str, Any]:
    """Begin a row; the key tells pictures of the same pixels."""
    known = {} if key is None else {"key": f"{key:016x}"}
    return {"id": _row_id(name, item), "set": name, "picture": item.id, **known}


def _told(rows: Sequence[Mapping[str, Any]], sets: Sets, score: OutsideScore, config: Mapping[str, Any]) -> Foreign:
    """Compare the scores of every outside set with those inside, without pictures that the score was fitted on."""
    fitted = {row["key"] for row in rows if row["set"] == _FIT and "error" not in row}
    good: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if "error" not in row:
            good.setdefault(row["set"], []).append(row)
    own = good.get(_INSIDE, [])
    kept = [row for row in own if row["key"] not in fitted]
    if not kept:
        raise InputError(
            f"No picture of '{sets.inside.name}' is left to be judged. {len(own)} of {len(sets.inside)} could be "
            "opened, and each of them is among those that the score was fitted on."
        )
    inside = _scores(kept, score.both_sides)
    found = {name: _compared(inside, _scores(good.get(name, []), score.both_sides)) for name in sets.outside}
    return Foreign(
        sets=found, inside=inside, score=score, n_shared=len(own) - len(kept),
        n_images=len(rows), failures=tuple((r["set"], r["picture"], r["error"]) for r in rows if "error" in r),
        config=config,
    )  # fmt: skip


def _scores(rows: Sequence[Mapping[str, Any]], both_sides: bool) -> Scores:
    return np.array([row["score" if both_sides else "score_one_sided"] for row in rows], dtype=np.float64)


def _compared(inside: Scores, outside: Scores) -> ForeignSet | None:
    if min(len(inside), len(outside)) < 2:  # no interval
        return None
    return ForeignSet(auroc=ood_auc(inside, outside), fpr95=fpr_at_tpr(inside, outside), scores=outside)
