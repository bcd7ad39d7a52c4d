"""What people see: tables with the answer first, notes and progress on stderr, and JSON for everything else."""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from diffclass.errors import ResultError

if TYPE_CHECKING:
    from rich.table import Table


__all__ = [
    "answers_table",
    "fail_items",
    "note",
    "note_changes",
    "note_left_out",
    "on_interrupt",
    "print_tables",
    "progress",
    "progress_line",
    "sentence",
    "show",
    "stages",
    "table",
    "working",
]

_IN_SHELL = {  # how the remedies of the library are said on the command line
    "convert=True": "--convert",
    "resize='crop'": "--resize crop",
    "resize='stretch'": "--resize stretch",
    "dtype float32": "--dtype float32",
    "Leave out split=": "Leave out --split ",
    "The 'n_draws' parameter": "The number of draws",
    "The 'save_errors' parameter of evaluate needs": "--save-errors needs",
    "Give 'out'.": "Give --out.",
    "wrote with 'out'": "wrote with --out",
    "Give 'out' of evaluate": "Give the --out of `diffclass evaluate`",
    "as 'validation'.": "as --validation.",
    "Give 'other'.": "Give --transfer-from.",
    "Leave out 'draws'.": "Leave out --draws.",
    "race='paired'": "--race paired",
    "Try keep=": "Try --keep ",
}
_NARROW = 100  # [characters] width of tables that no terminal limits
_WHOLE = {"name", "accuracy", "label", "over", "ended by", "part", "scorer"}  # never wrapped, as columns of numbers
_EVERY = 15.0  # [seconds] between lines of progress in a log


def show(tables: Sequence["Table"], data: object, *, as_json: bool) -> None:
    """Print tables on a terminal, and JSON into a pipe or where it was asked for."""
    if as_json or not _on_terminal():
        text = json.dumps(_finite(data), indent=2, allow_nan=False)
        with _writing():
            click.echo(text)
    else:
        print_tables(tables)


def _on_terminal() -> bool:
    return sys.stdout.isatty()


def print_tables(tables: Sequence["Table"]) -> None:
    """Print tables, whoever reads them."""
    from rich.console import Console

    console = Console(width=None if _on_terminal() else _NARROW, highlight=False)
    with _writing():
        for one in tables:
            console.print(one)


@contextmanager
def _writing() -> Iterator[None]:
    """Say in one sentence that the output cannot be written; a closed pipe is no error, and left to click."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        with suppress(OSError):  # or Python tries once more at the end, and complains
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ResultError(f"The output cannot be written: {error.strerror or error}.") from error


def _finite(value: Any) -> Any:
    """Write the numbers that JSON does not have as texts, as result files do."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def note(text: str) -> None:
    """Say something on stderr, unless --quiet."""
    if not click.get_current_context().meta.get("quiet"):
        click.echo(text, err=True)


@contextmanager
def working(text: str) -> Iterator[None]:
    """Show on a terminal that something of unknown length is being done."""
    if click.get_current_context().meta.get("quiet") or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


@contextmanager
def progress(text: str) -> Iterator[Callable[[int, int], None]]:
    """Show progress on stderr: a bar on a terminal, now and then a line elsewhere, nothing with --quiet."""
    if click.get_current_context().meta.get("quiet"):
        yield lambda done, total: None
    elif sys.stderr.isatty():
        with _bar(text) as update:
            yield update
    else:
        yield _lines(text)


@contextmanager
def _bar(text: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(text: str) -> Callable[[int, int], None]:
    """Return a callback that writes a line now and then."""
    say = _seldom()
    return lambda done, total: say(f"{text}: {done:,} of {total:,}")


def _seldom() -> Callable[[str], None]:
    """Return a callback that writes a line at most every 15 seconds."""
    said = time.monotonic()

    def say(line: str) -> None:
        nonlocal said
        if time.monotonic() - said >= _EVERY:
            said = time.monotonic()
            click.echo(line, err=True)

    return say


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """Show the progress of work in stages, each with a name: a bar after the other."""
    with ExitStack() as stack:
        bars: dict[str, Callable[[int, int], None]] = {}

        def update(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                stack.close()
                bars[stage] = stack.enter_context(progress(stage))
            bars[stage](done, total)

        yield update


@contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """Show one line that changes on a terminal, now and then a line elsewhere, nothing with --quiet."""
    if click.get_current_context().meta.get("quiet"):
        yield lambda line: None
    elif sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status("starting") as status:
            yield status.update
    else:
        yield _seldom()


def table(*headings: str, title: str | None = None) -> "Table":
    """Return an empty table in the house style; headings that begin with > are of numbers."""
    from rich import box
    from rich.table import Table

    made = Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        collapse_padding=True,
    )
    for heading in headings:
        number = heading.startswith(">")
        made.add_column(
            heading.lstrip(">"),
            justify="right" if number else "left",
            overflow="fold",
            no_wrap=number or heading in _WHOLE,
        )
    return made


def answers_table(rows: Sequence[Mapping[str, Any]], *, title: str | None = None) -> "Table":
    """Show answers: label, log-odds with their standard error, and what they cost."""
    from rich.markup import escape

    calibrated = any(row.get("probability") is not None for row in rows)
    shares = "probability" if calibrated else "score"
    made = table(
        "image",
        "label",
        ">log-odds",
        "over",
        ">calibrated" if calibrated else ">score",
        ">evals",
        "ended by",
        ">s",
        title=title,
    )
    for row in rows:
        if "error" in row:
            continue
        label = f"[bold]{escape(row['label'])}[/]" if row["label"] is not None else "[yellow]none[/]"
        if row["truth"] not in (None, row["label"]):
            label += f" [red](it is {escape(row['truth'])})[/]"
        share = row.get(shares)  # results of earlier versions have no score
        cells = (
            escape(row["id"]),
            label,
            _odds(row),
            escape(row["runner_up"]),
            "" if share is None else f"{share:.1%}" if calibrated else f"{share:.3f}",
            f"{row['evaluations']:,}",
            row["reason"],
        )
        made.add_row(*cells, f"{row['seconds']:.2f}")
    return made


def _odds(row: Mapping[str, Any]) -> str:
    se = "?" if row["log_odds_se"] is None else f"{row['log_odds_se']:.1f}"
    return f"{row['log_odds']:.1f} ± {se}"


def note_changes(rows: Sequence[Mapping[str, Any]]) -> None:
    """Say what was done to pictures before the model saw them, once for those that were treated alike."""
    alike: dict[str, list[str]] = {}
    for row in rows:
        if row.get("changes"):
            alike.setdefault("; ".join(row["changes"]), []).append(row["id"])
    for changes, names in alike.items():
        note(f"{names[0] if len(names) == 1 else f'{len(names)} pictures'}: {changes}.")


def note_left_out(rows: Sequence[Mapping[str, Any]]) -> None:
    """Say that classes were left out by a first look, and what that means."""
    most = max((len(row.get("unmeasured", ())) for row in rows), default=0)
    if most:
        note(
            f"The first look left out {most} classes, which were not measured: the race's guarantee holds among the "
            "others."
        )


def fail_items(failures: Sequence[tuple[str, str]], *, of: int, n: int | None = None) -> None:
    """Name pictures that failed, and end with 2 if all of them did (bad input), or 1 if some did.

    Args:
        failures: id and reason of each, or of the first ones.
        of: pictures in all.
        n: how many failed, if not all of them are in `failures`.
    """
    n = len(failures) if n is None else n
    for _, reason in failures:
        click.echo(f"Error: {sentence(reason)}", err=True)
    if n and of > 1:
        click.echo(f"{n} of {of} pictures failed.", err=True)
    if n:
        raise click.exceptions.Exit(2 if n == of else 1)


def sentence(error: object) -> str:
    """Return a message on one line, with the library's remedies as options of the command line."""
    text = " ".join(str(error).split())
    for keyword, option in _IN_SHELL.items():
        text = text.replace(keyword, option)
    return text


def on_interrupt(message: str) -> None:
    """Choose what is said when the verb is interrupted."""
    click.get_current_context().meta["on_interrupt"] = message
