"""Vote against mean: accuracy over the number of draws, from stored errors.

    python benchmarks/aggregations.py --test runs/test.npz --learning runs/validation.npz --out runs/aggregations

No network runs: the files hold ErrorMatrices (`diffclass.decide.measure`). Every rule sees the same random choices of
the stored draws. The rules: the majority vote; the mean of the squared error of the noise, unweighted over the draws as
they fall (sigma^-2 times the stored error of the image; under a log-uniform proposal that is the likelihood's weight);
the mean of the squared error of the image; the mean under the weights that the matrices hold; and, with --learning,
under a weight learned on other images.
"""

from dataclasses import asdict
from pathlib import Path

import click
import numpy as np

from diffclass.data import versions, write_json_atomic
from diffclass.decide.comparison import AccuracyCurve, accuracy_curves
from diffclass.decide.weighting import learn_weight, weight_ratio
from diffclass.evidence import ErrorMatrices, TabulatedWeight, Weight

DRAWS = (1, 3, 5, 11, 25, 51, 101, 251, 501)


def tabulated(matrices: ErrorMatrices) -> Weight:
    """Return the weight of a log-uniform proposal that the matrices hold, as a table of log(sigma)."""
    order = np.argsort(matrices.sigmas.reshape(-1))
    sigmas = np.log(matrices.sigmas.reshape(-1)[order])
    weights = np.log(matrices.weights.reshape(-1)[order])
    knots = np.linspace(sigmas[0], sigmas[-1], 64)
    return TabulatedWeight(tuple(knots.tolist()), tuple(np.interp(knots, sigmas, weights).tolist()))


def rules(matrices: ErrorMatrices, learning: ErrorMatrices | None) -> tuple[dict[str, np.ndarray], str]:
    """Return the weights of every rule, and what was learned."""
    found = {
        "mean, own weight": matrices.weights,
        "mean, error of the noise": matrices.sigmas**-2.0,
        "mean, error of the image": np.ones_like(matrices.weights),
    }
    if learning is None:
        return found, "no weight was learned"
    own = tabulated(learning)
    span = (float(learning.sigmas.min()), float(learning.sigmas.max()))
    learned = learn_weight(learning, weight=own, sigma_range=span)
    if learned.learned:
        found["mean, learned weight"] = matrices.weights * weight_ratio(matrices.sigmas, own, learned.weight)
    return found, learned.told


def draw(curves: list[AccuracyCurve], path: Path) -> None:
    """Plot accuracy against draws."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for curve in curves:
        values = [100 * e.value for e in curve.accuracy]
        width = 2 if curve is curves[0] else 1
        axes.plot(curve.n_draws, values, marker="o", markersize=3, label=curve.rule, linewidth=width)
    first = curves[0].accuracy
    axes.fill_between(curves[0].n_draws, [100 * e.low for e in first], [100 * e.high for e in first], alpha=0.12)
    axes.set(xscale="log", xlabel="draws of each class", ylabel="accuracy [%]")
    axes.legend(fontsize=8)
    figure.savefig(path)


@click.command()
@click.option("--test", type=click.Path(path_type=Path), required=True, help="npz of ErrorMatrices.")
@click.option("--learning", type=click.Path(path_type=Path), help="npz of other images, to learn a weight on.")
@click.option("--orders", default=20, help="Random choices of the draws.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(test: Path, learning: Path | None, orders: int, out: Path) -> None:
    """Compare the rules."""
    matrices = ErrorMatrices.load(test)
    other = None if learning is None else ErrorMatrices.load(learning)
    if other is not None and set(other.keys) & set(matrices.keys):
        raise click.UsageError("The two files share images: a weight must be judged on images it was not learned on.")
    weights, told = rules(matrices, other)
    numbers = [n for n in DRAWS if n <= matrices.n_draws]
    curves = accuracy_curves(matrices, numbers, weights=weights, n_orders=orders)
    out.mkdir(parents=True, exist_ok=True)
    figures = [
        {"rule": c.rule, "accuracy": [asdict(e) for e in c.accuracy], "against_vote": [asdict(e) for e in c.against]}
        for c in curves
    ]
    settings = {"test": str(test), "images": len(matrices), "draws": numbers, "orders": orders, "versions": versions()}
    write_json_atomic(out / "aggregations.json", {"settings": settings, "learned": told, "curves": figures})
    draw(curves, out / "aggregations.svg")
    click.echo(f"| rule | {' | '.join(map(str, numbers))} | minus the vote at {numbers[-1]} |")
    click.echo("|---" * (len(numbers) + 2) + "|")
    for c in curves:
        last = c.against[-1]
        gap = "" if c.rule == "vote" else f"{100 * last.value:+.1f} ({100 * last.low:+.1f} to {100 * last.high:+.1f})"
        click.echo(f"| {c.rule} | {' | '.join(f'{100 * e.value:.1f}' for e in c.accuracy)} | {gap} |")
    click.echo(told)


if __name__ == "__main__":
    main()
