"""Replay races on stored error matrices: evaluations, agreement, accuracy, and the distance to a lower bound.

    python benchmarks/replay.py --calibration runs/half-a.npz --test runs/half-b.npz --out runs/replay

No network runs: both files hold ErrorMatrices, measured in full (`diffclass.decide.measure`), of other images of one
model. The calibration file teaches the stopping rule; every race is replayed on the test file. Races of more draws than
are stored are left out. Agreement is with the answer of the full budget, `--draws`, or all that are stored; races that
draw on after it are compared with that answer as well.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

import diffclass
from diffclass.data import versions, write_json_atomic
from diffclass.decide import ClarkJaini, Exhaustive, PairedRace, SiftAndRefine, SuccessiveHalving, learn_stopping
from diffclass.decide.replay import Replay, full_answers, replay
from diffclass.errors import InputError
from diffclass.evidence import ErrorMatrices, Race


def binary_divergence(delta: np.ndarray | float) -> np.ndarray:
    """Return kl(delta, 1 - delta) [nats], what any test that errs with probability delta either way must gather."""
    delta = np.asarray(delta)
    return (1 - 2 * delta) * np.log((1 - delta) / delta)


def draws_needed(matrices: ErrorMatrices) -> np.ndarray:
    """Return, [image, class], var(difference) / mean(difference)^2 of the winner and each rival; 0 for the winner."""
    needed = np.zeros((len(matrices), len(matrices.classes)))
    for image in range(len(matrices)):
        likelihood = -matrices.weights[image][:, None] * matrices.errors[image].astype(np.float64)
        winner = int(likelihood.mean(axis=0).argmax())
        lead = likelihood[:, [winner]] - likelihood
        mean = lead.mean(axis=0)
        needed[image] = np.divide(lead.var(axis=0, ddof=1), mean**2, out=np.full_like(mean, np.inf), where=mean > 0)
        needed[image, winner] = 0.0
    return needed


def lower_bound(needed: np.ndarray, delta: np.ndarray | float, n_draws: int, *, every_image: bool) -> np.ndarray:
    """Return the evaluations of each image that a rule told of every mean and variance would need.

    The winner is told from rival k by their paired differences alone, independent Gaussians of mean m and variance v. A
    rule that errs with probability delta or less in two worlds gathers kl(delta, 1 - delta) nats between them
    (Kaufmann, Cappe and Garivier 2016, lemma 1). A promise for every image covers the world where the mean is just
    below 0, m^2 / (2 v) nats a draw away: at least t = 2 v kl / m^2 draws of both classes in expectation. A promise
    over images need only hold on average where the two classes are swapped, mean -m, 2 m^2 / v nats away:
    t = v kl / (2 m^2).

    About the mean of a list of N, t / (1 + t / N) of its draws without replacement say as much: exact for a fixed
    number of draws, a reference and no bound for a random one. Rivals share the winner's draws, so the total is the sum
    over k of n_k plus the largest n_k.
    """
    t = (2.0 if every_image else 0.5) * needed * np.reshape(binary_divergence(delta), (-1, 1))
    with np.errstate(invalid="ignore"):
        n = np.where(np.isinf(t), n_draws, t / (1 + t / n_draws))
    return n.sum(axis=1) + n.max(axis=1)


def shared_bound(needed: np.ndarray, delta: float, n_draws: int) -> np.ndarray:
    """Return the bound where only the mean error over images is delta: each image errs as often as is cheapest."""
    risks = np.geomspace(1e-6, 0.49, 120)
    costs = np.stack([lower_bound(needed, risk, n_draws, every_image=False) for risk in risks], axis=1)
    low, high = 1e-3, 1e9  # price of an error, in evaluations
    for _ in range(80):
        price = np.sqrt(low * high)
        chosen = (costs + price * risks).argmin(axis=1)
        low, high = (low, price) if risks[chosen].mean() <= delta else (price, high)
    return costs[np.arange(len(costs)), (costs + high * risks).argmin(axis=1)]


def races(matrices: ErrorMatrices, calibration: ErrorMatrices, delta: float, confidence: float) -> dict[str, Any]:
    """Return name -> (race, block it is replayed in); a text in place of a race says why there is none."""
    n, block = matrices.n_draws, matrices.block
    found: dict[str, Any] = {"Exhaustive": (Exhaustive(n_draws=n, block=block), block)}
    blocks = [block] if matrices.antithetic else [b for b in (1, 2, 4, 8) if n % b == 0]
    for bound in ("student", "asymptotic"):
        for b in blocks:
            found[f"PairedRace {bound}, block {b}"] = (PairedRace(n_draws=n, block=b, delta=delta, bound=bound), b)
    for b in blocks:
        try:
            learned = calibration if b == block else calibration.reordered(seed=0, block=b)
            rule = learn_stopping(learned, delta=delta, confidence=confidence)
            found[f"PairedRace calibrated, block {b}"] = (PairedRace.calibrated(rule), b)
        except InputError as error:
            found[f"PairedRace calibrated, block {b}"] = str(error)
    return found


def published(n_draws: int, dimension: int | None) -> dict[str, Race]:
    """Return the published races that the stored draws allow."""
    found: dict[str, Race] = {
        "Exhaustive 126": Exhaustive(n_draws=126, block=1),
        "SuccessiveHalving 50/500 (Li et al.)": SuccessiveHalving.published("cifar10"),
        f"ClarkJaini (at most {min(2000, n_draws)})": ClarkJaini(n_draws=min(2000, n_draws)),
    }
    if dimension is not None:
        found["SiftAndRefine (Chen et al.)"] = SiftAndRefine.published(dimension)
    return {name: race for name, race in found.items() if race.n_draws <= n_draws}


def row(name: str, played: Replay, full: np.ndarray, bounds: dict[str, float]) -> dict[str, Any]:
    """Return the figures of one race."""
    spent = played.mean_evaluations
    return {
        "race": name, "evaluations": asdict(spent), "agreement": asdict(played.agreement(full)),
        "accuracy": asdict(played.accuracy), "disagreements": int((played.answers != full).sum()),
        "over_bound": {key: spent.value / value for key, value in bounds.items()},
        "evaluations_before_looks": played.spent_between_looks(),
        "evaluations_quantiles": np.quantile(played.evaluations, (0.25, 0.5, 0.75, 0.9)).tolist(),
    }  # fmt: skip


def draw(rows: list[dict[str, Any]], bounds: dict[str, float], path: Path) -> None:
    """Plot disagreement against evaluations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for entry in rows:
        spent, same = entry["evaluations"], entry["agreement"]
        across = [[spent["value"] - spent["low"]], [spent["high"] - spent["value"]]]
        up = [[100 * (same["high"] - same["value"])], [100 * (same["value"] - same["low"])]]
        axes.errorbar(spent["value"], 100 * (1 - same["value"]), xerr=across, yerr=up, fmt="o", label=entry["race"])
    for (name, value), style in zip(bounds.items(), ("--", ":"), strict=True):
        axes.axvline(value, color="0.5", linestyle=style, label=f"lower bound, {name}")
    axes.set(xscale="log", xlabel="network evaluations an image", ylabel="answers unlike the full budget's [%]")
    axes.legend(fontsize=7)
    figure.savefig(path)


def show(rows: list[dict[str, Any]], bounds: dict[str, float], say: Callable[[str], None] = click.echo) -> None:
    """Print the table."""
    names = list(bounds)
    say(f"| race | evaluations an image | agreement | accuracy | over bound ({'; '.join(names)}) |\n|{'---|' * 5}")
    for entry in rows:
        spent = entry["evaluations"]
        cells = [entry["race"], f"{spent['value']:.0f} ({spent['low']:.0f} to {spent['high']:.0f})"]
        for key in ("agreement", "accuracy"):
            cells.append("{value:.3f} ({low:.3f} to {high:.3f})".format(**entry[key]))
        cells.append(", ".join(f"{entry['over_bound'][name]:.2f}" for name in names))
        say(f"| {' | '.join(cells)} |")


@click.command()
@click.option("--calibration", type=click.Path(path_type=Path), required=True, help="npz of ErrorMatrices.")
@click.option("--test", type=click.Path(path_type=Path), required=True, help="npz of ErrorMatrices, other images.")
@click.option("--draws", default=256, help="The full budget; fewer where fewer are stored.")
@click.option("--dimension", type=int, help="Values in an image, for SiftAndRefine's threshold; without it left out.")
@click.option("--delta", default=0.01)
@click.option("--confidence", default=0.9)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(
    calibration: Path, test: Path, draws: int, dimension: int | None, delta: float, confidence: float, out: Path
) -> None:
    """Compare the races."""
    learning, stored = ErrorMatrices.load(calibration), ErrorMatrices.load(test)
    if set(learning.keys) & set(stored.keys):
        raise click.UsageError(
            "The two files share images: a rule must be tested on images that it was not learned on."
        )
    draws = min(draws, stored.n_draws, learning.n_draws)
    matrices = stored.first(draws)
    full, needed = full_answers(matrices), draws_needed(matrices)
    bounds = {
        f"delta {delta:g} for each image": float(lower_bound(needed, delta, draws, every_image=True).mean()),
        f"delta {delta:g} over images": float(shared_bound(needed, delta, draws).mean()),
    }
    rows, left_out = [], {}
    for name, made in races(matrices, learning.first(draws), delta, confidence).items():
        if isinstance(made, str):
            left_out[name] = made
            continue
        race, block = made
        ordered = matrices if block == matrices.block else matrices.reordered(seed=0, block=block)
        entry = row(name, replay(race, ordered), full, bounds)
        stopping = getattr(race, "stopping", None)
        rows.append(entry | {"stopping": None if stopping is None else stopping.as_dict()})
    single = replace(stored, block=1)  # published races judge after any draw
    for name, race in published(stored.n_draws, dimension).items():
        rows.append(row(name, replay(race, single), full, bounds))
    settings = {"calibration": str(calibration), "test": str(test), "images": [len(learning), len(stored)],
                "draws": draws, "delta": delta, "confidence": confidence, "classes": len(stored.classes),
                "versions": versions(), "diffclass": diffclass.__version__}  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    result = {"settings": settings, "lower_bounds": bounds, "races": rows, "left_out": left_out}
    write_json_atomic(out / "replay.json", result)
    draw(rows, bounds, out / "replay.svg")
    show(rows, bounds)
    for name, reason in left_out.items():
        click.echo(f"left out: {name}: {reason}")


if __name__ == "__main__":
    main()
