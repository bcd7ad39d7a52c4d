"""What a reader wants to know before trusting a run: figures with intervals, where it errs, and how sure it is."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from diffclass.bench.run import Run
from diffclass.bench.scores import halves
from diffclass.decide.calibration import best_temperature
from diffclass.decide.conformal import conformal_sets, fit_isotonic
from diffclass.errors import InputError
from diffclass.stats.interval import Estimate, mean_interval, wilson
from diffclass.stats.metric import brier, ece, nll
from diffclass.stats.selective import augrc, aurc, coverage_at_risk, failure_auc, filtering_curve, risk_at_coverage

__all__ = ["DROPPED", "Example", "Report", "Validated", "make_report"]

DROPPED = tuple(np.round(np.arange(0, 1, 0.05), 2).tolist())  # shares at which the filtering curve is measured
_EXAMPLES = 4  # of each kind
_SELECTIVE: dict[str, Callable[..., Estimate]] = {
    "aurc": aurc,
    "augrc": augrc,
    "coverage_at_5_risk": coverage_at_risk,
    "risk_at_80_coverage": risk_at_coverage,
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One answer to look at.

    Args:
        kind: "right and sure", "right and unsure" or "wrong and sure".
        row: of the run.
        probability: of the class named, calibrated, where it is known.
    """

    kind: str
    row: Mapping[str, Any]
    probability: float | None


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Validated:
    """What calibration on validation images makes of a run.

    Args:
        n: validation images.
        temperature: fitted on them.
        calibration: NLL, ECE and Brier score on the run, after a temperature and after isotonic maps, by name; None
            where it could not be fitted.
        alpha: share of conformal sets that may miss.
        coverage: how often the set holds the label.
        set_size: mean number of classes in a set.
        singletons: share of the sets with just one class.
        notes: why something is missing.
    """

    n: int
    temperature: float | None
    calibration: Mapping[str, Mapping[str, Estimate] | None]
    alpha: float | None
    coverage: Estimate | None
    set_size: Estimate | None
    singletons: Estimate | None
    notes: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Report:
    """Everything that the page shows.

    Args:
        run: that was read.
        metrics: by name, as `evaluate` gives them.
        notes: on metrics.
        temperature: of the probabilities; None where none could be fitted.
        confusion: images of each true class (row) by the class named; the last column is "no answer".
        primary: the measure of uncertainty that figures and examples go by.
        uncertainties: every measure, an image each; larger is less sure.
        selective: by measure, AURC, AUGRC, coverage at 5% risk, risk at 80% coverage and failure AUC.
        filtering: by measure, accuracy after dropping each share in `DROPPED`.
        measured_on: images that probabilities are judged on: all, or the half that the temperature was not fitted on.
        probabilities: of these.
        validated: what a validation run adds.
        examples: answers to look at.
    """

    run: Run
    metrics: Mapping[str, Estimate | None]
    notes: Mapping[str, str]
    temperature: float | None
    confusion: Int64[ndarray, "class _"]
    primary: str
    uncertainties: Mapping[str, Float64[ndarray, " image"]]
    selective: Mapping[str, Mapping[str, Estimate | None]]
    filtering: Mapping[str, list[Estimate]]
    measured_on: Int64[ndarray, " _"]
    probabilities: Float64[ndarray, "_ class"] | None
    validated: Validated | None
    examples: tuple[Example, ...]

    @property
    def wrong(self) -> ndarray:
        """Whether each answer was wrong; an abstention is."""
        return self.run.scores.predictions != self.run.scores.labels

    def summary(self) -> dict[str, Any]:
        """Return plain values, for JSON."""

        def plain(found: Mapping[str, Estimate | None]) -> dict[str, Any]:
            return {name: None if e is None else asdict(e) for name, e in found.items()}

        v = self.validated
        validated = None if v is None else {
            "n": v.n, "temperature": v.temperature, "alpha": v.alpha, "notes": list(v.notes),
            "calibration": {name: None if part is None else plain(part) for name, part in v.calibration.items()},
            **plain({"coverage": v.coverage, "set_size": v.set_size, "singletons": v.singletons}),
        }  # fmt: skip
        return {
            "metrics": plain(self.metrics),
            "notes": dict(self.notes),
            "temperature": self.temperature,
            "uncertainty": self.primary,
            "selective": {name: plain(found) for name, found in self.selective.items()},
            "validation": validated,
        }


def make_report(
    run: Run,
    *,
    validation: Run | None = None,
    alpha: float | None = None,
    temperature: float | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Report:
    """Measure what a run is worth.

    Args:
        run: of images that nothing was fitted on.
        validation: of the same classifier on other pictures, to fit a temperature, isotonic maps and conformal sets on.
        alpha: share of conformal sets that may miss; None: none are made.
        temperature: in place of the run's own.
        n_resamples: of the intervals of selective measures.
        seed: of intervals that resample.

    Raises:
        InputError: the validation run is of another classifier or the same pictures, or alpha has none to rest on.
    """
    if alpha is not None and validation is None:
        raise InputError(
            "Conformal sets need a validation run, which they are fitted on. Evaluate a validation split, and give its "
            "folder as 'validation'."
        )
    if validation is not None:
        run.check_validates(validation)
    own = temperature or run.config.get("temperature")
    validated, fitted = (None, None) if validation is None else _validate(run, validation, alpha, seed)
    metrics, notes, used = run.scores.metrics(own or fitted, seed=seed)
    on_half = not (own or fitted)
    measured_on = halves(len(run.answered), seed)[1] if on_half else np.arange(len(run.answered))
    found = run.uncertainties(used)
    primary = "probability" if own or fitted else "margin"
    wrong = run.scores.predictions != run.scores.labels
    return Report(
        run=run,
        metrics=metrics,
        notes=notes,
        temperature=used,
        confusion=_confusion(run),
        primary=primary,
        uncertainties=found,
        selective={name: _selective(wrong, values, n_resamples, seed) for name, values in found.items()},
        filtering={name: filtering_curve(wrong, values, DROPPED) for name, values in found.items()},
        measured_on=measured_on,
        probabilities=None if used is None else run.probabilities(used)[measured_on],
        validated=validated,
        examples=_examples(run, wrong, found[primary], None if used is None else 1 - found["probability"]),
    )


def _selective(wrong: ndarray, uncertainty: ndarray, n_resamples: int, seed: int) -> dict[str, Estimate | None]:
    options = {"n_resamples": n_resamples, "seed": seed}
    found: dict[str, Estimate | None] = dict.fromkeys(_SELECTIVE)
    if len(wrong) > 1:
        found |= {name: measure(wrong, uncertainty, **options) for name, measure in _SELECTIVE.items()}
    right_and_wrong = wrong.any() and not wrong.all()
    return found | {"failure_auc": failure_auc(wrong, uncertainty) if right_and_wrong else None}


def _confusion(run: Run) -> Int64[ndarray, "class _"]:
    n = len(run.classes)
    counts = np.zeros((n, n + 1), dtype=np.int64)
    np.add.at(counts, (run.scores.labels, run.scores.predictions), 1)  # -1, no answer, is the last column
    return counts


def _validate(run: Run, validation: Run, alpha: float | None, seed: int) -> tuple[Validated, float | None]:
    """Fit on the validation run, and measure on the run."""
    odds, labels = validation.scores.log_odds.astype(np.float64), validation.scores.labels
    notes: list[str] = []
    calibration: dict[str, Mapping[str, Estimate] | None] = {"temperature": None, "isotonic": None}
    coverage = size = single = temperature = None
    try:
        temperature = best_temperature(np.where(np.isnan(odds), -1e9, odds), labels)
        theirs, ours = validation.probabilities(temperature), run.probabilities(temperature)
        calibration["temperature"] = _calibration(run, ours, seed)
        if alpha is not None:
            sets = conformal_sets(theirs, labels, ours, alpha=alpha, seed=seed)
            held = sets[np.arange(len(sets)), run.scores.labels]
            coverage, size = wilson(int(held.sum()), len(held)), mean_interval(sets.sum(axis=1).astype(np.float64))
            single = wilson(int((sets.sum(axis=1) == 1).sum()), len(sets))
        calibration["isotonic"] = _calibration(run, fit_isotonic(theirs, labels)(ours), seed)
    except InputError as error:
        notes.append(str(error))
    made = Validated(
        n=len(labels), temperature=temperature, calibration=calibration, alpha=alpha, coverage=coverage, set_size=size,
        singletons=single, notes=tuple(notes),
    )  # fmt: skip
    return made, temperature


def _calibration(run: Run, chances: ndarray, seed: int) -> dict[str, Estimate]:
    labels = run.scores.labels
    return {f.__name__: f(labels, chances, seed=seed) for f in (nll, ece, brier)}


def _examples(run: Run, wrong: ndarray, doubt: ndarray, sure: ndarray | None) -> tuple[Example, ...]:
    """Choose the surest and the least sure right answers and the surest wrong ones; ties by id."""
    order, named = np.argsort(doubt, kind="stable"), run.scores.predictions >= 0
    right, mistaken = order[~wrong[order]], order[(wrong & named)[order]]
    unsure = right[::-1][:_EXAMPLES][: max(0, len(right) - _EXAMPLES)]
    kinds = {"wrong and sure": mistaken[:_EXAMPLES], "right and unsure": unsure, "right and sure": right[:_EXAMPLES]}
    return tuple(
        Example(kind=kind, row=run.answered[i], probability=None if sure is None else float(sure[i]))
        for kind, chosen in kinds.items()
        for i in chosen
    )
