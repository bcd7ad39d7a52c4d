"""A run that `evaluate` left on the disk, read back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from diffclass.bench.scores import Scores
from diffclass.data.datasets import Dataset, open_dataset
from diffclass.data.results import read_results
from diffclass.decide.calibration import probabilities
from diffclass.errors import DiffclassError, InputError

__all__ = ["Run"]

_ABOUT_PICTURES = ("dataset", "pictures", "machine", "temperature")  # may differ between a run and its validation


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """What `diffclass evaluate --out` wrote.

    Args:
        folder: of the run.
        config: everything that the answers depend on.
        versions: of the packages, and the machine.
        source: where the pictures were; empty in runs of earlier versions.
        answered: rows of labelled pictures that were answered, in the order of their ids.
        scores: the same as arrays, in the same order.
    """

    folder: Path
    config: Mapping[str, Any]
    versions: Mapping[str, Any]
    source: Mapping[str, Any]
    answered: tuple[Mapping[str, Any], ...]
    scores: Scores

    @classmethod
    def load(cls, folder: Path) -> "Run":
        """Read a run.

        Raises:
            InputError: the folder holds no run of `evaluate`, or nothing in it was answered yet.
            ResultError: a file is damaged.
        """
        if not folder.is_dir():
            raise InputError(f"The folder '{folder}' does not exist. Give the one that evaluate wrote with 'out'.")
        if not (folder / "results.jsonl").is_file():
            raise InputError(f"The folder '{folder}' holds no run: results.jsonl is missing. Give 'out' of evaluate.")
        config, rows = read_results(folder / "results.jsonl")
        answered = sorted((r for r in rows if r.get("truth") is not None and "error" not in r), key=lambda r: r["id"])
        if not {"classes", "race", "dataset"} <= set(config) or any("class_log_odds" not in r for r in answered):
            raise InputError(f"The folder '{folder}' holds a run of another kind. Give 'out' of evaluate.")
        if not answered:
            raise InputError(
                f"The run in '{folder}' has no labelled picture that was answered: there is nothing to report. It has "
                f"{len(rows)} rows. Run the same evaluation again to go on."
            )
        about = _read(folder / "run.json")
        return cls(
            folder=folder,
            config=config,
            versions=about.get("versions", {}),
            source=about.get("source", {}),
            answered=tuple(answered),
            scores=Scores.from_rows(rows, tuple(config["classes"])),
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the columns."""
        return tuple(self.config["classes"])

    @property
    def title(self) -> str:
        """Model and data set in words."""
        about = self.config["dataset"]
        split = f" ({about['split']})" if about.get("split") else ""
        return f"{self.config['model']['name']} on {about['name']}{split}"

    def probabilities(self, temperature: float) -> Float64[ndarray, "image class"]:
        """Return softmax(log-odds / temperature) of the answered images."""
        odds = self.scores.log_odds.astype(np.float64)
        return probabilities(np.where(np.isnan(odds), -np.inf, odds), temperature)

    def uncertainties(self, temperature: float | None = None) -> dict[str, Float64[ndarray, " image"]]:
        """Return the measures that every row has, each so that larger is less sure; an abstention is least sure.

        Args:
            temperature: for the calibrated probability; None: without it.
        """
        rows, found = self.answered, {}
        takes = {
            "margin_z": lambda r: -_number(r["uncertainty"]["margin_z"], r["log_odds"]),
            "margin": lambda r: -r["log_odds"],
            "vote_share": lambda r: 1 - r["uncertainty"]["vote_share"],
            "vote_entropy": lambda r: r["uncertainty"]["vote_entropy"],
            "evaluations": lambda r: float(r["evaluations"]),
            "mutual_information": lambda r: r["uncertainty"]["mutual_information"],
        }
        for name, take in takes.items():
            try:
                values = np.array([take(row) for row in rows], dtype=np.float64)
            except (KeyError, TypeError):  # a run of an earlier version, or a race of a single block
                continue
            found[name] = np.where(self.scores.predictions < 0, np.inf, values)
        if temperature is not None:
            p = self.probabilities(temperature)
            named = np.maximum(self.scores.predictions, 0)
            sure = p[np.arange(len(p)), named]
            found["probability"] = np.where(self.scores.predictions < 0, np.inf, 1 - sure)
        return found

    def check_validates(self, validation: "Run") -> None:
        """Refuse to calibrate this run by one of another model or of the same pictures.

        Raises:
            InputError: the runs do not go together.
        """
        ours, theirs = ({k: v for k, v in r.config.items() if k not in _ABOUT_PICTURES} for r in (self, validation))
        if differing := sorted(k for k in ours | theirs if ours.get(k) != theirs.get(k)):
            raise InputError(
                f"The validation run must be of the same classifier. '{validation.folder}' differs in: "
                f"{', '.join(differing)}."
            )
        shared = {r["id"] for r in self.answered} & {r["id"] for r in validation.answered}
        if self.config["dataset"]["name"] == validation.config["dataset"]["name"] and shared:
            raise InputError(
                f"The validation run must be of other pictures. '{validation.folder}' shares {len(shared)} of them, as "
                f"'{min(shared)}'. Evaluate a validation split."
            )

    def pictures(self) -> Dataset:
        """Open the data set that was measured.

        Raises:
            InputError: it is no longer where it was, the run does not say where, or its pictures are others now.
        """
        if not self.source.get("path"):
            raise InputError("The run does not say where its pictures were. Evaluate again to have them in the report.")
        path, split = self.source["path"], self.source.get("split")
        try:
            found = open_dataset(path, split=split, classes=self.classes)
        except DiffclassError as error:
            raise InputError(f"The pictures are no longer at '{path}': {error}") from error
        if missing := {row["id"] for row in self.answered} - set(found.ids):
            raise InputError(f"The pictures at '{path}' are others now: '{min(missing)}' is missing.")
        return found


def _number(value: float | None, margin: float) -> float:
    """Read a margin in standard errors, which JSON cannot hold where it is infinite."""
    return float(np.copysign(np.inf, margin)) if value is None else value


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
