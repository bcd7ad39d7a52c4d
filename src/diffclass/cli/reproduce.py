"""`diffclass reproduce`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffclass.cli.options import machine_options, out_option, output_options

if TYPE_CHECKING:
    from rich.table import Table

    from diffclass.bench.experiments import Experiment
    from diffclass.bench.preparing import Prepared
    from diffclass.bench.reproducing import Reproduction
    from diffclass.denoisers import Denoiser
    from diffclass.stats.interval import Estimate

__all__ = ["reproduce"]

_EXAMPLES = """\b
Examples:
  diffclass reproduce --list
  diffclass reproduce zeroshot-pets --data path/to/pets --limit 200 --out out/pets
  diffclass reproduce certified-cifar10 --data cifar-10-python.tar.gz --model models/edm-cifar10 --out out/certified
"""


@click.command(epilog=_EXAMPLES)
@click.argument("name", required=False)
@click.option("--list", "list_all", is_flag=True, help="Show the experiments, their figures and what they cost.")
@click.option("--data", type=click.Path(path_type=Path), help="Your copy of the data set, as its authors publish it.")
@click.option("--model", metavar="MODEL", help="Directory or owner/name. [default: the published one, if it is on the "
              "hub]")  # fmt: skip
@machine_options
@click.option("--limit", type=click.IntRange(min=1), help="At most so many images. [default: as published]")
@click.option(
    "--selection", type=click.Choice(["stratified", "first", "every"]),
    help="Which images: at random with each class in its proportion, the first, or every k-th. [default: as published, "
    "else stratified]",
)  # fmt: skip
@click.option("--fast", is_flag=True, help="Race by PairedRace in place of the published stopping rule.")
@click.option("--draws", type=click.IntRange(min=1), help="Most draws for a class. [default: as published]")
@click.option(
    "--prompts", type=click.Path(dir_okay=False, path_type=Path),
    help="Zero-shot: a published prompt file (prompt, classname, classidx) in place of the template.",
)  # fmt: skip
@click.option("--size", type=click.IntRange(min=1), help="Zero-shot: height and width of the images.")
@click.option("--sigma", "sigmas", type=float, multiple=True, help="Certified: only these. [default: as published]")
@click.option("--n", type=click.IntRange(min=1), help="Certified: noisy copies that prove. [default: as published]")
@click.option("--n0", type=click.IntRange(min=1), help="Certified: copies that choose. [default: as published]")
@click.option(
    "--weight", type=click.Choice(["edm", "edm_official"]),
    help="Certified: of noise levels, as in the paper or as in the published code. [default: edm_official]",
)  # fmt: skip
@out_option("Keep the results and reproduction.json here; the same command goes on from them.")
@output_options
def reproduce(
    name: str | None, list_all: bool, data: Path | None, model: str | None, out: Path | None, as_json: bool,
    quiet: bool, device: str, dtype: str, seed: int, batch_size: Any, compile: bool | None, threads: int | None,
    size: int | None, prompts: Path | None, sigmas: tuple[float, ...], **changes: Any,
) -> None:  # fmt: skip
    """Run a published experiment with its settings, and put its figures beside those that come out here.

    NAME is one that --list shows. Figures are called comparable only where nothing is known to differ: the data as
    published, a network of the published size, the published settings. What could not be found out is said.
    """
    from diffclass.bench.experiments import experiments, find_experiment
    from diffclass.bench.preparing import Changes
    from diffclass.bench.reproducing import run
    from diffclass.cli.build import use_threads
    from diffclass.cli.render import fail_items, note, on_interrupt, progress, show

    if list_all or name is None:
        show([_listed()], [_plain(one) for one in experiments().values()], as_json=as_json)
        return
    experiment = find_experiment(name)
    use_threads(threads)
    asked = Changes(seed=seed, prompts=_prompts(prompts), sigmas=sigmas or None, **changes)
    prepared = _prepared(experiment, data, model, asked, device=device, dtype=dtype, size=size)
    prepared = _at_speed(prepared, batch_size=batch_size, compile=compile, out=out)
    note(f"{len(prepared.part):,} images, at most {prepared.evaluations:,} network evaluations.")
    if out is not None:
        on_interrupt(f"Stopped. '{out}' keeps what is done, and the same command goes on from there.")
    with progress(f"reproducing {experiment.name}") as update:
        found = run(prepared, out=out, progress=update)
    show([_compared(found), _rests_on(found)], found.summary(), as_json=as_json)
    fail_items(found.failures, of=found.n_images, n=found.n_failed)


def _prompts(path: Path | None) -> Any:
    """Read a prompt file, if there is one."""
    from diffclass.decide.prompts import Prompts

    return None if path is None else Prompts.from_csv(path)


def _prepared(
    experiment: "Experiment", data: Path | None, model: str | None, asked: Any, *, device: str, dtype: str,
    size: int | None,
) -> "Prepared":  # fmt: skip
    """Open the data, which is quickly said to be missing, and then the model."""
    from diffclass.bench.experiments import Certified
    from diffclass.bench.preparing import prepare
    from diffclass.bench.published_data import open_published
    from diffclass.cli.render import working

    opened = open_published(experiment, data)
    with working(f"loading {model or experiment.model.title}"):
        denoiser = _load(experiment, model, device=device, dtype=dtype, size=size)
        if isinstance(experiment.settings, Certified) and denoiser.classes:
            opened = open_published(experiment, data, classes=denoiser.classes)
        return prepare(experiment, denoiser, opened, asked)


def _load(experiment: "Experiment", model: str | None, **options: Any) -> "Denoiser":
    """Load the model that is given, or the published one."""
    from diffclass.denoisers import load
    from diffclass.errors import WeightsMissing

    wanted = experiment.model
    if model is not None:
        return load(model, **options)
    if wanted.id is None:
        raise WeightsMissing(
            f"The experiment {experiment.name!r} needs {wanted.title} as a model directory. Make one with "
            f"`{wanted.make}` and give it with --model."
        )
    try:
        return load(wanted.id, **options)
    except WeightsMissing as error:
        note = "" if wanted.note is None else f" ({wanted.note})"
        raise WeightsMissing(
            f"The experiment {experiment.name!r} needs {wanted.title}, '{wanted.id}', which is not to be had{note}. "
            "Give the directory or hub id of a copy with --model."
        ) from error


def _at_speed(prepared: "Prepared", **speed: Any) -> "Prepared":
    """Choose batch size and compilation by how much there is to do."""
    from diffclass.cli.build import at_speed
    from diffclass.cli.render import working

    copies = 1
    if prepared.noised is not None:
        smoothing = prepared.smoothing()
        copies = smoothing.n0 + smoothing.n
    with working("preparing the network"):
        classifier = at_speed(prepared.classifier, n_images=len(prepared.part) * copies, **speed)
    return replace(prepared, classifier=classifier)


def _plain(experiment: "Experiment") -> dict[str, Any]:
    """Return an experiment as plain values, for JSON."""
    from dataclasses import asdict

    row = asdict(experiment)
    return row | {"evaluations": experiment.evaluations}


def _listed() -> "Table":
    """Show every experiment."""
    from diffclass.bench.experiments import experiments
    from diffclass.cli.render import table

    made = table("name", "model", ">images", "published", ">evaluations", title="published experiments")
    for one in experiments().values():
        shown = [f for f in one.figures if f.radius != 0]
        values = ", ".join(f"{f.value:.1%}" + (f" at {f.radius:g}" if f.radius else "") + _mark(f.read) for f in shown)
        cells = (one.model.brief, f"{one.images:,}", values, f"{one.evaluations:,}")
        made.add_row(f"[bold]{one.name}[/]", *cells)
    made.caption, made.caption_justify = (
        "Evaluations of the network at most. ? recalled, not compared with the paper.",
        "left",
    )
    return made


def _mark(read: str) -> str:
    return "?" if read == "recalled" else ""


def _compared(found: "Reproduction") -> "Table":
    """Show published figures beside those that came out."""
    from rich.markup import escape

    from diffclass.cli.render import table

    def cells(estimate: "Estimate | None", mark: str = "") -> tuple[str, str, str]:
        if estimate is None:
            return "—", "", ""
        interval = f"{estimate.low:.1%} – {estimate.high:.1%}"
        return f"[bold]{estimate.value:.1%}{mark}[/]", interval, f"{estimate.n:,}"

    columns = (">published", ">95%", ">images", ">here", ">95%", ">images")
    made = table("measure", *columns, title=found.experiment.name)
    for row in found.comparisons:
        made.add_row(row.figure.measure, *cells(row.published, _mark(row.figure.read)), *cells(row.here))
    for name, estimate in found.also.items():
        made.add_row(name.replace("_", " "), "", "", "", *cells(estimate))
    recalled = any(row.figure.read == "recalled" for row in found.comparisons)
    paper = f"{found.experiment.paper.title} ({found.experiment.paper.link})."
    made.caption = escape(paper + (" ? recalled, not compared with the paper." if recalled else ""))
    made.caption_justify = "left"
    return made


def _rests_on(found: "Reproduction") -> "Table":
    """Show what the comparison is worth."""
    from rich.markup import escape

    from diffclass.cli.render import table

    made = table("", "comparable: nothing is known to differ" if found.comparable else "not comparable")
    for what, texts in (
        ("differs", found.differences), ("not known", found.unchecked), ("always otherwise here", found.otherwise)
    ):  # fmt: skip
        for index, text in enumerate(texts):
            made.add_row("" if index else what, escape(text))
    return made
