"""Counterfactuals and evidence maps against closed forms (O6 of the oracle table, and what belongs to it)."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from diffclass.decide import DiffusionClassifier, Exhaustive, PairedRace
from diffclass.denoisers import Conditions, Space
from diffclass.denoisers.analytic import GaussianDenoiser
from diffclass.evidence import NoisedExact, Objective
from diffclass.explain import Edit, evidence_map, watched
from diffclass.explain.edit import bring_back

SHAPE, STD, LOW, HIGH = (1, 3, 4), 0.4, 0.05, 5.0
SPACE = Space(channels=1, height=3, width=4, scale=1.0, offset=0.0, data_std=0.4)


def gaussians(n: int = 3, *, std: float = STD, space: Space = SPACE) -> GaussianDenoiser:
    means = torch.rand((n, *SHAPE), generator=torch.Generator().manual_seed(0))
    return GaussianDenoiser(means, std, space=space, sigma_range=(LOW, HIGH))


def image(seed: int = 5) -> Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed))


def edited(
    edit: Edit, conditions: Conditions | None = None, space: Space = SPACE
) -> tuple[Tensor, Tensor, GaussianDenoiser, Tensor]:
    """Bring an image of class 0 back as class 0 and as class 1, in float64."""
    model = gaussians(space=space)
    x = image()[None].double()
    zero, one = torch.tensor([0]), torch.tensor([1])
    told = model.condition_on(model.classes) if conditions is None else conditions
    factual, other = bring_back(model, told, x, zero, one, edit=edit, sigma=HIGH, keys=[7])
    return factual[0], other[0], model, x[0]


def moved(start: Tensor, mean: Tensor, *, begin: float, end: float) -> Tensor:
    """Follow the probability flow of N(mean, STD^2) from one noise level to another, in closed form."""
    return mean + (start - mean) * np.sqrt((STD**2 + end**2) / (STD**2 + begin**2))


def means_of(model: GaussianDenoiser) -> list[Tensor]:
    return [mean.reshape(SHAPE) for mean in model.means]


@pytest.mark.parametrize(("n_steps", "most"), [(32, 2e-3), (128, 2e-4)])
def test_o6_inversion_is_the_transport_of_one_gaussian_to_another(n_steps: int, most: float) -> None:
    factual, other, model, x = edited(Edit(n_steps=n_steps, guidance=0.0))
    a, b, _ = means_of(model)
    up = moved(x, a, begin=LOW, end=HIGH)
    exact = moved(up, b, begin=HIGH, end=LOW)
    closed_form = x - (a - b) * (1 - np.sqrt((STD**2 + LOW**2) / (STD**2 + HIGH**2)))  # the oracle table's, from LOW
    assert torch.allclose(exact, closed_form, atol=1e-12)
    assert float((other - exact).abs().max()) < most
    assert float((factual - x).abs().max()) < most
    assert float((other - x).abs().max()) > 0.3  # or nothing was moved


def test_ddim_is_of_first_order_and_heun_of_second() -> None:
    def worst(solver: str, n_steps: int) -> float:
        _, other, model, x = edited(Edit(n_steps=n_steps, guidance=0.0, solver=solver))
        a, b, _ = means_of(model)
        return float((other - moved(moved(x, a, begin=LOW, end=HIGH), b, begin=HIGH, end=LOW)).abs().max())

    assert worst("euler", 64) / worst("euler", 128) == pytest.approx(2, rel=0.15)
    assert worst("heun", 64) / worst("heun", 128) == pytest.approx(4, rel=0.15)


def test_guidance_moves_the_mean_away_from_no_class() -> None:
    """With a Gaussian in the place of "no class", guided denoising is that of the mean (1 + w) b - w null."""
    model, w = gaussians(), 1.5
    told = model.condition_on(model.classes)
    conditions = Conditions(told.tensors, {"classes": torch.tensor([2])})
    _, other, model, x = edited(Edit(n_steps=128, guidance=w), conditions)
    a, b, null = means_of(model)
    up = moved(x, (1 + w) * a - w * null, begin=LOW, end=HIGH)
    exact = moved(up, (1 + w) * b - w * null, begin=HIGH, end=LOW)
    assert float((other - exact).abs().max()) < 5e-4


def test_partial_noising_changes_what_the_reverse_diffusion_of_a_gaussian_does() -> None:
    """Under the same noise, the difference of two Gaussians' samples is free of it, and known.

    delta - (b - a) is in proportion to STD^2 + sigma^2 along the reverse diffusion, in steps of any length; along the
    probability flow it is so to the square root.
    """
    wide = replace(SPACE, scale=40.0, offset=-20.0)  # whose range no denoised image leaves
    for n_steps in (4, 50):
        factual, other, model, _ = edited(Edit(method="partial", n_steps=n_steps, guidance=0.0), space=wide)
        a, b, _ = means_of(model)
        exact = (b - a) * (1 - STD**2 / (STD**2 + HIGH**2))
        assert torch.allclose(other - factual, exact, atol=1e-9)


def test_denoised_images_stay_in_the_range_of_images() -> None:
    factual, other, *_ = edited(Edit(method="partial", guidance=0.0, n_steps=20))
    wide = replace(SPACE, scale=40.0, offset=-20.0)
    free, *_ = edited(Edit(method="partial", guidance=0.0, n_steps=20), space=wide)
    assert not torch.allclose(factual, free, atol=0.01)
    assert all(0 <= float(x.min()) <= float(x.max()) <= 1 for x in (factual, other))


def test_partial_noising_repeats_itself_and_follows_its_seed() -> None:
    first, again, other = (edited(Edit(method="partial", guidance=0.0, seed=s))[1] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.05)


def classifier(model: GaussianDenoiser, n_draws: int = 512, **options: object) -> DiffusionClassifier:
    return DiffusionClassifier(
        denoiser=model, objective=Objective(), race=Exhaustive(n_draws=n_draws, block=4), batch_size=512, **options,
    )  # fmt: skip # type: ignore[arg-type]


def test_a_map_is_the_log_ratio_of_each_pixel() -> None:
    """Pixels of a Gaussian are independent, so that each has a log-likelihood ratio of its own, in closed form."""
    model, x = gaussians(2), image()
    found = evidence_map(classifier(model), x, "0", "1", n_draws=512)
    gaps = torch.stack([(x - mean).square()[0] for mean in means_of(model)]).numpy()
    exact = (gaps[1] - gaps[0]) / 2 * (1 / (STD**2 + LOW**2) - 1 / (STD**2 + HIGH**2))
    assert found.values.shape == (3, 4)
    # 12 pixels within 5 standard errors: a fixed seed that fails once in 10^5 choices of it
    from scipy.stats import norm, t

    se = np.abs(found.values) / t.isf(found.p_values / 2, found.n_blocks - 1)
    assert (np.abs(found.values - exact) < 5 * se).all()
    assert np.corrcoef(found.values.ravel(), exact.ravel())[0, 1] > 0.99
    assert 12 * 2 * norm.sf(5) < 1e-5


@pytest.mark.parametrize("race", [Exhaustive(n_draws=64, block=4), PairedRace(n_draws=64, block=4)])
@pytest.mark.parametrize("n_draws", [None, 64])
def test_a_map_adds_up_to_the_log_odds(race: Exhaustive | PairedRace, n_draws: int | None) -> None:
    model = gaussians()
    asked = replace(classifier(model, prior=(0.2, 0.5, 0.3)), race=race, target=NoisedExact(0.1))
    seen = watched(asked, image())
    plain = asked.classify(image()[None])[0]
    assert np.array_equal(seen.decision.evidence.errors, plain.evidence.errors, equal_nan=True)
    first, second = seen.decision.leader, seen.decision.runner_up
    found = seen.map(first, second, n_draws=n_draws)
    assert found.log_prior == pytest.approx(seen.decision.evidence.log_prior[[0, 1, 2].index(int(first))]
                                            - seen.decision.evidence.log_prior[int(second)])  # fmt: skip
    assert found.values.sum() + found.log_prior == pytest.approx(found.difference.mean, rel=1e-5)
    if n_draws is None:
        assert found.difference == plain.evidence.difference(int(first), int(second))
    else:
        assert found.difference.n_draws == 64
    backwards = seen.map(second, first, n_draws=n_draws)
    assert np.allclose(backwards.values, -found.values, atol=1e-4)


def test_pixels_that_tell_nothing_are_rarely_marked() -> None:
    """At the midpoint of two means a pixel's log ratio is zero, in the mean over draws and not on any of them.

    8 of 12 pixels are such in each of 60 images, and 4 are none. The expected share of false marks among marks is at
    most 0.05 x 8 / 12; the bound is that plus 4 standard errors of the 60 shares.
    """
    model = gaussians(2, std=0.1)
    a, b = means_of(model)
    silent = torch.arange(12).reshape(SHAPE) < 8
    shares, hits = [], 0
    for seed in range(60):
        x = torch.where(silent, (a + b) / 2, a).float()
        x = (x + 1e-6 * image(seed)).clamp(0, 1)  # another key, and so other noise
        found = evidence_map(classifier(model, 64), x, "0", "1", n_draws=64)
        false = found.significant & silent[0].numpy()
        shares.append(false.sum() / max(1, found.significant.sum()))
        hits += (found.significant & ~silent[0].numpy()).sum()
        assert (np.abs(found.values[silent[0].numpy()]) > 0).all()
    assert np.mean(shares) < 0.05 * 8 / 12 + 4 * np.std(shares) / np.sqrt(60)
    assert np.std(shares) > 0  # some are marked falsely
    assert hits > 0.7 * 4 * 60


def test_a_map_is_where_the_pixels_are() -> None:
    """The model sees 2 x 2 pixels as channels; two classes differ in one pixel."""
    space = Space(channels=1, height=4, width=6, patch=2, data_std=0.3)
    pixels = torch.full((2, 1, 4, 6), 0.3)
    pixels[1, 0, 2, 5] = 0.9
    model = GaussianDenoiser(space.to_model(pixels), 0.3, space=space, sigma_range=(LOW, HIGH))
    found = evidence_map(classifier(model, 64), pixels[1], n_draws=64)
    assert found.favoured == "1"
    where = np.zeros((4, 6), dtype=bool)
    where[2, 5] = True
    assert np.array_equal(found.significant, where)
    assert np.array_equal(found.values != 0, where)
    assert found.values[2, 5] > 0
