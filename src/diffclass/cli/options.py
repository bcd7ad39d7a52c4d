"""Options that several verbs share: the same names, in the same order, everywhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import click

__all__ = [
    "machine_options",
    "model_options",
    "out_option",
    "output_options",
    "picture_options",
    "pipeline_options",
    "prompt_options",
    "race_options",
]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _remember(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    """Keep an option where every part of the command line finds it."""
    ctx.meta[str(param.name)] = value
    return value


def _stacked(*options: Decorator) -> Decorator:
    """Apply decorators so that help lists them in the order given."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


@final
class _BatchSize(click.ParamType):
    """A number from 1, or "auto"."""

    name = "integer|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Read one."""
        return "auto" if value == "auto" else click.IntRange(min=1).convert(value, param, ctx)


machine_options = _stacked(
    click.option("--device", default="auto", show_default=True, help="auto takes a GPU where there is one."),
    click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        show_default=True,
        help="Number format of networks.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Of the noise."),
    click.option(
        "--batch-size",
        type=_BatchSize(),
        help="Evaluations a network call; auto measures what is fastest, once. [default: 256, or 64 on a CPU; auto "
        "where there is much to do]",
    ),
    click.option(
        "--compile/--no-compile",
        default=None,
        help="Compile the network: half a minute the first time, seconds the next. [default: where there is much to "
        "do]",
    ),
    click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: all cores]"),
)
model_options = _stacked(
    click.option(
        "--model",
        required=True,
        metavar="MODEL",
        help="Bundled name (`diffclass models`), directory, safetensors file, or owner/name.",
    ),
    machine_options,
)
race_options = _stacked(
    click.option(
        "--race",
        type=click.Choice(["paired", "exhaustive", "halving", "sift-refine", "clark-jaini"]),
        default="paired",
        show_default=True,
        help="When classes are dropped. paired: when it is sure enough that they lose (--delta); exhaustive: never; "
        "the others: by published rules, which promise nothing.",
    ),
    click.option("--draws", type=click.IntRange(min=1), help="Most draws for a class. [default: the model's]"),
    click.option(
        "--delta",
        type=float,
        default=0.01,
        show_default=True,
        help="Chance that a paired race ends with another class than all draws would give.",
    ),
    click.option("--vote", is_flag=True, help="Majority vote of the draws, in place of their mean."),
)


prompt_options = _stacked(
    click.option(
        "--labels",
        metavar="A,B,...",
        help="Choose among these classes: any words for a text-to-image model, some of its own for another, whose "
        "calibration is void then.",
    ),
    click.option(
        "--template",
        "templates",
        multiple=True,
        metavar="TEXT",
        help="Prompt of a text-to-image model, with {} in the place of the class; give several to average over them. "
        "[default: a photo of a {}.]",
    ),
    click.option(
        "--prompts",
        type=click.Path(dir_okay=False, path_type=Path),
        help="CSV file with the columns prompt, classname and classidx, in place of labels and templates.",
    ),
)
first_look_options = _stacked(
    click.option(
        "--first",
        metavar="MODEL",
        help="Let a CLIP or SigLIP (directory or owner/name) guess first: the race drops classes sooner, and its "
        "guarantee stays.",
    ),
    click.option(
        "--keep",
        type=click.IntRange(min=2),
        help="Measure only so many of the classes that --first finds likeliest: the guarantee says nothing of the "
        "others.",
    ),
)
pipeline_options = _stacked(
    click.option("--size", type=click.IntRange(min=1), help="Height and width of the images. [default: the model's]"),
    click.option("--lora", metavar="LORA", help="File, directory or owner/name of a LoRA to fuse into the network."),
    click.option("--lora-scale", type=float, default=1.0, show_default=True, help="How much of it."),
    click.option("--vae", metavar="VAE", help="File, directory or owner/name of another autoencoder."),
    click.option("--config", metavar="MODEL", help="Where a single file finds the other parts of its model."),
    click.option("--force", is_flag=True, help="Take a model that was distilled to take few steps."),
    click.option("--offload", is_flag=True, help="Bring layers to the GPU one by one: slow, for what does not fit."),
    click.option("--attention", metavar="BACKEND", help="One of diffusers' attention backends, as flash."),
)


def picture_options(resize: str) -> Decorator:
    """Return the options for pictures that do not fit a model."""
    choices = click.Choice(["crop", "stretch", "refuse"])
    return _stacked(
        click.option("--resize", type=choices, default=resize, show_default=True, help="For pictures of another size."),
        click.option("--convert", is_flag=True, help="Allow grey to become colour, colour grey, transparent white."),
    )


def out_option(text: str, **options: Any) -> Decorator:
    """Return the option for a folder to write to."""
    kind = click.Path(file_okay=False, path_type=Path)
    return click.option("--out", type=kind, help=text, show_default=True, **options)


output_options = _stacked(
    click.option("--json", "as_json", is_flag=True, help="JSON, which is also what a pipe or a file gets."),
    click.option("-q", "--quiet", is_flag=True, callback=_remember, help="No progress and no notes."),
    click.option("--debug", is_flag=True, expose_value=False, callback=_remember, help="Show where an error arose."),
)
