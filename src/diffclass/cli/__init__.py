"""The command line: one file a verb, imported when the verb is called, so that --help costs nothing."""

import os
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from typing import Any, final

import click

import diffclass
from diffclass.cli.render import sentence
from diffclass.errors import (
    ConfigError,
    DiffclassError,
    DiffclassWarning,
    InputError,
    MissingExtra,
    ModelError,
    WeightsMissing,
)

__all__ = ["main"]

_VERBS = {
    "classify": "Say what is in pictures.",
    "explain": "Show why a picture got its answer, and what would make it another class.",
    "evaluate": "Measure accuracy, calibration and cost on a data set.",
    "report": "Make one page of a run: figures, mistakes, calibration, uncertainty, examples.",
    "audit": "Look for what would let a model cheat on a data set: confounds, duplicates, leaks.",
    "ood": "Measure how well a model tells out-of-distribution pictures from its own.",
    "compare": "Compare two models image by image, from what evaluate kept.",
    "certify": "Prove within which radius no change of a picture alters its label.",
    "reproduce": "Run a published experiment again, and put its figures beside yours.",
    "attack": "Search for small changes of pictures that fool a model.",
    "compose": "Compare models on what captions say of pictures: binding, relations, benchmarks.",
    "calibrate": "Learn from labelled images when to stop and how sure to be.",
    "demo": "Classify pictures that are on this computer already, and draw why.",
    "web": "Serve a page to classify pictures on, and a JSON API.",
    "fit": "Make a small exact model of a data set, in seconds to minutes, without training.",
    "train": "Train a network from scratch by a recipe.",
    "baseline": "Train a supervised network, to certify or compare beside diffusion classifiers.",
    "data": "Make data sets: rendered scenes whose every detail is known.",
    "convert": "Make a model directory of a published checkpoint, without running what is pickled in it.",
    "models": "List the models that come with the package, or show the card of one.",
    "push": "Upload a model with its classifier to the Hugging Face hub.",
    "check": "Check that a model does what classifying relies on.",
    "cite": "Print what to cite, as BibTeX.",
}
_FAILED, _BAD_INPUT, _MISSING, _INTERRUPTED = 1, 2, 3, 130


@final
class _Verbs(click.Group):
    """A group that knows its verbs by name, and turns errors into a sentence and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the verbs, in the order of the help."""
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb."""
        if cmd_name not in _VERBS:
            return None
        return getattr(import_module(f"diffclass.cli.{cmd_name}"), cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or suggest the nearest one."""
        if args and args[0] not in _VERBS and (near := get_close_matches(args[0], _VERBS, n=1)):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_VERBS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; an error of ours becomes one sentence and an exit code."""
        try:
            with _quiet_libraries():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            _fail(ctx, ctx.meta.get("on_interrupt", "Interrupted."), _INTERRUPTED)
        except DiffclassError as error:
            if ctx.meta.get("debug"):
                traceback.print_exc()
            _fail(ctx, f"Error: {sentence(error)}", _exit_code(error))


_EXAMPLES = """\b
Examples:
  diffclass demo
  diffclass models
  diffclass classify cat.jpg --model cifar10
  diffclass evaluate digits --model digits --split test --out out/digits

`diffclass COMMAND --help` lists the options of a command.

Exit codes: 0 done, 1 failed or some pictures failed, 2 bad input, 3 missing weights or package, 130 interrupted.
"""


@click.group(
    cls=_Verbs,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(diffclass.__version__, "-V", "--version", message="diffclass %(version)s")
def main() -> None:
    """Classify images with conditional diffusion models.

    The class under which a model denoises an image best is the answer. It comes with its log-odds over the runner-up,
    their standard error, and how many network evaluations they took.
    """


def _exit_code(error: DiffclassError) -> int:
    if isinstance(error, WeightsMissing | MissingExtra):
        return _MISSING
    return _BAD_INPUT if isinstance(error, InputError | ConfigError | ModelError) else _FAILED


def _fail(ctx: click.Context, message: str, code: int) -> None:
    click.echo(message, err=True)
    ctx.exit(code)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Show no warnings but our own, one sentence each, and silence what other libraries have to say."""

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if issubclass(category, DiffclassWarning):
            click.echo(f"Warning: {message}", err=True)

    for library in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("once", DiffclassWarning)
        warnings.showwarning = show
        yield
