"""The command line: one file a verb, imported when the verb is called, so that --help costs nothing."""

import traceback
import warnings
from contextlib import contextmanager
from importlib import import_module
from collections.abc import Iterator
from typing import Any, final

import click

import diffclass
from diffclass.errors import ConfigError, DiffclassError, InputError, MissingExtra, ModelError, WeightsMissing

__all__ = ["main"]

_VERBS = {
    "classify": "Say what is in pictures.",
    "evaluate": "Measure accuracy, calibration and cost on a data set.",
    "demo": "Classify pictures that are on this computer already, and draw why.",
    "fit": "Fit a mixture to a data set, in seconds to minutes.",
    "train": "Train a network by a recipe.",
    "models": "List the models in the package, or show one's card.",
    "check": "Check that a model keeps the promises of a denoiser.",
}
_FAILED, _BAD_INPUT, _MISSING, _INTERRUPTED = 1, 2, 3, 130
_IN_SHELL = {  # how the remedies of the library are said here
    "convert=True": "--convert",
    "resize='crop'": "--resize crop",
    "resize='stretch'": "--resize stretch",
    "dtype float32": "--dtype float32",
}


@final
class _Verbs(click.Group):
    """A group that knows its verbs by name, and turns errors into a sentence and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        return getattr(import_module(f"diffclass.cli.{cmd_name}"), cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_VERBS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _quiet_libraries():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            _fail(ctx, ctx.meta.get("on_interrupt", "Interrupted."), _INTERRUPTED)
        except DiffclassError as error:
            if ctx.meta.get("debug"):
                traceback.print_exc()
            _fail(ctx, f"Error: {_sentence(error)}", _exit_code(error))


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(diffclass.__version__, "-V", "--version", message="diffclass %(version)s")
def main() -> None:
    """Classify images with conditional diffusion models.

    The class under which a model denoises an image best is the answer. It comes with its log-odds over the runner-up,
    their standard error, and how many network evaluations they took.

    \b
      diffclass demo
      diffclass classify cat.jpg --model cifar10
      diffclass evaluate digits --model digits --split test --out out/digits

    Exit codes: 0 done, 1 failed or some pictures failed, 2 bad input, 3 missing weights or package, 130 interrupted.
    """


def _exit_code(error: DiffclassError) -> int:
    if isinstance(error, WeightsMissing | MissingExtra):
        return _MISSING
    return _BAD_INPUT if isinstance(error, InputError | ConfigError | ModelError) else _FAILED


def _sentence(error: BaseException) -> str:
    """Return an error's message on one line, with remedies as options of the command line."""
    text = " ".join(str(error).split())
    for keyword, option in _IN_SHELL.items():
        text = text.replace(keyword, option)
    return text


def _fail(ctx: click.Context, message: str, code: int) -> None:
    click.echo(message, err=True)
    ctx.exit(code)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Show no warnings but our own, one sentence each, and silence what other libraries have to say."""
    from diffclass.errors import DiffclassWarning

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if issubclass(category, DiffclassWarning):
            click.echo(f"Warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("once", DiffclassWarning)
        warnings.showwarning = show
        yield
