"""Confidence sequences against independent transcriptions, and their promise against simulation.

A sequence of level delta that keeps its promise exactly fails here with probability 1e-6 a line: the limit on misses is
that quantile of the binomial.
"""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from diffclass.errors import InputError, RangeError
from diffclass.stats import AsymptoticSequence, Betting, EmpiricalBernstein, Sequence, StudentLooks

LOOKS = (4, 6, 9, 13, 19, 27, 32)  # blocks, of 32
UNIT = (0.0, 1.0)
EVERY: list[Sequence] = [
    StudentLooks(looks=LOOKS),
    AsymptoticSequence(),
    EmpiricalBernstein(value_range=UNIT),
    Betting(value_range=UNIT),
]
every_sequence = pytest.mark.parametrize("sequence", EVERY, ids=lambda s: type(s).__name__)


def limit(n: int, delta: float) -> int:
    return int(stats.binom.isf(1e-6, n, delta))


def misses(sequence: Sequence, lists: np.ndarray, *, delta: float, looks: range | tuple[int, ...], finite: bool) -> int:
    """In how many columns of lists[block, class], centred at 0, any look finds the bound above the mean."""
    ever = np.zeros(lists.shape[1], dtype=bool)
    for n in looks:
        ever |= sequence.lower(lists[:n], delta=delta, n_total=len(lists) if finite else None) > 1e-12
    return int(ever.sum())


def tied_lists(kind: str, n_lists: int, *, block: int = 8, n_draws: int = 256) -> np.ndarray:
    """Block means of paired differences whose sum over the list is exactly 0: the hardest races there are.

    A draw's amplitude follows its noise level, one draw of a block lies in each coarse stratum of noise levels, and the
    order is random within each stratum.
    """
    random = np.random.default_rng(len(kind))
    log_sigma = -4 + 7 * (np.arange(n_draws) + 0.5) / n_draws

    def bump(centre: float, width: float) -> np.ndarray:
        return np.exp(-0.5 * ((log_sigma - centre) / width) ** 2)

    shape = (n_lists, n_draws)
    if kind == "Gaussian":
        draws = random.standard_normal(shape)
    elif kind == "heteroscedastic":
        draws = random.standard_normal(shape) * bump(-0.5, 1.0)
    elif kind == "heavy-tailed":
        draws = random.standard_t(3, shape) * bump(-0.5, 1.0)
    elif kind == "sign-changing":
        draws = bump(-1.5, 0.8) - bump(0.5, 0.8) + 0.2 * random.standard_normal(shape) * bump(-0.5, 1.5)
    else:
        assert kind == "skewed"
        draws = 1 - random.exponential(size=shape)
    draws = draws - draws.mean(axis=1, keepdims=True)
    strata = random.permuted(draws.reshape(n_lists, block, n_draws // block), axis=2)
    return strata.mean(axis=1).T


# Promises


@pytest.mark.parametrize("kind", ["Gaussian", "heteroscedastic", "heavy-tailed", "sign-changing", "skewed"])
@pytest.mark.parametrize(
    ("sequence", "looks"), [(EVERY[0], LOOKS), (EVERY[1], range(2, 33))], ids=["StudentLooks", "AsymptoticSequence"]
)
def test_no_look_misses_a_tied_list(kind: str, sequence: Sequence, looks: range | tuple[int, ...]) -> None:
    lists = tied_lists(kind, 4000)
    assert misses(sequence, lists, delta=0.05, looks=looks, finite=True) <= limit(4000, 0.05)


@pytest.mark.parametrize(
    ("sequence", "looks"), [(EVERY[0], LOOKS), (EVERY[1], range(2, 33))], ids=["StudentLooks", "AsymptoticSequence"]
)
def test_gaussian_streams_are_missed_as_often_as_promised(sequence: Sequence, looks: range | tuple[int, ...]) -> None:
    stream = np.random.default_rng(0).standard_normal((32, 20_000))
    for delta in (0.05, 0.01):
        missed = misses(sequence, stream, delta=delta, looks=looks, finite=False)
        assert delta / 20 < missed / 20_000  # neither void nor needlessly wide
        assert missed <= limit(20_000, delta)


def test_a_repeated_t_test_would_fail_these_tests() -> None:
    stream = np.random.default_rng(0).standard_normal((32, 20_000))
    ever = np.zeros(20_000, dtype=bool)
    for n in LOOKS:
        ever |= stats.ttest_1samp(stream[:n], 0.0, alternative="greater").pvalue < 0.05
    assert ever.sum() > 2 * limit(20_000, 0.05)


@pytest.mark.parametrize("sequence", EVERY[2:], ids=["EmpiricalBernstein", "Betting"])
@pytest.mark.parametrize("finite", [True, False])
@pytest.mark.parametrize("rare", [0.02, 0.5, 0.9])
def test_bounded_streams_are_never_missed_more_often(sequence: Sequence, finite: bool, rare: float) -> None:
    # Zeros and ones, the worst there is within the range; rare ones give the variance nothing to be seen by.
    random, n = np.random.default_rng(1), 40
    ones = round(rare * n)
    if finite:
        lists = random.permuted(np.tile((np.arange(n) < ones)[:, None].astype(float), 2000), axis=0)
    else:
        lists = (random.random((n, 2000)) < rare).astype(float)
    mean = ones / n if finite else rare
    # Both return the largest bound of all looks so far.
    bound = sequence.lower(lists[: n - 1], delta=0.1, n_total=n if finite else None)
    assert (bound > mean + 1e-9).sum() <= limit(2000, 0.1)


# Formulas


def helmert(list_mean: float, blocks: np.ndarray, n_total: int) -> tuple[np.ndarray, np.ndarray]:
    """Contrasts of each block with the mean of those not yet seen, and by how much a shift of the mean shifts them."""
    contrasts, slopes = [], []
    for i in range(len(blocks)):
        unseen = n_total - i
        fair = (n_total * list_mean - blocks[:i].sum()) / unseen
        contrasts.append((blocks[i] - fair) * np.sqrt(unseen / (unseen - 1)))
        slopes.append(n_total / np.sqrt(unseen * (unseen - 1)))
    return np.array(contrasts), np.array(slopes)


def evidence_against(contrasts: np.ndarray, slopes: np.ndarray, prior_blocks: float) -> float:
    """The likelihood ratio averaged over positive effects and, in both hypotheses, over scales; by quadrature."""
    n, scale = len(contrasts), np.sqrt((contrasts**2).mean())

    def over_scales(effect: float) -> float:
        def density(log_s: float) -> float:
            s = np.exp(log_s)
            return np.exp(-((contrasts - effect * s * slopes) ** 2).sum() / (2 * s**2) - n * log_s)

        return integrate.quad(density, np.log(scale / 20), np.log(scale * 20), limit=200)[0]

    prior = stats.norm(scale=1 / np.sqrt(prior_blocks))
    top = integrate.quad(lambda e: 2 * prior.pdf(e) * over_scales(e), 0, 8 / np.sqrt(prior_blocks), limit=200)[0]
    return top / over_scales(0.0)


def test_asymptotic_sequence_is_the_mixture_of_contrasts_without_replacement() -> None:
    blocks = np.array([0.3, 1.1, 0.9, 0.2, 1.4, 0.8, 3.0, 0.5])  # skewed to the right: no margin for skewness
    for n_total, delta in ((20, 0.05), (9, 0.02)):
        low = AsymptoticSequence(prior_blocks=2.0).lower(blocks[:, None], delta=delta, n_total=n_total)[0]
        contrasts, slopes = helmert(low, blocks, n_total)
        assert (slopes**2).sum() == pytest.approx(8 * n_total / (n_total - 8))
        # On the safe side of the exact boundary, by at most the 1 / (2 Q) paid for a closed form.
        assert 1 / delta <= evidence_against(contrasts, slopes, 2.0) <= 1.1 / delta


def test_asymptotic_sequence_tends_to_that_of_waudby_smith() -> None:
    n, delta, prior = 400_000, 0.01, 1e5
    blocks = np.random.default_rng(0).standard_normal((n, 1))
    radius = blocks.mean() - AsymptoticSequence(prior_blocks=prior).lower(blocks, delta=delta)[0]
    rho2 = 1 / prior
    expected = np.sqrt(2 * (n * rho2 + 1) / (n**2 * rho2) * np.log(np.sqrt(n * rho2 + 1) / (2 * delta)))
    assert radius == pytest.approx(expected * blocks.std(), rel=0.01)


def test_student_looks_is_students_bound_of_the_last_look() -> None:
    blocks = np.random.default_rng(2).gamma(2.0, size=(11, 1))
    low = StudentLooks(looks=(4, 9, 20)).lower(blocks, delta=0.06)
    seen = blocks[:9, 0]
    assert stats.skew(seen) > 0
    expected = stats.ttest_1samp(seen, 0.0, alternative="greater").confidence_interval(1 - 0.02).low
    assert low[0] == pytest.approx(expected)
    # Of a list of 12: two looks share delta, the error shrinks by 1 - 9/12, and the 3 blocks left have 2 degrees.
    low = StudentLooks(looks=(4, 9, 12)).lower(blocks, delta=0.06, n_total=12)
    expected = seen.mean() - stats.t.isf(0.03, 2) * seen.std(ddof=1) * np.sqrt((1 - 9 / 12) / 9)
    assert low[0] == pytest.approx(expected)


def test_long_left_tails_widen_the_bound_as_johnson_says() -> None:
    right = np.random.default_rng(3).exponential(size=(12, 1))
    sequence = StudentLooks(looks=(12,))
    radius_right = right.mean() - sequence.lower(right, delta=0.05)[0]
    radius_left = -right.mean() - sequence.lower(-right, delta=0.05)[0]
    quantile, se = stats.t.isf(0.05, 11), right.std(ddof=1) / np.sqrt(12)
    assert radius_right == pytest.approx(quantile * se)
    skewness = stats.skew(right[:, 0])
    assert radius_left == pytest.approx((quantile + skewness * (2 * quantile**2 + 1) / (6 * np.sqrt(12))) * se)


def wealth(x: np.ndarray, m: float, delta: float, n_total: int | None) -> float:
    """The largest wealth of the gambler who bets against m, one block at a time."""
    most = now = 1.0
    for i in range(len(x)):
        seen = x[:i]
        means = [(0.5 + x[: j + 1].sum()) / (j + 2) for j in range(i)]
        variance = (0.25 + sum((seen[j] - means[j]) ** 2 for j in range(i))) / (i + 1)
        bet = np.sqrt(2 * np.log(1 / delta) / (variance * (i + 1) * np.log(i + 2)))
        fair = m if n_total is None else (n_total * m - seen.sum()) / (n_total - i)
        if fair < 0:
            return np.inf
        now *= 1 + min(bet, 0.75 / max(fair, 1e-12)) * (x[i] - fair)
        most = max(most, now)
    return most


@pytest.mark.parametrize("n_total", [None, 30])
def test_betting_refutes_just_the_means_that_make_the_gambler_rich(n_total: int | None) -> None:
    x = np.random.default_rng(4).beta(4, 2, size=20)
    low = Betting(value_range=UNIT).lower(x[:, None], delta=0.05, n_total=n_total)[0]
    assert 0.2 < low < x.mean()
    assert wealth(x, low - 1e-6, 0.05, n_total) >= 20 > wealth(x, low + 1e-6, 0.05, n_total)


@pytest.mark.parametrize("n_total", [None, 30])
def test_log_wealth_is_the_gamblers(n_total: int | None) -> None:
    x = np.random.default_rng(4).beta(4, 2, size=20)
    betting = Betting(value_range=(-1.0, 3.0))  # 4 x - 1 lies in it
    got = betting.log_wealth(4 * x[:, None] - 1, np.array([4 * 0.5 - 1]), delta=0.05, n_total=n_total)[:, 0]
    for n in (1, 7, 20):
        assert max(1.0, np.exp(got[:n]).max()) == pytest.approx(wealth(x[:n], 0.5, 0.05, n_total))
    refuted = betting.log_wealth(4 * x[:, None] - 1, np.array([-2.0]), delta=0.05, n_total=30)
    assert np.isposinf(refuted).all()  # blocks in the range cannot have such a mean


def test_wealth_is_fair_in_every_order_of_a_list() -> None:
    # The expectation over orders is at most 1; the mean of 4,000 exceeds it by 5 standard errors once in 3 million.
    random = np.random.default_rng(11)
    values = random.beta(0.5, 0.5, size=12)
    orders = random.permuted(np.tile(values[:, None], (1, 4000)), axis=0)
    means = np.full(4000, values.mean())
    found = np.exp(Betting(value_range=UNIT).log_wealth(orders[:8], means, delta=0.05, n_total=12)[-1])
    assert found.mean() <= 1 + 5 * found.std() / np.sqrt(4000)
    assert found.mean() > 0.8  # and no fairer than it must be


@pytest.mark.parametrize("n_total", [None, 50])
def test_empirical_bernstein_is_its_published_formula(n_total: int | None) -> None:
    x, delta = np.random.default_rng(5).beta(4, 2, size=40), 0.05
    top = bottom = 0.0
    bounds = []
    mean = 0.5
    for i, value in enumerate(x, start=1):
        past = [(0.5 + x[: j + 1].sum()) / (j + 2) for j in range(i - 1)]
        variance = (0.25 + sum((x[j] - past[j]) ** 2 for j in range(i - 1))) / i
        bet = min(0.5, np.sqrt(2 * np.log(1 / delta) / (variance * i * np.log(1 + i))))
        unseen = np.inf if n_total is None else n_total - i + 1
        top += bet * (value + x[: i - 1].sum() / unseen) - (value - mean) ** 2 * (-np.log(1 - bet) - bet)
        bottom += bet * (1 + (i - 1) / unseen)
        bounds.append((top - np.log(1 / delta)) / bottom)
        mean = (0.5 + x[:i].sum()) / (i + 1)
    low = EmpiricalBernstein(value_range=UNIT).lower(x[:, None], delta=delta, n_total=n_total)[0]
    assert low == pytest.approx(max(0.0, *bounds))
    assert low < Betting(value_range=UNIT).lower(x[:, None], delta=delta, n_total=n_total)[0]


def test_empirical_bernstein_agrees_with_confseq() -> None:
    predmix = pytest.importorskip("confseq.predmix", reason="confseq needs a compiler and Boost")
    x = np.random.default_rng(6).beta(4, 2, size=200)
    ours = EmpiricalBernstein(value_range=UNIT).lower(x[:, None], delta=0.05, n_total=300)[0]
    theirs = predmix.predmix_empbern_lower_cs(x, alpha=0.05, truncation=0.5, N=300, running_intersection=False)
    assert ours == pytest.approx(float(np.max(theirs)), abs=0.02)  # the first estimates of the mean differ


# Properties


@every_sequence
def test_classes_do_not_meet(sequence: Sequence) -> None:
    blocks = np.random.default_rng(7).beta(2, 1, size=(13, 5))
    together = sequence.lower(blocks, delta=0.1, n_total=32)
    alone = [sequence.lower(blocks[:, [c]], delta=0.1, n_total=32)[0] for c in range(5)]
    assert together == pytest.approx(alone, rel=1e-12)


@every_sequence
def test_the_whole_list_is_its_mean(sequence: Sequence) -> None:
    blocks = np.random.default_rng(8).random((32, 3))
    assert (sequence.lower(blocks, delta=0.01, n_total=32) == blocks.mean(axis=0)).all()


@every_sequence
def test_interval_holds_both_bounds(sequence: Sequence) -> None:
    blocks = np.random.default_rng(9).random((27, 3)) * 0.5
    if not isinstance(sequence, StudentLooks | AsymptoticSequence):
        sequence = type(sequence)(value_range=(-1.0, 1.0))
    low, high = sequence.interval(blocks, delta=0.1, n_total=32)
    assert (low == sequence.lower(blocks, delta=0.05, n_total=32)).all()
    assert (low < blocks.mean(axis=0)).all()
    assert (blocks.mean(axis=0) < high).all()


@given(shift=st.floats(-100, 100), scale=st.floats(0.01, 100), seed=st.integers(0, 100))
def test_bounds_move_with_the_numbers(shift: float, scale: float, seed: int) -> None:
    blocks = np.random.default_rng(seed).random((19, 2))
    moved: list[Callable[[], Sequence]] = [
        lambda: EVERY[0],
        lambda: EVERY[1],
        lambda: EmpiricalBernstein(value_range=(shift - 1e-9, shift + scale + 1e-9)),
        lambda: Betting(value_range=(shift - 1e-9, shift + scale + 1e-9)),
    ]
    for sequence, other in zip(EVERY, moved, strict=True):
        low = sequence.lower(blocks, delta=0.05, n_total=32)
        assert other().lower(scale * blocks + shift, delta=0.05, n_total=32) == pytest.approx(
            scale * low + shift, abs=1e-5 * (scale + 1e-6 * abs(shift))
        )


@every_sequence
def test_identical_streams_are_never_told_apart(sequence: Sequence) -> None:
    if not isinstance(sequence, StudentLooks | AsymptoticSequence):
        sequence = type(sequence)(value_range=(-1.0, 1.0))
    for n in range(1, 32):
        assert (sequence.lower(np.zeros((n, 1)), delta=0.5, n_total=32) <= 0).all()


def test_too_few_blocks_say_nothing() -> None:
    blocks = np.random.default_rng(0).random((3, 2)) + 10
    assert (StudentLooks(looks=(4, 9)).lower(blocks, delta=0.1) == -np.inf).all()
    assert (StudentLooks(looks=(3, 9)).lower(blocks, delta=0.1, n_total=4) == -np.inf).all()  # one block is left
    assert (AsymptoticSequence().lower(blocks, delta=0.1) == -np.inf).all()


# Refusals


@pytest.mark.parametrize("looks", [(), (2, 5), (5, 5)])
def test_looks_must_ascend(looks: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="must ascend from at least 3 blocks"):
        StudentLooks(looks=looks)


def test_refusals() -> None:
    with pytest.raises(RangeError, match=r"must be above 0\. Got 0\.0\."):
        AsymptoticSequence(prior_blocks=0.0)
    for family in (EmpiricalBernstein, Betting):
        with pytest.raises(RangeError, match=r"the lower one first\. Got \(1\.0, 0\.0\)\."):
            family(value_range=(1.0, 0.0))
        with pytest.raises(RangeError, match=r"Got blocks from 0\.5 to 1\.5 outside \[0, 1\]\. Try a wider range\."):
            family(value_range=UNIT).lower(np.array([[0.5], [1.5]]), delta=0.1)
