"""Rows of two runs of the same images."""

from pathlib import Path
from typing import Any

import pytest

from diffclass.data.results import read_results


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Read the rows of a run by their ids, without the time they took."""
    rows = read_results(folder / "results.jsonl")[1]
    return sorted(({**row, "seconds": 0.0} for row in rows), key=lambda row: row["id"])


def assert_alike(one: Any, other: Any) -> None:
    """Compare values; numbers may differ in the last bits, because the images that share a batch are others."""
    if isinstance(one, float) and isinstance(other, float):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-6)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_alike(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_alike(a, b)
    else:
        assert one == other
