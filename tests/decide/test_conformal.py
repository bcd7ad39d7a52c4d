"""Isotonic maps and conformal sets, on worlds whose calibration is known."""

import numpy as np
import pytest

from diffclass.decide.conformal import conformal_sets, fit_isotonic
from diffclass.errors import InputError, RangeError
from diffclass.stats import ece

pytest.importorskip("mapie")


def world(n: int, seed: int, *, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of three classes and labels drawn from them; a sharpness above 1 makes them too sure."""
    random = np.random.default_rng(seed)
    true = random.dirichlet(np.ones(3) * 0.8, size=n) + 1e-9
    true /= true.sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) < random.random((n, 1))).sum(axis=1).astype(np.int64)
    said = true**sharpness
    return said / said.sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize("score", ["lac", "aps", "raps"])
def test_sets_hold_the_label_as_often_as_they_promise_even_of_a_model_too_sure(score: str) -> None:
    # Coverage given 500 validation images is beta about 0.8 (sd 0.018); with 2,000 new images, 4 sd is 0.08.
    validation, labels = world(500, 0, sharpness=3.0)
    new, truth = world(2000, 1, sharpness=3.0)
    sets = conformal_sets(validation, labels, new, alpha=0.2, score=score)
    held = sets[np.arange(len(new)), truth].mean()
    assert held >= 0.72
    if score == "lac":
        assert held <= 0.88
    assert sets.sum(axis=1).mean() < 3


def test_lac_is_its_formula() -> None:
    validation, labels = world(99, 0)
    new, _ = world(50, 1)
    scores = np.sort(1 - validation[np.arange(99), labels])
    threshold = scores[int(np.ceil(100 * 0.9)) - 1]
    assert (conformal_sets(validation, labels, new, alpha=0.1) == (1 - new <= threshold)).all()


def test_isotonic_maps_undo_overconfidence() -> None:
    validation, labels = world(2000, 0, sharpness=3.0)
    new, truth = world(2000, 1, sharpness=3.0)
    mapped = fit_isotonic(validation, labels)(new)
    assert mapped.sum(axis=1) == pytest.approx(1)
    assert ece(truth, mapped, n_resamples=2).value < 0.5 * ece(truth, new, n_resamples=2).value
    assert mapped.min() > 0


def test_isotonic_maps_are_monotone() -> None:
    validation, labels = world(200, 0)
    first = fit_isotonic(validation, labels).maps[0]
    assert (np.diff(first.predict(np.linspace(0, 1, 50))) >= 0).all()


def test_bad_input_is_refused() -> None:
    p, labels = world(30, 0)
    few, none = (p[:10], labels[:10]), np.minimum(labels, 1)
    cases = [
        (lambda: conformal_sets(*few, p), InputError,
         "conformal_sets needs at least 20 labelled validation images. Got 10."),
        (lambda: conformal_sets(p, labels, p, alpha=0.01), RangeError,
         "An alpha of 0.01 needs at least 99 validation images. Got 30."),
        (lambda: conformal_sets(p, labels, p, alpha=1.0), RangeError,
         "The 'alpha' parameter of conformal_sets must be a float in (0, 1). Got 1.0."),
        (lambda: conformal_sets(p, labels, p, score="best"), InputError,
         "The 'score' parameter of conformal_sets must be one of ('lac', 'aps', 'raps'). Got 'best'."),
        (lambda: conformal_sets(p[:, :2], none, p[:, :2], score="aps"), InputError,
         "The score 'aps' needs three classes or more. Use 'lac' for two."),
        (lambda: conformal_sets(p, labels + 1, p), InputError, "Labels must be indices of the 3 classes. Got 1 to 3."),
        (lambda: fit_isotonic(p, none), InputError,
         "Isotonic calibration needs validation images of every class. Got none of class 2. Add some, or use a "
         "temperature."),
    ]  # fmt: skip
    for call, kind, sentence in cases:
        with pytest.raises(kind) as caught:
            call()
        assert str(caught.value) == sentence
