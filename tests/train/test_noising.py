"""What recipes say about noise, against the formulas as the papers write them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffclass.denoisers import EDM, Space
from diffclass.denoisers.parametrisation import V
from diffclass.denoisers.schedule import DiscreteSchedule
from diffclass.train import load_recipe
from diffclass.train.loop import edm_loss
from diffclass.train.noising import cosine_sigma, draw_sigmas, loss_factor, parametrisation, trained_range
from diffclass.train.recipe import NoisePart

COSINE = NoisePart(schedule="shifted-cosine", prediction="v", weighting="min-snr")
TIMES = np.linspace(0.01, 0.99, 25)


@pytest.mark.parametrize("side", [28, 64, 128, 256])
def test_the_schedule_is_shifted_once(side: int) -> None:
    """Log-SNR as simple diffusion writes it: limits of the unshifted schedule, then one shift."""
    t_min, t_max = np.arctan(np.exp(-0.5 * 15.0)), np.arctan(np.exp(0.5 * 15.0))
    log_snr = -2 * np.log(np.tan(t_min + TIMES * (t_max - t_min))) + 2 * np.log(64 / max(64, side))
    sigma = cosine_sigma(COSINE, TIMES, side)
    np.testing.assert_allclose(-2 * np.log(sigma), log_snr, atol=1e-10)
    ends = -2 * np.log(cosine_sigma(COSINE, np.array([0.0, 1.0]), 256))
    np.testing.assert_allclose(ends, [15 - 2.772589, -15 - 2.772589], atol=1e-5)


def test_a_shift_is_averaging() -> None:
    """Means of 4x4 pixels at 256 have the noise that pixels have at 64."""
    np.testing.assert_allclose(cosine_sigma(COSINE, TIMES, 256) / 4, cosine_sigma(COSINE, TIMES, 64))


def test_noise_levels_of_a_step_are_stratified() -> None:
    recipe = replace(load_recipe("medical-unet"), noise=COSINE)
    sigma = draw_sigmas(recipe, 64, torch.Generator().manual_seed(0)).double().numpy()
    times = np.arctan(sigma) / (np.pi / 2)
    assert np.array_equal(np.sort((times * len(times)).astype(int)), np.arange(len(times)))
    low, high = trained_range(recipe, 64)
    assert low < np.quantile(sigma, 0.02) < np.quantile(sigma, 0.98) < high


def test_v_is_edm_of_unit_variance() -> None:
    recipe = load_recipe("medical-unet")
    space = Space(channels=1, height=8, width=8, data_std=0.4)
    ours = parametrisation(recipe, space)
    theirs = V(DiscreteSchedule.from_alphas_cumprod(torch.linspace(0.999, 0.001, 50)))
    random = torch.Generator().manual_seed(0)
    noisy, output = (torch.randn(5, 1, 8, 8, generator=random, dtype=torch.float64) for _ in range(2))
    sigma = torch.tensor([0.05, 0.3, 1.0, 4.0, 20.0], dtype=torch.float64)
    torch.testing.assert_close(ours.denoised(noisy, sigma, output), theirs.denoised(noisy, sigma, output))
    torch.testing.assert_close(ours.prepare(noisy, sigma)[0], theirs.prepare(noisy, sigma)[0])
    assert parametrisation(load_recipe("digits"), space) == EDM(0.4, 250.0)


def test_min_snr_in_all_three_units() -> None:
    """min(SNR, 5) times the image's error is min(SNR, 5) / (SNR + 1) times that of v, and / SNR times the noise's."""
    random = torch.Generator().manual_seed(0)
    x, epsilon, output = (torch.randn(6, 4, 3, 3, generator=random) for _ in range(3))
    sigma = torch.tensor([0.05, 0.2, 0.447, 1.0, 3.0, 20.0])
    edm = EDM(1.0, 250.0, sign=-1.0)

    class Answer:
        sample = output

    loss = edm_loss(lambda *_, **__: Answer, x, sigma, epsilon, torch.zeros(6), edm, loss_factor(COSINE, sigma, edm))
    s = sigma[:, None, None, None]
    alpha, snr = 1 / (1 + s**2).sqrt(), s**-2
    v = alpha * epsilon - alpha * s * x
    z = alpha * (x + s * epsilon)
    image, noise = alpha * z - alpha * s * output, alpha * s * z + alpha * output
    weight = snr.clamp(max=5.0)
    torch.testing.assert_close(loss, (weight / (snr + 1) * (output - v) ** 2).mean(), rtol=1e-3, atol=0)
    torch.testing.assert_close(loss, (weight * (image - x) ** 2).mean(), rtol=1e-3, atol=0)
    torch.testing.assert_close(loss, (weight / snr * (noise - epsilon) ** 2).mean(), rtol=1e-3, atol=0)
    assert loss_factor(NoisePart(), sigma, edm) is None
