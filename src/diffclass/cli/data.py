"""`diffclass data`."""

from pathlib import Path

import click

from diffclass.cli.options import out_option, output_options

__all__ = ["concept_binding", "data"]

_EXAMPLES = """\b
Examples:
  diffclass data concept-binding --out concepts
  diffclass data concept-binding --task relation --images-per-class 360 --workers 2 --out concepts
"""


@click.group()
def data() -> None:
    """Make data sets: pictures whose every detail is known."""


@data.command(name="concept-binding", epilog=_EXAMPLES, short_help="Scenes of coloured shapes, by concepts.")
@click.option(
    "--task", type=click.Choice(["single", "pair", "relation", "depth", "all"]), default="all", show_default=True,
    help="single: one object; pair: two; relation: left or right of; depth: in front of or behind; all: the first "
    "three, which are published.",
)  # fmt: skip
@click.option("--size", type=int, default=64, show_default=True, help="Height and width [pixels], 64 to 256.")
@click.option(
    "--images-per-class", type=int, metavar="N",
    help="Training pictures of each class, pair or caption. [default: 100, 50 and 40, as published]",
)  # fmt: skip
@click.option(
    "--evaluation-images", type=int, default=300, show_default=True, metavar="N",
    help="At least so many pictures in each other split.",
)  # fmt: skip
@click.option(
    "--objects", type=click.Choice(["both", "large", "small"]), default="both", show_default=True,
    help="Sizes of objects; small ones are few pixels wide in small pictures.",
)  # fmt: skip
@click.option("--samples", type=int, default=24, show_default=True, help="Of light a pixel, a multiple of 12.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the scenes.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes; pictures do not depend on it.",
)
@out_option("Folder of the data set; a folder for each task is made in it.", required=True)
@output_options
def concept_binding(
    task: str, size: int, images_per_class: int | None, evaluation_images: int, objects: str, samples: int, seed: int,
    workers: int, out: Path, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Render pictures of coloured shapes, split as Pearson et al. (2025) split theirs.

    Camera, objects and rules are CLEVR's, with cones added; scenes are in JSON beside their pictures, and captions
    for training in each split's metadata.jsonl. Run the same command again to go on after an interruption. More is in
    docs/compositional.md.
    """
    from diffclass.bench.compositional.concepts import FOLDERS
    from diffclass.bench.compositional.rendered import ConceptPictures, summary
    from diffclass.cli.render import note, on_interrupt, progress, show, table
    from diffclass.data.scenes.scene import SIZES

    on_interrupt(f"Stopped. The pictures are in '{out}', and the same command goes on from there.")
    made = table("task", "split", ">captions", ">pictures", ">questions", title=str(out))
    result = []
    for one in ("single", "pair", "relation") if task == "all" else (task,):
        pictures = ConceptPictures(
            task=one, size=size, images_per_class=images_per_class, evaluation_images=evaluation_images,
            samples=samples, seed=seed, sizes=tuple(SIZES) if objects == "both" else (objects,),
        )  # fmt: skip
        with progress(f"rendering {one}") as update:
            for done, total in pictures.render(out, workers=workers):
                update(done, total)
        for row in summary(out, one):
            made.add_row(one, FOLDERS[row["split"]], *(f"{row[name]:,}" for name in ("captions", "pictures", "items")))
            result.append({"task": one, **row})
    show([made], {"out": str(out), "splits": result}, as_json=as_json)
    note(f"saved: {out}")
