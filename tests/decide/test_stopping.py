"""Calibrated stopping: the statistic, the promise over images by simulation, and what is refused."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from diffclass.decide import learning
from diffclass.decide.learning import images_needed, learn_stopping
from diffclass.decide.race import PairedRace
from diffclass.decide.replay import full_answers, replay
from diffclass.decide.stopping import Calibrated
from diffclass.errors import ConfigError, InputError, RangeError
from diffclass.evidence import ErrorMatrices

DELTA = 0.05
N_DRAWS, BLOCK = 32, 2


def gaussian(n: int, seed: int, *, n_classes: int = 4, gap: float = 1.0, tail: float = 0.0) -> ErrorMatrices:
    """Paired log-likelihood ratios that are Gaussian with a variance of twice their mean, or have a heavy tail.

    Class c lies `gap` times a unit exponential behind the best, so that some images are near ties.
    """
    random = np.random.default_rng(seed)
    behind = gap * random.exponential(size=(n, 1, n_classes))
    behind[np.arange(n), 0, random.integers(0, n_classes, n)] = 0.0
    noise = random.standard_normal((n, N_DRAWS, n_classes))
    if tail:
        noise *= np.exp(tail * random.standard_normal(noise.shape))
    errors = 100 + random.standard_normal((n, N_DRAWS, 1)) + behind + np.sqrt(2 * behind) * noise
    sigmas = np.tile(np.linspace(1, 2, N_DRAWS), (n, 1))
    return ErrorMatrices(
        errors=errors.astype(np.float32),
        sigmas=sigmas,
        weights=np.ones_like(sigmas),
        labels=np.zeros(n, dtype=np.int64),
        classes=tuple(map(str, range(n_classes))),
        block=BLOCK,
        seed=0,
        keys=tuple(range(n)),
    )


def rule(**changes: Any) -> Calibrated:
    values: dict[str, Any] = {
        "threshold": 2.0,
        "tightening": 0.0,
        "looks": (1, 2, 4, 8, 16),
        "unit": 1,
        "log_scale": np.log(2.0),
        "slope": 1.0,
        "prior_units": 8.0,
        "n_draws": N_DRAWS,
        "block": BLOCK,
        "delta": DELTA,
        "confidence": 0.9,
        "n": 100,
        "disagreements": 0.0,
    }
    return Calibrated(**(values | changes))


# The statistic


def test_statistic_is_the_mean_over_its_moderated_standard_error() -> None:
    lead = np.array([[0.0, 1.0, 3.0], [0.0, 2.0, -1.0], [0.0, 1.5, 1.0]])
    made = rule(log_scale=np.log(0.5), slope=0.5, prior_units=4.0)
    expected = []
    for column in (lead[:, 1], lead[:, 2]):
        trend = 0.5 * column.mean() ** 0.5
        variance = (4 * trend + 2 * column.var(ddof=1)) / (4 + 2)
        expected.append(column.mean() / np.sqrt(variance / 3 * (1 - 3 / N_DRAWS)))
    for threshold in (expected[0] - 1e-6, expected[0] + 1e-6, expected[1] - 1e-6, expected[1] + 1e-6):
        wanted = [False, expected[0] > threshold, expected[1] > threshold]
        assert replace(made, threshold=threshold).excludes(lead, np.zeros(3)).tolist() == wanted


def test_one_draw_is_judged_by_the_trend_alone() -> None:
    made, lead = rule(), np.array([[0.0, 5.0]])
    statistic = 5 / np.sqrt(2 * 5 * (1 - 1 / N_DRAWS))
    assert replace(made, threshold=statistic * 0.999).excludes(lead, np.zeros(2)).tolist() == [False, True]
    assert replace(made, threshold=statistic * 1.001).excludes(lead, np.zeros(2)).tolist() == [False, False]


def test_tightening_lowers_the_threshold_of_later_looks_and_a_prior_shifts_the_lead() -> None:
    lead = np.tile([[0.0, 1.0]], (16, 1))
    statistic = 1 / np.sqrt(8 * 2 / 23 / 16 * 0.5)
    assert not rule(threshold=statistic * 1.3).excludes(lead, np.zeros(2)).any()
    assert rule(threshold=statistic * 1.3, tightening=0.1).excludes(lead, np.zeros(2))[1]  # 16^-0.1 = 0.76
    assert not rule(threshold=statistic * 0.9).excludes(lead, np.array([0.0, -1.5])).any()


def test_pairs_are_judged_by_their_means() -> None:
    random = np.random.default_rng(0)
    single = np.column_stack([np.zeros(4), 1 + random.standard_normal(4)])
    pairs = np.repeat(single, 2, axis=0) + np.tile([[0.0, 9.0], [0.0, -9.0]], (4, 1))  # opposite noise cancels
    one, two = rule(), rule(unit=2, looks=(2, 4, 8, 16), n_draws=2 * N_DRAWS)
    np.testing.assert_allclose(two.statistic(pairs), one.statistic(single))


def test_identical_classes_are_never_told_apart() -> None:
    assert not rule(threshold=1e-6).excludes(np.zeros((8, 3)), np.zeros(3)).any()


# Learning


def test_the_trend_of_gaussian_ratios_is_found() -> None:
    scale, slope = learning._fit_trend(gaussian(200, 0, gap=3.0), 1)
    assert slope == pytest.approx(1.0, abs=0.1)
    assert np.exp(scale) == pytest.approx(2.0, rel=0.25)


@pytest.mark.parametrize("threshold", [0.5, 1.0, 2.0])
def test_learning_replays_what_a_race_does(threshold: float) -> None:
    made, matrices = rule(threshold=threshold, tightening=0.1, prior_units=0.5), gaussian(150, 1)
    evaluations, wrong = learning._Replays(matrices, made).play(threshold)
    replayed = replay(PairedRace.calibrated(made), matrices)
    assert evaluations.tolist() == replayed.evaluations.tolist()
    assert wrong.tolist() == (replayed.answers != full_answers(matrices)).tolist()
    assert wrong.any() or threshold == 2.0


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "COARSE", tuple(10 * 0.8**i for i in range(15)))
    monkeypatch.setattr(learning, "FINE", tuple(1.3 * 0.93**i for i in range(10)))


@pytest.mark.parametrize("tail", [0.0, 1.0], ids=["Gaussian", "heavy-tailed"])
def test_answers_differ_no_more_often_than_promised(tail: float) -> None:
    """Each rule may break the promise with probability 0.1: more than the limit of 20 would once in 10,000 tests.

    A rule breaks it where its error over 1,000 fresh images is above 5%.
    """
    fresh, broken, errors = gaussian(1000, 999, tail=tail), 0, []
    for seed in range(20):
        made = learn_stopping(gaussian(110, seed, tail=tail), delta=DELTA, n_orders=1)
        _, wrong = learning._Replays(fresh, made).play(made.threshold)
        errors.append(wrong.mean())
        broken += wrong.mean() > DELTA
    assert broken <= stats.binom.isf(1e-4, 20, 0.1)
    assert np.mean(errors) > 0.05 * DELTA  # it spends some of the errors that it is allowed


def test_it_costs_far_less_than_a_promise_for_every_image() -> None:
    made, fresh = learn_stopping(gaussian(400, 0), delta=DELTA), gaussian(200, 1)
    calibrated = replay(PairedRace.calibrated(made), fresh)
    student = replay(PairedRace(n_draws=N_DRAWS, block=BLOCK, delta=DELTA), fresh)
    assert calibrated.evaluations.mean() < 0.5 * student.evaluations.mean()
    assert made.n == 300
    assert 0 <= made.disagreements <= DELTA * made.n


def test_the_same_seed_learns_the_same_rule_and_json_keeps_it() -> None:
    first, second = (learn_stopping(gaussian(90, 3), delta=DELTA, n_orders=1) for _ in range(2))
    assert first == second
    assert Calibrated.from_dict(json.loads(json.dumps(first.as_dict()))) == first
    assert PairedRace.calibrated(first).next_look(0) == first.looks[0]


def test_images_needed_is_where_no_difference_just_suffices() -> None:
    needed = images_needed(delta=DELTA, confidence=0.9)
    stake = learning.STAKES[-1] / (1 - DELTA)
    assert (1 + stake * DELTA) ** needed >= 10 > (1 + stake * DELTA) ** (needed - 1)
    binomial = np.ceil(np.log(0.1) / np.log(1 - DELTA))  # no test can do with fewer
    assert binomial <= needed <= 1.1 * binomial


# Refusals


def test_too_few_images_are_refused_with_the_number_needed() -> None:
    with pytest.raises(
        InputError, match=r"at least 242 images to test for delta=0.01 at confidence 0.9, 323 in all\. Got 40"
    ):
        learn_stopping(gaussian(40, 0))


@pytest.mark.parametrize("options", [{"delta": 0.0}, {"confidence": 1.0}, {"held_out": 1.0}, {"n_orders": 0}])
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(RangeError, match=f"The '{next(iter(options))}' parameter of learn_stopping must be"):
        learn_stopping(gaussian(10, 0), **options)


def test_classes_that_never_differ_are_refused() -> None:
    same = gaussian(200, 0)
    same = replace(same, errors=np.repeat(same.errors[:, :, :1], 4, axis=2))
    with pytest.raises(InputError, match="needs classes that differ"):
        learn_stopping(same, delta=DELTA)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"looks": ()}, "The 'looks' of Calibrated must ascend"),
        ({"looks": (1, 32)}, "to less than n_draws"),
        ({"unit": 3}, "must divide the block of 2 draws. Got 3."),
        ({"unit": 2, "looks": (2, 5)}, "in whole units of 2 draws"),
        ({"threshold": 0.0}, "The 'threshold' of Calibrated must be above 0. Got 0.0."),
        ({"delta": 1.0}, "The 'delta' of Calibrated must be a float in"),
    ],
)
def test_rules_that_cannot_be_used(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        rule(**changes)


def test_a_mapping_must_hold_every_key() -> None:
    stored = rule().as_dict()
    del stored["slope"]
    with pytest.raises(ConfigError, match=r"Missing: slope; unknown: steepness\."):
        Calibrated.from_dict(stored | {"steepness": 1})


def test_a_race_must_be_the_one_its_rule_was_learned_for() -> None:
    with pytest.raises(InputError, match="needs a 'stopping' rule, and no other bound takes one"):
        PairedRace(bound="calibrated")
    with pytest.raises(InputError, match="needs a 'stopping' rule, and no other bound takes one"):
        PairedRace(stopping=rule())
    with pytest.raises(InputError, match=r"must be the race its rule was learned for: n_draws=32, block=2, delta=0.05"):
        PairedRace(bound="calibrated", stopping=rule())
