"""`diffclass train`."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffclass.cli.options import out_option, output_options

if TYPE_CHECKING:
    from diffclass.train.loop import Progress
    from diffclass.train.recipe import Recipe
    from diffclass.train.tuning.recipe import TuningRecipe

__all__ = ["train"]


_RECIPES = """\b
Recipes:
  on classes    digits, mnist, pneumonia, cifar10, cifar10-gpu, cifar10-late,
                dermoscopy, medical-unet, medical-dit, chexpert,
                chexpert-dit, isic-melanoma, isic-melanoma-dit
  on captions   textdigits, concepts, clip-small, vilt-small
  fine-tuned    dreambooth-concepts, concepts-sd-lora, clip-concepts,
                vilt-concepts, medical-sd, medical-sd-lora
"""


@click.command(epilog=_RECIPES)
@click.argument("recipe")
@click.option("--data", metavar="DATASET", help="The data set, in place of the one that the recipe names.")
@click.option(
    "--from", "start", metavar="MODEL", help="Directory or owner/name of the model to start from, in place of the one "
    "that the recipe names.",
)  # fmt: skip
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
    recipe: str, data: str | None, start: str | None, device: str, threads: int | None, test_images: int | None,
    size: int | None, out: Path, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Train a network by RECIPE: one of those listed below, or a TOML file of yours.

    digits needs no other data and takes a minute; the others need --data, and minutes to hours; chexpert, isic-melanoma
    and those that fine-tune another model (--from) want a GPU. Data for concepts, clip-small, vilt-small and
    fine-tuning are pictures with captions (docs/fine-tuning.md). medical-unet and medical-dit take any labelled
    pictures: their size, 28 to 256 pixels, and the classes are those of the data.

    Run the same command again to go on after an interruption. The trained model is OUT/model; `diffclass calibrate
    OUT/model DATASET --held-out` makes it several times cheaper to ask. Several GPUs share every batch where
    `accelerate launch --num_processes N -m diffclass train ...` starts the command.
    """
    from diffclass.cli.build import use_threads
    from diffclass.cli.estimates import estimates_table
    from diffclass.cli.render import note, on_interrupt, progress_line, show
    from diffclass.denoisers.card import read_json
    from diffclass.train.crew import assemble
    from diffclass.train.run import run_recipe
    from diffclass.train.tuning.recipe import TuningRecipe, load_any_recipe
    from diffclass.train.tuning.run import run_tuning

    use_threads(threads)
    plan = load_any_recipe(recipe)
    _check(plan, data, start, test_images, size)
    on_interrupt(f"Stopped. The checkpoint is in '{out}', and the same command goes on from there.")
    place = _device(device)
    leads = assemble(place)[0].leads
    with progress_line() as say:
        told: dict[str, Any] = {"out": out, "device": place, "report": lambda now: say(_line(now))}
        told["note"] = note if leads else lambda line: None
        if isinstance(plan, TuningRecipe):
            assert data is not None
            path = run_tuning(plan, data=data, start=start, **told)
        else:
            path = run_recipe(plan, data=data, test_images=test_images, size=size, **told)
    if not leads:
        return
    facts = read_json(path / "diffclass.json")
    figures = facts["figures"]
    tables = [estimates_table(of_split, title=f"{facts['name']}, {split}") for split, of_split in figures.items()]
    show(tables, {"model": str(path), "figures": figures}, as_json=as_json)
    note(f"saved: {path}")


def _check(
    plan: "Recipe | TuningRecipe", data: str | None, start: str | None, test_images: int | None, size: int | None
) -> None:
    """Refuse options that a recipe has no use for."""
    table = plan.as_dict()
    tuning = "kind" in table
    if tuning and data is None:
        raise click.UsageError(f"The recipe '{plan.name}' needs --data: a folder of pictures with captions.")
    if start is not None and not tuning:
        raise click.UsageError(f"The recipe '{plan.name}' starts from random weights and takes no --from.")
    if test_images is not None and (tuning or table["data"]["captioned"]):
        raise click.UsageError(f"The recipe '{plan.name}' is for pictures with captions and takes no --test-images.")
    if size is not None and (tuning or table["data"]["captioned"]):
        raise click.UsageError(f"The recipe '{plan.name}' is for pictures with captions and takes no --size.")


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
