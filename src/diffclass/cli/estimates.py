"""Estimates with their intervals, as tables."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffclass.cli.render import table

if TYPE_CHECKING:
    from rich.table import Table

    from diffclass.bench.evaluation import Evaluation

__all__ = ["estimates_table", "evaluation_tables", "selective_table"]

_NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "abstentions": "abstentions",
    "auc": "AUC",
    "nll": "negative log-likelihood [nats]",
    "ece": "calibration error (ECE)",
    "nll_on_half": "negative log-likelihood [nats] *",
    "ece_on_half": "calibration error (ECE) *",
    "brier": "Brier score",
    "brier_on_half": "Brier score *",
    "evaluations_per_image": "evaluations an image",
    "draws_per_image": "draws an image",
    "group_accuracy": "accuracy of groups",
    "group_balanced_accuracy": "balanced accuracy of groups",
    "group_auc": "AUC of groups",
    "aurc": "AURC",
    "augrc": "AUGRC",
    "coverage_at_5_risk": "kept at 5% error",
    "risk_at_80_coverage": "error at 80% kept",
    "failure_auc": "failure AUC",
}
_SELECTIVE = ("aurc", "augrc", "coverage_at_5_risk", "risk_at_80_coverage", "failure_auc")
_SHARES = {
    "accuracy", "balanced_accuracy", "abstentions", "ece", "ece_on_half", "group_accuracy", "group_balanced_accuracy",
    "coverage_at_5_risk", "risk_at_80_coverage",
}  # fmt: skip


def evaluation_tables(measured: "Evaluation") -> list["Table"]:
    """Show an evaluation, and what its numbers rest on."""
    from rich.markup import escape

    summary = measured.summary()
    name = f"{summary['config']['model']['name']} on {summary['config']['dataset']['name']}"
    made = estimates_table(summary["metrics"], title=name)
    speed = summary["images_per_second"]
    lines = [] if speed is None else [f"{speed:,.1f} images/s on {summary['versions']['device']}"]
    for text in dict.fromkeys(measured.notes.values()):
        about = [_name(key) for key, other in measured.notes.items() if other == text]
        lines.append(f"{', '.join(about)}: {text}")
    made.caption, made.caption_justify = escape("\n".join(lines)), "left"
    return [made]


def estimates_table(metrics: Mapping[str, Mapping[str, Any] | None], *, title: str | None = None) -> "Table":
    """Show measured numbers with their intervals."""
    from rich.markup import escape

    made = table("measure", ">value", ">95% interval", ">images", title=title)
    for name, estimate in metrics.items():
        label = escape(_name(name))
        if estimate is None:
            made.add_row(label, "—", "", "")
            continue
        value, low, high = (_number(name, estimate[key]) for key in ("value", "low", "high"))
        made.add_row(label, f"[bold]{value}[/]", f"{low} – {high}", f"{estimate['n']:,}")
    return made


def selective_table(selective: Mapping[str, Mapping[str, Mapping[str, Any] | None]]) -> "Table":
    """Show what each measure of uncertainty is worth."""
    from diffclass.decide.uncertainty import MEASURES

    made = table("uncertainty", *(f">{_NAMES[key]}" for key in _SELECTIVE), title="sending the uncertain to a person")
    for name, found in selective.items():
        cells = []
        for key in _SELECTIVE:
            one = found[key]
            low, value, high = ("—",) * 3 if one is None else (_number(key, one[k]) for k in ("low", "value", "high"))
            cells.append("—" if one is None else f"[bold]{value}[/] ({low} – {high})")
        made.add_row(MEASURES[name], *cells)
    return made


def _name(name: str) -> str:
    """Name a measure, after the split that a card puts before it."""
    split, _, measure = name.rpartition(": ")
    return f"{split}: {_NAMES.get(measure, measure.replace('_', ' '))}" if split else _NAMES.get(name, name)


def _number(name: str, value: float) -> str:
    if name.rpartition(": ")[2] in _SHARES:
        return f"{value:.1%}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4f}"
