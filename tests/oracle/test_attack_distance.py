"""Attacks against closed forms: two Gaussians of equal covariance, whose nearest adversarial image is known."""

import pytest
import torch
from torch import Tensor

from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.denoisers.analytic import GaussianDenoiser
from diffclass.robust.attack import Attack, attack_image
from diffclass.robust.gradient import Access, Defence, finite_difference_error
from diffclass.robust.search import Search
from diffclass.robust.threat import Threat
from diffclass.robust.toolbox import apgd

SHAPE = (1, 6, 6)
STD = 0.1


def gaussians() -> tuple[GaussianDenoiser, Tensor]:
    """Two classes with the boundary |x - a| = |x - b|, and the way from one to the other."""
    generator = torch.Generator().manual_seed(5)
    way = torch.randn(SHAPE, generator=generator).sign() * 0.1 + 0.02 * torch.randn(SHAPE, generator=generator)
    means = torch.stack([0.5 - way, 0.5 + way])
    return GaussianDenoiser(means, STD, classes=["a", "b"], sigma_range=(0.02, 5.0)), 2 * way


def defence(n_draws: int = 256) -> Defence:
    return Defence(
        classifier=DiffusionClassifier(denoiser=gaussians()[0], race=Exhaustive(n_draws=n_draws, block=4), seed=2)
    )


def samples(n: int, seed: int = 0) -> Tensor:
    """Images of class a."""
    model, _ = gaussians()
    noise = torch.randn((n, *SHAPE), generator=torch.Generator().manual_seed(seed))
    return (model.means[0].float().reshape(SHAPE) + STD * noise).clamp(0, 1)


def boundary_distance(image: Tensor, norm: str) -> float:
    """Distance to the nearest image of the other class: the dual norm of the way to the other mean is below."""
    model, way = gaussians()
    a, b = (model.means[c].reshape(SHAPE) for c in range(2))
    gap = float(((image.double() - b).square().sum() - (image.double() - a).square().sum()) / 2)
    return gap / float(way.double().abs().sum() if norm == "linf" else way.double().norm())


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_less_than_the_distance_never_succeeds_and_more_nearly_always_does(norm: str) -> None:
    wins = {0.8: 0, 1.2: 0}
    attacks = ("apgd-ce", "apgd-t", "apgd-exact", "random", "reroll")
    for image in samples(4):
        for share in wins:
            threat = Threat(norm, share * boundary_distance(image, norm))
            plan = Attack(
                threat=threat, attacks=attacks, steps=5, queries=5, checks=False, access=Access(n_draws=32)
            )  # fmt: skip
            attacked = attack_image(defence(), image, "a", plan)
            assert attacked.correct
            wins[share] += not attacked.robust
            by_name = {found.attack: found for found in attacked.found}
            if share < 1:  # the density itself is linear: its best margin is known
                assert by_name["apgd-exact"].margin < 0
            else:
                assert by_name["apgd-exact"].margin > 0
            for found in attacked.found:
                assert found.distance <= threat.epsilon * (1 + 1e-5)
                assert found.image.min() >= 0
                assert found.image.max() <= 1
    assert wins == {0.8: 0, 1.2: 4}


def test_the_best_image_lies_on_the_way_to_the_other_class() -> None:
    image, (model, way) = samples(1)[0], gaussians()
    search = Search(defence().exact_view(), image, 0, Threat("l2", 0.2))
    apgd(search, steps=20, restarts=1, seed=0)
    wanted = image + 0.2 * way / way.norm()
    torch.testing.assert_close(search.best, wanted, atol=2e-3, rtol=0.0)
    slope = float(way.double().norm()) / STD**2  # of the log-odds along the way
    exact = model.log_likelihood(image[None])[0]
    assert search.margin == pytest.approx(float(exact[1] - exact[0]) + 0.2 * slope, rel=1e-3)


def test_slopes_are_those_of_the_likelihood_ratio() -> None:
    image, (_, way) = samples(1)[0], gaussians()
    exact = defence().exact_view()
    torch.testing.assert_close(exact.gradient(image, 0), way / STD**2, rtol=1e-4, atol=1e-4)
    assert finite_difference_error(exact, image, 0) < 1e-3
    by_draws = defence().view(3, Access()).gradient(image, 0)
    low, high = 0.02, 5.0
    torch.testing.assert_close(by_draws, way * (1 / (STD**2 + low**2) - 1 / (STD**2 + high**2)), rtol=5e-3, atol=1e-3)
