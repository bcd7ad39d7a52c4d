"""`diffclass compose`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from diffclass.cli.elsewhere import choose_elsewhere, scale_options, take_scale
from diffclass.cli.options import out_option, output_options, pipeline_options

if TYPE_CHECKING:
    from diffclass.bench.compositional.comparing import Rows
    from diffclass.bench.compositional.part import Part
    from diffclass.bench.compositional.scorer import Scorer

__all__ = ["compose"]

_EXAMPLES = """\b
Examples:
  diffclass compose scenes --task pair --split id-test,ood-test --scorer diffusion:owner/model \\
      --scorer clip:owner/clip --scorer chance --setting zsl,gzsl --seeds 3 --out runs/pair
  diffclass compose --benchmark winoground:path/to/winoground --scorer diffusion:owner/model --out runs/winoground
"""


@click.command(epilog=_EXAMPLES)
@click.argument("data", required=False)
@click.option("--task", "tasks", default="pair", show_default=True, help="single, pair, relation or depth, by commas.")
@click.option("--split", "splits", default="ood-test", show_default=True, help="Parts of DATA, by commas.")
@click.option("--setting", "settings", default="zsl,gzsl", show_default=True, help="zsl, gzsl or both.")
@click.option(
    "--benchmark", "benchmarks", multiple=True, metavar="NAME:PATH",
    help="A local copy of winoground, aro, sugarcrepe, valse, clevr, whatsup, self-bench or cobi; several are allowed.",
)  # fmt: skip
@click.option(
    "--scorer", "scorers", multiple=True, required=True, metavar="[NAME=]KIND:MODEL",
    help="diffusion:MODEL, clip:MODEL, vilt:MODEL, blind:SCORER (shown other pictures) or chance; give several.",
)  # fmt: skip
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="How many seeds of noise.")
@click.option("--seed", type=int, default=0, show_default=True, help="The first of them, and of other choices.")
@click.option("--limit", type=click.IntRange(min=1), help="About so many items of each part, in whole clusters.")
@click.option(
    "--race", type=click.Choice(["paired", "exhaustive", "published"]), default="paired", show_default=True,
    help="When captions are dropped. published: 75 draws, then the best --keep on 200, by absolute errors.",
)  # fmt: skip
@click.option("--draws", type=click.IntRange(min=1), help="Most draws for a caption. [default: the model's]")
@click.option("--delta", type=float, default=0.01, show_default=True, help="Chance of an error of a paired race.")
@click.option("--keep", type=click.IntRange(min=1), default=5, show_default=True, help="Captions kept by published.")
@click.option("--others", type=click.IntRange(min=1), default=8, show_default=True, help="Pictures for blind scorers.")
@click.option(
    "--resize", type=click.Choice(["crop", "stretch"]), default="crop", show_default=True,
    help="What all scorers see of a picture: its centred square, or all of it, squeezed.",
)  # fmt: skip
@click.option(
    "--analyse", is_flag=True,
    help="Also: cosines of captions and of pictures, a probe and t-SNE for each CLIP, margins by noise level.",
)  # fmt: skip
@click.option(
    "--learn-weight", is_flag=True,
    help="Also: learn on half of each part how much noise levels count, and measure the rest. Takes --race exhaustive.",
)  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto takes a GPU where there is one.")
@click.option(
    "--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto", show_default=True,
    help="Number format of diffusion models.",
)  # fmt: skip
@click.option("--batch-size", type=click.IntRange(min=1), help="Evaluations a network call. [default: the model's]")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: all cores]")
@pipeline_options
@scale_options
@out_option("Keep rows, errors, summary.json and figures here; the same command goes on from them.")
@output_options
def compose(
    data: str | None, tasks: str, splits: str, settings: str, benchmarks: tuple[str, ...], scorers: tuple[str, ...],
    seeds: int, seed: int, limit: int | None, resize: str, threads: int | None, others: int, batch_size: int | None,
    analyse: bool, learn_weight: bool, out: Path | None, as_json: bool, quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """Compare models on what captions say of pictures: binding, relations, and the benchmarks of others.

    Every scorer gets the same crop of each picture and the same captions, and ties count alike. DATA is a folder of
    scenes; or give --benchmark. Intervals are clustered by picture. Run the same command again to go on.
    """
    from diffclass.bench.compositional.comparing import compare
    from diffclass.bench.compositional.report import shard_summary, summarise
    from diffclass.cli.build import use_threads
    from diffclass.cli.render import fail_items, note, on_interrupt, show, stages, working
    from diffclass.cli.render_comparison import comparison_tables, shard_table
    from diffclass.denoisers.catalogue import choose_device

    scale = take_scale(options, out=out)
    _check(scale, out, analyse, learn_weight)
    use_threads(threads)
    size = {} if batch_size is None else {"batch_size": batch_size}
    run: dict[str, Any] = {"seed": seed, "seeds": seeds, "crop": resize}
    asked = {"data": data, "tasks": tasks, "splits": splits, "settings": settings, "benchmarks": benchmarks,
             "limit": limit, "seed": seed}  # fmt: skip
    opening = {"specs": scorers, "n_others": others, **size, **options}
    parts, opened = _ready(asked, opening)
    if out is not None:
        on_interrupt(f"Stopped. '{out}' keeps what is done, and the same command goes on from there.")
    arguments = {"asked": asked, "opening": opening, "run": run | {"keep": out is not None}}
    on_gpu = choose_device(options["device"]).type == "cuda"
    elsewhere = choose_elsewhere(_answers, arguments, scale, gpu=on_gpu, chunk=1)
    with stages() as update:
        rows = compare(parts, opened, out=out, progress=update, shard=scale["shard"], elsewhere=elsewhere, **run)
    if scale["shard"] is not None:
        done = shard_summary(rows, str(scale["shard"]))
        show([shard_table(done)], done, as_json=as_json)
    else:
        summary = summarise(parts, rows, seed=seed)
        if out is not None:
            with working("looking behind the answers"):
                summary |= _looked_behind(parts, opened, rows, out, resize, seed, analyse, learn_weight)
            for figure in _written(summary, out):
                note(f"drawn: {figure}")
        show(comparison_tables(summary), summary, as_json=as_json)
    every = [row for found in rows.values() for row in found]
    fail_items([(row["id"], row["error"]) for row in every if "error" in row], of=len(every))


def _check(scale: Mapping[str, Any], out: Path | None, analyse: bool, learn_weight: bool) -> None:
    """Refuse to look behind the answers where they are not kept, or not all there."""
    if not (analyse or learn_weight):
        return
    option = "--analyse" if analyse else "--learn-weight"
    if out is None:
        raise click.BadParameter("needs a folder for errors and figures. Give --out.", param_hint=f"'{option}'")
    if scale["shard"] is not None:
        raise click.BadParameter(
            "looks at a whole run. Give it to the command without --shard.", param_hint=f"'{option}'"
        )


def _ready(asked: Mapping[str, Any], opening: Mapping[str, Any]) -> "tuple[list[Part], list[Scorer]]":
    """Read what is to be compared on, and open the scorers."""
    from diffclass.bench.compositional.opening import open_scorers
    from diffclass.cli.render import working

    with working("reading items"):
        parts = _parts(**asked)
    with working("loading models"):
        return parts, open_scorers(**opening)


def _answers(
    *, asked: Mapping[str, Any], opening: Mapping[str, Any], run: Mapping[str, Any]
) -> Callable[[Sequence[int]], list[dict[str, Any]]]:
    """Read the items and open the scorers in another process, and return what answers windows by their indices."""
    from diffclass.bench.compositional.comparing import answer_windows
    from diffclass.bench.compositional.opening import open_scorers

    return answer_windows(_parts(**asked), open_scorers(**opening), **run)


def _parts(
    *, data: str | None, tasks: str, splits: str, settings: str, benchmarks: tuple[str, ...], limit: int | None,
    seed: int,
) -> list["Part"]:  # fmt: skip
    """Read what is to be compared on."""
    from diffclass.bench.compositional.benchmarks.reading import read_benchmark
    from diffclass.bench.compositional.protocol import protocol_parts
    from diffclass.errors import InputError

    if (data is None) == (not benchmarks):
        raise InputError("Give either a folder of scenes or --benchmark NAME:PATH.")
    if data is None:
        parts = [part for benchmark in benchmarks for part in read_benchmark(benchmark)]
    else:
        listed = ([name.strip() for name in text.split(",") if name.strip()] for text in (tasks, splits, settings))
        names = dict(zip(("tasks", "splits", "settings"), listed, strict=True))
        parts = protocol_parts(data, **names, seed=seed)
    return [part.first(limit, seed=seed) for part in parts]


def _looked_behind(
    parts: list["Part"], opened: "list[Scorer]", rows: "Rows", out: Path, resize: str, seed: int, analyse: bool,
    learn_weight: bool,
) -> dict[str, Any]:  # fmt: skip
    """Do what --analyse and --learn-weight ask for."""
    from diffclass.bench.compositional.analysis import analyse as look
    from diffclass.bench.compositional.analysis import weigh_noise_levels

    found: dict[str, Any] = {}
    if analyse:
        found["analysis"] = look(parts, opened, rows, out, crop=cast(Any, resize), seed=seed)
    if learn_weight:
        found["weighting"] = weigh_noise_levels(parts, opened, rows, out, seed=seed)
    return found


def _written(summary: dict[str, Any], out: Path) -> list[str]:
    """Write the summary, draw the comparison where there is something to draw, and name the figures."""
    from diffclass.bench.compositional.comparison_figure import draw_comparison
    from diffclass.data.results import write_json_atomic

    write_json_atomic(out / "summary.json", summary)
    figures = summary.get("analysis", {}).get("figures", [])
    if any(result["accuracy"] for result in summary["results"]):
        figures = [str(draw_comparison(summary, out / "comparison.png")), *figures]
    return figures
