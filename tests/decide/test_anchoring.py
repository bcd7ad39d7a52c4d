"""Anchors: few of many classes are measured first, and races, replays and learning agree on which others join."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from diffclass.decide import DiffusionClassifier, Exhaustive, PairedRace, learn_stopping
from diffclass.decide.anchoring import anchored
from diffclass.decide.learning import _Replays
from diffclass.decide.measure import measure
from diffclass.decide.replay import full_answers, replay
from diffclass.decide.stopping import Anchors, Calibrated
from diffclass.denoisers import Space
from diffclass.denoisers.analytic import GaussianDenoiser
from diffclass.errors import ConfigError, InputError, RangeError
from diffclass.evidence import ErrorMatrices

K, SHAPE, DELTA = 48, (1, 4, 4), 0.1
SPACE = Space(channels=1, height=4, width=4, scale=1.0, offset=0.0, data_std=0.3)


def means() -> torch.Tensor:
    """Classes that differ in three directions of sixteen."""
    random = torch.Generator().manual_seed(0)
    return 0.5 + 0.12 * torch.einsum(
        "ki,ichw->kchw", torch.randn((K, 3), generator=random), torch.randn((3, *SHAPE), generator=random)
    ).clamp(-3, 3)


def classifier() -> DiffusionClassifier:
    denoiser = GaussianDenoiser(means(), 0.08, space=SPACE, sigma_range=(0.05, 5.0))
    return DiffusionClassifier(denoiser=denoiser, race=Exhaustive(n_draws=32, block=4), batch_size=100)


def pictures(n: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(K, (n,), generator=random)
    images = means()[labels] + 0.08 * torch.randn((n, *SHAPE), generator=random)
    return images.clamp(0, 1), labels.numpy()


@pytest.fixture(scope="module")
def measured() -> ErrorMatrices:
    return measure(classifier(), *pictures(120, 1), n_draws=32)


@pytest.fixture(scope="module")
def made(measured: ErrorMatrices) -> Calibrated:
    plain = learn_stopping(measured, delta=DELTA, n_orders=2, many=K + 1)
    assert plain.anchors is None
    return list(anchored(measured, plain))[1]


@pytest.fixture(scope="module")
def fresh() -> ErrorMatrices:
    return measure(classifier(), *pictures(40, 2), n_draws=32)


def low_rank(n: int, seed: int, n_classes: int = 200) -> ErrorMatrices:
    """Images and classes are points of a plane; so is what the noise of a draw does to them all."""
    places, random = np.random.default_rng(0).standard_normal((n_classes, 2)), np.random.default_rng(seed)
    labels = random.integers(n_classes, size=n)
    images = places[labels, None] + 0.1 * random.standard_normal((n, 1, 2))
    seen = images + 0.8 * random.standard_normal((n, 32, 2))
    errors = 50 + 10 * ((seen[:, :, None] - places) ** 2).sum(axis=3) + random.standard_normal((n, 32, n_classes))
    ones = np.ones((n, 32))
    return ErrorMatrices(
        errors=errors.astype(np.float32), sigmas=ones, weights=ones, labels=labels, block=1, seed=0,
        classes=tuple(map(str, range(n_classes))), keys=tuple(range(n)),
    )  # fmt: skip


def test_anchors_save_where_classes_have_much_in_common() -> None:
    learning, new = low_rank(160, 1), low_rank(60, 2)
    rules = [learn_stopping(learning, delta=DELTA, held_out=0.5, n_orders=2, many=many) for many in (30, 201)]
    assert [rule.anchors is None for rule in rules] == [False, True]
    few, many = (replay(PairedRace.calibrated(rule), new) for rule in rules)
    assert few.evaluations.mean() < 0.8 * many.evaluations.mean()
    assert few.agreement(full_answers(new)).value >= 0.9 - 0.12  # 3 standard errors of 60 images below 1 - delta


@pytest.mark.parametrize("threshold", [0.3, 2.0])
def test_learning_replays_what_a_race_with_anchors_does(
    made: Calibrated, fresh: ErrorMatrices, threshold: float
) -> None:
    rule = replace(made, threshold=threshold)
    evaluations, wrong = _Replays(fresh, rule).play(threshold)
    replayed = replay(PairedRace.calibrated(rule), fresh)
    assert evaluations.tolist() == replayed.evaluations.tolist()
    assert wrong.tolist() == (replayed.answers != full_answers(fresh)).tolist()


@pytest.mark.parametrize("batch_size", [17, 256])
def test_the_engine_lets_in_whom_a_replay_lets_in(made: Calibrated, fresh: ErrorMatrices, batch_size: int) -> None:
    race, (images, _) = PairedRace.calibrated(made), pictures(40, 2)
    replayed = replay(race, fresh)
    racing = replace(classifier(), race=race, batch_size=batch_size)
    decisions = racing.classify(images)
    for i, decision in enumerate(decisions):
        assert decision.evidence.n_measured.tolist() == replayed.n_measured[i].tolist()
        assert decision.evaluations == replayed.evaluations[i]
    assert (replayed.n_measured == 0).any()


def test_a_class_that_is_never_measured_has_the_log_odds_of_its_anchor(made: Calibrated) -> None:
    race, (images, _) = PairedRace.calibrated(made), pictures(5, 3)
    prior = np.log(np.arange(1, K + 1) / (K * (K + 1) / 2))
    engine = replace(replace(classifier(), race=race).engine(), log_prior=prior)
    assert made.anchors is not None
    stand_ins = np.array(made.anchors.stand_ins)
    for finished in engine.run(enumerate(images)):
        odds, never = finished.evidence.log_odds(), finished.evidence.n_measured == 0
        assert np.isfinite(odds).all()
        assert never.any()
        shown = (odds - prior)[stand_ins] + prior
        np.testing.assert_allclose(odds[never], np.minimum(shown, -made.anchors.threshold)[never])
        assert (finished.looks[never] == made.looks[0]).all()
        assert not (finished.survivors & never).any()


def test_the_first_look_says_who_joins() -> None:
    anchors = Anchors(
        stand_ins=(0, 0, 2, 2), weights=((1.0, 0.0), (0.9, 0.0), (0.0, 1.0), (0.0, 0.5)), offset=(0.0, 0.0, 0.0, 0.2),
        threshold=1.0,
    )  # fmt: skip
    # The anchors, classes 0 and 2, are 3 and -3 about their mean: predictions 3, 2.7, -3 and -1.3.
    assert anchors.admits(np.array([[106.0, 100.0]])).tolist() == [[True, True, False, False]]
    assert anchors.admits(np.array([[106.0, 100.0]]), np.array([0.0, 0.0, 0.0, 4.0])).tolist() == [
        [True, True, False, True]
    ]


def test_json_keeps_anchors(made: Calibrated) -> None:
    assert Calibrated.from_dict(json.loads(json.dumps(made.as_dict()))) == made
    broken = made.as_dict()
    del broken["anchors"]["offset"]
    with pytest.raises(ConfigError, match=r"Anchors need the keys offset, stand_ins, threshold, weights\. Got "):
        Calibrated.from_dict(broken)


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"stand_ins": (1, 2, 2)}, InputError, "The 'stand_ins' of Anchors must name, for each class, a class that"),
        ({"stand_ins": (0, 0, 0)}, InputError, "The 'stand_ins' of Anchors must name, for each class, a class that"),
        ({"stand_ins": (0, 1, 7)}, InputError, "The 'stand_ins' of Anchors must name, for each class, a class that"),
        ({"weights": ((1.0,), (1.0,), (1.0,))}, InputError, "Anchors need weights of 3 classes by 2 anchors and 3 off"),
        ({"offset": (0.0,)}, InputError, "Anchors need weights of 3 classes by 2 anchors and 3 offsets. Got 3 by [2]"),
        ({"threshold": -1.0}, RangeError, "The 'threshold' of Anchors must be at least 0. Got -1.0."),
    ],
)
def test_anchors_that_cannot_be_used(changes: dict[str, Any], error: type[Exception], sentence: str) -> None:
    values = {"stand_ins": (0, 1, 1), "weights": ((1.0, 0.0),) * 3, "offset": (0.0,) * 3, "threshold": 1.0}
    with pytest.raises(error) as raised:
        Anchors(**(values | changes))
    assert sentence in str(raised.value)
