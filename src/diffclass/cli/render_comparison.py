"""Tables of a comparison of scorers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diffclass.cli.render import table

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["comparison_tables"]


def comparison_tables(summary: Mapping[str, Any]) -> list["Table"]:
    """Show accuracy first, then what was preferred, GZSL, benchmarks' own figures, and scorers against each other."""
    counted = [result for result in summary["results"] if result["accuracy"] is not None]
    made = [_accuracies(counted)]
    if any(set(result["preferred"]) - {"target", "foil"} for result in counted):
        made.append(_preferences(counted))
    if summary["generalised"]:
        made.append(_generalised(summary["generalised"]))
    if any(result["setting"] not in ("zsl", "gzsl") for result in counted):
        made.append(_published(counted))
    if summary["gains"]:
        made.append(_gains(summary["gains"]))
    return made


def _accuracies(counted: Sequence[Mapping[str, Any]]) -> "Table":
    from rich.markup import escape

    made = table(
        "part", "scorer", ">accuracy", ">95% interval", ">macro", ">chance", ">ties", ">items", ">evals",
        title="accuracy; a tie counts one over the number tied",
    )  # fmt: skip
    for result in counted:
        accuracy = result["accuracy"]
        made.add_row(
            escape(result["part"]), escape(result["scorer"]), f"[bold]{accuracy['value']:.1%}[/]", _interval(accuracy),
            f"{result['macro']['value']:.1%}", f"{result['chance']:.1%}", f"{result['n_tied']:,}",
            f"{result['n_items']:,}", f"{result['evaluations']['value']:,.0f}",
        )  # fmt: skip
    notes = dict.fromkeys(f"{result['part']}: {result['note']}" for result in counted if result["note"])
    if notes:
        made.caption, made.caption_justify = escape("\n".join(notes)), "left"
    return made


def _preferences(counted: Sequence[Mapping[str, Any]]) -> "Table":
    from rich.markup import escape

    tags = sorted({tag for result in counted for tag in result["preferred"]} - {"target"})
    headings = [f">{tag}" for tag in tags]
    made = table("part", "scorer", ">right", *headings, ">seen", ">seen offered", title="what was preferred")
    for result in counted:
        shares = [f"{result['preferred'].get(tag, 0.0):.1%}" for tag in ("target", *tags)]
        seen = (f"{result['seen_share']['value']:.1%}", f"{result['seen_offered']:.1%}")
        made.add_row(escape(result["part"]), escape(result["scorer"]), *shares, *seen)
    return made


def _generalised(found: Sequence[Mapping[str, Any]]) -> "Table":
    from rich.markup import escape

    title = "generalised zero-shot: seen and unseen captions compete"
    made = table("task", "scorer", ">seen", ">unseen", ">harmonic mean", ">95% interval", title=title)
    for one in found:
        shares = [f"{one[name]['value']:.1%}" for name in ("seen", "unseen")]
        harmonic = one["harmonic"]
        made.add_row(
            escape(one["task"]), escape(one["scorer"]), *shares, f"[bold]{harmonic['value']:.1%}[/]",
            _interval(harmonic),
        )  # fmt: skip
    return made


def _published(counted: Sequence[Mapping[str, Any]]) -> "Table":
    from rich.markup import escape

    title = "figures as the benchmarks define them"
    made = table("benchmark", "scorer", "figure", ">value", ">95% interval", "ties", title=title)
    for result in counted:
        for name, value in result["published"].items():
            made.add_row(
                escape(result["part"]), escape(result["scorer"]), escape(name), f"[bold]{value['value']:.1%}[/]",
                _interval(value), result["ties"],
            )  # fmt: skip
    return made


def _gains(gains: Sequence[Mapping[str, Any]]) -> "Table":
    from rich.markup import escape

    made = table("part", "scorer", "over", ">gain", ">95% interval", title="paired differences of accuracy")
    for one in gains:
        gain = one["gain"]
        made.add_row(
            escape(one["part"]), escape(one["scorer"]), escape(one["over"]), f"[bold]{gain['value']:+.1%}[/]",
            f"{gain['low']:+.1%} – {gain['high']:+.1%}",
        )  # fmt: skip
    return made


def _interval(estimate: Mapping[str, Any]) -> str:
    return f"{estimate['low']:.1%} – {estimate['high']:.1%}"
