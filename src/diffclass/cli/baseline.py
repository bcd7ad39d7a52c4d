"""`diffclass baseline`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

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

\b
And to be compared with a diffusion classifier on the same images:
  diffclass baseline digits --arch resnet-18 --members 5 --out runs/ensemble
  diffclass evaluate digits --split test --model runs/ensemble/model --out out/ensemble
  diffclass evaluate digits --split test --model digits --out out/diffusion
  diffclass compare out/diffusion out/ensemble
"""


@click.command(epilog=_EXAMPLES)
@click.argument("dataset")
@click.option(
    "--arch",
    type=click.Choice(["small-resnet", "resnet-18", "vit"]),
    default="small-resnet",
    show_default=True,
    help="The network.",
)
@click.option("--weights", metavar="MODEL", help="Directory or owner/name of a ResNet or ViT to start from.")
@click.option(
    "--members", type=click.IntRange(min=1), default=1, show_default=True, help="Networks that answer together."
)
@click.option(
    "--prior",
    type=click.Choice(["training", "uniform"]),
    default="training",
    show_default=True,
    help="uniform: rare classes count as much as frequent ones, as for a diffusion classifier.",
)
@click.option("--size", type=click.IntRange(min=1), help="Crop and resample pictures to this height and width.")
@click.option("--sigma", type=float, default=0.0, show_default=True, help="Std of the noise in its training images.")
@click.option("--steps", type=int, default=1000, show_default=True, help="Optimiser steps.")
@click.option("--batch-size", type=int, default=128, show_default=True, help="Images a step.")
@click.option(
    "--learning-rate", type=float, help="At its peak. [default: 0.002; of a vit 0.0005; with --weights 0.0001]"
)
@click.option("--widths", default="32,64,128", show_default=True, help="Channels of a small-resnet's stages.")
@click.option("--flip", is_flag=True, help="Mirror half of the images.")
@click.option("--shift", type=click.IntRange(min=0), default=0, show_default=True, help="Largest shift in pixels.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything.")
@click.option("--device", default="auto", show_default=True, help="auto takes a GPU where there is one.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: all cores]")
@out_option("Folder of the checkpoint and of the trained network.", required=True)
@output_options
def baseline(
    dataset: str, arch: str, size: int | None, learning_rate: float | None, widths: str, device: str,
    threads: int | None, out: Path, as_json: bool, quiet: bool, **settings: Any,
) -> None:  # fmt: skip
    """Train a supervised network, to certify or to compare beside diffusion classifiers.

    With --sigma it learns from noisy images, and is smoothed as it is (Cohen et al. 2019). Without, it learns from
    clean ones, and `diffclass certify --denoise-with` puts a denoiser in front (Carlini et al. 2023). With --members it
    is a deep ensemble. The validation images, which fit its temperature, are those of `diffclass train`.

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
    usual = 1e-4 if settings["weights"] else {"vit": 5e-4}.get(arch, 2e-3)
    recipe = SupervisedRecipe(
        architecture=arch, learning_rate=learning_rate or usual, widths=stages, depths=(1,) * len(stages), **settings
    )
    on_interrupt(f"Stopped. The checkpoint is in '{out}', and the same command goes on from there.")
    place = str(choose_device(device))
    with progress_line() as say:
        path = train_supervised(recipe, dataset, size=size, out=out, device=place, report=lambda now: say(_line(now)))
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
