"""How good a set of answers is: accuracy, ranking, likelihood and calibration, each with its interval."""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from diffclass.errors import InputError
from diffclass.stats.interval import Estimate, bootstrap, wilson

__all__ = [
    "ABSTAINED",
    "accuracy",
    "auc",
    "balanced_accuracy",
    "binned_error",
    "brier",
    "calibration_gaps",
    "ece",
    "macro_area",
    "nll",
    "top",
]

ABSTAINED = -1  # the prediction of an image on which no class was named

Labels = Int[ndarray, " image"]
Scores = Float[ndarray, "image class"]  # a row of NaN: abstained
Probabilities = Float[ndarray, "image class"]  # the same, from 0 to 1


def top(probabilities: Probabilities) -> Labels:
    """Return the most probable class of each image, or ABSTAINED where the row is NaN.

    Source:
        Bayes' rule for the least error: Duda and Hart 1973, section 2.2.
    """
    known = _known(probabilities)
    return np.where(known, np.where(known[:, None], probabilities, 0.0).argmax(axis=1), ABSTAINED)


def accuracy(labels: Labels, predictions: Labels, *, abstentions: str = "wrong", confidence: float = 0.95) -> Estimate:
    """Estimate how often the prediction is the label.

    Args:
        labels: the right class of each image.
        predictions: the class named for each image, ABSTAINED where none was.
        abstentions: "wrong" counts them as mistakes, "left out" leaves those images out.
        confidence: of the interval.

    Source:
        Wilson 1927 (interval).
    """
    labels, predictions = _answered(labels, predictions, predictions != ABSTAINED, abstentions)
    return wilson(int((labels == predictions).sum()), len(labels), confidence=confidence)


def balanced_accuracy(
    labels: Labels,
    predictions: Labels,
    *,
    abstentions: str = "wrong",
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Estimate the mean over classes of how often an image of the class is recognised.

    The interval resamples images within their class. Where every class is all right or all wrong there is nothing to
    resample, and it is Wilson's for K^2 / sum(1 / n_class) images, the size of a single set with the same variance.

    Args:
        labels: the right class of each image.
        predictions: the class named for each image, ABSTAINED where none was.
        abstentions: "wrong" counts them as mistakes, "left out" leaves those images out.
        confidence: of the interval.
        n_resamples: of the bootstrap.
        seed: of the bootstrap.

    Source:
        Brodersen, Ong, Stephan and Buhmann 2010, equation 1.
    """
    labels, predictions = _answered(labels, predictions, predictions != ABSTAINED, abstentions)
    classes, index, count = np.unique(labels, return_inverse=True, return_counts=True)

    def mean_recall(index: ndarray, correct: ndarray) -> float:
        return float((np.bincount(index, weights=correct, minlength=len(classes)) / count).mean())

    correct = (labels == predictions).astype(np.float64)
    recall = np.bincount(index, weights=correct) / count
    if np.isin(recall, (0.0, 1.0)).all():
        effective = max(1, int(len(classes) ** 2 / (1 / count).sum()))
        score = wilson(round(recall.mean() * effective), effective, confidence=confidence)
        value = float(recall.mean())
        return replace(score, value=value, low=min(score.low, value), high=max(score.high, value), n=len(labels))
    return bootstrap(
        mean_recall, index, correct, stratify=index, n_resamples=n_resamples, seed=seed, confidence=confidence
    )


def auc(labels: Labels, scores: Scores, *, abstentions: str = "refuse", confidence: float = 0.95) -> Estimate:
    """Estimate the area under the ROC curve: of class 1 for two classes, else the mean of each class against the rest.

    The interval is DeLong's on the log-odds of the area. For a perfect ranking it is the exact one-sided limit from as
    many disjoint pairs as the rarest class has images, every one of which was ranked rightly.

    Args:
        labels: the right class of each image.
        scores: of each class: probabilities, or for two classes log-odds too, because their difference is what ranks.
        abstentions: "refuse" rows of NaN, or "left out".
        confidence: of the interval.

    Source:
        DeLong, DeLong and Clarke-Pearson 1988, equations 4 to 6; LeDell, Petersen and van der Laan 2015, section 4.
    """
    from scipy.stats import norm

    labels, scores = _scored(labels, scores, abstentions)
    n = len(labels)
    value, influence, rarest = macro_area(labels, scores)
    if value in (0.0, 1.0):
        limit = ((1 - confidence) / 2) ** (1 / rarest)
        low, high = (limit, 1.0) if value else (0.0, 1 - limit)
        return Estimate(value=value, low=low, high=high, n=n, confidence=confidence, method="exact")
    half = norm.isf((1 - confidence) / 2) * np.sqrt((influence**2).sum()) / (value * (1 - value))
    odds = value / (1 - value)
    low, high = odds / (odds + np.exp(half)), odds / (odds + np.exp(-half))
    return Estimate(value=value, low=float(low), high=float(high), n=n, confidence=confidence, method="DeLong")


def macro_area(labels: Labels, scores: Scores) -> tuple[float, ndarray, int]:
    """Return the area that `auc` estimates, each image's part in its error, and the images of the rarest side.

    The squares of the parts sum to the variance of the area; those of the difference of two classifiers' parts on the
    same images sum to the variance of the difference of their areas.

    Source:
        DeLong, DeLong and Clarke-Pearson 1988, equations 4 to 6; LeDell, Petersen and van der Laan 2015, section 4.
    """
    labels, scores = _scored(labels, scores, "refuse")
    n, n_classes = scores.shape
    positives = [1] if n_classes == 2 else range(n_classes)
    areas, rarest, influence = [], n, np.zeros(n)
    for c in positives:
        positive = labels == c
        if positive.all() or not positive.any():
            raise InputError(f"The AUC needs images of class {c} and of others. Got {positive.sum()} of {n}.")
        area, part = _area(positive, scores[:, c] - scores[:, 0] if n_classes == 2 else scores[:, c])
        areas.append(area)
        influence += part / len(positives)
        rarest = min(rarest, int(positive.sum()), int((~positive).sum()))
    return float(np.mean(areas)), influence, rarest


def _area(positive: Bool[ndarray, " image"], score: Float[ndarray, " image"]) -> tuple[float, ndarray]:
    """Return the area under one ROC curve and each image's part in its error (their squares sum to its variance)."""
    from scipy.stats import rankdata

    m, n = int(positive.sum()), int((~positive).sum())
    rank, part = rankdata(score), np.empty(len(score))
    part[positive] = (rank[positive] - rankdata(score[positive])) / n  # how many negatives each positive beats
    part[~positive] = 1 - (rank[~positive] - rankdata(score[~positive])) / m
    area = float(part[positive].mean())
    part[positive] = (part[positive] - area) / np.sqrt(m * max(m - 1, 1))
    part[~positive] = (part[~positive] - area) / np.sqrt(n * max(n - 1, 1))
    return area, part


def nll(
    labels: Labels,
    probabilities: Probabilities,
    *,
    abstentions: str = "refuse",
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Estimate the mean of -log p(label) [nats]; infinite where a label was given probability 0.

    Args:
        labels: the right class of each image.
        probabilities: of each class.
        abstentions: "refuse" rows of NaN, or "left out".
        confidence: of the interval.
        n_resamples: of the bootstrap.
        seed: of the bootstrap.

    Source:
        Good 1952 (logarithmic score).
    """
    labels, probabilities = _probable(labels, probabilities, abstentions)
    with np.errstate(divide="ignore"):
        surprise = -np.log(probabilities[np.arange(len(labels)), labels])
    return bootstrap(_mean, surprise, n_resamples=n_resamples, seed=seed, confidence=confidence)


def brier(
    labels: Labels,
    probabilities: Probabilities,
    *,
    abstentions: str = "refuse",
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Estimate the mean over images of sum_j (p_j - y_j)^2, y being 1 for the label: 0 is best and 2 worst.

    The sum runs over all classes, as Brier wrote it; for two classes some halve it.

    Args:
        labels: the right class of each image.
        probabilities: of each class.
        abstentions: "refuse" rows of NaN, or "left out".
        confidence: of the interval.
        n_resamples: of the bootstrap.
        seed: of the bootstrap.

    Source:
        Brier 1950, equation 2.
    """
    labels, probabilities = _probable(labels, probabilities, abstentions)
    gaps = probabilities - (np.arange(probabilities.shape[1]) == labels[:, None])
    return bootstrap(_mean, (gaps**2).sum(axis=1), n_resamples=n_resamples, seed=seed, confidence=confidence)


def _mean(values: ndarray) -> float:
    return float(values.mean())


def ece(
    labels: Labels,
    probabilities: Probabilities,
    *,
    n_bins: int = 15,
    abstentions: str = "refuse",
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Estimate the expected calibration error: how far the top probability is from how often it is right.

    The estimate is biased upward by its own noise, and resampling adds that bias once more: hence the basic interval.
    Its lower end is 0 unless a calibrated model with the same probabilities would seldom do as badly.

    Args:
        labels: the right class of each image.
        probabilities: of each class.
        n_bins: bins of equal width over the top probability.
        abstentions: "refuse" rows of NaN, or "left out".
        confidence: of the interval.
        n_resamples: of the bootstrap.
        seed: of the bootstrap.

    Source:
        Guo et al. 2017, equation 3 (arXiv:1706.04599); Bröcker and Smith 2007, section 3 (a calibrated model).
    """
    labels, probabilities = _probable(labels, probabilities, abstentions)
    index, gap = calibration_gaps(labels, probabilities, n_bins=n_bins)
    sureness, error = probabilities.max(axis=1).astype(np.float64), binned_error
    result = bootstrap(error, index, gap, n_resamples=n_resamples, seed=seed, confidence=confidence, method="basic")
    random = np.random.default_rng((seed, 1))
    calibrated = [error(index, sureness - (random.random(len(gap)) < sureness)) for _ in range(n_resamples)]
    usual = result.value <= np.quantile(calibrated, (1 + confidence) / 2)
    return replace(result, low=0.0 if usual else max(result.low, 0.0))


def calibration_gaps(
    labels: Labels, probabilities: Probabilities, *, n_bins: int = 15
) -> tuple[Int[ndarray, " image"], Float[ndarray, " image"]]:
    """Return the bin of each image's top probability, and by how much that exceeds whether it was right (1 or 0).

    Source:
        Guo et al. 2017, equation 3 (arXiv:1706.04599).
    """
    labels, probabilities = _probable(labels, probabilities, "refuse")
    sureness = probabilities.max(axis=1).astype(np.float64)
    index = np.clip(np.ceil(sureness * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    return index, sureness - (probabilities.argmax(axis=1) == labels)


def binned_error(index: Int[ndarray, " image"], gap: Float[ndarray, " image"]) -> float:
    """Return the expected calibration error of what `calibration_gaps` gave.

    Source:
        Guo et al. 2017, equation 3 (arXiv:1706.04599).
    """
    return float(np.abs(np.bincount(index, weights=gap)).sum() / len(gap))


def _known(scores: Scores) -> Bool[ndarray, " image"]:
    return np.asarray(~np.isnan(scores).any(axis=1))


def _answered(
    labels: Labels, answers: ndarray, answered: Bool[ndarray, " image"], abstentions: str
) -> tuple[ndarray, ndarray]:
    """Apply the rule for abstentions to labels and answers."""
    if len(labels) != len(answers) or not len(labels):
        raise InputError(f"A metric needs one answer for each label. Got {len(answers)} for {len(labels)} labels.")
    choices = ("wrong", "left out") if answers.ndim == 1 else ("refuse", "left out")
    if abstentions not in choices:
        raise InputError(f"The 'abstentions' parameter must be {choices[0]!r} or {choices[1]!r}. Got {abstentions!r}.")
    if abstentions == "left out":
        labels, answers = labels[answered], answers[answered]
        if not len(labels):
            raise InputError("A metric needs at least one answer, but every image was abstained on.")
    return labels, answers


def _scored(labels: Labels, scores: Scores, abstentions: str) -> tuple[ndarray, ndarray]:
    """Apply the rule for abstentions and check that labels name columns of the scores."""
    known = _known(scores)
    labels, scores = _answered(labels, scores, known, abstentions)
    if np.isnan(scores).any():
        raise InputError(
            f"This metric needs scores for every image, but {(~known).sum()} of {len(known)} were abstained on. "
            "Pass abstentions='left out' to leave them out."
        )
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise InputError(
            f"Labels must be indices of the {scores.shape[1]} classes. Got {labels.min()} to {labels.max()}."
        )
    return labels, scores


def _probable(labels: Labels, probabilities: Probabilities, abstentions: str) -> tuple[ndarray, ndarray]:
    """Check that scores are probabilities too."""
    labels, probabilities = _scored(labels, probabilities, abstentions)
    if (probabilities < 0).any() or np.abs(probabilities.sum(axis=1) - 1).max() > 1e-4:
        raise InputError("Probabilities must be at least 0 and sum to 1 over the classes of each image.")
    return labels, probabilities
