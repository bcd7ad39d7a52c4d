"""Tables of a comparison of scorers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diffclass.cli.render import table

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["comparison_tables", "shard_table"]


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
    if summary.get("analysis"):
        made += _analysis(summary["analysis"])
    if summary.get("weighting"):
        made.append(_weighting(summary["weighting"]))
    return made


def shard_table(done: Mapping[str, Any]) -> "Table":
    """Show how many rows a shard has."""
    from rich.markup import escape

    made = table("part", "scorer", ">rows", ">failed", title=f"rows of shard {done['shard']}")
    for one in done["rows"]:
        made.add_row(escape(one["part"]), escape(one["scorer"]), f"{one['n_rows']:,}", f"{one['n_failed']:,}")
    return made


def _accuracies(counted: Sequence[Mapping[str, Any]]) -> "Table":
    from rich.markup import escape

    made = table(
        "part", "scorer", ">accuracy", ">95%", ">macro", ">chance", ">ties", ">items", ">evals",
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
    headings = [f">{tag}".replace(" ", "\n") for tag in tags]
    made = table("part", "scorer", ">right", *headings, ">seen", ">seen\noffered", title="what was preferred")
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


def _analysis(analysis: Mapping[str, Any]) -> list["Table"]:
    """Show cosines with a column for each CLIP, and the probes."""
    embeddings = analysis["embeddings"]
    if not embeddings:
        return []
    headings = [f">{name}" for name in embeddings]
    made = table("cosine of true captions with", "of", *headings, title="embeddings: mean cosine, 95% interval")
    tags = sorted({tag for one in embeddings.values() for tag in one["similarities"]})
    for tag in tags:
        for kind in ("text", "image"):
            cells = []
            for one in embeddings.values():
                found = one["similarities"].get(tag, {}).get(kind)
                value = "—" if found is None else f"{found['value']:.3f} ({found['low']:.3f} – {found['high']:.3f})"
                cells.append(value)
            made.add_row(tag, "captions" if kind == "text" else "centroids of pictures", *cells)
    probes = [(name, one["probe"]) for name, one in embeddings.items() if one["probe"] is not None]
    if not probes:
        return [made]
    probe = table("scorer", ">accuracy", ">95% interval", ">chance", title="linear probe for the relation")
    for name, found in probes:
        accuracy = found["accuracy"]
        probe.add_row(name, f"[bold]{accuracy['value']:.1%}[/]", _interval(accuracy), f"{found['chance']:.1%}")
    return [made, probe]


def _weighting(weighting: Sequence[Mapping[str, Any]]) -> "Table":
    from rich.markup import escape

    title = "a weight of noise levels learned on half of the pictures, measured on the others; ties are wrong"
    made = table("part", "scorer", ">own weight", ">learned", ">gain", ">95% interval", ">items", title=title)
    for one in weighting:
        gain = one["gain"]
        made.add_row(
            escape(one["part"]), escape(one["scorer"]), f"{one['own']['value']:.1%}", f"{one['learned']['value']:.1%}",
            f"[bold]{gain['value']:+.1%}[/]", f"{gain['low']:+.1%} – {gain['high']:+.1%}", f"{one['n_held_out']:,}",
        )  # fmt: skip
    made.caption, made.caption_justify = "\n".join(dict.fromkeys(one["told"] for one in weighting)), "left"
    return made


def _interval(estimate: Mapping[str, Any]) -> str:
    return f"{estimate['low']:.1%}–{estimate['high']:.1%}"
