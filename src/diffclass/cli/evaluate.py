"""`diffclass evaluate`."""

from pathlib import Path
from typing import Any

import click

from diffclass.cli.options import (
    first_look_options,
    model_options,
    out_option,
    output_options,
    picture_options,
    pipeline_options,
    prompt_options,
    race_options,
)

__all__ = ["evaluate"]


_EXAMPLES = """\b
Examples:
  diffclass evaluate digits --split test --model digits
  diffclass evaluate path/to/mnist --split test --model mnist --limit 1000 --out out/mnist
"""


@click.command(epilog=_EXAMPLES)
@click.argument("dataset")
@model_options
@prompt_options
@race_options
@first_look_options
@pipeline_options
@click.option("--split", help="Which part of the data set: train, validation or test.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many images, each class in its proportion.")
@picture_options("refuse")
@click.option("--save-errors", is_flag=True, help="Keep every error of every draw in OUT/errors.")
@click.option("--card", is_flag=True, help="Put the figures on the card of MODEL, a directory of yours.")
@out_option("Keep results.jsonl, summary.json and run.json here; the same command goes on from them.")
@output_options
def evaluate(
    dataset: str, split: str | None, limit: int | None, save_errors: bool, card: bool, out: Path | None, as_json: bool,
    quiet: bool, resize: Any, convert: bool, **settings: Any,
) -> None:  # fmt: skip
    """Measure accuracy, calibration and cost on a labelled data set, each with its 95% interval.

    A network that `diffclass baseline` trained can be measured too, for `diffclass compare`.

    DATASET is a folder with a folder of pictures a class, parquet, MedMNIST npz, a CSV of path and label, or "digits"
    (scikit-learn's). An abstention counts as wrong. Run the same command again to go on after an interruption.
    """
    from diffclass.bench import evaluate as measure
    from diffclass.bench.model_card import write_measured
    from diffclass.cli.build import at_speed, build_classifier, own_directory, supervised_network
    from diffclass.cli.render import evaluation_tables, fail_items, on_interrupt, progress, show, working
    from diffclass.data.datasets import open_dataset
    from diffclass.robust.supervised import SupervisedNetwork

    network = supervised_network(settings)
    target = own_directory(settings["model"], "--card") if card else None
    if card and (settings["race"], settings["draws"], settings["vote"]) != ("paired", None, False):
        raise click.BadParameter("a card shows the model's own race and aggregate.", param_hint="'--card'")
    speed = {name: settings.pop(name) for name in ("batch_size", "compile")}
    with working(f"loading {settings['model']}"):
        classifier = build_classifier(**settings) if network is None else network
    part = open_dataset(dataset, split=split, classes=classifier.classes_)
    if out is not None:
        on_interrupt(f"Stopped. '{out}' keeps what is done, and the same command goes on from there.")
    n_images = min(limit or len(part), len(part))
    if not isinstance(classifier, SupervisedNetwork):
        with working("preparing the network"):
            classifier = at_speed(classifier, n_images=n_images, out=out, **speed)
    with progress(f"evaluating {part.name}") as update:
        measured = measure(
            classifier, part, out=out, limit=limit, progress=update, resize=resize, convert=convert,
            save_errors=save_errors,
        )  # fmt: skip
    if target is not None:
        write_measured(target, measured)
    show(evaluation_tables(measured), measured.summary(), as_json=as_json)
    fail_items(measured.failures, of=measured.n_images, n=measured.n_failed)
