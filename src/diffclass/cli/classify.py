"""`diffclass classify`."""

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

__all__ = ["classify"]

_EXAMPLES = """\b
Examples:
  diffclass classify cat.jpg --model cifar10
  diffclass classify photo.jpg --model owner/text-to-image --labels cat,dog --template "a photo of a {}."
  diffclass classify photos/ --model cifar10 --figure answers.png --out out/photos
"""
_DRAWN = 12  # pictures in a figure


@click.command(epilog=_EXAMPLES)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@model_options
@prompt_options
@race_options
@first_look_options
@pipeline_options
@picture_options("crop")
@click.option("--figure", type=click.Path(dir_okay=False, path_type=Path), help="Draw the first 12 answers.")
@out_option("Keep results.jsonl and run.json here; the same command goes on from them.")
@output_options
def classify(
    images: tuple[str, ...], figure: Path | None, out: Path | None, as_json: bool, quiet: bool,
    resize: Any, convert: bool, **settings: Any,
) -> None:  # fmt: skip
    """Say what is in pictures. A folder stands for every picture in it.

    Read the log-odds over the runner-up and their standard error first: a difference of several standard errors will
    not change with more draws. The calibrated percentage says how often such answers are right; without calibration, a
    score says how sure the draws are which class the model prefers.

    Any text-to-image model that diffusers opens (Stable Diffusion, SDXL, SD3, Flux, PixArt, Sana) takes any --labels.
    """
    from diffclass.bench.figure import check_figure_path, draw_answers
    from diffclass.bench.pictures import classify_pictures, picture_items
    from diffclass.cli.build import at_speed, build_classifier
    from diffclass.cli.render import (
        answers_table,
        fail_items,
        note,
        note_changes,
        note_left_out,
        progress,
        show,
        working,
    )

    items = picture_items(images)
    if figure is not None:
        check_figure_path(figure)
    speed = {name: settings.pop(name) for name in ("batch_size", "compile")}
    with working(f"loading {settings['model']}"):
        classifier = at_speed(build_classifier(**settings), n_images=len(items), out=out, **speed)
    with progress("classifying") as update:
        rows, answers = classify_pictures(
            classifier, items, out=out, progress=update, resize=resize, convert=convert,
            most_kept=_DRAWN if figure else 0,
        )  # fmt: skip
    failures = [(row["id"], row["error"]) for row in rows if "error" in row]
    if len(failures) < len(rows):
        show([answers_table(rows)], rows, as_json=as_json)
        note_changes(rows)
        if classifier.first_look is not None:  # anchors leave classes out too, and were tested with the rule
            note_left_out(rows)
    if figure is not None and answers:
        note(f"drawn: {draw_answers(answers, figure, title=Path(settings['model']).name)}")
    fail_items(failures, of=len(rows))
