"""`diffclass compare`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffclass.cli.options import output_options

if TYPE_CHECKING:
    from rich.table import Table

    from diffclass.bench.comparing import Comparison

__all__ = ["compare"]

_EXAMPLES = """\b
Example:
  diffclass evaluate digits --split test --model digits --out out/diffusion
  diffclass evaluate digits --split test --model runs/resnet/model --out out/resnet
  diffclass compare out/diffusion out/resnet
"""
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(epilog=_EXAMPLES)
@click.argument("run_a", type=_FOLDER)
@click.argument("run_b", type=_FOLDER)
@click.option("--resamples", type=click.IntRange(min=100), default=1000, show_default=True, help="Of the bootstrap.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is drawn at random.")
@output_options
def compare(run_a: Path, run_b: Path, resamples: int, seed: int, as_json: bool, quiet: bool) -> None:
    """Compare two models image by image, from the folders RUN_A and RUN_B of `diffclass evaluate --out`.

    Both must be of the same images. Differences are A minus B, with 95% intervals and p-values: McNemar's exact test of
    accuracies, DeLong's of areas under the ROC curve, and a paired bootstrap with random exchanges of the rest. AURC
    and AUGRC say what is left of the mistakes when the least sure answers are sent to a person; lower is better.
    """
    from diffclass.bench.comparing import compare as measure
    from diffclass.cli.render import show

    comparison = measure(run_a, run_b, n_resamples=resamples, seed=seed)
    show([_table(comparison)], comparison.summary(), as_json=as_json)


def _table(comparison: "Comparison") -> "Table":
    """Show both models' figures, their difference, and how sure it is."""
    from rich.markup import escape

    from diffclass.cli.render import table

    (a, b), n = comparison.names, comparison.n_images
    made = table("measure", ">A", ">B", ">A - B", ">95% interval", ">p", title=escape(f"A: {a}, B: {b}, {n} images"))
    for name, found in comparison.differences.items():
        if found is None:
            made.add_row(_name(name), "—", "—", "—", "", "")
            continue
        numbers = (found.first, found.second, found.value, found.low, found.high)
        first, second, value, low, high = (f"{number:.4f}" for number in numbers)
        p = "< 0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}"
        made.add_row(_name(name), first, second, f"[bold]{value}[/]", f"{low} – {high}", p)
    lines = []
    for text in dict.fromkeys(comparison.notes.values()):
        about = [_name(key) for key, other in comparison.notes.items() if other == text]
        lines.append(f"{', '.join(about)}: {text}")
    if comparison.n_left_out:
        lines.append(f"{comparison.n_left_out} pictures without a class or that could not be opened are left out")
    made.caption, made.caption_justify = escape("\n".join(lines)), "left"
    return made


def _name(key: str) -> str:
    return key.replace("_", " ") if "_" in key or key == "accuracy" else key.upper()
