"""Calibration on validation images beyond a temperature: isotonic probabilities, and sets that hold the label."""

from dataclasses import dataclass
from math import ceil
from typing import Any, final

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from numpy import ndarray

from diffclass.errors import InputError, MissingExtra, RangeError

__all__ = ["Isotonic", "conformal_sets", "fit_isotonic"]

LEAST_IMAGES = 20
SCORES = ("lac", "aps", "raps")

Probabilities = Float[ndarray, "image class"]
Labels = Int[ndarray, " image"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Isotonic:
    """Monotone maps of each class's probability, fitted on validation images; rows are made to sum to 1 again.

    Args:
        maps: scikit-learn's `IsotonicRegression` of each class against the others.
        n: images they were fitted on.

    Source:
        Zadrozny and Elkan 2002, sections 3 and 4.
    """

    maps: tuple[Any, ...]
    n: int

    def __call__(self, probabilities: Probabilities) -> Float64[ndarray, "image class"]:
        """Return calibrated probabilities."""
        mapped = np.stack([f.predict(probabilities[:, c]) for c, f in enumerate(self.maps)], axis=1)
        return mapped / mapped.sum(axis=1, keepdims=True)


def fit_isotonic(probabilities: Probabilities, labels: Labels) -> Isotonic:
    """Fit monotone maps from probabilities to how often they are right, class by class.

    Values stay 1 / (n + 2) away from 0 and 1, so that a log-likelihood is finite (Platt 1999, section 2.2). It needs
    many images: a few hundred give steps, not a curve.

    Args:
        probabilities: of validation images.
        labels: the right class of each.

    Raises:
        InputError: too few images, or none of some class.

    Source:
        Zadrozny and Elkan 2002, sections 3 and 4.
    """
    from sklearn.isotonic import IsotonicRegression

    n = _check(probabilities, labels, "fit_isotonic")
    for c in range(probabilities.shape[1]):
        if not (labels == c).any():
            raise InputError(
                f"Isotonic calibration needs validation images of every class. Got none of class {c}. Add some, or "
                "use a temperature."
            )
    options: dict[str, Any] = {"y_min": 1 / (n + 2), "y_max": 1 - 1 / (n + 2), "out_of_bounds": "clip"}
    maps = [IsotonicRegression(**options).fit(probabilities[:, c], labels == c) for c in range(probabilities.shape[1])]
    return Isotonic(maps=tuple(maps), n=n)


def conformal_sets(
    validation: Probabilities,
    labels: Labels,
    probabilities: Float[ndarray, "_ class"],
    *,
    alpha: float = 0.1,
    score: str = "lac",
    seed: int = 0,
) -> Bool[ndarray, "_ class"]:
    """Return, for each new image, a set that holds the right class with probability at least 1 - alpha.

    The promise is one on average over validation and new images together, if they are exchangeable; it says nothing of
    a single class or hospital, and an image of another kind voids it. A set may be empty under "lac": no class is
    likely enough.

    Args:
        validation: probabilities of validation images, which the model was not trained on.
        labels: the right class of each.
        probabilities: of the new images.
        alpha: share of the sets that may miss.
        score: "lac" (1 - p of the label: smallest sets); of three classes or more "aps" or "raps" (cumulated: sizes
            follow difficulty).
        seed: of what "aps" randomises.

    Raises:
        RangeError: alpha is not in (0, 1), or smaller than so few validation images can promise.
        InputError: too few validation images, or an unknown score.
        MissingExtra: MAPIE is not installed.

    Source:
        Sadinle, Lei and Wasserman 2019 (arXiv:1609.00451); Romano, Sesia and Candès 2020 (arXiv:2006.02544);
        Angelopoulos et al. 2021 (arXiv:2009.14193).
    """
    n = _check(validation, labels, "conformal_sets")
    if score not in SCORES:
        raise InputError(f"The 'score' parameter of conformal_sets must be one of {SCORES}. Got {score!r}.")
    if score != "lac" and validation.shape[1] == 2:
        raise InputError(f"The score {score!r} needs three classes or more. Use 'lac' for two.")
    if not 0 < alpha < 1:
        raise RangeError(f"The 'alpha' parameter of conformal_sets must be a float in (0, 1). Got {alpha}.")
    if ceil((n + 1) * (1 - alpha)) > n:
        raise RangeError(f"An alpha of {alpha} needs at least {ceil(1 / alpha) - 1} validation images. Got {n}.")
    try:
        from mapie.classification import SplitConformalClassifier
    except ImportError as error:
        raise MissingExtra("Conformal sets need MAPIE: pip install 'diffclass[conformal]'.") from error
    made = SplitConformalClassifier(
        estimator=_given(validation.shape[1]), confidence_level=1 - alpha, conformity_score=score, prefit=True,
        random_state=seed,
    )  # fmt: skip
    made.conformalize(_normalised(validation), labels)
    _, sets = made.predict_set(_normalised(probabilities))
    return np.asarray(sets[:, :, 0], dtype=bool)


def _given(n_classes: int) -> Any:
    """Return an estimator whose features are the probabilities themselves."""
    from sklearn.base import BaseEstimator, ClassifierMixin

    class _Given(ClassifierMixin, BaseEstimator):
        """Probabilities in, probabilities out."""

        def fit(self, features: ndarray, labels: ndarray) -> Any:
            return self

        def predict_proba(self, features: ndarray) -> ndarray:
            return features

        def predict(self, features: ndarray) -> ndarray:
            return features.argmax(axis=1)

    made = _Given()
    made.classes_ = np.arange(n_classes)  # pyright: ignore[reportAttributeAccessIssue]
    made.n_features_in_ = n_classes  # pyright: ignore[reportAttributeAccessIssue]
    return made


def _normalised(probabilities: ndarray) -> ndarray:
    wide = probabilities.astype(np.float64)
    return wide / wide.sum(axis=1, keepdims=True)


def _check(probabilities: ndarray, labels: ndarray, name: str) -> int:
    n, n_classes = probabilities.shape
    if n < LEAST_IMAGES:
        raise InputError(f"{name} needs at least {LEAST_IMAGES} labelled validation images. Got {n}.")
    if labels.min() < 0 or labels.max() >= n_classes:
        raise InputError(f"Labels must be indices of the {n_classes} classes. Got {labels.min()} to {labels.max()}.")
    return n
