"""`diffclass explain`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffclass.cli.options import (
    model_options,
    output_options,
    picture_options,
    pipeline_options,
    prompt_options,
    race_options,
)

if TYPE_CHECKING:
    from rich.table import Table

    from diffclass.explain import Explanation

__all__ = ["explain"]

_EXAMPLES = """\b
Examples:
  diffclass explain digit.png --model mnist --out card.html
  diffclass explain xray.png --model pneumonia --to normal --out card.html --out maps.npz
"""


@click.command(epilog=_EXAMPLES)
@click.argument("image", metavar="IMAGE")
@model_options
@click.option("--to", metavar="CLASS", help="What the picture should become. [default: the runner-up]")
@click.option(
    "--method",
    type=click.Choice(["inversion", "partial"]),
    default="inversion",
    show_default=True,
    help="inversion: to noise and back along the probability flow, without chance; partial: noise added once.",
)
@click.option(
    "--strength",
    type=float,
    help="How far towards noise, above 0 and up to 1; 0.5: as much noise as data. [default: the least tried that "
    "changes the answer]",
)
@click.option("--guidance", type=float, help="How hard to pull towards the class. [default: 1, or 3 with partial]")
@click.option("--steps", type=int, default=12, show_default=True, help="Towards noise, and back.")
@click.option(
    "--solver", type=click.Choice(["heun", "euler"]), default="heun", show_default=True,
    help="Of the inversion; euler is DDIM.",
)  # fmt: skip
@click.option("--map-draws", type=int, default=128, show_default=True, help="Draws behind the evidence map, at least.")
@click.option(
    "--fdr", type=float, default=0.05, show_default=True, help="Share of false pixels among significant ones."
)
@prompt_options
@race_options
@pipeline_options
@picture_options("crop")
@click.option(
    "--out",
    "outs",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    help="Write a page (.html), its pictures (.png) or the arrays (.npz). May be given several times.",
)
@output_options
def explain(
    image: str, to: str | None, method: str, strength: float | None, guidance: float | None, steps: int, solver: str,
    map_draws: int, fdr: float, outs: tuple[Path, ...], as_json: bool, quiet: bool, resize: Any, convert: bool,
    **settings: Any,
) -> None:  # fmt: skip
    """Show why a picture got its answer, and what would make it another class.

    The evidence map says where the two classes disagree; it adds up to their log-odds. The counterfactual is the
    picture taken to noise and brought back under the other class; the factual is its control, brought back under the
    picture's own class. Look at their difference, and at what the model answers to each.
    """
    from diffclass.cli.build import build_classifier
    from diffclass.cli.render import note, show, working
    from diffclass.data.images import prepare_image
    from diffclass.explain import Edit, check_endings, explain_image, save_explanation

    check_endings(outs)
    edit = Edit(
        method=method, strength=strength, guidance=guidance, n_steps=steps, solver=solver, seed=settings["seed"]
    )
    settings |= {"batch_size": settings["batch_size"] if isinstance(settings["batch_size"], int) else None}
    settings.pop("compile")
    with working(f"loading {settings['model']}"):
        classifier = build_classifier(**settings)
    prepared = prepare_image(image, classifier.denoiser.space.image_shape, resize=resize, convert=convert)
    with working("explaining"):
        explanation = explain_image(classifier, prepared.image, to, edit=edit, n_draws=map_draws, fdr=fdr)
    if prepared.changes:
        note(f"{image}: {prepared.summary}.")
    for out in outs:
        title = f"{Path(image).name}, model {Path(settings['model']).name}"
        note(f"written: {save_explanation(explanation, out, title=title)}")
    show([_verdicts(explanation)], {"image": image, **explanation.row()}, as_json=as_json)


def _verdicts(explanation: "Explanation") -> "Table":
    """Show what the classifier says of each picture."""
    from rich.markup import escape

    from diffclass.cli.render import table
    from diffclass.explain import verdict_cells

    source, to = escape(explanation.source), escape(explanation.to)
    made = table("picture", "label", f">log-odds of {source} over {to}", f">p({source})", f">p({to})")
    for verdict in explanation.verdicts:
        made.add_row(*map(escape, verdict_cells(explanation, verdict)))
    edited = explanation.counterfactual
    found = f"strength {edited.edit.strength:g}, guidance {edited.edit.guidance:g}, {edited.evaluations:,} evaluations"
    made.caption, made.caption_justify = f"{edited.edit.method}: {found}", "left"
    return made
