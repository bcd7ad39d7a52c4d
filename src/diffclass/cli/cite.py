"""`diffclass cite`."""

import json
from importlib.resources import files

import click

from diffclass.cli.options import output_options

__all__ = ["PARTS", "cite", "read_entries"]

# What each part rests on, besides the library itself.
PARTS = {
    "zero-shot": ("li2023diffusion", "clark2023text"),
    "certified": ("chen2024certifiably", "cohen2019certified"),
    "compositional": ("pearson2025evaluating", "li2023diffusion"),
    "medical": ("favero2025conditional",),
    "networks": ("karras2022elucidating",),
    "races": ("angelopoulos2021learn",),
}


@click.command()
@click.argument("part", required=False, type=click.Choice(list(PARTS)))
@output_options
def cite(part: str | None, as_json: bool, quiet: bool) -> None:
    """Print BibTeX entries: of the library and of the papers behind PART, or behind all of it."""
    entries = read_entries()
    keys = [key for name in ([part] if part else PARTS) for key in PARTS[name]]
    chosen = {key: entries[key] for key in dict.fromkeys(["diffclass", *keys])}
    click.echo(json.dumps(chosen, indent=2) if as_json else "\n\n".join(chosen.values()))


def read_entries() -> dict[str, str]:
    """Return the text of every entry by its key."""
    text = (files("diffclass.cli") / "citations.bib").read_text(encoding="utf-8")
    entries = ["@" + part.strip() for part in text.split("\n@")]
    return {entry.partition("{")[2].partition(",")[0]: entry.replace("@@", "@", 1) for entry in entries}
