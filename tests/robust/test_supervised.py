"""Supervised networks under smoothing: certified like any other classifier of copies."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffclass.noise import image_key, smoothing
from diffclass.robust import Smoothing, certify
from diffclass.robust.architecture import Inputs, build_resnet
from diffclass.robust.supervised import (
    DenoisedCopies,
    NetworkCopies,
    SmoothedNetwork,
    SupervisedNetwork,
    is_supervised,
)
from tiny_mixture import digits, tiny_mixture

SHAPE = (1, 8, 8)


class HalfSpace(nn.Module):
    """Class 1 where the mean pixel is above a half; what it is given lies in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, large: Tensor) -> Any:
        mean = large.mean(dim=(1, 2, 3)) * self.gain
        return SimpleNamespace(logits=torch.stack([-mean, mean], dim=1))


def half_space(enlarge: int = 1) -> SupervisedNetwork:
    return SupervisedNetwork(
        network=HalfSpace(), classes=("dark", "bright"), image_shape=SHAPE, sigma=0.0, inputs=Inputs(enlarge=enlarge)
    )


def resnet(seed: int = 0) -> SupervisedNetwork:
    torch.manual_seed(seed)
    network = build_resnet(1, 10, widths=(8, 16), depths=(1, 1)).eval()
    return SupervisedNetwork(network=network, classes=digits().classes, image_shape=SHAPE, sigma=0.0)


@pytest.mark.parametrize("distance", [0.2, 0.6])
def test_a_half_space_is_certified_up_to_its_boundary(distance: float) -> None:
    """The mean pixel moves by 1 / sqrt(64) of an L2 step, so the boundary is (mean - 1/2) * 8 away."""
    image = torch.full(SHAPE, 0.5 + distance / 8)
    copies = NetworkCopies(half_space(), sigma=0.25)
    certificate = certify(copies, image, sigma=0.25, n0=50, n=3000, alpha=1e-4)
    assert certificate.label == "bright"
    assert 0.75 * distance < certificate.radius < distance
    assert certificate.evaluations == 3050


def test_enlarging_repeats_pixels() -> None:
    image = torch.rand(2, *SHAPE)
    torch.testing.assert_close(half_space(4).logits(image), half_space(1).logits(image))


def test_copies_are_labelled_by_the_largest_logit() -> None:
    network, images = resnet(), torch.rand(5, *SHAPE)
    labels, spent = NetworkCopies(network, sigma=0.1).labels(images)
    with torch.no_grad():
        wanted = network.network((2 * images - 1).repeat_interleave(4, 2).repeat_interleave(4, 3)).logits.argmax(1)
    assert (labels.tolist(), spent) == (wanted.tolist(), 5)


def test_denoised_copies_are_the_denoisers_posterior_means() -> None:
    """Images go through E[x | noisy] without a class first, which for a mixture is known in closed form."""
    model, network = tiny_mixture(), resnet()
    batch = digits().array(SHAPE, range(6))[0]
    noisy = batch + 0.3 * torch.randn(batch.shape, generator=torch.Generator().manual_seed(1))
    labels, spent = DenoisedCopies(network, model, sigma=0.3).labels(noisy)
    null = model.condition_on(model.classes).without_class(6)
    denoised = model(noisy, torch.full((6,), 0.3), null)
    assert (denoised - batch).square().mean() < 0.5 * (noisy - batch).square().mean()
    assert (labels == network.predict(denoised.clamp(0, 1))).all()
    assert spent == 12


def test_both_are_smoothed_on_the_same_noise_as_diffusion_classifiers() -> None:
    network, image = resnet(), torch.rand(SHAPE)
    certificate = certify(NetworkCopies(network, sigma=0.2), image, sigma=0.2, n0=5, n=40, alpha=0.1, seed=4)
    noise = smoothing(4, image_key(image), range(5, 45), SHAPE)
    by_hand = np.bincount(network.predict(image + 0.2 * noise), minlength=10)
    assert certificate.votes.counts == tuple(by_hand.tolist())


def test_a_smoothed_network_says_what_it_is() -> None:
    plain, denoised = SmoothedNetwork(half_space()), SmoothedNetwork(resnet(), denoiser=tiny_mixture(), seed=3)
    assert (plain.noised, plain.classes, plain.image_shape, plain.seed) == ("network", ("dark", "bright"), SHAPE, 0)
    assert (denoised.noised, denoised.seed) == ("denoised", 3)
    assert isinstance(plain.copies(0.1), NetworkCopies)
    assert isinstance(denoised.copies(0.1), DenoisedCopies)
    assert Smoothing(n=100).plan(plain.copies(0.1).sigma).looks == (100,)


def test_a_directory_holds_everything_and_transformers_opens_it(tmp_path: Any) -> None:
    from transformers import ResNetForImageClassification

    network, images = resnet(), torch.rand(3, *SHAPE)
    path = network.save(tmp_path / "model")
    loaded = SupervisedNetwork.load(path)
    assert torch.equal(loaded.logits(images), network.logits(images))
    assert (loaded.classes, loaded.image_shape, loaded.sigma, loaded.inputs) == (
        network.classes,
        SHAPE,
        0.0,
        Inputs(enlarge=4),
    )
    assert is_supervised(path)
    assert not is_supervised(tmp_path)
    opened = ResNetForImageClassification.from_pretrained(path).eval()
    for name, tensor in opened.state_dict().items():
        assert torch.equal(tensor, network.network.state_dict()[name])
