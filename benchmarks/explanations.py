"""Measure explanations: flips, nearness, sparsity, deletion, insertion and a sanity check, with intervals.

    python benchmarks/explanations.py --model pneumonia --data path/to/pneumoniamnist.npz --images 40 \
        --judge runs/judge/model --out runs/bench-explanations

Every image is explained against its runner-up. The judge had no part in making the counterfactuals: a supervised
network (`diffclass baseline DATA --out runs/judge`), or another model, such as pneumonia-mixture. Run the same command
again to go on after an interruption.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from diffclass.bench.explaining import EDITS, Explained, Plan, explain_dataset
from diffclass.bench.referee import Referee
from diffclass.data import open_dataset
from diffclass.decide import DiffusionClassifier


def line(name: str, estimate: dict[str, Any] | None) -> str:
    if estimate is None:
        return f"| {name} | — | | |"
    interval = f"{estimate['low']:.3f} to {estimate['high']:.3f}"
    return f"| {name} | {estimate['value']:.3f} | {interval} | {estimate['n']} |"


def tables(explained: Explained) -> str:
    """Write the measures as Markdown."""
    summary, lines = explained.summary(), []
    paired = {f"{name} minus random": values for name, values in summary["against_random"].items()}
    sections = {**summary["edits"], **summary["maps"], **paired, "evidence against": summary["sanity"]}
    for heading, values in sections.items():
        lines += ["", f"| {heading} | value | 95% interval | images |", "|---|--:|---|--:|"]
        lines += [line(name, values[name]) for name in values]
    lines += ["", f"{summary['n_images']} images were explained, and {len(summary['failures'])} could not be opened."]
    if any(edit["strength"] is None for edit in summary["config"]["plan"]["edits"].values()):
        lines += ["The strength was chosen by the classifier's own answer: 'flipped' is what it was chosen for."]
    return "\n".join(lines)


@click.command()
@click.option("--model", required=True, help="Bundled name, directory, or owner/name.")
@click.option("--data", required=True, help="Data set.")
@click.option("--split", default="test", show_default=True)
@click.option("--images", type=click.IntRange(min=1), default=40, show_default=True)
@click.option("--judge", help="Model that had no part in it: supervised, or another of diffclass.")
@click.option("--strength", type=float, help="Of all counterfactuals. [default: the least that changes the answer]")
@click.option("--map-draws", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--judge-draws", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=20, show_default=True, help="Looks of a curve.")
@click.option("--sanity/--no-sanity", default=True, help="Compare with shuffled weights: for networks.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--threads", type=click.IntRange(min=1))
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path))
def main(
    model: str, data: str, split: str, images: int, judge: str | None, strength: float | None, map_draws: int,
    judge_draws: int, steps: int, sanity: bool, batch_size: int, threads: int | None, seed: int, out: Path | None,
) -> None:  # fmt: skip
    """Measure the explanations of a model."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    classifier = DiffusionClassifier.from_pretrained(model, batch_size=batch_size)
    shape = classifier.denoiser.space.image_shape
    referee = None
    if judge is not None:
        referee = Referee.load(judge, classes=classifier.classes_, shape=shape, n_draws=judge_draws)
    edits = {name: replace(edit, strength=strength) for name, edit in EDITS.items()}
    plan = Plan(edits=edits, n_draws=map_draws, judge_draws=judge_draws, steps=steps, sanity=sanity, seed=seed)
    dataset = open_dataset(data, split=split)
    explained = explain_dataset(
        classifier, dataset, plan, judge=referee, limit=images, out=out,
        progress=lambda done, total: click.echo(f"explained {done} of {total}", err=True),
    )  # fmt: skip
    click.echo(tables(explained))


if __name__ == "__main__":
    main()
