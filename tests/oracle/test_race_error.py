"""O7: how often a race drops the class that would have won.

Errors come from the optimal denoisers of Gaussian classes, in closed form, and are made the hardest there are: moved so
that classes tie, or tie but for a hair. Each count is compared with the quantile of the binomial that a race of exactly
delta exceeds with probability 1e-6.
"""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from diffclass.decide.race import PairedRace
from diffclass.evidence import Draws, Evidence, Objective
from diffclass.types import Survivors

DELTA = 0.05
STD = 0.5  # of every class
N_DRAWS, BLOCK = 128, 4


def limit(n_races: int, delta: float = DELTA) -> int:
    return int(stats.binom.isf(1e-6, n_races, delta))


def place(key: int) -> Draws:
    return Draws.place(Objective(), (0.05, 10.0), n=N_DRAWS, block=BLOCK, seed=0, key=key)


def gaussian_errors(draws: Draws, offsets: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Errors of D = (s^2 y + sigma^2 mu) / (s^2 + sigma^2) for classes N(mu, s^2) at offsets[class] = mu - x."""
    sigma = draws.sigmas[:, None, None]
    noise = random.standard_normal((len(draws), 1, offsets.shape[1]))
    residual = (STD**2 * sigma * noise + sigma**2 * offsets) / (STD**2 + sigma**2)
    return (residual**2).sum(axis=2)


def ring(n_classes: int, random: np.random.Generator) -> np.ndarray:
    """Offsets of classes that are equally far from x, in random directions: they tie in the long run."""
    offsets = random.standard_normal((n_classes, 8))
    return offsets / np.linalg.norm(offsets, axis=1, keepdims=True)


def evidence(errors: np.ndarray, draws: Draws) -> Evidence:
    n_classes = errors.shape[1]
    names = tuple(map(str, range(n_classes)))
    return Evidence(errors=errors.astype(np.float32), draws=draws, classes=names, log_prior=np.zeros(n_classes))


def play(race: PairedRace, errors: np.ndarray, draws: Draws) -> Survivors:
    shown = np.full(errors.shape, np.nan, dtype=np.float32)
    alive, n = np.ones(errors.shape[1], dtype=bool), 0
    while alive.sum() > 1 and n < race.n_draws:
        upto = race.next_look(n)
        shown[n:upto, alive] = errors[n:upto, alive]
        n = upto
        alive = race.survivors(evidence(shown, draws))
    return alive


def hairbreadth(n_classes: int, key: int) -> tuple[np.ndarray, Draws]:
    """A list on which class 0 wins by a hair over all others, in the order that its draws were placed in."""
    draws, random = place(key), np.random.default_rng(key)
    errors = gaussian_errors(draws, ring(n_classes, random), random)
    excess = (draws.weights[:, None] * (errors - errors[:, :1])).mean(axis=0)  # equal to log p(0) - log p(class)
    spread = excess.std() + 1e-3
    return errors - ((excess - 1e-4 * spread * (np.arange(n_classes) > 0)) / draws.weights.mean()), draws


def count_wrong(race: PairedRace, n_classes: int, n_races: int) -> int:
    """In how many races the winner of the full list is dropped."""
    wrong = 0
    for key in range(n_races):
        errors, draws = hairbreadth(n_classes, key)
        survivors = play(race, errors, draws)
        wrong += not survivors[evidence(errors, draws).leader()]
    return wrong


@pytest.mark.parametrize("n_classes", [2, 5])
@pytest.mark.parametrize(
    ("options", "n_races"),
    [({}, 400), ({"bound": "asymptotic"}, 400), ({"bound": "finite", "value_range": 60.0}, 100)],
    ids=["student", "asymptotic", "finite"],
)
def test_winner_of_the_full_list_is_seldom_dropped(n_classes: int, options: dict[str, Any], n_races: int) -> None:
    race = PairedRace(n_draws=N_DRAWS, block=BLOCK, delta=DELTA, **options)
    assert count_wrong(race, n_classes, n_races) <= limit(n_races)


@pytest.mark.parametrize("n_classes", [2, 5])
def test_winner_of_the_population_is_seldom_dropped(n_classes: int) -> None:
    n_races, wrong = 400, np.zeros(n_classes, dtype=int)
    race = PairedRace(n_draws=N_DRAWS, block=BLOCK, delta=DELTA, contract="population")
    for key in range(n_races):
        draws, random = place(key), np.random.default_rng(key)
        wrong += ~play(race, gaussian_errors(draws, ring(n_classes, random), random), draws)
    assert wrong.max() <= limit(n_races)  # every class of a tie may be taken for the winner


def test_a_repeated_t_test_would_fail() -> None:
    n_races, wrong = 400, 0
    for key in range(n_races):
        errors, draws = hairbreadth(2, key)
        blocks = evidence(errors, draws).blocks(1, 0)  # class 1 over class 0, which is the winner
        mean, n = blocks.cumsum() / np.arange(1, 33), np.arange(1, 32)
        sd = np.array([blocks[:i].std(ddof=1) if i > 1 else np.inf for i in n])
        t = mean[:-1] / (sd * np.sqrt((1 - n / 32) / n))
        wrong += (t[2:] > stats.t.isf(DELTA, n[2:] - 1)).any()
    assert wrong > limit(n_races)


def test_identical_classes_are_never_dropped() -> None:
    race = PairedRace(n_draws=N_DRAWS, block=BLOCK, delta=0.5)
    for key in range(100):
        draws, random = place(key), np.random.default_rng(key)
        errors = gaussian_errors(draws, ring(3, random), random)
        errors[:, 1] = errors[:, 0]
        survivors = play(race, errors, draws)
        assert survivors[0] == survivors[1]


def test_races_that_are_not_close_agree_and_are_cheap() -> None:
    race, spent = PairedRace(n_draws=N_DRAWS, block=BLOCK, delta=0.01), 0
    for key in range(50):
        draws, random = place(key), np.random.default_rng(key)
        errors = gaussian_errors(draws, random.standard_normal((10, 8)), random)
        shown = np.full(errors.shape, np.nan)
        alive, n = np.ones(10, dtype=bool), 0
        while alive.sum() > 1 and n < N_DRAWS:
            upto = race.next_look(n)
            shown[n:upto, alive] = errors[n:upto, alive]
            n, alive = upto, race.survivors(evidence(shown, draws))
        assert alive[evidence(errors, draws).leader()]
        spent += evidence(shown, draws).evaluations
    assert spent < 0.65 * 50 * errors.size
