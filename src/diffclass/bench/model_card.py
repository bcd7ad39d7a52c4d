"""Model directories with new settings, figures and cards: the same weights, calibrated or measured."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from diffclass.bench.calibrating import Calibration
from diffclass.bench.evaluation import Evaluation
from diffclass.decide.race import PairedRace
from diffclass.decide.settings import SETTINGS, settings_of
from diffclass.denoisers.card import figures_table, read_json, read_metadata
from diffclass.errors import InputError, ResultError
from diffclass.robust.supervised import is_supervised
from diffclass.stats.interval import Estimate

__all__ = ["calibrated_settings", "write_calibrated", "write_measured"]

_HEADING = "## Calibration"


def write_calibrated(source: Path, target: Path, calibration: Calibration) -> Path:
    """Write a model directory with a calibrated classifier.

    Args:
        source: a model directory of diffclass.
        target: where the copy goes, in place of a model that is there; `source` itself changes the model in place.
        calibration: of this very model.

    Raises:
        ResultError: it cannot be written.
        InputError: `target` holds something else.
    """
    metadata = read_metadata(source)
    where = _where(calibration)
    old = {
        _before(name): figures
        for name, figures in metadata.get("figures", {}).items()
        if name != f"{where}, calibrated"
    }
    metadata["classifier"] = calibrated_settings(metadata, calibration)
    metadata["figures"] = {f"{where}, calibrated": _rows(calibration.after), **old}
    metadata["calibration"] = "; ".join(calibration.notes)
    readme = source / "README.md"
    card = readme.read_text(encoding="utf-8") if readme.is_file() else f"# {metadata['name']}\n"
    content = {
        "diffclass.json": _text(metadata),
        "README.md": _card(card, metadata["classifier"], calibration, where),
    }
    try:
        if source.resolve() == target.resolve():
            _put(target, content)
        else:
            _copy(source, target, content)
    except OSError as error:
        raise ResultError(f"The model cannot be written to '{target}': {error.strerror or error}.") from error
    return target


def write_measured(target: Path, evaluation: Evaluation) -> Path:
    """Put what was measured into a model directory and on its card, in place of older figures of the same split.

    Args:
        target: the model that was measured.
        evaluation: of it, by the race it brings along.

    Raises:
        ResultError: it cannot be written.
    """
    metadata = read_json(target / "diffclass.json") if is_supervised(target) else read_metadata(target)
    dataset = evaluation.config["dataset"]
    where = dataset["split"] or dataset["name"]
    old = {name: figures for name, figures in metadata.get("figures", {}).items() if name != where}
    metadata["figures"] = {where: _rows(evaluation.metrics), **old}
    readme = target / "README.md"
    card = readme.read_text(encoding="utf-8") if readme.is_file() else f"# {metadata['name']}\n"
    table = "\n".join(figures_table(metadata["figures"]))
    card, n = re.subn(r"(?<=\n## Measured\n\n)(\|.*\n)+", lambda _: table + "\n", card)
    if not n:
        card = f"{card.rstrip(chr(10))}\n\n## Measured\n\n{table}\n"
    try:
        _put(target, {"diffclass.json": _text(metadata), "README.md": card})
    except OSError as error:
        raise ResultError(f"The card of '{target}' cannot be written: {error.strerror or error}.") from error
    return target


def calibrated_settings(metadata: Mapping[str, Any], calibration: Calibration) -> dict[str, Any]:
    """Return the classifier's settings for diffclass.json: those of the model, with what was learned.

    Args:
        metadata: the content of the model's diffclass.json.
        calibration: of this very model.
    """
    kept = {key: value for key, value in metadata.get("classifier", {}).items() if key not in SETTINGS}
    plain = PairedRace(n_draws=calibration.n_draws, block=calibration.config["block"])
    return kept | settings_of(
        objective=calibration.objective,
        race=plain if calibration.stopping is None else PairedRace.calibrated(calibration.stopping),
        temperature=calibration.temperature,
        sigma_data=metadata["space"].get("data_std", 0.5),
    )


def _text(metadata: Mapping[str, Any]) -> str:
    return json.dumps(metadata, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _where(calibration: Calibration) -> str:
    held_out = calibration.config["halves"][1]
    return held_out["split"] or held_out["name"]


def _before(name: str) -> str:
    """Say of a figure that it is of the classifier as it was."""
    return name if name.endswith(", before calibration") else f"{name}, before calibration"


def _rows(figures: Mapping[str, Estimate | None]) -> dict[str, dict[str, Any]]:
    keys = ("value", "low", "high", "n", "method")
    return {
        name: {key: asdict(e)[key] for key in keys}
        for name, e in figures.items()
        if e is not None and np.isfinite([e.value, e.low, e.high]).all()
    }


def _card(card: str, settings: Mapping[str, Any], calibration: Calibration, where: str) -> str:
    """Return a card with a section on the calibration, in place of one that is there."""
    card = re.sub(rf"\n{_HEADING}\n.*?(?=\n## |\Z)", "", card, flags=re.DOTALL)
    line = f"- **Classifier**: {json.dumps(settings)}"
    card = re.sub(r"^- \*\*Classifier\*\*: .*$", lambda _: line, card, flags=re.MULTILINE)
    names = [name for name in calibration.after if calibration.after[name] is not None]
    rows = [
        f"| {name.replace('_', ' ')} | {_cell(calibration.before.get(name))} | {_cell(calibration.after[name])} |"
        for name in names
    ]
    n = calibration.config["halves"][1]["n"]
    lines = [
        "", _HEADING, "",
        f"By `diffclass calibrate`, on {calibration.n_images} images of {where}; measured on the {n} of them that the "
        "weight and the proposal have not seen, with 95% intervals. Figures \"before "
        "calibration\" are of the classifier as it was.",
        "", "| figure | before | after |", "|---|---|---|", *rows, "",
        *(f"- {note[0].upper()}{note[1:]}" for note in calibration.notes), "",
    ]  # fmt: skip
    return card.rstrip("\n") + "\n" + "\n".join(lines)


def _cell(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.value:.4g} ({estimate.low:.4g} to {estimate.high:.4g})"


def _put(folder: Path, content: Mapping[str, str]) -> None:
    """Replace text files, each whole or not at all."""
    for name, text in content.items():
        part = folder / f".{name}.{os.getpid()}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(folder / name)


def _copy(source: Path, target: Path, content: Mapping[str, str]) -> None:
    """Copy a model directory with some files replaced; it appears whole or not at all."""
    if target.exists() and not (target / "diffclass.json").is_file():
        raise InputError(f"The folder '{target}' must be new or hold a model. Move it away, or use another --out.")
    part, old = (target.with_name(f".{target.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    try:
        shutil.copytree(source, part, ignore=shutil.ignore_patterns(".*"))
        _put(part, content)
        if target.exists():
            target.rename(old)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
