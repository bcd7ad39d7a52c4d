"""Figures of a comparison against numbers worked out by hand."""

from typing import Any

import numpy as np
import pytest

from diffclass.bench.compositional.counting import Tally, credit, harmonic_mean, paired_gain
from diffclass.stats.interval import clustered_mean, clustered_proportion, mean_interval, wilson


def row(
    key: str, chosen: list[int], *, target: int = 0, cluster: str = "", seed: int = 0, captions: str = "abc",
    tags: tuple[str, ...] = ("target", "colour swap", "random"), seen: tuple[bool, ...] = (False, True, False),
) -> dict[str, Any]:  # fmt: skip
    return {
        "id": f"{key}#{seed}", "key": key, "seed": seed, "chosen": chosen, "target": target, "cluster": cluster or key,
        "captions": list(captions), "tags": list(tags), "seen": list(seen), "evaluations": 10, "seconds": 1.0,
        "scores": [float(i in chosen) for i in range(len(captions))], "task": "t", "split": "s",
    }  # fmt: skip


ROWS = [row("1", [0], cluster="p"), row("2", [1], cluster="p"), row("3", [0, 2], cluster="q"), row("4", [0, 1, 2])]


@pytest.mark.parametrize(("chosen", "shared", "wrong"), [([0], 1, 1), ([1], 0, 0), ([0, 2], 0.5, 0), ([1, 2], 0, 0)])
def test_credit_of_ties(chosen: list[int], shared: float, wrong: float) -> None:
    assert (credit(row("x", chosen), "shared"), credit(row("x", chosen), "wrong")) == (shared, wrong)


def test_shares_of_answers() -> None:
    tally = Tally.from_rows([*ROWS, {"id": "5#0", "key": "5", "error": "gone", "seed": 0}])
    assert (tally.n_failed, tally.failures, tally.n_tied()) == (1, (("5#0", "gone"),), 2)
    assert tally.accuracy().value == pytest.approx((1 + 0 + 1 / 2 + 1 / 3) / 4)
    assert tally.accuracy("wrong").value == pytest.approx(1 / 4)
    shares = tally.preferred()
    assert list(shares) == ["target", "colour swap", "random"]
    assert list(shares.values()) == pytest.approx([11 / 24, (1 + 1 / 3) / 4, (1 / 2 + 1 / 3) / 4])
    assert sum(shares.values()) == pytest.approx(1)
    assert tally.seen_share().value == pytest.approx((1 + 1 / 3) / 4)
    assert tally.seen_offered() == tally.chance() == pytest.approx(1 / 3)


def test_macro_averages_over_groups_of_enough_items() -> None:
    groups = {"1": "a", "2": "a", "3": "b", "4": "b"}
    assert Tally.from_rows(ROWS).macro(groups).value == pytest.approx((0.5 + (1 / 2 + 1 / 3) / 2) / 2)
    uneven = {"1": "a", "2": "b", "3": "b", "4": "b"}
    assert Tally.from_rows(ROWS).macro(uneven, least=2).value == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)
    assert np.isnan(Tally.from_rows(ROWS).macro(groups, least=9).value)
    # seeds are not items: two rows of one key are one
    twice = [row("1", [0], seed=s) for s in (0, 1)]
    assert np.isnan(Tally.from_rows(twice).macro({"1": "a"}, least=2).value)


def test_targets_are_counted_each() -> None:
    rows = [row("1", [0]), row("2", [1], target=1), row("3", [0], target=1)]
    found = {name: estimate.value for name, estimate in Tally.from_rows(rows).by_target().items()}
    assert found == {"a": 1.0, "b": 0.5}


def test_harmonic_mean_of_seen_and_unseen() -> None:
    seen = Tally.from_rows([row(str(i), [0 if i < 8 else 1]) for i in range(10)])
    unseen = Tally.from_rows([row(str(i), [0 if i < 2 else 1]) for i in range(10)])
    found = harmonic_mean(seen, unseen)
    assert found.value == pytest.approx(2 * 0.8 * 0.2 / (0.8 + 0.2))
    assert found.low < found.value < found.high
    never = Tally.from_rows([row("1", [1])])
    assert harmonic_mean(never, never).value == 0.0


def test_gains_are_paired_by_item() -> None:
    first = Tally.from_rows([row("1", [1]), row("2", [0]), row("3", [0])])
    second = Tally.from_rows([row("3", [1]), row("1", [0], seed=0), row("1", [1], seed=1), row("9", [0])])
    assert paired_gain(first, second).value == pytest.approx((0.5 - 1) / 2)  # items 1 and 3


def test_items_by_themselves_have_the_usual_intervals() -> None:
    values = np.array([1.0] * 13 + [0.0] * 7)
    alone, plain = clustered_proportion(values, np.arange(20)), wilson(13, 20)
    assert (alone.low, alone.high) == pytest.approx((plain.low, plain.high), abs=0.006)  # n - 1 for n in the variance
    mean, student = clustered_mean(values, np.arange(20)), mean_interval(values)
    assert (mean.low, mean.high) == pytest.approx((student.low, student.high))


def test_copies_of_items_add_nothing_to_what_is_known() -> None:
    values, clusters = np.array([1.0] * 6 + [0.0] * 4), np.arange(10)
    once = clustered_proportion(values, clusters)
    often = clustered_proportion(np.tile(values, 30), np.tile(clusters, 30))
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    means = [clustered_mean(np.tile(values, n), np.tile(clusters, n)) for n in (1, 30)]
    assert means[0].low == pytest.approx(means[1].low)


def test_all_right_is_known_from_clusters_alone() -> None:
    found = clustered_proportion(np.ones(90), np.repeat(np.arange(3), 30))
    assert (found.value, found.high, found.low) == (1.0, 1.0, pytest.approx(wilson(3, 3).low))
    assert clustered_mean(np.ones(4), np.zeros(4)).low == -np.inf  # one cluster says nothing of its variance


def test_clustered_intervals_cover() -> None:
    # 60 clusters of 5 items, all alike within a cluster (p = 0.3): 95% of 400 intervals hold p; fewer than 360 would
    # come up with probability below 1e-4 at 0.95, and an interval for independent items covers about 60%.
    random = np.random.default_rng(0)
    clusters = np.repeat(np.arange(60), 5)
    found = [clustered_proportion(np.repeat(random.random(60) < 0.3, 5) * 1.0, clusters) for _ in range(400)]
    assert sum(one.low <= 0.3 <= one.high for one in found) >= 360
