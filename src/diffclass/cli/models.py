"""`diffclass models`."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from diffclass.cli.options import output_options

if TYPE_CHECKING:
    from rich.table import Table

    from diffclass.denoisers.card import ModelCard

__all__ = ["card_tables", "models", "plain_card"]

_SHOWN = 100  # classes


@click.command()
@click.argument("name", required=False)
@output_options
def models(name: str | None, as_json: bool, quiet: bool) -> None:
    """List the models in the package, or show the card of one: a name or a directory."""
    from diffclass.cli.render import show, table
    from diffclass.denoisers.catalogue import list_models, read_card

    if name is not None:
        card = read_card(name)
        show(card_tables(card), plain_card(card), as_json=as_json)
        return
    made = table("name", ">classes", ">image", ">size", "accuracy", "licence")
    cards = list_models()
    for card in cards:
        shape = "x".join(map(str, card.shape))
        made.add_row(
            f"[bold]{card.name}[/]",
            str(len(card.classes)),
            shape,
            _size(card),
            _accuracy(card),
            card.licence,
        )
    show([made], [plain_card(card) for card in cards], as_json=as_json)


def plain_card(card: "ModelCard") -> dict[str, Any]:
    """Return a card's content for JSON."""
    return asdict(card) | {"path": str(card.path)}


def _size(card: "ModelCard") -> str:
    return f"{card.size_bytes / 1e6:.1f} MB" if card.size_bytes >= 1e6 else f"{card.size_bytes / 1e3:.0f} kB"


def _estimates(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """List the measured numbers of a card, which may be nested by split."""
    for key, value in figures.items():
        if isinstance(value, Mapping) and {"value", "low", "high", "n"} <= set(value):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from _estimates(value, f"{prefix}{key}: ")


def _accuracy(card: "ModelCard") -> str:
    """Return the accuracy with its 95% interval on the test split, or on the first one there is, which is named."""
    found = [(name, e) for name, e in _estimates(card.figures) if name.split(": ")[-1] == "accuracy"]
    if not found:
        return ""
    name, e = next((pair for pair in found if pair[0].startswith("test")), found[0])
    where = "" if name.startswith("test") else f", {name.split(': ')[0]}"
    return f"{e['value']:.1%} ({100 * e['low']:.1f} – {100 * e['high']:.1f}){where}"


def card_tables(card: "ModelCard") -> list["Table"]:
    """Return the tables that show a card."""
    from rich.markup import escape

    from diffclass.cli.estimates import estimates_table
    from diffclass.cli.render import table

    facts = table("", "", title=card.name)
    facts.show_header = False
    rows = {
        "": card.description,
        "kind": card.kind,
        "classes": ", ".join(card.classes[:_SHOWN])
        + (f", ... ({n} in all)" if (n := len(card.classes)) > _SHOWN else ""),
        "image": " x ".join(map(str, card.shape)),
        "size": _size(card),
        "data": card.data,
        "licence": card.licence,
        "path": str(card.path),
    }
    for name, value in rows.items():
        facts.add_row(name, escape(value))
    measured = dict(_estimates(card.figures))
    return [facts, estimates_table(measured)] if measured else [facts]
