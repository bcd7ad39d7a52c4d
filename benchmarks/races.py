"""Evaluations, agreement with the full budget, accuracy and wall clock of the races, on one network and the images.

    python benchmarks/races.py --model mnist --data path/to/mnist --images 1000 --out runs/bench-mnist

Every race runs for real, one after the other, in one process. A race that is done is not run again, and Exhaustive goes
on where it was, so that an interrupted benchmark loses little. Agreement is with the answers of Exhaustive on the same
seed: PairedRace shares its list of draws, SuccessiveHalving (Li et al. 2023, 50 and 500 draws) has a longer one of its
own. "default" is the race that the model brings along (`diffclass calibrate` stores one that needs far fewer
evaluations); where it is of the same budget, it shares that list too. `--races` chooses some by name.

Every error that Exhaustive measures is kept in OUT/errors.npz, for `replay.py`. `--held-out` measures the images that
the model's recipe kept out of training instead of test images; with `--races Exhaustive` nothing but what `replay.py`
learns from.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import diffclass
from diffclass.data import open_dataset, versions, write_json_atomic
from diffclass.decide import DiffusionClassifier, Exhaustive, PairedRace, SuccessiveHalving
from diffclass.decide.measure import measure
from diffclass.decide.replay import full_answers
from diffclass.denoisers.card import read_metadata
from diffclass.denoisers.catalogue import read_card
from diffclass.denoisers.compiled import compile_denoiser
from diffclass.evidence import ErrorMatrices, Race
from diffclass.stats.interval import mean_interval, wilson
from diffclass.stats.metric import ABSTAINED
from diffclass.train.recipe import Recipe
from diffclass.train.run import held_out

CHUNK = 50  # images whose errors reach the disk together
NAMES = ("Exhaustive", "SuccessiveHalving 50/500", "PairedRace", "default")


def run(classifier: DiffusionClassifier, images: torch.Tensor, name: str) -> dict[str, Any]:
    """Classify all images and return labels, evaluations and seconds."""
    started, shown, rows = time.perf_counter(), 0.0, {}
    for index, decision in classifier.stream(enumerate(images)):
        rows[index] = (decision.label, decision.leader, decision.evaluations, decision.n_draws)
        if time.perf_counter() - shown > 20:
            shown = time.perf_counter()
            click.echo(f"{name}: {len(rows)} of {len(images)}, {shown - started:.0f} s", err=True)
    seconds = time.perf_counter() - started
    order = [rows[i] for i in range(len(images))]
    return {
        "labels": [label for label, *_ in order], "leaders": [leader for _, leader, *_ in order],
        "evaluations": [e for *_, e, _ in order], "n_draws": [n for *_, n in order], "seconds": seconds,
    }  # fmt: skip


def run_in_full(
    classifier: DiffusionClassifier, images: torch.Tensor, labels: np.ndarray, draws: int, out: Path
) -> dict[str, Any]:
    """Measure every class on every draw, and keep the errors."""
    parts, seconds = [], 0.0
    for start in range(0, len(images), CHUNK):
        path = out / "errors" / f"{start:06d}.npz"
        clock = path.with_suffix(".json")
        if not clock.is_file():
            started = time.perf_counter()
            part = slice(start, start + CHUNK)
            measure(classifier, images[part], labels[part], n_draws=draws).save(path)
            write_json_atomic(clock, {"seconds": time.perf_counter() - started})
            click.echo(f"Exhaustive: {min(start + CHUNK, len(images))} of {len(images)}", err=True)
        parts.append(ErrorMatrices.load(path))
        seconds += json.loads(clock.read_text())["seconds"]
    matrices = ErrorMatrices.concatenate(parts)
    matrices.save(out / "errors.npz")
    names = [classifier.classes_[i] if i != ABSTAINED else None for i in full_answers(matrices).tolist()]
    n = len(images)
    return {
        "labels": names, "leaders": names, "evaluations": [draws * len(classifier.classes_)] * n,
        "n_draws": [draws] * n, "seconds": seconds,
    }  # fmt: skip


def selected(base: DiffusionClassifier, chosen: str, *, draws: int, delta: float) -> dict[str, Race]:
    """Return the races that were asked for, the full budget first."""
    assert base.race is not None
    block = base.race.block
    every: dict[str, Race] = {
        "Exhaustive": Exhaustive(n_draws=draws, block=block),
        "SuccessiveHalving 50/500": SuccessiveHalving.published("cifar10"),
        "PairedRace": PairedRace(n_draws=draws, block=block, delta=delta),
        "default": base.race,
    }
    names = [name.strip() for name in chosen.split(",")]
    unknown = [name for name in names if name not in every]
    if unknown:
        raise click.UsageError(f"--races must be among {', '.join(every)}. Got {', '.join(unknown)}.")
    return {name: race for name, race in every.items() if name == "Exhaustive" or name in names}


@click.command()
@click.option("--model", required=True)
@click.option("--data", required=True)
@click.option("--images", default=1000)
@click.option("--draws", default=256, help="The full budget of draws a class.")
@click.option("--delta", default=0.01)
@click.option("--batch-size", default=128)
@click.option("--compile/--no-compile", "compiling", default=True)
@click.option("--held-out", "kept_out", is_flag=True, help="The images that the model's recipe kept out of training.")
@click.option("--threads", default=0)
@click.option("--seed", default=0)
@click.option("--races", "chosen", default=",".join(NAMES), help="Some of the races, with commas; Exhaustive always.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(
    model: str, data: str, images: int, draws: int, delta: float, batch_size: int, compiling: bool, kept_out: bool,
    threads: int, seed: int, chosen: str, out: Path
) -> None:  # fmt: skip
    """Compare the races."""
    if threads:
        torch.set_num_threads(threads)
    base = DiffusionClassifier.from_pretrained(model, batch_size=batch_size, seed=seed)
    if compiling:
        base = replace(base, denoiser=compile_denoiser(base.denoiser, batch_size=batch_size))
    if kept_out:
        dataset = held_out(Recipe.from_dict(read_metadata(read_card(model).path)["training"]["recipe"]), data)
    else:
        dataset = open_dataset(data, split="test", classes=base.classes_)
    images = min(images, len(dataset))
    dataset = dataset.sample(images, seed=seed)
    batch, labels = dataset.array(base.denoiser.space.image_shape)
    truth = [base.classes_[i] for i in labels.tolist()]
    races = selected(base, chosen, draws=draws, delta=delta)
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    for name, race in races.items():
        path = out / f"{name.split()[0].lower()}.json"
        if not path.is_file():
            classifier = replace(base, race=race)
            classifier.classify(batch[:2])  # warm up
            if name == "Exhaustive":
                row = run_in_full(classifier, batch, labels.numpy(), draws, out)
            else:
                row = run(classifier, batch, name)
            write_json_atomic(path, row | {"race": repr(race)})
        results[name] = json.loads(path.read_text())
        if results[name]["race"] != repr(race):
            raise click.UsageError(f"'{path}' holds another race: {results[name]['race']}. Choose another --out.")
    reference = results["Exhaustive"]
    table = []
    for name, r in results.items():
        right = sum(a == b for a, b in zip(r["labels"], truth, strict=True))
        same = sum(a == b for a, b in zip(r["labels"], reference["labels"], strict=True))
        spent = mean_interval(np.array(r["evaluations"], dtype=np.float64))
        table.append(
            {
                "race": name, "images": images,
                "evaluations": spent.value, "evaluations_low": spent.low, "evaluations_high": spent.high,
                "evaluations_ratio": spent.value / float(np.mean(reference["evaluations"])),
                "agreement": vars_of(wilson(same, images)), "accuracy": vars_of(wilson(right, images)),
                "seconds": r["seconds"], "wall_clock_ratio": reference["seconds"] / r["seconds"],
            }
        )  # fmt: skip
    settings = {"model": model, "draws": draws, "delta": delta, "batch_size": batch_size, "seed": seed,
                "threads": torch.get_num_threads(), "races": {name: repr(race) for name, race in races.items()},
                "versions": versions(), "diffclass": diffclass.__version__}  # fmt: skip
    write_json_atomic(out / "table.json", {"settings": settings, "table": table})
    click.echo(f"| race | evaluations an image | share of full | agreement | accuracy | wall clock |\n|{'---|' * 6}")
    for row in table:
        spent = f"{row['evaluations']:.0f} ({row['evaluations_low']:.0f} to {row['evaluations_high']:.0f})"
        shares = [
            f"{row[k]['value']:.3f} ({row[k]['low']:.3f} to {row[k]['high']:.3f})" for k in ("agreement", "accuracy")
        ]
        cells = [row["race"], spent, f"{row['evaluations_ratio']:.3f}", *shares, f"{row['wall_clock_ratio']:.2f}x"]
        click.echo(f"| {' | '.join(cells)} |")


def vars_of(estimate: Any) -> dict[str, float]:
    """Return an estimate's numbers."""
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}


if __name__ == "__main__":
    main()
