"""References that explanations have to be better than, against what is known of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.denoisers import EDM, PixelDenoiser, Space
from diffclass.explain.reference import (
    grad_cam,
    integrated_gradients,
    own_judge,
    random_map,
    shuffled,
    sobel_map,
)
from tiny_mixture import digits, tiny_mixture

IMAGE = torch.rand((1, 8, 8), generator=torch.Generator().manual_seed(0))


class Tiny(nn.Module):
    """A convolution, its mean over pixels, and a sum of channels for each class."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.features = nn.Conv2d(1, 3, 3, padding=1)
        self.head = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).relu().mean(dim=(2, 3)))


def test_random_maps_repeat_themselves() -> None:
    assert np.array_equal(random_map(IMAGE), random_map(IMAGE))
    assert not np.array_equal(random_map(IMAGE), random_map(IMAGE, seed=1))
    assert random_map(IMAGE).shape == (8, 8)


def test_sobel_finds_edges() -> None:
    image = torch.zeros(1, 8, 8)
    image[:, :, 4:] = 1
    edges = sobel_map(image)
    assert (edges[:, 3:5] == 4).all()
    assert (edges[:, [0, 1, 2, 5, 6, 7]] == 0).all()


def test_integrated_gradients_add_up_to_the_logit() -> None:
    network = Tiny().eval().requires_grad_(False)
    found = integrated_gradients(network, IMAGE, 1, steps=200)
    with torch.no_grad():
        gain = network(IMAGE[None])[0, 1] - network(torch.zeros(1, 1, 8, 8))[0, 1]
    assert found.sum() == pytest.approx(float(gain), rel=0.02)


def test_grad_cam_by_its_equations() -> None:
    """The weight of a channel is its mean gradient; the map is the positive part of the weighted sum."""
    network = Tiny().eval().requires_grad_(False)
    with torch.no_grad():
        channels = network.features(IMAGE[None])[0]
    gradient = (channels > 0) * network.head.weight[0][:, None, None] / 64
    expected = (gradient.mean(dim=(1, 2), keepdim=True) * channels).sum(dim=0).relu()
    assert np.allclose(grad_cam(network, network.features, IMAGE, 0), expected.numpy(), atol=1e-6)


class Net(nn.Module):
    """A network that is called as diffusers' are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.inner, self.told = nn.Conv2d(1, 1, 3, padding=1), nn.Embedding(2, 64)

    def forward(self, sample: Tensor, time: Tensor, class_labels: Tensor) -> "Net.Out":
        return Net.Out(self.inner(sample) + self.told(class_labels).reshape(-1, 1, 8, 8))

    class Out:
        def __init__(self, sample: Tensor) -> None:
            self.sample = sample


def test_shuffled_weights_are_the_same_numbers() -> None:
    denoiser = PixelDenoiser(
        network=Net(), parametrisation=EDM(), space=Space(channels=1, height=8, width=8), sigma_range=(0.1, 5.0),
        classes=("a", "b"),
    )  # fmt: skip
    asked = DiffusionClassifier(denoiser=denoiser, race=Exhaustive(n_draws=8, block=4), temperature=2.0)
    blind = shuffled(asked, seed=1)
    assert isinstance(blind.denoiser, PixelDenoiser)
    assert isinstance(blind.denoiser.network, Net)
    assert isinstance(denoiser.network, Net)
    own, other = denoiser.network.told.weight, blind.denoiser.network.told.weight
    assert not torch.equal(own, other)
    assert torch.equal(own.flatten().sort().values, other.flatten().sort().values)
    assert blind.temperature is None
    first, second = (one.classify(IMAGE[None])[0].log_odds for one in (asked, blind))
    assert first != second


def test_the_own_judge_says_what_the_classifier_says() -> None:
    image = digits().array((1, 8, 8), [2])[0][0]
    asked = DiffusionClassifier(denoiser=tiny_mixture(), race=Exhaustive(n_draws=16, block=4), temperature=50.0)
    decision = asked.classify(image[None])[0]
    assert decision.probabilities is not None
    judged = own_judge(asked, image, n_draws=16)(torch.stack([image, image]))
    assert np.allclose(judged[0], list(decision.probabilities.values()), atol=1e-4)
    assert np.allclose(judged[0], judged[1])
    sharper = own_judge(replace(asked, temperature=5.0), image, n_draws=16)(image[None])
    assert sharper.max() > judged.max()
