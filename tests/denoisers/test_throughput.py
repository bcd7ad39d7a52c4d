"""The batch size that suits a machine: which is chosen, and that it is measured once."""

from pathlib import Path

import pytest

from diffclass.denoisers import throughput
from diffclass.denoisers.throughput import BATCH_SIZES, best_batch_size, evaluations_per_second
from tiny_mixture import tiny_mixture


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFCLASS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "throughput.json"


def pretend(monkeypatch: pytest.MonkeyPatch, *rates: float) -> list[int]:
    """Let the machine have these speeds, and return a list of the batch sizes that it is asked for."""
    asked: list[int] = []

    def rate(denoiser: object, batch_size: int) -> float:
        asked.append(batch_size)
        return rates[BATCH_SIZES.index(batch_size)]

    monkeypatch.setattr(throughput, "evaluations_per_second", rate)
    return asked


@pytest.mark.parametrize(
    ("rates", "chosen", "measured"),
    [
        ((10, 20, 30, 40, 50, 60), 1024, 6),
        ((10, 20, 30, 58, 59, 60), 256, 6),  # within 5% of the best
        ((10, 20, 30, 56, 59, 60), 512, 6),
        ((60, 60, 60, 60, 60, 60), 32, 6),
        ((50, 60, 59, 40, 90, 90), 64, 4),  # a third slower: nothing larger is tried
    ],
)
def test_the_smallest_of_the_fastest(
    cache: Path, monkeypatch: pytest.MonkeyPatch, rates: tuple[float, ...], chosen: int, measured: int
) -> None:
    asked = pretend(monkeypatch, *rates)
    assert best_batch_size(tiny_mixture()) == chosen
    assert asked == list(BATCH_SIZES[:measured])


def test_it_is_measured_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pretend(monkeypatch, 10, 20, 30, 60, 60, 60)
    assert best_batch_size(tiny_mixture()) == best_batch_size(tiny_mixture()) == 256
    assert len(asked) == 6
    monkeypatch.setattr(throughput.torch, "get_num_threads", lambda: 77)
    best_batch_size(tiny_mixture())
    assert len(asked) == 12  # another number of threads is another machine
    assert cache.is_file()


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff"])
def test_a_damaged_cache_is_measured_anew(cache: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    cache.parent.mkdir()
    cache.write_bytes(content)
    pretend(monkeypatch, 10, 20, 60, 60, 60, 60)
    assert best_batch_size(tiny_mixture()) == 128


def test_a_cache_that_cannot_be_written_is_done_without(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.write_text("not a folder")
    pretend(monkeypatch, 10, 20, 60, 60, 60, 60)
    assert best_batch_size(tiny_mixture()) == 128


def test_throughput_is_measured() -> None:
    assert evaluations_per_second(tiny_mixture(), 8, seconds=0.0) > 0
