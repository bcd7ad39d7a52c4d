"""Pairs of opposite noise: the engine measures them, stored matrices keep them, and differences vary less."""

from pathlib import Path

import numpy as np
import pytest
import torch

from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.decide.measure import measure
from diffclass.denoisers import Space
from diffclass.denoisers.analytic import GaussianDenoiser
from diffclass.errors import RangeError
from diffclass.evidence import ErrorMatrices, Objective

SHAPE = (1, 4, 4)
SPACE = Space(channels=1, height=4, width=4, scale=1.0, offset=0.0, data_std=0.3)


def model() -> GaussianDenoiser:
    means = torch.rand((3, *SHAPE), generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2
    return GaussianDenoiser(means, 0.2, space=SPACE, classes=("a", "b", "c"), sigma_range=(0.05, 5.0))


def pictures(n: int) -> torch.Tensor:
    return torch.rand((n, *SHAPE), generator=torch.Generator().manual_seed(2))


def classifier(*, antithetic: bool, block: int = 4, seed: int = 0) -> DiffusionClassifier:
    race = Exhaustive(n_draws=64, block=block)
    return DiffusionClassifier(denoiser=model(), objective=Objective(antithetic=antithetic), race=race, seed=seed)


def matrices(n: int, *, antithetic: bool, block: int = 4, seed: int = 0) -> ErrorMatrices:
    return measure(
        classifier(antithetic=antithetic, block=block, seed=seed), pictures(n), np.zeros(n, dtype=np.int64), n_draws=64
    )


def test_the_engine_measures_the_noise_of_the_draws() -> None:
    one = classifier(antithetic=True)
    image = pictures(1)
    evidence = one.classify(image)[0].evidence
    assert evidence.draws.antithetic
    sigma = torch.tensor(evidence.draws.sigmas, dtype=torch.float32)
    noisy = image + sigma[:, None, None, None] * evidence.draws.epsilon(range(64), SHAPE)
    for c in range(3):
        denoised = one.denoiser(noisy, sigma, one.denoiser.condition_on(["abc"[c]] * 64)[torch.arange(64)])
        expected = ((denoised - image) ** 2).flatten(1).sum(dim=1)
        assert evidence.errors[:, c] == pytest.approx(expected.numpy(), rel=1e-4)


def test_log_odds_are_those_of_the_exact_likelihoods_still() -> None:
    images = pictures(6)
    exact = model().log_likelihood(images).numpy()
    race = Exhaustive(n_draws=2048, block=16)
    one = DiffusionClassifier(denoiser=model(), objective=Objective(antithetic=True), race=race)
    # What lies within the noise range: 1/(s^2 + low^2) - 1/(s^2 + high^2) in units of 1/s^2, s = 0.2.
    share = 0.04 / (0.04 + 0.05**2) - 0.04 / (0.04 + 5.0**2)
    for decision, row in zip(one.classify(images), exact, strict=True):
        a, b = "abc".index(decision.leader), "abc".index(decision.runner_up)
        assert abs(decision.log_odds - share * (row[a] - row[b])) < 5 * decision.log_odds_se + 1e-4  # 1 in 10^6


def test_differences_that_are_odd_in_the_noise_nearly_cancel() -> None:
    # Classes of one covariance: log-likelihood ratios are linear in the noise at every noise level.
    def variance(one: ErrorMatrices) -> float:
        joint = one.log_likelihood()
        return float((joint[:, :, 0] - joint[:, :, 1]).reshape(40, -1, 8).mean(axis=2).var(axis=1, ddof=1).mean())

    assert variance(matrices(40, antithetic=True, block=8)) < 0.6 * variance(matrices(40, antithetic=False, block=8))


def test_files_keep_the_pairs(tmp_path: Path) -> None:
    made = matrices(3, antithetic=True)
    assert made.antithetic
    made.save(tmp_path / "m.npz")
    again = ErrorMatrices.load(tmp_path / "m.npz")
    assert again.antithetic
    assert again.evidence(0).draws.antithetic
    with np.load(tmp_path / "m.npz") as content:
        older = {name: content[name] for name in content.files if name != "antithetic"}
    np.savez(tmp_path / "older.npz", **older)
    assert not ErrorMatrices.load(tmp_path / "older.npz").antithetic
    assert not matrices(3, antithetic=True, block=1).antithetic


def test_another_order_moves_whole_pairs() -> None:
    made = matrices(5, antithetic=True, block=8)
    moved = made.reordered(seed=3)
    for i in range(5):
        assert sorted(moved.sigmas[i]) == sorted(made.sigmas[i])
        pairs = {frozenset(pair) for pair in made.sigmas[i].reshape(-1, 2).tolist()}
        assert {frozenset(pair) for pair in moved.sigmas[i].reshape(-1, 2).tolist()} == pairs
        ranks = np.argsort(np.argsort(moved.sigmas[i]))
        assert (np.sort((ranks // 8).reshape(-1, 8), axis=1) == np.arange(8)).all()  # a block covers the range
        order = [int(np.flatnonzero(made.sigmas[i] == sigma)[0]) for sigma in moved.sigmas[i]]
        assert np.array_equal(moved.errors[i], made.errors[i][order])
    assert not np.array_equal(moved.sigmas, made.sigmas)
    with pytest.raises(RangeError, match=r"The 'block' must be 8\. Got 4\."):
        made.reordered(seed=0, block=4)
