"""Attacks within certified radii, on a classifier whose smoothed label is known exactly.

    python benchmarks/attacks.py --tries 1000 --out runs/bench-attacks

Two Gaussians of equal covariance: their Bayes classifier is a half-space, and a half-space smoothed by noise is
the same half-space, so that the smoothed label of any image is known without counting copies. Each try draws an image,
certifies it from counted copies (alpha 1e-6, so that all certificates of 1,000 tries hold together but for a chance of
1e-3), and attacks it with the certified radius as the budget: AutoPGD on the exact density, and the straight way to the
boundary, which no attack beats. A try fails if the smoothed label of either image is another one. As a check that
failing is possible, the straight way is also gone 1.05 times as far as the boundary.
"""

import json
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from diffclass.data import versions, write_json_atomic
from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.denoisers.analytic import GaussianDenoiser
from diffclass.robust import NoisedLikelihood, certify
from diffclass.robust.gradient import Defence
from diffclass.robust.search import Search
from diffclass.robust.threat import Threat
from diffclass.robust.toolbox import apgd

SHAPE, STD, SIGMA, ALPHA = (1, 6, 6), 0.1, 0.3, 1e-6


class World:
    """Two classes a random way apart."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.way = 0.2 * torch.randn(SHAPE, generator=generator).sign()
        self.means = torch.stack([0.5 - self.way / 2, 0.5 + self.way / 2])
        self.model = GaussianDenoiser(self.means, STD, classes=["a", "b"], sigma_range=(0.02, 5.0))
        race = Exhaustive(n_draws=8, block=4)
        self.defence = Defence(classifier=DiffusionClassifier(denoiser=self.model, race=race))
        self.copies = NoisedLikelihood(self.model, classes=("a", "b"), log_prior=np.zeros(2), sigma=SIGMA)

    def sample(self, seed: int) -> Tensor:
        """Draw an image of class a."""
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
        return (self.means[0] + STD * noise).clamp(0, 1)

    def distance(self, image: Tensor) -> float:
        """Return how far the boundary is; below 0 on the side of b."""
        to_a, to_b = ((image.double() - mean).square().sum() for mean in self.means.double())
        return float((to_b - to_a) / 2 / self.way.double().norm())


def attempt(world: World, seed: int, n: int) -> tuple[float, float, bool]:
    """Certify an image and attack it within; return radius, distance and whether the smoothed label changed."""
    image = world.sample(seed)
    certificate = certify(world.copies, image, sigma=SIGMA, n0=20, n=n, alpha=ALPHA, seed=seed)
    distance = world.distance(image)
    if certificate.label is None:
        return 0.0, distance, False
    label, radius = int(certificate.label == "b"), certificate.radius
    search = Search(world.defence.exact_view(), image, label, Threat("l2", radius))
    apgd(search, steps=5, restarts=1, seed=seed)
    straight = image + (1 - 2 * label) * radius * world.way / world.way.norm()
    changed = any((world.distance(point) < 0) != bool(label) for point in (search.best, straight))
    return radius, distance, changed


@click.command()
@click.option("--tries", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--n", type=click.IntRange(min=20), default=400, show_default=True, help="Noisy copies of an image.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path))
def main(tries: int, n: int, seed: int, out: Path | None) -> None:
    """Attack within certified radii."""
    world = World(seed)
    results = [attempt(world, seed * 10**6 + number, n) for number in range(tries)]
    radii, distances = (np.array([result[i] for result in results]) for i in (0, 1))
    step = world.way / world.way.norm()
    images = [world.sample(seed * 10**6 + number) for number in range(tries)]
    beyond = [world.distance(x + 1.05 * d * step) * d < 0 for x, d in zip(images, distances, strict=True)]
    table = {
        "tries": tries,
        "certified": int((radii > 0).sum()),
        "radius_mean": float(radii.mean()),
        "distance_mean": float(np.abs(distances).mean()),
        "share_of_distance": float((radii / np.abs(distances)).mean()),
        "changed": sum(result[2] for result in results),
        "changed_beyond": int(np.sum(beyond)),
        "copies": n,
        "alpha": ALPHA,
        "versions": versions(),
    }
    if out is not None:
        write_json_atomic(out / "table.json", table)
    click.echo(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
