"""An explanation as one file: a page without outside references, a picture, or the numbers."""

import os
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np

from diffclass.errors import InputError, ResultError
from diffclass.explain.explanation import Explanation, Verdict
from diffclass.explain.picture import AGAINST, FOR, LESS, MORE, as_pixels, as_png, as_tint, scale_of

__all__ = ["check_endings", "panels", "save_explanation", "verdict_cells"]

_LEAST_CHANGE = 0.05  # [image units] at which the colours of a difference are opaque at the earliest
_STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --muted: #5b6672; --paper: #ffffff; --rule: #d9dee3; --good: #0b6e69;
  --bad: #b3354a }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaee; --muted: #9aa5b1; --paper: #14181c; --rule: #323a42;
  --good: #3fc1b0; --bad: #f07a8b } }
body { margin: 2rem auto; max-width: 74rem; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.35rem; margin: 0 0 .25rem } p { margin: .4rem 0; max-width: 60rem } .muted { color: var(--muted) }
.row { display: flex; flex-wrap: wrap; gap: 1.1rem; margin: 1.2rem 0 }
figure { margin: 0; width: 13rem } figcaption { font-size: .86rem; margin-top: .35rem }
.stack { position: relative; border: 1px solid var(--rule); line-height: 0 }
.stack img { width: 100%; image-rendering: pixelated } .stack .over { position: absolute; inset: 0; height: 100% }
.faint { opacity: .25 } .meaning { white-space: nowrap; margin-right: .8rem }
.key { display: inline-block; width: .75rem; height: .75rem; border-radius: 2px }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--rule) }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left } th { font-weight: 600 }
.good { color: var(--good); font-weight: 600 } .bad { color: var(--bad); font-weight: 600 }
"""


def check_endings(paths: tuple[Path, ...]) -> None:
    """Refuse a file whose ending says nothing about what to write.

    Raises:
        InputError: it is none of .html, .png and .npz.
    """
    for path in paths:
        if path.suffix.lower() not in _WRITERS:
            raise InputError(f"An explanation must be saved as .html, .png or .npz. Got '{path}'.")


def save_explanation(explanation: Explanation, path: str | os.PathLike[str], *, title: str = "") -> Path:
    """Write an explanation: .html a page that needs nothing else, .png its pictures, .npz its arrays.

    Args:
        explanation: what to write.
        path: its ending says how.
        title: of the page, such as the picture's name and the model's.

    Raises:
        InputError: the ending is another one.
        ResultError: the file cannot be written.
    """
    target = Path(path)
    check_endings((target,))
    content = _WRITERS[target.suffix.lower()](explanation, title)
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(target)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise ResultError(f"The explanation '{target}' cannot be written: {error.strerror or error}.") from error
    return target


def panels(explanation: Explanation) -> tuple[tuple[str, str, np.ndarray, np.ndarray | None], ...]:
    """Return what is drawn side by side: heading, note, pixels, and pixels with opacity to lay over them or None."""
    edited, found = explanation.counterfactual, explanation.map
    source, to = explanation.source, explanation.to
    picture = as_pixels(edited.image)
    change = edited.difference.double().mean(dim=0).numpy()
    most, strongest = scale_of(change, _LEAST_CHANGE), scale_of(found.values)
    tint = as_tint(change, positive=MORE, negative=LESS, scale=most)
    evidence = as_tint(found.values, positive=FOR, negative=AGAINST, scale=strongest, sure=found.significant)
    return (
        ("picture", "as the model saw it", picture, None),
        ("factual", f"taken to noise and back as {source}: the control", as_pixels(edited.factual), None),
        ("counterfactual", f"the same noise, back as {to}", as_pixels(edited.counterfactual), None),
        ("difference", f"counterfactual minus factual, opaque at {most:.2f}", picture, tint),
        ("evidence", f"log-odds of each pixel, opaque at {strongest:.2g}; pale: not significant", picture, evidence),
    )


def verdict_cells(explanation: Explanation, verdict: Verdict) -> tuple[str, ...]:
    """Return a line of the table: picture, answer, log-odds with their standard error, and both probabilities."""
    shown = [
        "—" if p is None else f"{p:.1%}" for p in (verdict.probability, verdict.other_probability)
    ]  # nothing was calibrated
    odds = f"{verdict.log_odds:.1f} ± {verdict.log_odds_se:.1f}"
    return verdict.picture, "none" if verdict.label is None else verdict.label, odds, *shown


def _outcome(explanation: Explanation) -> tuple[str, str]:
    """Say in a sentence what became of the counterfactual, and whether that is good."""
    edited = explanation.counterfactual
    if not edited.held:
        return "bad", (
            f"The factual is not answered {edited.source}: the detour alone changes the answer, so that the "
            "counterfactual says little. Try a smaller strength."
        )
    if edited.flipped:
        return "good", f"The counterfactual is answered {edited.to}, and the factual {edited.source}."
    return "bad", f"The counterfactual is not answered {edited.to}. Try a larger strength or more guidance."


def _settings(explanation: Explanation) -> str:
    """Say how it was made."""
    edited, found = explanation.counterfactual, explanation.map
    edit = edited.edit
    tried = f" (tried {', '.join(f'{one:g}' for one in edited.tried)})" if len(edited.tried) > 1 else ""
    how = f"{edit.method}, strength {edit.strength:g}{tried}, guidance {edit.guidance:g}, {edit.n_steps} steps"
    seed = f", seed {edit.seed}" if edit.method == "partial" else ""
    return (
        f"Counterfactual: {how}{seed}; {edited.evaluations:,} evaluations; {edited.clipped:.1%} of its values were cut "
        f"off at 0 or 1. Evidence: {found.difference.mean:.1f} ± {found.difference.se:.1f} over "
        f"{found.difference.n_draws} draws; {found.significant.mean():.0%} of pixels significant (t-test over "
        f"{found.n_blocks} blocks, Benjamini-Hochberg at {found.fdr:g})."
    )


def _page(explanation: Explanation, title: str) -> bytes:
    """Return the page."""
    source, to = escape(explanation.source), escape(explanation.to)
    edited = explanation.counterfactual
    size = (int(edited.image.shape[1]), int(edited.image.shape[2]))
    figures = []
    for heading, text, pixels, over in panels(explanation):
        faint = ' class="faint"' if over is not None else ""
        images = f'<img{faint} alt="{heading}" src="{_data(as_png(pixels))}">'
        if over is not None:
            images += f'<img class="over" alt="" src="{_data(as_png(over, size))}">'
        caption = f"<figcaption><b>{heading}</b><br><span class=muted>{escape(text)}</span>{_key(heading, source, to)}"
        figures.append(f"<figure><div class=stack>{images}</div>{caption}</figcaption></figure>")
    rows = []
    for verdict in explanation.verdicts:
        cells = verdict_cells(explanation, verdict)
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    headings = ("", "answer", f"log-odds of {source} over {to}", f"p({source})", f"p({to})")
    kind, outcome = _outcome(explanation)
    name = escape(title) or "Explanation"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title><style>{_STYLE}</style></head><body>
<h1>{source}, and what would make it {to}</h1>
<p class=muted>{name}</p>
<div class=row>{"".join(figures)}</div>
<p class={kind}>{escape(outcome)}</p>
<table><tr>{"".join(f"<th>{heading}</th>" for heading in headings)}</tr>{"".join(rows)}</table>
<p class=muted>{escape(_settings(explanation))}</p>
<p class=muted>The pictures show what this model takes for evidence, not what is true of the thing in the picture: a
model that learned a shortcut shows the shortcut. The counterfactual is one image that the model takes for {to}, not the
only one.</p>
</body></html>
""".encode()


def _key(heading: str, source: str, to: str) -> str:
    """Return the meaning of the colours."""
    meanings = {
        "difference": ((MORE, "brighter"), (LESS, "darker")),
        "evidence": ((FOR, f"for {source}"), (AGAINST, f"for {to}")),
    }.get(heading, ())
    shown = (
        f'<span class=meaning><span class=key style="background:{colour}"></span> {text}</span>'
        for colour, text in meanings
    )
    return "<br>" + " ".join(shown) if meanings else ""


def _data(png: bytes) -> str:
    return "data:image/png;base64," + b64encode(png).decode("ascii")


def _figure(explanation: Explanation, title: str) -> bytes:
    """Return the pictures side by side."""
    from matplotlib.figure import Figure

    shown = panels(explanation)
    size = explanation.counterfactual.image.shape[1:]
    extent = (-0.5, size[1] - 0.5, size[0] - 0.5, -0.5)
    figure = Figure(figsize=(2.3 * len(shown), 2.9), dpi=160, facecolor="white")
    figure.suptitle(title or f"{explanation.source}, and what would make it {explanation.to}", fontsize=9, x=0.02,
                    ha="left")  # fmt: skip
    meanings = {"difference": ((MORE, "brighter"), (LESS, "darker")),
                "evidence": ((FOR, f"for {explanation.source}"), (AGAINST, f"for {explanation.to}"))}  # fmt: skip
    for number, (heading, _, pixels, over) in enumerate(shown):
        axes = figure.add_axes(((number + 0.05) / len(shown), 0.16, 0.9 / len(shown), 0.68))
        axes.imshow(pixels, alpha=1.0 if over is None else 0.25, extent=extent, interpolation="nearest")
        if over is not None:
            axes.imshow(over, extent=extent, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_title(heading, fontsize=9)
        for place, (colour, text) in enumerate(meanings.get(heading, ())):
            axes.text(place, -0.06, text, color=colour, fontsize=8, transform=axes.transAxes, va="top",
                      ha="right" if place else "left")  # fmt: skip
    for number, verdict in zip((0, 1, 2), explanation.verdicts, strict=True):
        _, label, odds, *_ = verdict_cells(explanation, verdict)
        figure.text((number + 0.05) / len(shown), 0.1, f"{label}  {odds}", fontsize=8, va="top")
    file = BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _arrays(explanation: Explanation, title: str) -> bytes:
    """Return the numbers."""
    file = BytesIO()
    np.savez_compressed(file, allow_pickle=False, **explanation.arrays())
    return file.getvalue()


_WRITERS: dict[str, Callable[[Explanation, str], bytes]] = {".html": _page, ".png": _figure, ".npz": _arrays}
