"""Two evaluations of the same images, compared image by image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy import ndarray

from diffclass.bench.scores import Scores, halves
from diffclass.data.results import read_results
from diffclass.decide.calibration import against_rest, best_temperature, probabilities
from diffclass.errors import InputError
from diffclass.stats.metric import binned_error, calibration_gaps
from diffclass.stats.paired import Difference, delong, mcnemar, paired_bootstrap
from diffclass.stats.selective import augrc_of, aurc_of

__all__ = ["Comparison", "compare"]

Rows = dict[str, dict[str, Any]]

_RANKED = "answers ranked by log-odds over the best other class; lower is better"


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """How two evaluations differ.

    Args:
        names: of the two models.
        differences: by metric, the first model's figure minus the second's; None where it could not be measured.
        notes: by metric, why it is missing or what it rests on.
        n_images: that both answered and whose class is known.
        n_left_out: pictures that either could not open, or without a class.
    """

    names: tuple[str, str]
    differences: Mapping[str, Difference | None]
    notes: Mapping[str, str]
    n_images: int
    n_left_out: int

    def summary(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "format": 1,
            "names": list(self.names),
            "differences": {
                name: None if d is None else {**asdict(d), "value": d.value} for name, d in self.differences.items()
            },
            "notes": dict(self.notes),
            "n_images": self.n_images,
            "n_left_out": self.n_left_out,
        }


def compare(
    first: Path, second: Path, *, seed: int = 0, n_resamples: int = 1000, confidence: float = 0.95
) -> Comparison:
    """Compare the answers that two runs of `evaluate` left in their folders.

    NLL and ECE are of calibrated probabilities. Where either model has no temperature of its own, one is fitted to it
    on a random half of the images, and both models are measured on the other half. AURC and AUGRC rank the answers of
    each model by the log-odds of its answer over the best other class, which needs no temperature.

    Args:
        first: folder of one run.
        second: folder of the other, on the same images.
        seed: of the halves and of what is drawn at random.
        n_resamples: of the bootstrap and of the exchanges.
        confidence: of the intervals.

    Raises:
        InputError: the images, their classes or the names of the classes differ, or none is left.
        ResultError: a folder holds no results.
    """
    (config_a, rows_a), (config_b, rows_b) = _read(first), _read(second)
    classes = tuple(config_a["classes"])
    if set(classes) != set(config_b["classes"]):
        raise InputError(
            f"The runs must choose among the same classes. '{first}' has {', '.join(classes[:5])} and '{second}' has "
            f"{', '.join(config_b['classes'][:5])}."
        )
    _check_same_images(first, rows_a, second, rows_b)
    kept = [name for name in sorted(rows_a) if _usable(rows_a[name]) and _usable(rows_b[name])]
    if not kept:
        raise InputError("The runs have no image that both answered and whose class is known.")
    scores = tuple(Scores.from_rows([rows[name] for name in kept], classes) for rows in (rows_a, rows_b))
    temperatures = tuple(config.get("temperature") for config in (config_a, config_b))
    differences, notes = _Pair(scores, temperatures, seed, n_resamples, confidence).differences()
    names = tuple(config["model"]["name"] for config in (config_a, config_b))
    return Comparison(
        names=(names[0], names[1]), differences=differences, notes=notes, n_images=len(kept),
        n_left_out=len(rows_a) - len(kept),
    )  # fmt: skip


def _read(folder: Path) -> tuple[dict[str, Any], Rows]:
    config, rows = read_results(folder / "results.jsonl")
    answered = [row for row in rows if "error" not in row]
    if "classes" not in config or any("class_log_odds" not in row for row in answered):
        raise InputError(
            f"The folder '{folder}' must hold the answers of `diffclass evaluate`. It holds other results."
        )
    return config, {row["id"]: row for row in rows}


def _check_same_images(first: Path, rows_a: Rows, second: Path, rows_b: Rows) -> None:
    """Refuse runs on other images, unfinished ones included."""
    for one, here, other, there in ((first, rows_a, second, rows_b), (second, rows_b, first, rows_a)):
        if missing := sorted(set(here) - set(there)):
            raise InputError(
                f"The runs must be of the same images. '{one}' has {len(missing)} that '{other}' lacks, as "
                f"'{missing[0]}'. Finish both, on one data set, split and --limit."
            )
    different = [name for name in sorted(rows_a) if rows_a[name]["truth"] != rows_b[name]["truth"]]
    if different:
        name = different[0]
        raise InputError(
            f"The runs must agree on what the images show. '{name}' is {rows_a[name]['truth']!r} in '{first}' and "
            f"{rows_b[name]['truth']!r} in '{second}'."
        )


def _usable(row: Mapping[str, Any]) -> bool:
    return "error" not in row and row["truth"] is not None


@final
class _Pair:
    """The scores of two models on the same images."""

    def __init__(
        self,
        scores: Sequence[Scores],
        temperatures: Sequence[float | None],
        seed: int,
        n_resamples: int,
        confidence: float,
    ) -> None:
        self._scores, self._temperatures, self._seed = scores, temperatures, seed
        self._options: dict[str, Any] = {"n_resamples": n_resamples, "seed": seed, "confidence": confidence}

    def differences(self) -> tuple[dict[str, Difference | None], dict[str, str]]:
        """Return every metric's difference, and notes."""
        found: dict[str, Difference | None] = {}
        notes: dict[str, str] = {}

        def measure(name: str, metric: Callable[[], Difference]) -> None:
            try:
                found[name] = metric()
            except InputError as error:
                found[name], notes[name] = None, str(error)

        labels, (a, b) = self._scores[0].labels, self._scores
        right = [one.predictions == labels for one in (a, b)]
        confidence = self._options["confidence"]
        measure("accuracy", lambda: mcnemar(*right, confidence=confidence))
        recall = [one.astype(np.float64) for one in right]
        measure("balanced_accuracy", lambda: self._boot(_mean_recall, labels, *recall, stratify=labels))
        odds = [against_rest(one.log_odds.astype(np.float64)) for one in (a, b)]
        measure("auc", lambda: delong(labels, *odds, confidence=confidence))
        doubts = [np.stack([~good, _doubt(one)], axis=1) for good, one in zip(right, (a, b), strict=True)]
        measure("aurc", lambda: self._boot(_aurc, labels, *doubts))
        measure("augrc", lambda: self._boot(_augrc, labels, *doubts))
        notes |= {name: _RANKED for name in ("aurc", "augrc") if found[name] is not None}
        try:
            chosen, (p, q), on = self._calibrated(labels)
        except InputError as error:
            return {**found, "nll": None, "ece": None}, {**notes, "nll": str(error), "ece": str(error)}
        y = labels[chosen]
        measure("nll", lambda: self._boot(_mean, y, _surprise(y, p), _surprise(y, q)))
        gaps = [np.stack(calibration_gaps(y, one), axis=1) for one in (p, q)]
        measure("ece", lambda: self._boot(_ece, y, *gaps))
        return found, notes | ({} if on is None else {"nll": on, "ece": on})

    def _boot(self, statistic: Callable[[ndarray, ndarray], float], *arrays: ndarray, **more: Any) -> Difference:
        return paired_bootstrap(statistic, *arrays, **self._options, **more)

    def _calibrated(self, labels: ndarray) -> tuple[ndarray, list[ndarray], str | None]:
        """Return the images that are measured, both models' probabilities of them, and what these rest on."""
        chosen, on, odds = np.arange(len(labels)), None, [one.log_odds for one in self._scores]
        fit = None
        if None in self._temperatures:
            fit, chosen = halves(len(labels), self._seed)
            if not all(np.isfinite(one[fit]).all() for one in odds) or len(fit) < 2:
                raise InputError("No temperature can be fitted: too few images, or classes that were never measured.")
            on = f"missing temperatures fitted on {len(fit)} images of the runs, measured on {len(chosen)} others"
        answers = []
        for one, temperature in zip(odds, self._temperatures, strict=True):
            if temperature is None:
                temperature = best_temperature(one[fit], labels[fit])
            answers.append(probabilities(one[chosen], temperature))
        return chosen, answers, on


def _doubt(scores: Scores) -> ndarray:
    """Return minus the log-odds of the answer over the best other class; infinite for an abstention."""
    odds = np.where(np.isnan(scores.log_odds), -np.inf, scores.log_odds.astype(np.float64))
    image, named = np.arange(len(odds)), np.maximum(scores.predictions, 0)
    others = odds.copy()
    others[image, named] = -np.inf
    return np.where(scores.predictions < 0, np.inf, others.max(axis=1) - odds[image, named])


def _aurc(_: ndarray, doubts: ndarray) -> float:
    return aurc_of(doubts[:, 0] > 0, doubts[:, 1])


def _augrc(_: ndarray, doubts: ndarray) -> float:
    return augrc_of(doubts[:, 0] > 0, doubts[:, 1])


def _mean_recall(labels: ndarray, right: ndarray) -> float:
    _, index, count = np.unique(labels, return_inverse=True, return_counts=True)
    return float((np.bincount(index, weights=right) / count).mean())


def _mean(_: ndarray, values: ndarray) -> float:
    return float(values.mean())


def _surprise(labels: ndarray, p: ndarray) -> ndarray:
    """Return -log p(label) of each image [nats]."""
    chances = p[np.arange(len(labels)), labels]
    if not (chances > 0).all():
        raise InputError(f"NLL is infinite: {(chances == 0).sum()} of {len(labels)} images had probability 0.")
    return -np.log(chances)


def _ece(_: ndarray, gaps: ndarray) -> float:
    return binned_error(gaps[:, 0].astype(np.int64), gaps[:, 1])
