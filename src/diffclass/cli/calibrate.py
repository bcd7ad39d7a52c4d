"""`diffclass calibrate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffclass.cli.options import machine_options, out_option, output_options, picture_options

if TYPE_CHECKING:
    from rich.table import Table

    from diffclass.bench.calibrating import Calibration
    from diffclass.data.datasets import Dataset

__all__ = ["calibrate"]


@click.command()
@click.argument("model")
@click.argument("dataset")
@machine_options
@click.option("--split", help="Which part of the data set: validation, say; nothing that the model was trained on.")
@click.option("--held-out", is_flag=True, help="The images of DATASET that the recipe of MODEL kept out of training.")
@click.option("--limit", type=click.IntRange(min=40), help="At most so many images, each class in its proportion.")
@click.option("--draws", type=click.IntRange(min=2), help="Full budget of draws for a class. [default: the model's]")
@click.option(
    "--delta", type=float, default=0.01, show_default=True,
    help="Share of new images whose answer may differ from the full budget's.",
)  # fmt: skip
@picture_options("refuse")
@click.option("--in-place", is_flag=True, help="Change the directory MODEL itself, rather than a copy in OUT/model.")
@out_option("Folder of what is measured, and of the calibrated model; the same command goes on from it.", required=True)
@output_options
def calibrate(
    model: str, dataset: str, split: str | None, held_out: bool, limit: int | None, draws: int | None, delta: float,
    in_place: bool, out: Path, as_json: bool, quiet: bool, resize: Any, convert: bool, **settings: Any,
) -> None:  # fmt: skip
    """Learn from labelled images how to weigh, where to measure, when to stop and how sure to be.

    MODEL is a bundled name, a directory or owner/name; DATASET as in `diffclass evaluate`. Half of the images are held
    out to measure what changes. The calibrated model is OUT/model: the same weights, with new settings.
    """
    from diffclass.bench.calibrating import calibrate as learn
    from diffclass.bench.model_card import write_calibrated
    from diffclass.cli.build import at_speed, build_classifier, own_directory
    from diffclass.cli.render import note, on_interrupt, show, stages, working
    from diffclass.data.datasets import open_dataset
    from diffclass.denoisers.catalogue import read_card

    source = own_directory(model, "--in-place") if in_place else read_card(model).path
    speed = {name: settings.pop(name) for name in ("batch_size", "compile")}
    if held_out and split is not None:
        raise click.BadParameter("choose --held-out or --split, not both.", param_hint="'--held-out'")
    with working(f"loading {model}"):
        classifier = build_classifier(model=model, delta=delta, **settings)
    part = _held_out(source, dataset) if held_out else open_dataset(dataset, split=split, classes=classifier.classes_)
    n_images = min(limit or len(part), len(part))
    with working("preparing the network"):
        classifier = at_speed(classifier, n_images=n_images, out=out, **speed)
    on_interrupt(f"Stopped. '{out}' keeps what is measured, and the same command goes on from there.")
    with stages() as update:
        found = learn(
            classifier, part, out=out, limit=limit, n_draws=draws, delta=delta, progress=update, resize=resize,
            convert=convert, seed=classifier.seed,
        )  # fmt: skip
    path = write_calibrated(source, source if in_place else out / "model", found)
    show([_table(found, model)], {"model": str(path), **found.summary()}, as_json=as_json)
    note(f"saved: {path}")


def _held_out(source: Path, dataset: str) -> "Dataset":
    """Return the images that were kept out when a model was trained."""
    from diffclass.denoisers.card import read_metadata
    from diffclass.train.recipe import Recipe
    from diffclass.train.run import held_out

    recipe = read_metadata(source).get("training", {}).get("recipe")
    if recipe is None:
        raise click.BadParameter(f"'{source}' does not say by which recipe it was trained.", param_hint="'--held-out'")
    return held_out(Recipe.from_dict(recipe, f"the recipe of '{source}'"), dataset)


def _table(found: "Calibration", model: str) -> "Table":
    """Show every figure before and after."""
    from rich.markup import escape

    from diffclass.cli.render import table

    made = table("measure", ">before", ">after", ">95% interval", ">images", title=f"{model}, held-out half")
    for name, after in found.after.items():
        before = found.before.get(name)
        cells = ["—" if before is None else _number(before.value)]
        cells += ["—", "", ""] if after is None else [
            f"[bold]{_number(after.value)}[/]", f"{_number(after.low)} – {_number(after.high)}", f"{after.n:,}",
        ]  # fmt: skip
        made.add_row(name.replace("_", " "), *cells)
    notes = "\n".join(note[0].upper() + note[1:] + "." for note in (n.rstrip(".") for n in found.notes))
    made.caption, made.caption_justify = escape(f"{notes}\n{found.evaluations:,} network evaluations."), "left"
    return made


def _number(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4f}"
