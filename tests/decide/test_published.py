"""The published rules on errors small enough to follow by hand, and what they refuse."""

import re
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_rel

from diffclass.decide import ClarkJaini, DiffusionClassifier, SiftAndRefine
from diffclass.denoisers.analytic import GaussianDenoiser
from diffclass.errors import RangeError
from diffclass.evidence import Draws, Evidence, Race
from diffclass.types import Survivors


def evidence(errors: np.ndarray, *, prior: np.ndarray | None = None) -> Evidence:
    n_draws, n_classes = errors.shape
    draws = Draws(sigmas=np.geomspace(0.1, 10.0, n_draws), weights=np.full(n_draws, 2.0), block=1, seed=0, key=0)
    names = tuple(map(str, range(n_classes)))
    log_prior = np.zeros(n_classes) if prior is None else prior
    return Evidence(errors=errors.astype(np.float32), draws=draws, classes=names, log_prior=log_prior)


def play(race: Race, errors: np.ndarray, *, prior: np.ndarray | None = None) -> tuple[Survivors, list[int]]:
    """Run a race on errors measured in full; return the survivors and how many draws each class was measured on."""
    shown = np.full(errors.shape, np.nan)
    alive, n = np.ones(errors.shape[1], dtype=bool), 0
    while alive.sum() > 1 and n < race.n_draws:
        upto = race.next_look(n)
        assert n < upto <= race.n_draws
        shown[n:upto, alive] = errors[n:upto, alive]
        n = upto
        survivors = race.survivors(evidence(shown, prior=prior))
        assert survivors.any()
        assert not (survivors & ~alive).any()
        alive = survivors
    return alive, np.isfinite(shown).sum(axis=0).tolist()


# Sift and refine


def test_sift_drops_by_the_summed_gap_and_stops_at_the_few_it_keeps() -> None:
    # Weight 2: a class that is behind by g in every draw is 2 g n behind after n draws. Threshold 10: gaps of 6, 3
    # and 2 leave after 1, 2 and 3 draws; then two classes are left and go to the end, although a gap
    # of 0.4 adds up to 16.
    errors = 5 + np.tile([0.0, 6.0, 3.0, 0.4, 2.0], (20, 1))
    race = SiftAndRefine(threshold=10.0, keep=2, n_sift=8, n_draws=20)
    survivors, measured = play(race, errors)
    assert survivors.tolist() == [True, False, False, True, False]
    assert measured == [20, 1, 2, 20, 3]


def test_sift_that_ends_with_too_many_keeps_the_best() -> None:
    errors = 5 + np.tile([0.3, 0.1, 0.0, 0.2], (20, 1))
    survivors, measured = play(SiftAndRefine(threshold=10.0, keep=2, n_sift=8, n_draws=20), errors)
    assert survivors.tolist() == [False, True, True, False]
    assert measured == [8, 20, 20, 8]


def test_few_classes_are_not_sifted() -> None:
    errors = 5 + np.tile([0.0, 1000.0], (126, 1))
    survivors, measured = play(SiftAndRefine(threshold=1.0), errors)
    assert survivors.all()
    assert measured == [126, 126]


def test_sift_counts_the_prior() -> None:
    # A prior of 3 nats against the class that is ahead by 2 puts it behind by 1.
    errors = 5 + np.tile([0.0, 1.0, 0.0], (20, 1))
    race = SiftAndRefine(threshold=0.5, keep=1, n_sift=8, n_draws=20)
    survivors, measured = play(race, errors, prior=np.array([-3.0, 0.0, -9.0]))
    assert survivors.tolist() == [False, True, False]
    assert measured == [1, 1, 1]


def test_published_sift_is_the_code_s() -> None:
    # The code's sum after n draws is n mean(range w error / dimension) / 1000.
    dimension, gap, n = 3 * 64 * 64, 700.0, 7
    for noised, threshold in ((True, 5e-5), (False, 5e-4)):
        race = SiftAndRefine.published(dimension, noised=noised)
        assert (race.keep, race.n_sift, race.n_draws) == (10, 50, 126)
        assert n * gap / race.threshold == pytest.approx(n * gap / dimension / 1000 / threshold)


# Repeated t-tests


def test_classes_leave_when_the_t_test_says_so() -> None:
    random = np.random.default_rng(0)
    gaps = np.array([0.0, 0.2, 0.5, 1.0, 4.0])
    errors = 50 + 5 * random.standard_normal((200, 1)) + random.standard_normal((200, 5)) + gaps
    errors = errors.astype(np.float32).astype(np.float64)
    race = ClarkJaini(n_draws=200)
    survivors, measured = play(race, errors)
    left = np.zeros(5, dtype=int)  # independently, by scipy
    for n in range(20, 201):
        alive = np.flatnonzero(left == 0)
        best = alive[errors[:n, alive].mean(axis=0).argmin()]
        for c in alive[alive != best]:
            if ttest_rel(errors[:n, c], errors[:n, best]).pvalue < 2e-3:
                left[c] = n
        if (left == 0).sum() == 1:
            break
    assert left[4] == 20
    assert len(set(left.tolist())) >= 3
    assert survivors.tolist() == (left == 0).tolist()
    assert [m for m, n in zip(measured, left, strict=True) if n] == [n for n in left if n]


def test_equal_classes_are_never_told_apart() -> None:
    errors = np.tile(np.random.default_rng(0).random((60, 1)), (1, 3))
    survivors, measured = play(ClarkJaini(n_draws=60), errors)
    assert survivors.all()
    assert measured == [60, 60, 60]


def test_a_constant_gap_is_certain() -> None:
    errors = np.tile([1.0, 1.5], (60, 1))
    survivors, measured = play(ClarkJaini(n_draws=60), errors)
    assert survivors.tolist() == [True, False]
    assert measured == [20, 20]


# Both, by the engine


@pytest.mark.parametrize("race", [ClarkJaini(n_draws=60), SiftAndRefine(threshold=20.0, keep=2, n_sift=10, n_draws=40)])
def test_the_engine_plays_them(race: Race) -> None:
    import torch

    means = torch.linspace(0.1, 0.9, 5)[:, None, None, None].expand(5, 1, 4, 4)
    denoiser = GaussianDenoiser(means, 0.2, classes=[*"abcde"])
    classifier = DiffusionClassifier(denoiser=denoiser, race=race)
    decisions = classifier.classify(means)
    assert [decision.label for decision in decisions] == [*"abcde"]
    assert all(decision.evaluations < 5 * race.n_draws for decision in decisions)


# Refusals


@pytest.mark.parametrize(
    ("race", "options", "sentence"),
    [
        (SiftAndRefine, {"threshold": 0.0}, "The 'threshold' parameter of SiftAndRefine must be above 0. Got 0.0."),
        (
            SiftAndRefine,
            {"threshold": 1.0, "keep": 0},
            "The 'keep' parameter of SiftAndRefine must be at least 1. Got 0.",
        ),
        (
            SiftAndRefine,
            {"threshold": 1.0, "n_sift": 200},
            "The 'n_sift' parameter of SiftAndRefine must be from 1 to n_draws (126). Got 200.",
        ),
        (
            SiftAndRefine,
            {"threshold": 1.0, "block": 2},
            "The 'block' of SiftAndRefine must be 1: it judges after every draw. Got 2.",
        ),
        (ClarkJaini, {"p_value": 1.0}, "The 'p_value' parameter of ClarkJaini must be a float in (0, 1). Got 1.0."),
        (ClarkJaini, {"n_draws": 10}, "The 'n_first' parameter of ClarkJaini must be from 2 to n_draws (10). Got 20."),
        (ClarkJaini, {"block": 4}, "The 'block' of ClarkJaini must be 1: it judges after every draw. Got 4."),
    ],
)
def test_settings_that_cannot_be_used(race: Any, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RangeError, match=f"^{re.escape(sentence)}$"):
        race(**options)
