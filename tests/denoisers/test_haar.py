"""The Haar transform of a space: invertible, and blind to errors and noise."""

import pytest
import torch

from diffclass.denoisers import EDM, PixelDenoiser, Space
from diffclass.denoisers.haar import haar, inverse_haar


def pictures(n: int = 3, channels: int = 2) -> torch.Tensor:
    return torch.rand(n, channels, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_bands_of_a_block() -> None:
    block = torch.tensor([[[[1.0, 2.0], [3.0, 10.0]]]])
    # half of: the sum, left minus right, top minus bottom, one diagonal minus the other
    assert haar(block).flatten().tolist() == [8.0, -4.0, -5.0, 3.0]


def test_bands_stay_with_their_channel() -> None:
    images = pictures()
    for channel in (0, 1):
        torch.testing.assert_close(
            haar(images)[:, 4 * channel : 4 * channel + 4], haar(images[:, channel : channel + 1])
        )


def test_the_inverse_is_the_inverse_and_the_transpose() -> None:
    images = pictures()
    torch.testing.assert_close(inverse_haar(haar(images)), images)
    other = pictures(channels=8)[:, :, :6, :6]
    torch.testing.assert_close((haar(images) * other).sum(), (images * inverse_haar(other)).sum())


@pytest.mark.parametrize("patch", [1, 2, 3])
def test_errors_in_the_space_are_errors_of_pixels(patch: int) -> None:
    plain = Space(channels=2, height=12, width=12)
    space = Space(channels=2, height=12, width=12, haar=True, patch=patch)
    first, second = pictures(), pictures().flip(0)
    here, there = space.to_model(first), space.to_model(second)
    assert here.shape[1:] == space.shape == (8 * patch**2, 6 // patch, 6 // patch)
    torch.testing.assert_close(space.to_images(here), first)
    wanted = (plain.to_model(first) - plain.to_model(second)).square().flatten(1).sum(1)
    torch.testing.assert_close((here - there).square().flatten(1).sum(1), wanted)


def test_white_noise_stays_white() -> None:
    """4,000 draws: a variance is off by 5 standard errors, sqrt(2 / 4000), with a chance of 6e-7."""
    noise = haar(torch.randn(4000, 1, 2, 2, generator=torch.Generator().manual_seed(0))).flatten(1)
    torch.testing.assert_close(noise.T @ noise / 4000, torch.eye(4), rtol=0, atol=5 * (2 / 4000) ** 0.5)


def test_clipping_is_of_pixels() -> None:
    space = Space(channels=1, height=4, width=4, haar=True)

    class Output:
        sample = torch.full((1, 4, 2, 2), 50.0)

    denoiser = PixelDenoiser(
        network=lambda *_, **__: Output, parametrisation=EDM(), space=space, sigma_range=(0.1, 9.0),
        classes=("a", "b"), clip=True,
    )  # fmt: skip
    conditions = denoiser.condition_on(["a"])
    images = denoiser.decode(denoiser(torch.zeros(1, 4, 2, 2), torch.ones(1), conditions))
    assert float(images.min()) >= 0
    assert float(images.max()) == pytest.approx(1)


def test_errors_of_bands_lie_in_their_block() -> None:
    space = Space(channels=1, height=4, width=4, haar=True)
    errors = haar(torch.zeros(1, 1, 4, 4)).square()
    errors[0, 2, 0, 1] = 8.0  # some band of the block at the top right
    located = space.located(errors)
    assert located.shape == (1, 4, 4)
    assert located[0, :2, 2:].tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert float(located.sum()) == 8.0
