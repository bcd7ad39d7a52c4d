"""Options that spread a verb over processes, and what those processes load."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import click

__all__ = ["choose_elsewhere", "scale_options", "take_scale"]

Rows = list[dict[str, Any]]


def scale_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --shard, --engine and --workers."""
    for option in (
        click.option("--workers", type=click.IntRange(min=1), help="Processes of --engine ray. [default: one a GPU, or "
                     "for every two CPUs]"),
        click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
                     help="Who does it: this process, or a Ray cluster (RAY_ADDRESS, or one on this machine)."),
        click.option("--shard", metavar="i/N", help="The i-th of N equal parts of the images, kept apart in "
                     "OUT/shards. The command without --shard brings them together."),
    ):  # fmt: skip
        function = option(function)
    return function


def take_scale(settings: dict[str, Any], *, out: Any) -> dict[str, Any]:
    """Take what `scale_options` added out of the settings, checked."""
    from diffclass.bench.shards import Shard

    shard, engine, workers = (settings.pop(name) for name in ("shard", "engine", "workers"))
    if shard is not None and out is None:
        raise click.BadParameter("a shard is kept in --out. Give one.", param_hint="'--shard'")
    if shard is not None and engine != "local":
        raise click.BadParameter("a job of a job array does its shard itself.", param_hint="'--engine'")
    if workers is not None and engine != "ray":
        raise click.BadParameter("processes are Ray's. Give --engine ray.", param_hint="'--workers'")
    return {"shard": None if shard is None else Shard.parse(shard), "engine": engine, "workers": workers}


def choose_elsewhere(
    opener: Callable[..., Callable[[Sequence[int]], Rows]], arguments: Mapping[str, Any], scale: Mapping[str, Any],
    *, gpu: bool, chunk: int = 16,
) -> Callable[[Sequence[int]], Iterator[Rows]] | None:  # fmt: skip
    """Return who answers images in place of this process, `chunk` of them a task; None if nobody does."""
    if scale["engine"] == "local":
        return None
    from diffclass.scale import answer_on_ray

    return partial(answer_on_ray, partial(opener, **arguments), workers=scale["workers"], gpus=float(gpu), chunk=chunk)
