"""`diffclass demo`."""

from pathlib import Path
from typing import Any

import click

from diffclass.cli.options import out_option, output_options

__all__ = ["demo"]


@click.command()
@click.option("--device", default="auto", show_default=True, help="auto takes a GPU where there is one.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the noise.")
@out_option("Folder of demo.png.", default=Path("out/demo"))
@output_options
def demo(device: str, seed: int, out: Path, as_json: bool, quiet: bool) -> None:
    """Classify pictures that are on this computer already, and draw why.

    A cat from scikit-image and digits from scikit-learn, with the models in the package; nothing is downloaded.
    """
    from diffclass.bench.demo import demo_sittings
    from diffclass.bench.figure import draw_answers
    from diffclass.cli.render import answers_table, note, note_changes, print_tables, show
    from diffclass.denoisers.catalogue import list_models
    from diffclass.errors import WeightsMissing

    there = {card.name for card in list_models()}
    sittings = [sitting for sitting in demo_sittings() if sitting.model in there]
    if not sittings:
        raise WeightsMissing("This installation has no models in it. Install diffclass from a wheel, or train one.")
    found, drawn, captions = [], [], []
    for sitting in sittings:
        rows, answers = _answer(sitting, device, seed)
        found += [row | {"model": sitting.model} for row in rows]
        drawn += answers
        captions += [f"{answer.id} by {sitting.model}" for answer in answers]
        if not as_json:
            print_tables([answers_table(rows, title=sitting.model)])
        note_changes(rows)
    if as_json:
        show([], found, as_json=True)
    title = "Which class lets the model denoise best?"
    note(f"drawn: {draw_answers(drawn, out / 'demo.png', title=title, captions=captions)}")


def _answer(sitting: Any, device: str, seed: int) -> tuple[list[dict[str, Any]], list[Any]]:
    """Classify the pictures of one model."""
    from diffclass.bench.pictures import classify_pictures
    from diffclass.cli.build import build_classifier
    from diffclass.cli.render import progress, working

    with working(f"loading {sitting.model}"):
        classifier = build_classifier(model=sitting.model, device=device, seed=seed)
    with progress(sitting.model) as update:
        return classify_pictures(
            classifier, sitting.items, names=sitting.names, progress=update, most_kept=sitting.drawn
        )  # fmt: skip
