"""What is told of races, answers and certificates: plain values for JSON, and the format of server-sent events."""

import json
import time
from math import isfinite
from typing import Any

import numpy as np

from diffclass.bench.answers import Answer, unit_of
from diffclass.data.images import Prepared
from diffclass.decide.classifier import DiffusionClassifier
from diffclass.decide.decision import Decision
from diffclass.evidence import Evidence
from diffclass.robust import Certification
from diffclass.types import Survivors

__all__ = ["answer_row", "event", "look_row", "progress_row"]


def event(kind: str, data: Any) -> bytes:
    """Return one server-sent event: a line with its kind, one with JSON, and an empty one."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return f"event: {kind}\ndata: {text}\n\n".encode()


def look_row(evidence: Evidence, survivors: Survivors) -> dict[str, Any]:
    """Return what a look at a race found: log-odds of every class over the leader, with their standard errors."""
    leader = evidence.leader()
    odds, errors = _class_odds(evidence)
    return {
        "n_draws": evidence.n_draws,
        "evaluations": evidence.evaluations,
        "leader": evidence.classes[leader],
        "survivors": [name for name, alive in zip(evidence.classes, survivors, strict=True) if alive],
        "class_log_odds": odds,
        "class_log_odds_se": errors,
    }


def answer_row(
    decision: Decision, classifier: DiffusionClassifier, prepared: Prepared, *, model: str, started: float
) -> dict[str, Any]:
    """Return an answer as result files have it, with the standard error of every class beside."""
    unit = unit_of(classifier.objective)
    answer = Answer(
        id=model, truth=None, decision=decision, changes=prepared.changes, unit=unit, seconds=time.monotonic() - started
    )
    row = {key: value for key, value in answer.row().items() if key not in ("id", "truth")}
    budget = len(decision.evidence.draws) * len(decision.evidence.classes)
    more = {"class_log_odds_se": _class_odds(decision.evidence)[1], "unit": unit, "budget": budget}
    return _finite({"model": model, **row, **more})


def progress_row(work: Certification) -> dict[str, Any]:
    """Return how far a certificate is: copies drawn, of how many at most, and what they were called."""
    votes = work.votes if work.votes.n else work.selection
    return {
        "done": work.selection.n + work.votes.n,
        "of": work.settings.n0 + work.settings.n,
        "phase": "choosing" if not work.votes.n else "counting",
        "votes": dict(zip(work.copies.classes, votes.counts, strict=True)),
        "undecided": votes.undecided,
    }


def _class_odds(evidence: Evidence) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Return the log-odds of every class over the leader and their standard errors; None where there is none."""
    leader, measured = evidence.leader(), evidence.n_measured
    odds = evidence.log_odds()
    errors = np.full(len(odds), np.inf)
    errors[leader] = 0.0
    for c in np.flatnonzero(measured > 0):
        if c != leader:
            errors[c] = evidence.difference(int(c), leader).se
    names = evidence.classes
    return (
        {name: _number(value) for name, value in zip(names, odds.tolist(), strict=True)},
        {name: _number(value) for name, value in zip(names, errors.tolist(), strict=True)},
    )


def _number(value: float) -> float | None:
    return value if isfinite(value) else None


def _finite(value: Any) -> Any:
    """Replace the numbers that JSON does not have by null."""
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
