"""Stored error matrices: kept to the bit, reordered as draws are placed, refused where they do not fit."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffclass.errors import InputError, RangeError, ResultError, ShapeError
from diffclass.evidence import Draws, ErrorMatrices, Objective

RANGE = (0.1, 10.0)


def matrices(n: int = 5, *, n_draws: int = 16, block: int = 4, **changes: Any) -> ErrorMatrices:
    random = np.random.default_rng(n)
    draws = [Draws.place(Objective(), RANGE, n=n_draws, block=block, seed=3, key=2**63 + i) for i in range(n)]
    values: dict[str, Any] = {
        "errors": random.random((n, n_draws, 3), dtype=np.float32),
        "sigmas": np.stack([d.sigmas for d in draws]),
        "weights": np.stack([d.weights for d in draws]),
        "labels": np.arange(n, dtype=np.int64) % 3,
        "classes": ("a", "b", "ç"),
        "block": block,
        "seed": 3,
        "keys": tuple(2**63 + i for i in range(n)),
    }
    return ErrorMatrices(**(values | changes))


def test_saving_keeps_every_bit(tmp_path: Path) -> None:
    made = matrices()
    made.save(tmp_path / "new" / "m.npz")
    read = ErrorMatrices.load(tmp_path / "new" / "m.npz")
    for name in ("errors", "sigmas", "weights", "labels"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
    assert (read.classes, read.block, read.seed, read.keys) == (made.classes, made.block, made.seed, made.keys)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["m.npz"]


def test_evidence_is_that_of_the_engine_s_draws() -> None:
    made = matrices()
    evidence = made.evidence(2)
    placed = Draws.place(Objective(), RANGE, n=16, block=4, seed=3, key=made.keys[2])
    np.testing.assert_array_equal(evidence.draws.sigmas, placed.sigmas)
    np.testing.assert_array_equal(evidence.errors, made.errors[2])
    np.testing.assert_allclose(evidence.log_prior, np.log([1 / 3] * 3))
    np.testing.assert_allclose(made.log_likelihood()[2], -evidence.weighted())


def test_parts_joined_are_the_whole() -> None:
    made = matrices()
    parts = [made.part(np.array([0, 1])), made.part(np.array([2, 3, 4]))]
    joined = ErrorMatrices.concatenate(parts)
    np.testing.assert_array_equal(joined.errors, made.errors)
    assert joined.keys == made.keys
    assert len(parts[1]) == 3
    with pytest.raises(InputError, match="Got 2 kinds"):
        ErrorMatrices.concatenate([parts[0], matrices(n_draws=32)])
    with pytest.raises(InputError, match="at least one part"):
        ErrorMatrices.concatenate([])


def test_first_draws_are_a_prefix() -> None:
    made = matrices()
    np.testing.assert_array_equal(made.first(8).errors, made.errors[:, :8])
    assert made.first(16).n_draws == 16
    for n_draws in (6, 20):
        with pytest.raises(RangeError, match=f"whole blocks of 4, at most 16. Got {n_draws}"):
            made.first(n_draws)


def test_reweighting_changes_nothing_else() -> None:
    made = matrices()
    other = made.reweighted(2 * made.weights)
    np.testing.assert_array_equal(other.log_likelihood(), 2 * made.log_likelihood())
    assert other.errors is made.errors


@pytest.mark.parametrize("block", [1, 2, 4, 16])
def test_a_new_order_keeps_the_draws_and_fills_every_block_evenly(block: int) -> None:
    made = matrices()
    other = made.reordered(seed=1, block=block)
    assert other.block == block
    for i in range(len(made)):
        before, after = np.argsort(made.sigmas[i]), np.argsort(other.sigmas[i])
        np.testing.assert_array_equal(other.errors[i, after], made.errors[i, before])
        np.testing.assert_array_equal(other.weights[i, after], made.weights[i, before])
        coarse = np.argsort(after) // (16 // block)  # rank of each draw's noise level, in coarse strata
        assert (np.sort(coarse.reshape(-1, block), axis=1) == np.arange(block)).all()
    assert not np.array_equal(other.sigmas, made.sigmas)
    np.testing.assert_allclose(other.log_likelihood().mean(axis=1), made.log_likelihood().mean(axis=1))


def test_every_order_is_as_likely_as_that_of_the_draws() -> None:
    """4 draws in blocks of 2 have 2! 2! 2! 2! = 16 orders; each one's count lies within 6 standard deviations."""
    n = 4000
    sigmas = np.tile(np.array([1.0, 2.0, 3.0, 4.0]), (n, 1))
    made = matrices(
        n,
        n_draws=4,
        block=2,
        errors=np.zeros((n, 4, 3), dtype=np.float32),
        sigmas=sigmas,
        weights=sigmas,
        labels=np.zeros(n, dtype=np.int64),
        keys=tuple(range(n)),
    )
    orders, counts = np.unique(made.reordered(seed=0).sigmas, axis=0, return_counts=True)
    assert len(orders) == 16
    assert np.abs(counts - n / 16).max() < 6 * np.sqrt(n / 16)


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"keys": (1, 2)}, ShapeError, "ErrorMatrices need errors of [image, draw, class]"),
        ({"n_draws": 15, "block": 3, "classes": ("a", "b")}, ShapeError, "2 names"),
        ({"labels": -np.ones(5, dtype=np.int64)}, RangeError, "must be from 0 to 2. Got -1 to -1."),
        ({"labels": np.full(5, 3)}, RangeError, "must be from 0 to 2. Got 3 to 3."),
        ({"errors": np.full((5, 16, 3), np.nan, dtype=np.float32)}, RangeError, "Measure with the race Exhaustive."),
    ],
)
def test_arrays_that_do_not_belong_together(changes: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=re.escape(sentence)):
        matrices(**changes)


def test_draws_are_whole_blocks() -> None:
    with pytest.raises(RangeError, match=r"must be whole blocks\. Got 16 draws in blocks of 5\."):
        replace(matrices(), block=5)


def test_files_that_are_no_matrices(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"missing\.npz' cannot be read: No such file"):
        ErrorMatrices.load(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("no zip")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    np.save(tmp_path / "array.npy", np.ones(3))
    matrices().save(tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-200])
    for name in ("text.npz", "empty.npz", "other.npz", "cut.npz", "array.npy"):
        with pytest.raises(ResultError, match=rf"{name}' holds no error matrices"):
            ErrorMatrices.load(tmp_path / name)
    with pytest.raises(ResultError, match="cannot be written"):
        matrices().save(tmp_path / "text.npz" / "m.npz")
