"""Noise of many rows at once is the noise of each alone, bit for bit, in every release."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffclass.noise import epsilon, epsilons

ROWS = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**40)), min_size=1, max_size=8)
PINNED = [[0.7876396179199219, -0.18135163187980652], [0.6272605657577515, -0.8398722410202026]]


def written_out(seed: int, key: int, draw: int, shape: tuple[int, ...]) -> np.ndarray:
    """The definition: a Philox stream of its own for each row."""
    keys = np.array([seed % 2**64, key], dtype=np.uint64)
    philox = np.random.Philox(key=keys, counter=np.array([0, draw, 0, 0], dtype=np.uint64))
    return np.random.Generator(philox).standard_normal(shape, dtype=np.float32)


@given(seed=st.integers(-(2**40), 2**80), rows=ROWS, size=st.integers(1, 9))
def test_a_batch_of_rows_is_each_row_alone(seed: int, rows: list[tuple[int, int]], size: int) -> None:
    # an odd number of values leaves half a random word over, which must not reach the next row
    noise = epsilons(seed, [key for key, _ in rows], [draw for _, draw in rows], (size, 3))
    assert noise.dtype == torch.float32
    for row, (key, draw) in zip(noise, rows, strict=True):
        np.testing.assert_array_equal(row.numpy(), written_out(seed, key, draw, (size, 3)))
        assert torch.equal(row, epsilon(seed, key, [draw], (size, 3))[0])


def test_noise_is_pinned() -> None:
    """Stored results are replayed with these bits: a change of numpy or of the counter would void them."""
    wanted = np.array(PINNED, dtype=np.float32)
    np.testing.assert_array_equal(epsilons(1, [2, 2**64 - 1], [3, 0], (2,)).numpy(), wanted)


def test_no_rows_are_no_noise() -> None:
    assert epsilons(0, [], [], (2, 3)).shape == (0, 2, 3)
