"""Likelihood maximisation: it does what it says, and its gradient is the exact one."""

import torch
from torch import Tensor

from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.denoisers import EDM, PixelDenoiser, Space
from diffclass.denoisers.analytic import GaussianMixtureDenoiser
from diffclass.robust.attack import Attack, attack_image
from diffclass.robust.gradient import Access, Defence, finite_difference_error, wrong_log_odds
from diffclass.robust.purify import LikelihoodMaximisation
from diffclass.robust.threat import Threat
from tiny_mixture import digits, tiny_mixture
from tiny_networks import CLASSES, N_CLASSES, tiny_unet

SHAPE = (1, 4, 4)
PURIFIER = LikelihoodMaximisation(n_steps=4, step=0.02, radius=0.2)


def mixture() -> GaussianMixtureDenoiser:
    means = torch.rand((2, 2, *SHAPE), generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
    return GaussianMixtureDenoiser(means, 0.1, sigma_range=(0.05, 5.0))


def images(n: int = 2) -> Tensor:
    return torch.rand((n, *SHAPE), generator=torch.Generator().manual_seed(2)) * 0.4 + 0.3


def test_images_get_likelier_and_stay_near() -> None:
    model, batch = mixture(), images(8)
    purified = PURIFIER(model, batch, list(range(8)))
    assert (purified - batch).abs().max() <= 0.2 + 1e-6
    assert purified.min() >= 0
    assert purified.max() <= 1
    before, after = (model.log_likelihood(x).logsumexp(dim=1) for x in (batch, purified))
    assert (after > before).all()
    assert not purified.requires_grad


def test_the_radius_binds() -> None:
    tight = LikelihoodMaximisation(n_steps=4, step=0.05, radius=0.01)
    purified = tight(mixture(), images(), [1, 2])
    assert (purified - images()).abs().max() <= 0.01 + 1e-6


def test_the_gradient_is_exact_and_that_of_the_identity_is_not() -> None:
    model, batch = mixture(), images().double()
    x = batch.clone().requires_grad_()
    weights = torch.randn(batch.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weights * PURIFIER(model, x, [1, 2])).sum(), x)
    direction = torch.randn(batch.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    ends = [float((weights * PURIFIER(model, batch + h * direction, [1, 2])).sum()) for h in (1e-6, -1e-6)]
    slope = (ends[0] - ends[1]) / 2e-6
    torch.testing.assert_close(float((gradient * direction).sum()), slope, rtol=1e-4, atol=1e-6)
    by_identity = float((weights * direction).sum())
    assert abs(by_identity - slope) > 0.2 * abs(slope)


def test_noise_follows_the_key() -> None:
    model, batch = mixture(), images()
    first = PURIFIER(model, batch, [1, 2])
    torch.testing.assert_close(PURIFIER(model, batch[1:], [2])[0], first[1])
    assert not torch.equal(PURIFIER(model, batch, [3, 2])[0], first[0])


def test_networks_with_attention_have_second_derivatives() -> None:
    network = tiny_unet(
        down_block_types=("AttnDownBlock2D",), up_block_types=("AttnUpBlock2D",), attention_head_dim=8
    )  # fmt: skip
    model = PixelDenoiser(
        network=network, parametrisation=EDM(), space=Space(channels=1, height=8, width=8), sigma_range=(0.05, 5.0),
        classes=CLASSES, null_class=N_CLASSES,
    )  # fmt: skip
    purifier = LikelihoodMaximisation(n_steps=2)
    x = torch.full((1, 1, 8, 8), 0.5, requires_grad=True)
    torch.manual_seed(0)
    weights = torch.randn(1, 1, 8, 8)
    (gradient,) = torch.autograd.grad((weights * purifier(model, x, [1])).sum(), x)
    assert gradient.isfinite().all()
    assert not torch.equal(gradient, weights)


def test_attacks_go_through_the_purifier() -> None:
    item = digits()[0]
    image, truth = item.load((1, 8, 8)), str(item.label)
    classifier = DiffusionClassifier(denoiser=tiny_mixture(), race=Exhaustive(n_draws=16, block=4), batch_size=512)
    defended = Defence(classifier=classifier, purifier=LikelihoodMaximisation(n_steps=2))
    view = defended.view(1, Access(n_draws=8))
    assert finite_difference_error(view, image, int(truth)) < 0.05
    blind = Defence(classifier=classifier).view(1, Access(n_draws=8))
    purified = defended.purifier(classifier.denoiser, image[None], [1])  # type: ignore[misc]
    torch.testing.assert_close(view(image[None]), blind(purified))
    assert view.evaluations > blind.evaluations
    x = purified.clone().requires_grad_()
    (bpda,) = torch.autograd.grad(wrong_log_odds(blind(x), int(truth)).sum(), x)
    assert not torch.allclose(view.gradient(image, int(truth)), bpda[0], rtol=1e-2)
    plan = Attack(threat=Threat("linf", 0.1), attacks=("apgd-ce",), steps=3, access=Access(n_draws=8), checks=False)
    assert attack_image(defended, image, truth, plan).found[0].evaluations > 0
