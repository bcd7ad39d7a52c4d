"""`diffclass fit`."""

import re
from pathlib import Path
from typing import Any

import click

from diffclass.cli.options import out_option, output_options, picture_options

__all__ = ["fit"]


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Read HxW."""
    if value is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", value)
    if found is None:
        raise click.BadParameter(f"{value!r} must be HEIGHTxWIDTH in pixels, as 28x28.")
    return int(found[1]), int(found[2])


@click.command()
@click.argument("dataset")
@click.option("--split", help="Which part to learn from. [default: train, if there is one]")
@click.option(
    "--size", metavar="HxW", callback=_size, help="Size of the model's images. [default: the first picture's]"
)
@click.option("--components", type=click.IntRange(min=1), help="Of each class at most. [default: chosen]")
@click.option("--rank", type=click.IntRange(min=1), help="Directions of each component at most. [default: chosen]")
@click.option(
    "--shift", type=click.IntRange(min=0), default=0, show_default=True,
    help="Also learn from images moved by up to so many pixels.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of the fit and of the held-out images.")
@click.option("--limit", type=click.IntRange(min=2), default=1000, show_default=True, help="Held-out images raced.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: all cores]")
@picture_options("refuse")
@out_option("The model directory.", required=True)
@output_options
def fit(
    dataset: str, components: int | None, threads: int | None, as_json: bool, quiet: bool, out: Path, **options: Any
) -> None:
    """Fit a mixture of probabilistic PCA to each class of a data set: a small exact diffusion model, without training.

    It is measured on images held out: the test or validation split, or else a fifth of the set.
    """
    from diffclass.bench.fitting import fit_dataset
    from diffclass.cli.build import use_threads
    from diffclass.cli.estimates import evaluation_tables
    from diffclass.cli.render import fail_items, note, show, stages

    use_threads(threads)
    with stages() as update:
        path, measured = fit_dataset(dataset, out=out, n_components=components, progress=update, **options)
    show(evaluation_tables(measured), {"model": str(path), **measured.summary()}, as_json=as_json)
    note(f"saved: {path}")
    fail_items(measured.failures, of=measured.n_images, n=measured.n_failed)
