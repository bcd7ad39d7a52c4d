"""`diffclass audit`."""

from typing import TYPE_CHECKING

import click

from diffclass.cli.options import output_options

if TYPE_CHECKING:
    from rich.table import Table

    from diffclass.bench.audit import Audit

__all__ = ["audit"]

_EXAMPLES = """\b
Examples:
  diffclass audit path/to/labelled/folder
  diffclass audit scans.csv --group-by patient
"""


@click.command(epilog=_EXAMPLES)
@click.argument("dataset")
@click.option(
    "--group-by", metavar="COLUMN", help="Column that says which images belong together: a patient, a lesion."
)
@click.option("--split", help="Look at this part only. [default: all]")
@click.option(
    "--limit", type=click.IntRange(min=20), default=2000, show_default=True,
    help="Images that classifiers are cross-validated on, at most.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of that choice, and of the classifiers.")
@output_options
def audit(
    dataset: str, group_by: str | None, split: str | None, limit: int, seed: int, as_json: bool, quiet: bool
) -> None:
    """Look for what would let a model cheat on a data set: confounds, duplicates, imbalance, leaks.

    Small classifiers are shown what is known without a pixel (file sizes and numbers, other columns), and the border of
    the picture, beside as many pixels of the middle. What they can tell of the class, a model may have learned too; a
    border tells something in vain where the subject reaches into it.
    """
    from diffclass.bench.audit import audit as look_for
    from diffclass.cli.render import note, progress, show

    with progress(f"looking at {dataset}") as update:
        found = look_for(dataset, group_by=group_by, split=split, limit=limit, seed=seed, progress=update)
    show(_tables(found), found.summary(), as_json=as_json)
    for text in found.warnings:
        note(f"Warning: {text}")
    for name, reason in found.failures[:20]:
        note(f"Not opened: {name}: {reason}")


def _tables(found: "Audit") -> list["Table"]:
    """Show what was found."""
    from rich.markup import escape

    from diffclass.cli.render import table

    told = table("what a classifier saw", ">balanced accuracy", ">AUC", ">chance", title=f"{found.name}: shortcuts")
    for s in found.shortcuts:
        b, a = s.balanced_accuracy, s.auc
        area = "—" if a is None else f"{a.value:.3f} ({a.low:.3f} – {a.high:.3f})"
        told.add_row(escape(s.name), f"[bold]{b.value:.1%}[/] ({b.low:.1%} – {b.high:.1%})", area, f"{s.chance:.1%}")
    lines = [
        "Intervals are 95%, over images. Chance is the balanced accuracy of guessing, and of always naming the "
        "commonest class.",
        *found.notes,
    ]
    told.caption, told.caption_justify = escape("\n".join(lines)), "left"
    splits = list(found.counts)
    counted = table("class", *(f">{split or 'images'}" for split in splits), title="images")
    for name in found.counts[splits[0]]:
        counted.add_row(escape(name), *(f"{found.counts[split][name]:,}" for split in splits))
    twice = table("where", ">the same", ">nearly the same", ">groups shared", title="duplicates and leaks")
    places: list[str] = [*found.exact, *found.near, *(found.leaks or {})]
    for where in sorted(set(places)):
        shared = "" if found.leaks is None else f"{found.leaks.get(where, 0):,}"
        twice.add_row(where, f"{found.exact.get(where, 0):,}", f"{found.near.get(where, 0):,}", shared)
    if not (found.exact or found.near or found.leaks):
        twice.add_row("nowhere", "0", "0", "" if found.leaks is None else "0")
    twice.caption = escape("\n".join(f"{a}  ~  {b}" for a, b in found.examples))
    twice.caption_justify = "left"
    return [counted, told, twice]
