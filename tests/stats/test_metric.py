"""Metrics against scikit-learn and torchmetrics, and their intervals against simulation."""

import time

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

from diffclass.errors import InputError
from diffclass.stats import accuracy, auc, balanced_accuracy, ece, nll, top

Sample = tuple[np.ndarray, np.ndarray]


def sample(n: int, n_classes: int, *, signal: float = 1.5, seed: int = 0) -> Sample:
    """Labels and calibrated probabilities of a Gaussian problem, rounded so that some scores tie."""
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(n_classes), random.integers(n_classes, size=n - n_classes)])
    logits = signal * random.normal(size=(n, n_classes)) + signal**2 * np.eye(n_classes)[labels]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p = np.round(p, 2) + 1e-3
    return labels, p / p.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("n_classes", [2, 5])
def test_values_are_those_of_scikit_learn(n_classes: int) -> None:
    labels, p = sample(400, n_classes)
    predictions = top(p)
    assert accuracy(labels, predictions).value == (labels == predictions).mean()
    assert balanced_accuracy(labels, predictions).value == pytest.approx(balanced_accuracy_score(labels, predictions))
    expected = roc_auc_score(labels, p[:, 1] if n_classes == 2 else p, multi_class="ovr", average="macro")
    assert auc(labels, p).value == pytest.approx(expected, abs=1e-12)
    assert nll(labels, p).value == pytest.approx(log_loss(labels, p), abs=1e-9)


def test_ece_is_that_of_torchmetrics() -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    labels, p = sample(500, 4, signal=1.0)
    p = p**2 / (p**2).sum(axis=1, keepdims=True)  # too sure of itself
    expected = functional.multiclass_calibration_error(
        torch.from_numpy(p), torch.from_numpy(labels), num_classes=4, n_bins=15
    )
    assert ece(labels, p).value == pytest.approx(float(expected), abs=1e-6)


def test_log_odds_rank_two_classes_as_probabilities_do() -> None:
    labels, p = sample(200, 2)
    log_odds = np.log(p) - np.log(p).max(axis=1, keepdims=True)  # 0 for the leader
    assert auc(labels, log_odds).value == pytest.approx(auc(labels, p).value, abs=1e-12)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_intervals_cover(n_classes: int) -> None:
    # 100 samples of 150 images. At 93% true coverage fewer than 78 hits have probability 1e-6.
    labels, p = sample(200_000, n_classes, seed=1)
    truth = {
        "accuracy": accuracy(labels, top(p)).value,
        "balanced": balanced_accuracy(labels, top(p), n_resamples=2).value,
        "auc": auc(labels, p).value,
        "nll": nll(labels, p, n_resamples=2).value,
    }
    hits = dict.fromkeys(truth, 0)
    for seed in range(100):
        labels, p = sample(150, n_classes, seed=100 + seed)
        for name, e in {
            "accuracy": accuracy(labels, top(p)),
            "balanced": balanced_accuracy(labels, top(p), n_resamples=150),
            "auc": auc(labels, p),
            "nll": nll(labels, p, n_resamples=150),
        }.items():
            hits[name] += e.low <= truth[name] <= e.high
    assert min(hits.values()) >= 78, hits


def test_ece_interval_of_a_calibrated_model_reaches_zero() -> None:
    # The lower end should be above 0 in 2.5% of samples: 6 or more of 40 have probability 5e-4.
    missed = 0
    for seed in range(40):
        labels, p = sample(400, 3, seed=seed)
        e = ece(labels, p, n_resamples=150)
        assert 0 <= e.low <= e.value <= e.high
        missed += e.low > 0
    assert missed < 6
    p = p**3 / (p**3).sum(axis=1, keepdims=True)
    assert ece(labels, p).low > 0


def test_perfect_answers_are_not_certain() -> None:
    labels = np.repeat([0, 1], [10, 30])
    p = np.where(labels[:, None] == np.arange(2), 0.9, 0.1)
    area = auc(labels, p)
    assert (area.value, area.high) == (1.0, 1.0)
    assert area.low == pytest.approx(0.025 ** (1 / 10))
    balanced = balanced_accuracy(labels, top(p))
    assert balanced.value == balanced.high == 1.0
    assert balanced.low == accuracy(np.zeros(30, dtype=int), np.zeros(30, dtype=int)).low  # 4 / (1/10 + 1/30) = 30
    assert auc(labels, p[::-1]).value == pytest.approx(roc_auc_score(labels, p[::-1, 1]))
    assert auc(1 - labels, p).high == pytest.approx(1 - 0.025 ** (1 / 10))


def test_abstentions_are_wrong_unless_left_out() -> None:
    labels, p = sample(100, 3)
    p[:20] = np.nan
    predictions = top(p)
    right = int((labels == predictions).sum())
    assert (predictions[:20] == -1).all()
    assert accuracy(labels, predictions).value == right / 100
    assert accuracy(labels, predictions, abstentions="left out").value == right / 80
    assert nll(labels, p, abstentions="left out").n == 80
    with pytest.raises(InputError, match=r"scores for every image, but 20 of 100 were abstained on"):
        ece(labels, p)


def test_impossible_label_has_infinite_nll() -> None:
    labels = np.array([0, 1, 1, 0] * 5)
    p = np.tile([1.0, 0.0], (20, 1))
    assert nll(labels, p).value == np.inf


def test_ten_thousand_images_are_quick() -> None:
    labels, p = sample(10_000, 10)
    start = time.perf_counter()
    predictions = top(p)
    estimates = [accuracy(labels, predictions), balanced_accuracy(labels, predictions), auc(labels, p)]
    estimates += [nll(labels, p), ece(labels, p)]
    assert all(e.low <= e.value <= e.high and e.n == 10_000 for e in estimates)
    assert time.perf_counter() - start < 10  # about 1 s on an idle core


def test_refusals() -> None:
    labels, p = sample(20, 3)
    with pytest.raises(InputError, match=r"'wrong' or 'left out'\. Got 'skip'\."):
        accuracy(labels, labels, abstentions="skip")
    with pytest.raises(InputError, match=r"one answer for each label\. Got 0 for 0 labels\."):
        accuracy(np.zeros(0, dtype=int), np.zeros(0, dtype=int))
    with pytest.raises(InputError, match=r"every image was abstained on\."):
        accuracy(labels, np.full(20, -1), abstentions="left out")
    with pytest.raises(InputError, match=r"indices of the 3 classes\. Got 1 to 3\."):
        nll(np.maximum(labels, 0) + 1, p)
    with pytest.raises(InputError, match=r"sum to 1 over the classes"):
        nll(labels, 2 * p)
    with pytest.raises(InputError, match=r"images of class 2 and of others\. Got 0 of 20\."):
        auc(labels % 2, p)
