"""Learned weights: found again where one range of noise misleads, and refused where there is nothing to gain."""

import numpy as np
import pytest

from diffclass.decide import weighting
from diffclass.decide.weighting import learn_weight, weight_ratio
from diffclass.errors import InputError
from diffclass.evidence import ErrorMatrices, LikelihoodWeight, LogUniform, TabulatedWeight

SPAN = (0.1, 10.0)


def matrices(n: int, *, misleading: float, seed: int = 0, draws: int = 48) -> ErrorMatrices:
    """Errors that are less for the right class below sigma 1, and above it for a class that chance picks."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, n)
    sigmas = LogUniform().sigma((np.arange(draws) + random.random((n, draws))).ravel() / draws % 1, *SPAN)
    sigmas = sigmas.reshape(n, draws)
    weights = sigmas**-2 * np.log(SPAN[1] / SPAN[0])
    low = (sigmas < 1)[:, :, None]
    truth = -1.0 * np.eye(4)[labels][:, None, :] + 0.7 * random.standard_normal((n, 1, 4))
    chance = misleading * random.standard_normal((n, 1, 4))  # the same in every draw: draws do not average it away
    part = np.where(low, truth, chance) + 0.5 * random.standard_normal((n, draws, 4))
    errors = 20 + part * sigmas[:, :, None] ** 2  # so that the likelihood weight makes all of it count alike
    return ErrorMatrices(
        errors=errors.astype(np.float32), sigmas=sigmas, weights=weights, labels=labels, classes=tuple("abcd"), block=4,
        seed=0, keys=tuple(range(n)),
    )  # fmt: skip


def accuracy(part: ErrorMatrices) -> float:
    return float((part.log_likelihood().mean(axis=1).argmax(axis=1) == part.labels).mean())


def test_a_range_that_misleads_loses_its_weight() -> None:
    part, fresh = matrices(300, misleading=2.0), matrices(2000, misleading=2.0, seed=1)
    learned = learn_weight(part, weight=LikelihoodWeight(), sigma_range=SPAN)
    assert learned.learned
    assert isinstance(learned.weight, TabulatedWeight)
    ratio = np.array(learned.log_ratio)
    low, high = ratio[:3].mean(), ratio[-3:].mean()
    assert low - high > 1.5  # a factor of 4.5 at the least
    new = fresh.reweighted(fresh.weights * weight_ratio(fresh.sigmas, LikelihoodWeight(), learned.weight))
    # 2,000 images: the difference of two accuracies has a standard error below 0.016
    assert accuracy(new) - accuracy(fresh) > 5 * 0.016
    assert learned.gain.value == pytest.approx(learned.nll_own.value - learned.nll_learned.value)
    assert "it is used" in learned.told


def test_the_own_weight_is_kept_where_it_is_right() -> None:
    random = np.random.default_rng(5)
    part = matrices(200, misleading=0.0)
    flat = -1.0 * np.eye(4)[part.labels][:, None, :] + 3.0 * random.standard_normal(part.errors.shape)
    errors = (20 + flat * part.sigmas[:, :, None] ** 2).astype(np.float32)
    even = ErrorMatrices(
        errors=errors, sigmas=part.sigmas, weights=part.weights, labels=part.labels, classes=part.classes, block=4,
        seed=0, keys=part.keys,
    )  # fmt: skip
    learned = learn_weight(even, weight=LikelihoodWeight(), sigma_range=SPAN)
    assert not learned.learned
    assert learned.weight == LikelihoodWeight()
    assert learned.gain.value < 0.02
    assert learned.told.endswith("the model's own weight is kept")


def test_a_large_penalty_gives_the_own_weight_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighting, "PENALTIES", (1e5,))
    learned = learn_weight(matrices(100, misleading=2.0), weight=LikelihoodWeight(), sigma_range=SPAN)
    assert np.abs(learned.log_ratio).max() < 1e-3


def test_the_gradient_is_that_of_the_loss() -> None:
    part = matrices(20, misleading=1.0)
    evidence = weighting._centred(part)
    knots = np.linspace(*np.log(SPAN), 5)
    hats = weighting._hats(np.log(part.sigmas), knots)
    assert hats.sum(axis=2) == pytest.approx(1.0)
    loss = weighting._loss(evidence, part.labels, hats, 0.3)
    theta = np.random.default_rng(0).normal(size=5) - 2.0
    _, gradient = loss(theta)
    step = 1e-5
    for k in range(5):
        shift = step * np.eye(5)[k]
        numeric = (loss(theta + shift)[0] - loss(theta - shift)[0]) / (2 * step)
        assert gradient[k] == pytest.approx(numeric, rel=1e-6, abs=1e-9)


def test_the_table_follows_the_own_weight_times_the_ratio() -> None:
    part = matrices(300, misleading=2.0)
    learned = learn_weight(part, weight=LikelihoodWeight(), sigma_range=SPAN)
    expected = np.interp(np.log(part.sigmas), learned.log_sigma, learned.log_ratio)
    found = np.log(weight_ratio(part.sigmas, LikelihoodWeight(), learned.weight))
    assert found == pytest.approx(expected, abs=1e-9)  # a power of sigma is followed exactly


def test_images_that_are_all_right_ask_for_no_infinite_weight() -> None:
    part = matrices(60, misleading=0.0)
    clear = ErrorMatrices(
        errors=(20 - 9 * np.eye(4)[part.labels][:, None, :] * part.sigmas[:, :, None] ** 2).astype(np.float32),
        sigmas=part.sigmas, weights=part.weights, labels=part.labels, classes=part.classes, block=4, seed=0,
        keys=part.keys,
    )  # fmt: skip
    learned = learn_weight(clear, weight=LikelihoodWeight(), sigma_range=SPAN)
    assert np.isfinite(learned.log_ratio).all()
    assert not learned.learned or np.isfinite(learned.weight(np.array([0.1, 1.0, 10.0]))).all()


def test_refusals() -> None:
    part = matrices(40, misleading=1.0)
    with pytest.raises(InputError, match=r"learn_weight needs at least 20 labelled images\. Got 10\."):
        learn_weight(part.part(np.arange(10)), weight=LikelihoodWeight(), sigma_range=SPAN)
    alike = np.flatnonzero(matrices(400, misleading=1.0).labels == 2)
    with pytest.raises(InputError, match=r"images of two classes or more\. Got 'c' only\."):
        learn_weight(matrices(400, misleading=1.0).part(alike), weight=LikelihoodWeight(), sigma_range=SPAN)
