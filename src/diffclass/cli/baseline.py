"""`diffclass baseline`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffclass.cli.options import out_option, output_options

if TYPE_CHECKING:
    from diffclass.train.loop import Progress

__all__ = ["baseline"]

_EXAMPLES = """\b
Examples, with the certificates that they are made for:
  diffclass baseline digits --sigma 0.25 --out runs/noisy
  diffclass certify digits --split test --model runs/noisy/model --sigma 0.25
  diffclass baseline digits --out runs/clean
  diffclass certify digits --split test --model runs/clean/model --denoise-with digits-mixture --sigma 0.25
"""


@click.command(epilog=_EXAMPLES)
@click.argument("dataset")
@click.option("--sigma", type=float, default=0.0, show_default=True, help="Std of the noise in its training images.")
@click.option("--steps", type=int, default=1000, show_default=True, help="Optimiser steps.")
@click.option("--batch-size", type=int, default=128, show_default=True, help="Images a step.")
@click.option("--learning-rate", type=float, default=2e-3, show_default=True, help="At its peak.")
@click.option("--widths", default="32,64,128", show_default=True, help="Channels of each stage, by commas.")
@click.option("--flip", is_flag=True, help="Mirror half of the images.")
@click.option("--shift", type=click.IntRange(min=0), default=0, show_default=True, help="Largest shift in pixels.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything.")
@click.option("--device", default="auto", show_default=True, help="auto takes a GPU where there is one.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: all cores]")
@out_option("Folder of the checkpoint and of the trained network.", required=True)
@output_options
def baseline(
    dataset: str, sigma: float, steps: int, batch_size: int, learning_rate: float, widths: str, flip: bool, shift: int,
    seed: int, device: str, threads: int | None, out: Path, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Train a small supervised ResNet, to certify beside diffusion classifiers.

    With --sigma it learns from noisy images, and is smoothed as it is (Cohen et al. 2019). Without, it learns from
    clean ones, and `diffclass certify --denoise-with` puts a denoiser in front (Carlini et al. 2023).

    Run the same command again to go on after an interruption. The network is OUT/model.
    """
    from diffclass.cli.build import use_threads
    from diffclass.cli.estimates import estimates_table
    from diffclass.cli.render import note, on_interrupt, progress_line, show
    from diffclass.denoisers.catalogue import choose_device
    from diffclass.robust.supervised import SupervisedNetwork
    from diffclass.train.supervised import SupervisedRecipe, train_supervised

    use_threads(threads)
    stages = _numbers(widths)
    recipe = SupervisedRecipe(
        sigma=sigma, steps=steps, batch_size=batch_size, learning_rate=learning_rate, widths=stages,
        depths=(1,) * len(stages), flip=flip, shift=shift, seed=seed,
    )  # fmt: skip
    on_interrupt(f"Stopped. The checkpoint is in '{out}', and the same command goes on from there.")
    place = str(choose_device(device))
    with progress_line() as say:
        path = train_supervised(recipe, dataset, out=out, device=place, report=lambda now: say(_line(now)))
    facts = SupervisedNetwork.load(path).metadata
    tables = [
        estimates_table(figures, title=f"{facts['name']}, {split}") for split, figures in facts["figures"].items()
    ]
    show(tables, {"model": str(path), "figures": facts["figures"]}, as_json=as_json)
    note(f"saved: {path}")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"must be whole numbers, by commas. Got {text!r}.", param_hint="'--widths'") from error


def _line(now: "Progress") -> str:
    return f"step {now.step:,} of {now.steps:,}   loss {now.loss:.4f}   {now.images_per_second:,.0f} images/s"
