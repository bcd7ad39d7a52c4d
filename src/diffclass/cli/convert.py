"""`diffclass convert`."""

from pathlib import Path

import click

from diffclass.cli.options import out_option, output_options

__all__ = ["convert"]

_EXAMPLES = """\b
Examples:
  diffclass convert edm-cifar10-32x32-cond-vp.pkl --unconditional edm-cifar10-32x32-uncond-vp.pkl \\
    --classes cifar10 --out models/edm-cifar10
  diffclass convert edm-imagenet-64x64-cond-adm.pkl --classes map_clsloc.txt --out models/edm-imagenet64
  diffclass convert 64x64_diffusion.pt --out models/adm-64
  diffclass convert mine.pt --flags "--image_size 64 --class_cond True --num_channels 96 ..." --out models/mine
"""


@click.command(epilog=_EXAMPLES)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--classes", metavar="A,B,...|FILE",
    help="Names in the order of the network's class ids: a list, a file with one a line, or 'cifar10'. Lines that "
    "begin with WordNet ids are sorted by them. [default: 0, 1, ...]",
)  # fmt: skip
@click.option(
    "--unconditional", type=click.Path(path_type=Path), metavar="FILE",
    help="A checkpoint of the same kind that was trained without classes: answers what is asked without a class "
    "(certify --noised apndc).",
)  # fmt: skip
@click.option("--name", help="Of the model. [default: the file's]")
@click.option(
    "--flags", metavar="TEXT",
    help="What a guided-diffusion network was trained with, as its scripts take it (MODEL_FLAGS). [default: those of "
    "the published checkpoint with these shapes]",
)  # fmt: skip
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True,
    help="Number format of the saved weights.",
)  # fmt: skip
@out_option("The model directory.", required=True)
@output_options
def convert(
    file: Path, classes: str | None, unconditional: Path | None, name: str | None, flags: str | None, dtype: str,
    out: Path, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Convert a published checkpoint to a model directory, without running what is pickled in it.

    FILE is one of EDM's class-conditional pickles (CIFAR-10, ImageNet 64x64) or a class-conditional network of
    guided-diffusion (64x64_diffusion.pt). More is in docs/checkpoints.md.
    """
    import torch

    from diffclass.cli.models import card_tables, plain_card
    from diffclass.cli.render import note, show, working
    from diffclass.denoisers.catalogue import read_card
    from diffclass.denoisers.convert import convert_checkpoint, read_classes

    with working(f"converting {file}"):
        names = None if classes is None else read_classes(classes)
        path = convert_checkpoint(
            file, out, unconditional=unconditional, classes=names, name=name, flags=flags, dtype=getattr(torch, dtype)
        )
    card = read_card(path)
    show(card_tables(card), plain_card(card), as_json=as_json)
    note(f"saved: {path}")
