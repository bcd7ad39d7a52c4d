"""`diffclass evaluate`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from diffclass.cli.elsewhere import choose_elsewhere, scale_options, take_scale
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
@scale_options
@click.option("--save-errors", is_flag=True, help="Keep every error of every draw in OUT/errors.")
@click.option("--group-by", metavar="COLUMN", help="One more answer a group of images, as those of a patient.")
@click.option("--card", is_flag=True, help="Put the figures on the card of MODEL, a directory of yours.")
@out_option("Keep results.jsonl, summary.json and run.json here; the same command goes on from them.")
@output_options
def evaluate(
    dataset: str, split: str | None, limit: int | None, save_errors: bool, group_by: str | None, card: bool,
    out: Path | None, as_json: bool, quiet: bool, resize: Any, convert: bool, **settings: Any,
) -> None:  # fmt: skip
    """Measure accuracy, calibration and cost on a labelled data set, each with its 95% interval.

    A network that `diffclass baseline` trained can be measured too, for `diffclass compare`.

    DATASET is a folder with a folder of pictures a class, parquet, MedMNIST npz, a CSV of path and label, or "digits"
    (scikit-learn's). An abstention counts as wrong. Run the same command again to go on after an interruption.
    """
    from diffclass.bench import evaluate as measure
    from diffclass.bench.model_card import write_measured
    from diffclass.cli.build import at_speed, build_classifier, own_directory, speed_of, supervised_network
    from diffclass.cli.estimates import evaluation_tables
    from diffclass.cli.render import fail_items, on_interrupt, progress, show, working
    from diffclass.data.datasets import open_dataset
    from diffclass.robust.supervised import SupervisedNetwork

    scale = take_scale(settings, out=out)
    network = supervised_network(settings)
    target = own_directory(settings["model"], "--card") if card else None
    if card and (settings["race"], settings["draws"], settings["vote"]) != ("paired", None, False):
        raise click.BadParameter("a card shows the model's own race and aggregate.", param_hint="'--card'")
    speed = {name: settings.pop(name) for name in ("batch_size", "compile")}
    if save_errors and scale["engine"] != "local":
        raise click.BadParameter("errors are kept by --engine local.", param_hint="'--save-errors'")
    with working(f"loading {settings['model']}"):
        classifier = build_classifier(**settings) if network is None else network
    part = open_dataset(dataset, split=split, classes=classifier.classes_)
    if out is not None:
        on_interrupt(f"Stopped. '{out}' keeps what is done, and the same command goes on from there.")
    n_images = min(limit or len(part), len(part))
    pictures: dict[str, Any] = {"resize": resize, "convert": convert}
    elsewhere = None
    if isinstance(classifier, SupervisedNetwork):
        if scale["engine"] != "local":
            raise click.BadParameter("a supervised network is asked here. Try --shard.", param_hint="'--engine'")
    else:
        with working("preparing the network"):
            classifier = at_speed(classifier, n_images=n_images, out=out, **speed)
        arguments = {"settings": settings, "speed": speed_of(classifier), "limit": limit, "pictures": pictures,
                     "dataset": str(dataset), "split": split}  # fmt: skip
        elsewhere = choose_elsewhere(_answers, arguments, scale, gpu=classifier.denoiser.device.type == "cuda")
    with progress(f"evaluating {part.name}") as update:
        measured = measure(
            classifier, part, out=out, limit=limit, progress=update, save_errors=save_errors, shard=scale["shard"],
            elsewhere=elsewhere, group_by=group_by, **pictures,
        )  # fmt: skip
    if target is not None:
        write_measured(target, measured)
    show(evaluation_tables(measured), measured.summary(), as_json=as_json)
    fail_items(measured.failures, of=measured.n_images, n=measured.n_failed)


def _answers(
    *, settings: Mapping[str, Any], speed: Mapping[str, Any], dataset: str, split: str | None, limit: int | None,
    pictures: Mapping[str, Any],
) -> Callable[[Sequence[int]], list[dict[str, Any]]]:  # fmt: skip
    """Load the model and the data in another process, and return what answers images by their indices."""
    from functools import partial

    from diffclass.bench.evaluation import answer_rows
    from diffclass.cli.build import at_speed, build_classifier
    from diffclass.data.datasets import open_dataset

    classifier = at_speed(build_classifier(**{**settings, "threads": None}), n_images=1, **speed)
    part = open_dataset(dataset, split=split, classes=classifier.classes_).at_most(limit)
    return partial(answer_rows, classifier, part, **pictures)
