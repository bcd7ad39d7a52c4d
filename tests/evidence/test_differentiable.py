"""The differentiable evidence: the engine's log-odds, and their exact gradient in bounded memory."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.denoisers import EDM, Conditions, PixelDenoiser, Space
from diffclass.denoisers.analytic import GaussianDenoiser, GaussianMixtureDenoiser
from diffclass.evidence import (
    Clean,
    DifferentiableEvidence,
    NoisedApproximate,
    NoisedConditional,
    NoisedExact,
    Objective,
    Target,
)
from diffclass.noise import image_key
from tiny_mixture import digits, tiny_mixture
from tiny_networks import CLASSES, tiny_unet

SHAPE = (1, 4, 4)
TARGETS = (Clean(), NoisedExact(0.2), NoisedApproximate(0.2), NoisedConditional(0.2))


def mixture(n_classes: int = 3, sigma_range: tuple[float, float] = (0.05, 5.0)) -> GaussianMixtureDenoiser:
    generator = torch.Generator().manual_seed(1)
    means = torch.rand((n_classes, 2, *SHAPE), generator=generator) * 0.6 + 0.2
    space = Space(channels=1, height=4, width=4, data_std=0.4)  # [-1, 1]
    return GaussianMixtureDenoiser(means * 2 - 1, 0.3, space=space, sigma_range=sigma_range)


def classifier(denoiser: Any, *, n_draws: int = 16, **options: Any) -> DiffusionClassifier:
    return DiffusionClassifier(denoiser=denoiser, race=Exhaustive(n_draws=n_draws, block=4), **options)


def evidence_of(one: DiffusionClassifier, chunk: int | None = None) -> DifferentiableEvidence:
    return DifferentiableEvidence(engine=one.engine(), chunk=chunk)


def images(n: int = 2) -> Tensor:
    return torch.rand((n, *SHAPE), generator=torch.Generator().manual_seed(2))


def own_draws(evidence: DifferentiableEvidence, batch: Tensor) -> list[Any]:
    return [evidence.draws(image_key(image)) for image in batch]


def log_odds(joint: Tensor) -> np.ndarray:
    return (joint - joint.amax(dim=1, keepdim=True)).detach().numpy()


def assert_the_engines(one: DiffusionClassifier, batch: Tensor) -> None:
    """Compare with the engine, relative to the largest log-odds of an image."""
    evidence = evidence_of(one)
    found = log_odds(evidence(batch, own_draws(evidence, batch)))
    for row, decision in zip(found, one.classify(batch), strict=True):
        wanted = decision.evidence.log_odds()
        assert np.abs(row - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: type(target).__name__)
@pytest.mark.parametrize("antithetic", [False, True])
def test_log_odds_are_the_engines(target: Target, antithetic: bool) -> None:
    objective = Objective(antithetic=antithetic, distance="huber" if antithetic else "l2")
    assert_the_engines(classifier(mixture(), target=target, objective=objective, prior=(1.0, 2.0, 3.0)), images(3))


def test_log_odds_are_the_engines_on_digits_and_on_a_network() -> None:
    batch, _ = digits().array((1, 8, 8), range(3))
    assert_the_engines(DiffusionClassifier(denoiser=tiny_mixture(), race=Exhaustive(n_draws=32)), batch)
    assert_the_engines(classifier(network()), batch)


def network() -> PixelDenoiser:
    space = Space(channels=1, height=8, width=8)
    return PixelDenoiser(
        network=tiny_unet(), parametrisation=EDM(), space=space, sigma_range=(0.05, 5.0), classes=CLASSES
    )


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: type(target).__name__)
def test_gradients_are_those_of_finite_differences(target: Target) -> None:
    evidence = evidence_of(classifier(mixture(), target=target))
    batch = images().double()
    draws = own_draws(evidence, images())
    x = batch.clone().requires_grad_()
    weights = torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.0, -1.0]], dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weights * evidence(x, draws)).sum(), x)
    direction = torch.randn(batch.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ends = [float((weights * evidence(batch + step * direction, draws)).sum()) for step in (1e-5, -1e-5)]
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float((gradient * direction).sum()), rel=1e-5)


def test_gradients_are_those_of_one_graph_over_everything() -> None:
    one = classifier(mixture())
    evidence, batch = evidence_of(one, chunk=7), images(1)
    draws = evidence.draws(5)
    x = batch.clone().requires_grad_()
    (chunked,) = torch.autograd.grad(evidence(x, [draws])[0, 1], x)
    y = batch.clone().requires_grad_()
    encoded = one.denoiser.encode(y)
    sigma = torch.from_numpy(draws.sigmas).float()
    noisy = encoded + sigma.reshape(-1, 1, 1, 1) * draws.epsilon(range(len(draws)), (1, 4, 4))
    denoised = one.denoiser(noisy, sigma, one.denoiser.condition_on(["1"] * len(draws)))
    errors = (denoised - encoded).square().flatten(1).sum(dim=1)
    (whole,) = torch.autograd.grad(-(torch.from_numpy(draws.weights) * errors).mean(), y)
    torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("chunk", [1, 5, 16, 1000])
def test_chunks_and_company_change_nothing(chunk: int) -> None:
    one, batch = classifier(mixture(), target=NoisedConditional(0.2)), images()
    reference, evidence = evidence_of(one), evidence_of(one, chunk=chunk)
    draws = own_draws(reference, batch)
    x, y = batch.clone().requires_grad_(), batch[1:].clone().requires_grad_()
    together, alone = evidence(x, draws), reference(y, draws[1:])
    torch.testing.assert_close(together[1:], alone, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(together[1, 2], x)[0][1:], torch.autograd.grad(alone[0, 2], y)[0], rtol=1e-4, atol=1e-4
    )


class Counting:
    """A denoiser that remembers how many cells it was given at once."""

    def __init__(self, inner: GaussianMixtureDenoiser) -> None:
        self.inner, self.most = inner, 0
        self.space, self.sigma_range, self.classes, self.device = (
            inner.space, inner.sigma_range, inner.classes, inner.device
        )  # fmt: skip
        self.encode, self.decode, self.condition_on = inner.encode, inner.decode, inner.condition_on

    def __call__(self, noisy: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        self.most = max(self.most, len(noisy))
        return self.inner(noisy, sigma, conditions)


def test_memory_is_bounded_by_the_chunk() -> None:
    counting = Counting(mixture())
    evidence = evidence_of(classifier(counting, n_draws=64), chunk=10)
    x = images().requires_grad_()
    joint = evidence(x, own_draws(evidence, x))
    assert counting.most == 10
    graph, seen = [joint.grad_fn], 0
    while graph:  # what is kept is one node for all draws, and the way from the image to it
        node = graph.pop()
        seen += node is not None
        graph += [] if node is None else [parent for parent, _ in node.next_functions]
    assert seen < 12


def test_without_a_gradient_there_is_none() -> None:
    evidence = evidence_of(classifier(mixture()))
    assert not evidence(images(), own_draws(evidence, images())).requires_grad


def test_two_gaussians_have_the_gradient_of_their_likelihood_ratio() -> None:
    """Noise cancels in the gradient of a difference: (a - b) / (s^2 + sigma^2) between the ends of the range."""
    means, std, low, high = torch.tensor([0.3, 0.7]), 0.2, 0.05, 5.0
    model = GaussianDenoiser(means.reshape(2, 1, 1, 1).expand(2, *SHAPE), std, sigma_range=(low, high))
    evidence = evidence_of(classifier(model, n_draws=2048))
    x = torch.full((1, *SHAPE), 0.4, dtype=torch.float64, requires_grad=True)
    joint = evidence(x, [evidence.draws(7)])
    (gradient,) = torch.autograd.grad(joint[0, 1] - joint[0, 0], x)
    exact = (0.7 - 0.3) * (1 / (std**2 + low**2) - 1 / (std**2 + high**2))
    torch.testing.assert_close(gradient, torch.full_like(gradient, exact), rtol=2e-4, atol=0.0)


def test_a_mixtures_gradient_tends_to_that_of_its_density() -> None:
    model = tiny_mixture()
    one = DiffusionClassifier(
        denoiser=model, race=Exhaustive(n_draws=1024, block=4), objective=Objective(sigma_range=(0.01, 20.0))
    )
    evidence, batch = evidence_of(one, chunk=2048), digits().array((1, 8, 8), range(1))[0]
    x, y = batch.clone().requires_grad_(), batch.clone().requires_grad_()
    joint, exact = evidence(x, own_draws(evidence, batch)), model.log_likelihood(y)
    (found,) = torch.autograd.grad(joint[0, 3] - joint[0, 5], x)
    (wanted,) = torch.autograd.grad(exact[0, 3] - exact[0, 5], y)
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), wanted.flatten(), dim=0)
    assert cosine > 0.97
    assert float(found.norm() / wanted.norm()) == pytest.approx(1.0, abs=0.2)


def test_the_race_does_not_matter() -> None:
    one = classifier(mixture())
    other = replace(one, race=Exhaustive(n_draws=8, block=4))
    evidence, fewer = evidence_of(one), evidence_of(other)
    key = image_key(images()[0])
    torch.testing.assert_close(
        evidence(images(1), [evidence.draws(key, n=8)]), fewer(images(1), [fewer.draws(key)]), rtol=0.0, atol=0.0
    )
