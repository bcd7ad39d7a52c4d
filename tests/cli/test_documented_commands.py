"""Commands of the README and the documentation: the verb and its options are there."""

import re
import shlex
from pathlib import Path

import click
import pytest

from diffclass.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks/README.md"]
COMMAND = re.compile(r"^(?:\$ )?(?:\S*/)?diffclass (?=\S)(.*)$")
CHOICE = re.compile(r"\[[^]]*\]|\.\.\.")  # of options in a synopsis


def commands(page: Path) -> list[str]:
    """Return the arguments of every command in a block of a page."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [found[1] for line in lines if (found := COMMAND.match(line))]


DOCUMENTED = [(page.relative_to(ROOT).as_posix(), text) for page in sorted(PAGES) for text in commands(page)]


def parse(text: str) -> None:
    """Let click read a command, but not its values."""
    words = shlex.split(CHOICE.sub("", text), comments=True)
    words = words[: next((i for i, word in enumerate(words) if word in ("|", ">", "&&", "&", "||", ";")), len(words))]
    command: click.Command = main
    context = click.Context(main, info_name="diffclass")
    while isinstance(command, click.Group):
        _, command, words = command.resolve_command(context, words)
        assert command is not None
        context = click.Context(command, parent=context, info_name=command.name)
    command.make_parser(context).parse_args(words)


def test_there_are_commands() -> None:
    assert len(DOCUMENTED) > 50


@pytest.mark.parametrize("page", sorted({page for page, _ in DOCUMENTED}))
def test_documented_commands_are_there(page: str) -> None:
    for text in [text for name, text in DOCUMENTED if name == page]:
        try:
            parse(text)
        except click.UsageError as error:
            pytest.fail(f"{page}: diffclass {text}: {error.format_message()}")


def test_what_is_not_there_is_found() -> None:
    for text in ("guess photo.jpg", "classify photo.jpg --names cat,dog"):
        with pytest.raises(click.UsageError):
            parse(text)
