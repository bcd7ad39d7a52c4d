"""`diffclass train`."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffclass.cli.options import out_option, output_options

if TYPE_CHECKING:
    from diffclass.train.loop import Progress

__all__ = ["train"]


@click.command()
@click.argument("recipe")
@click.option("--data", metavar="DATASET", help="The data set, in place of the one that the recipe names.")
@click.option("--device", default="auto", show_default=True, help="auto takes a GPU where there is one.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: all cores]")
@click.option(
    "--test-images", type=click.IntRange(min=0),
    help="Classify so many test images for the card, by seed; 0: none. [default: all of them]",
)  # fmt: skip
@click.option("--size", type=click.IntRange(min=1), help="Height and width, where RECIPE leaves them to the data.")
@out_option("Folder of the checkpoint and of the trained model.", required=True)
@output_options
def train(
    recipe: str, data: str | None, device: str, threads: int | None, test_images: int | None, size: int | None,
    out: Path, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Train a network from scratch by RECIPE: one of those that come along, or a TOML file of yours.

    RECIPE is digits, mnist, textdigits, pneumonia, cifar10, cifar10-gpu, cifar10-late, dermoscopy, medical-unet,
    medical-dit, chexpert, chexpert-dit, isic-melanoma, isic-melanoma-dit, or a file. digits needs no other data and
    takes a minute; the others need --data, and minutes to hours, chexpert and isic-melanoma a GPU. medical-unet and
    medical-dit take any labelled pictures: their size, 28 to 256 pixels, and the classes are those of the data.

    Run the same command again to go on after an interruption. The trained model is OUT/model; `diffclass calibrate
    OUT/model DATASET --held-out` makes it several times cheaper to ask.
    """
    from diffclass.cli.build import use_threads
    from diffclass.cli.render import estimates_table, note, on_interrupt, progress_line, show
    from diffclass.denoisers.catalogue import read_card
    from diffclass.train.recipe import load_recipe
    from diffclass.train.run import run_recipe

    use_threads(threads)
    plan = load_recipe(recipe)
    on_interrupt(f"Stopped. The checkpoint is in '{out}', and the same command goes on from there.")
    with progress_line() as say:
        path = run_recipe(
            plan, data=data, out=out, device=_device(device), report=lambda now: say(_line(now)), note=note,
            test_images=test_images, size=size,
        )  # fmt: skip
    card = read_card(path)
    tables = [estimates_table(figures, title=f"{card.name}, {split}") for split, figures in card.figures.items()]
    show(tables, {"model": str(path), "figures": card.figures}, as_json=as_json)
    note(f"saved: {path}")


def _device(device: str) -> str:
    """Choose the device to train on."""
    import torch

    return device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _line(now: "Progress") -> str:
    """Say where a training is, how fast, and how long it will take."""
    left = (now.steps - now.step) * now.seconds / max(1, now.step)
    return (
        f"step {now.step:,} of {now.steps:,}   loss {now.loss:.4f}   {now.images_per_second:,.0f} images/s   "
        f"{timedelta(seconds=round(left))} left"
    )
