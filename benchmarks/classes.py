"""Evaluations against the number of classes, on exact mixture denoisers whose full budget errs equally at every number.

    python benchmarks/classes.py --out runs/bench-classes

The classes are a tree, so that a class has confusable neighbours however many there are: a mean is the sum of what
25 classes share (half of the variance), what 5 classes share (0.3) and its own part (0.2). Each class is an even
mixture of two Gaussians of unit variance about it in 64 dimensions. One factor scales all means; it is found for each
number of classes by bisection, so that the exact Bayes classifier errs on 3% of 4,000 images of its own. Ten classes
are the first ten of a thousand.

Errors are the closed form's (checked against GaussianMixtureDenoiser on some cells), measured in full once and replayed
through each race. The calibrated race learns its stopping rule on images of its own. Agreement is with the answer of
the full budget. A number of classes that is done is not measured again. With anchors, a few classes are measured first
and foretell which others can win; the world's 64 dimensions favour that, and how far the classes of a network do is for
a measurement on that network to say.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy import ndarray

import diffclass
from diffclass.data import versions, write_json_atomic
from diffclass.decide import Calibrated, PairedRace
from diffclass.decide.learning import learn_stopping
from diffclass.decide.replay import full_answers, replay
from diffclass.denoisers import Space
from diffclass.denoisers.analytic import GaussianMixtureDenoiser
from diffclass.evidence import Draws, ErrorMatrices, Objective, Race
from diffclass.stats.interval import Estimate, wilson

SHARES = ((25, 0.5), (5, 0.3), (1, 0.2))  # classes that share a part of the mean, and its part of the variance
SPREAD = 0.1  # variance of the two components' means about their class
TREE = 1000  # classes that the tree is drawn for
FITTED_FROM = 10  # classes from which the exponent is fitted


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Classes as mixtures of Gaussians of unit variance.

    Args:
        means: [class, component, dimension].
    """

    means: ndarray

    @classmethod
    def grow(cls, n_classes: int, *, dimension: int, seed: int) -> "World":
        """Draw the tree, and keep its first classes."""
        random = np.random.default_rng([seed, 0])
        means = np.zeros((TREE, dimension))
        for size, share in SHARES:
            nodes = random.standard_normal((TREE // size, dimension))
            means += np.sqrt(share) * np.repeat(nodes, size, axis=0)
        components = np.sqrt(SPREAD) * random.standard_normal((TREE, 2, dimension))
        return cls(means=(means[:, None] + components)[:n_classes])

    def scaled(self, factor: float) -> "World":
        """Move all means apart."""
        return World(means=factor * self.means)

    def sample(self, n: int, *, seed: int) -> tuple[ndarray, ndarray]:
        """Draw images and their labels."""
        random = np.random.default_rng([seed, 1])
        n_classes, n_components, dimension = self.means.shape
        labels = random.integers(n_classes, size=n)
        centres = self.means[labels, random.integers(n_components, size=n)]
        return centres + random.standard_normal((n, dimension)), labels

    def answers(self, images: ndarray) -> ndarray:
        """Return the exact Bayes classifier's answers."""
        means = self.means.reshape(-1, self.means.shape[2])
        joint = (images @ means.T - (means**2).sum(axis=1) / 2).reshape(len(images), *self.means.shape[:2])
        return np.logaddexp.reduce(joint, axis=2).argmax(axis=1)

    def errors(self, image: ndarray, sigmas: ndarray, epsilon: ndarray) -> ndarray:
        """Return |E[x | y, class] - x|^2 for y = image + sigma epsilon, [draw, class].

        E[x | y, class] - x = (sigma epsilon + sigma^2 (m - x)) / (1 + sigma^2) with m the component means averaged
        under their posterior, so all that is needed is inner products with the means: one matrix product.
        """
        n_classes, n_components, dimension = self.means.shape
        means = self.means.reshape(-1, dimension).astype(np.float32)
        s = sigmas[:, None].astype(np.float32)
        on_epsilon = (epsilon @ means.T).reshape(len(s), n_classes, n_components)
        on_image = (image.astype(np.float32) @ means.T).reshape(n_classes, n_components)
        log_weights = on_image + s[..., None] * on_epsilon - (means**2).sum(axis=1).reshape(on_image.shape) / 2
        log_weights /= 1 + s[..., None] ** 2
        weights = np.exp(log_weights - log_weights.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        products = np.einsum("kmd,knd->mnk", self.means, self.means).astype(np.float32)
        squares = np.float32(image @ image) - 2 * (weights * on_image).sum(axis=2)  # becomes |m - x|^2
        for m in range(n_components):
            for n in range(n_components):
                squares += weights[:, :, m] * weights[:, :, n] * products[m, n]
        cross = (weights * on_epsilon).sum(axis=2) - (epsilon @ image.astype(np.float32))[:, None]
        noise = (epsilon**2).sum(axis=1)[:, None]
        return (s**2 * noise + 2 * s**3 * cross + s**4 * squares) / (1 + s**2) ** 2


def calibrated_world(n_classes: int, *, dimension: int, error: float, seed: int) -> tuple[World, float]:
    """Return the world in which the exact classifier errs as often as wanted, and its scale."""
    base, low, high = World.grow(n_classes, dimension=dimension, seed=seed), 0.05, 8.0
    for _ in range(14):
        factor = float(np.sqrt(low * high))
        images, labels = base.scaled(factor).sample(4000, seed=seed + 1)
        wrong = (base.scaled(factor).answers(images) != labels).mean()
        low, high = (factor, high) if wrong > error else (low, factor)
    return base.scaled(high), high


def measure(world: World, n: int, *, n_draws: int, block: int, span: tuple[float, float], seed: int) -> ErrorMatrices:
    """Measure images in full, on the draws that the engine would place."""
    images, labels = world.sample(n, seed=seed + 2)
    n_classes, dimension = len(world.means), images.shape[1]
    errors = np.empty((n, n_draws, n_classes), dtype=np.float32)
    sigmas, weights = np.empty((n, n_draws)), np.empty((n, n_draws))
    for i, image in enumerate(images):
        draws = Draws.place(Objective(), span, n=n_draws, block=block, seed=seed, key=i)
        sigmas[i], weights[i] = draws.sigmas, draws.weights
        errors[i] = world.errors(image, draws.sigmas, draws.epsilon(range(n_draws), (dimension,)).numpy())
    names = tuple(map(str, range(n_classes)))
    return ErrorMatrices(
        errors=errors, sigmas=sigmas, weights=weights, labels=labels.astype(np.int64), classes=names, block=block,
        seed=seed, keys=tuple(range(n)),
    )  # fmt: skip


def check(world: World, *, seed: int) -> None:
    """Hold the closed form against the library's own on a few cells."""
    dimension = world.means.shape[2]
    space = Space(channels=1, height=1, width=dimension, scale=1.0, offset=0.0)
    means = torch.from_numpy(world.means)[:, :, None, None, :]
    denoiser = GaussianMixtureDenoiser(means, 1.0, space=space)
    random = np.random.default_rng(seed)
    image, sigmas = world.sample(1, seed=seed)[0][0], np.array([0.1, 0.7, 3.0])
    epsilon = random.standard_normal((3, dimension)).astype(np.float32)
    ours = world.errors(image, sigmas, epsilon)
    noisy = torch.from_numpy(image + sigmas[:, None] * epsilon)[:, None, None, :]
    for c in range(len(world.means)):
        classes = denoiser.condition_on([denoiser.classes[c]] * 3)
        denoised = denoiser(noisy, torch.from_numpy(sigmas), classes)[:, 0, 0].numpy()
        np.testing.assert_allclose(ours[:, c], ((denoised - image) ** 2).sum(axis=1), rtol=1e-3)


def numbers(estimate: Estimate) -> dict[str, float]:
    """Return an estimate's numbers."""
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}


def compare(n_classes: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Race one number of classes; the images come first, so that every race meets the same."""
    seed, n_draws, block = settings["seed"], settings["draws"], settings["block"]
    world, factor = calibrated_world(n_classes, dimension=settings["dimension"], error=settings["error"], seed=seed)
    if n_classes <= 10:
        check(world, seed=seed)
    n_learned = settings["calibration"]
    matrices = measure(
        world, n_learned + settings["images"], n_draws=n_draws, block=block,
        span=(settings["sigma_min"], settings["sigma_max"]), seed=seed,
    )  # fmt: skip
    order = np.arange(len(matrices))
    learned = matrices.part(order[:n_learned])
    stopping = learn_stopping(learned, delta=settings["delta"], seed=seed)
    plain = learn_stopping(learned, delta=settings["delta"], seed=seed, many=TREE + 1)
    test = matrices.part(order[n_learned:])
    del matrices, learned
    full = full_answers(test)
    races: dict[str, Race] = {
        "PairedRace student": PairedRace(n_draws=n_draws, block=block, delta=settings["delta"]),
        "PairedRace calibrated, no anchors": PairedRace.calibrated(plain),
        "PairedRace calibrated": PairedRace.calibrated(stopping),
    }
    rows = {}
    for name, race in races.items():
        found = replay(race, test)
        rows[name] = {
            "evaluations": found.evaluations.tolist(), "mean": numbers(found.mean_evaluations),
            "agreement": numbers(found.agreement(full)), "accuracy": numbers(found.accuracy),
        }  # fmt: skip
    return {
        "classes": n_classes, "scale": factor, "full_evaluations": n_draws * n_classes,
        "full_accuracy": numbers(wilson(int((full == test.labels).sum()), len(test))),
        "stopping": _brief(stopping), "races": rows,
    }  # fmt: skip


def _brief(rule: Calibrated) -> dict[str, Any]:
    """Return a rule for the table, without the many weights of anchors."""
    anchors = None if rule.anchors is None else {"n": len(rule.anchors.classes), "threshold": rule.anchors.threshold}
    return replace(rule, anchors=None).as_dict() | {"anchors": anchors}


def exponent(results: list[dict[str, Any]], race: str, *, seed: int, n_resamples: int = 2000) -> Estimate | None:
    """Fit log evaluations against log classes, with an interval from resampling the images at every number."""
    used = [r for r in results if r["classes"] >= FITTED_FROM]
    if len(used) < 2:
        return None
    x = np.log([r["classes"] for r in used])
    spent = [np.array(r["races"][race]["evaluations"], dtype=np.float64) for r in used]
    random = np.random.default_rng(seed)

    def slope(means: list[float]) -> float:
        return float(np.polyfit(x, np.log(means), 1)[0])

    slopes = [slope([float(random.choice(s, len(s)).mean()) for s in spent]) for _ in range(n_resamples)]
    low, high = (float(q) for q in np.quantile(slopes, [0.025, 0.975]))
    value = slope([float(s.mean()) for s in spent])
    return Estimate(value=value, low=low, high=high, n=len(spent[0]), confidence=0.95, method="percentile bootstrap")


def draw(results: list[dict[str, Any]], exponents: dict[str, Estimate | None], path: Path) -> None:
    """Draw evaluations against classes, both on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), dpi=160)
    axes = figure.add_subplot()
    x = [r["classes"] for r in results]
    axes.plot(x, [r["full_evaluations"] for r in results], color="#a3adb8", label="every class on every draw")
    for (name, fitted), colour in zip(exponents.items(), ("#d1495b", "#e9a23b", "#0b6e69"), strict=True):
        means = [r["races"][name]["mean"] for r in results]
        y = np.array([m["value"] for m in means])
        ends = np.abs(np.array([[m["low"], m["high"]] for m in means]).T - y)
        label = name if fitted is None else f"{name}: K^{fitted.value:.2f} ({fitted.low:.2f} to {fitted.high:.2f})"
        axes.errorbar(x, y, yerr=ends, fmt="o-", color=colour, markersize=4, label=label)
    axes.set(xscale="log", yscale="log", xlabel="classes K", ylabel="evaluations an image")
    axes.set_xticks(x, [str(k) for k in x])
    axes.minorticks_off()
    axes.grid(color="#e4e8ec")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, bbox_inches="tight")


@click.command()
@click.option("--classes", default="2,5,10,30,100,300,1000", show_default=True)
@click.option("--images", default=200, show_default=True, help="Raced at each number of classes.")
@click.option("--calibration", default=600, show_default=True, help="On which the stopping rule is learned.")
@click.option("--draws", default=128, show_default=True, help="The full budget of draws a class.")
@click.option("--block", default=4, show_default=True)
@click.option("--dimension", default=64, show_default=True)
@click.option("--error", default=0.03, show_default=True, help="Of the exact classifier.")
@click.option("--delta", default=0.01, show_default=True)
@click.option("--sigma-min", default=0.3, show_default=True)
@click.option("--sigma-max", default=10.0, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(classes: str, out: Path, **settings: Any) -> None:
    """Measure how the cost grows with the number of classes."""
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for n_classes in sorted(int(k) for k in classes.split(",")):
        path = out / f"classes-{n_classes}.json"
        done = json.loads(path.read_text()) if path.is_file() else None
        if done is None or done["settings"] != settings:
            done = compare(n_classes, settings) | {"settings": settings}
            write_json_atomic(path, done)
            click.echo(f"{n_classes} classes done", err=True)
        results.append(done)
    names = list(results[0]["races"])
    exponents = {name: exponent(results, name, seed=settings["seed"]) for name in names}
    table = [
        {k: v for k, v in r.items() if k not in ("races", "settings")}
        | {"races": {n: {k: v for k, v in row.items() if k != "evaluations"} for n, row in r["races"].items()}}
        for r in results
    ]
    fitted = {name: None if e is None else numbers(e) for name, e in exponents.items()}
    write_json_atomic(
        out / "table.json",
        {"settings": settings, "exponents": fitted, "table": table, "versions": versions(),
         "diffclass": diffclass.__version__},
    )  # fmt: skip
    draw(results, exponents, out / "classes.png")
    click.echo(
        f"| classes | scale | accuracy of the full budget | race | evaluations | share | agreement |\n|{'---|' * 7}"
    )
    for r in table:
        for name, row in r["races"].items():
            mean, same = row["mean"], row["agreement"]
            cells = [
                str(r["classes"]), f"{r['scale']:.2f}", f"{r['full_accuracy']['value']:.3f}", name,
                f"{mean['value']:.0f} ({mean['low']:.0f} to {mean['high']:.0f})",
                f"{mean['value'] / r['full_evaluations']:.4f}",
                f"{same['value']:.3f} ({same['low']:.3f} to {same['high']:.3f})",
            ]  # fmt: skip
            click.echo(f"| {' | '.join(cells)} |")
    for name, e in exponents.items():
        if e is not None:
            click.echo(f"{name}: evaluations grow as K^{e.value:.2f} ({e.low:.2f} to {e.high:.2f}) from {FITTED_FROM}.")


if __name__ == "__main__":
    main()
