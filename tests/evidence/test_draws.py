"""Draws: where they lie, in which order, and that nothing but seed and image decides them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffclass.evidence import Draws, LogNormal, LogUniform, Objective, TabulatedProposal
from diffclass.noise import epsilon, image_key

SPAN = (0.05, 20.0)
TABLE = TabulatedProposal((-2.0, -0.5, 1.0, 2.0), (0.0, 1.5, -1.0, 0.3))


def place(n: int = 64, block: int = 8, seed: int = 0, key: int = 1, objective: Objective | None = None) -> Draws:
    return Draws.place(objective or Objective(), SPAN, n=n, block=block, seed=seed, key=key)


def strata(draws: Draws, n: int) -> np.ndarray:
    return np.floor(np.log(draws.sigmas / SPAN[0]) / np.log(SPAN[1] / SPAN[0]) * n).astype(int)


@given(seed=st.integers(0, 2**40), key=st.integers(0, 2**64 - 1), block=st.sampled_from([1, 2, 4, 8, 16]))
def test_every_stratum_holds_one_draw(seed: int, key: int, block: int) -> None:
    draws = place(block=block, seed=seed, key=key)
    assert sorted(strata(draws, 64)) == list(range(64))


@given(seed=st.integers(0, 2**40))
def test_every_block_covers_the_range(seed: int) -> None:
    coarse = strata(place(seed=seed), 8).reshape(8, 8)
    assert (np.sort(coarse, axis=1) == np.arange(8)).all()


@given(seed=st.integers(0, 2**40), block=st.sampled_from([2, 4, 8]))
def test_antithetic_pairs_are_neighbours_within_a_block(seed: int, block: int) -> None:
    draws = place(block=block, seed=seed, objective=Objective(antithetic=True))
    assert draws.antithetic
    assert sorted(strata(draws, 64)) == list(range(64))
    coarse = strata(draws, block).reshape(-1, block)
    assert (np.sort(coarse, axis=1) == np.arange(block)).all()
    pairs = coarse.reshape(-1, 2)
    assert (pairs[:, 0] // 2 == pairs[:, 1] // 2).all()
    noise = draws.epsilon(range(64), (3,))
    assert torch.equal(noise[::2], -noise[1::2])
    assert torch.equal(noise[::2], epsilon(seed, 1, range(0, 64, 2), (3,)))  # a pure function, as ever
    assert len({tuple(row) for row in noise.tolist()}) == 64


def test_places_in_an_antithetic_block_are_taken_at_random() -> None:
    first = [strata(place(block=8, key=key, objective=Objective(antithetic=True)), 8)[0] for key in range(2000)]
    counts = np.bincount(first, minlength=8)
    # chi-square with 7 degrees of freedom: below 34.3 but once in 66,000
    assert ((counts - 250) ** 2 / 250).sum() < 34.3


@pytest.mark.parametrize("block", [1, 5])
def test_blocks_of_an_odd_number_of_draws_have_no_pairs(block: int) -> None:
    plain, asked = (place(n=60, block=block, objective=Objective(antithetic=a)) for a in (False, True))
    assert not asked.antithetic
    assert np.array_equal(plain.sigmas, asked.sigmas)
    assert torch.equal(plain.epsilon(range(60), (3,)), asked.epsilon(range(60), (3,)))


def test_order_of_strata_is_random() -> None:
    first = [strata(place(block=1, key=key), 64)[0] for key in range(2000)]
    counts = np.bincount(first, minlength=64)
    # chi-square with 63 degrees of freedom: below 120.1 but once in 100,000
    assert ((counts - 2000 / 64) ** 2 / (2000 / 64)).sum() < 120.1


def test_same_seed_and_key_same_draws_and_others_differ() -> None:
    assert np.array_equal(place().sigmas, place().sigmas)
    assert not np.array_equal(place().sigmas, place(seed=1).sigmas)
    assert not np.array_equal(place().sigmas, place(key=2).sigmas)


@pytest.mark.parametrize("proposal", [LogUniform(), LogNormal(0.0, 1.0), LogNormal(-1.0, 0.5), TABLE])
def test_weights_make_every_proposal_estimate_the_same_integral(proposal: object) -> None:
    # stratified: the error of the mean of a smooth function over n strata falls as n^-1.5
    objective = Objective(proposal=proposal)  # pyright: ignore[reportArgumentType]
    draws = Draws.place(objective, (0.2, 5.0), n=4096, block=8, seed=0, key=0)
    exact = (0.2**-2 - 5.0**-2) / 2  # of sigma^-2 against d log sigma
    assert draws.weights.mean() == pytest.approx(exact, rel=2e-3)


def test_epsilon_is_a_function_of_seed_image_and_draw() -> None:
    whole = epsilon(3, 5, range(10), (2, 4))
    assert torch.equal(whole[7:8], epsilon(3, 5, [7], (2, 4)))
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole, epsilon(4, 5, range(10), (2, 4)))
    assert not torch.equal(whole, epsilon(3, 6, range(10), (2, 4)))


def test_epsilon_is_standard_gaussian() -> None:
    noise = epsilon(0, 0, range(100), (10000,)).double()
    # 10^6 values: five standard errors of the mean, the variance and the correlation of neighbouring draws
    assert abs(noise.mean()) < 5e-3
    assert abs(noise.var() - 1) < 5 * 2**0.5 * 1e-3
    assert abs((noise[1:] * noise[:-1]).mean()) < 5.1e-3


def test_image_key_is_of_the_content() -> None:
    image = torch.rand(1, 4, 4)
    assert image_key(image) == image_key(image.clone())
    assert image_key(image) != image_key(image + 1e-6)


def test_large_keys_keep_their_last_bits() -> None:
    assert not torch.equal(epsilon(0, 2**64 - 1, [0], (4,)), epsilon(0, 2**64 - 2, [0], (4,)))
