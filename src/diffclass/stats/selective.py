"""How much an uncertainty is worth: what is left of the mistakes when the most uncertain images are sent to a person.

Everything here reads, for each image, whether the answer was wrong and how uncertain it was (larger is less sure). Only
the order of the uncertainties matters. Images that tie are taken in a random order, and what is reported is the mean
over those orders, which is exact; votes tie all the time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from jaxtyping import Bool, Float, Float64
from numpy import ndarray

from diffclass.errors import InputError, RangeError
from diffclass.stats.interval import Estimate, bootstrap, wilson
from diffclass.stats.metric import auc

__all__ = [
    "RiskCoverage",
    "augrc",
    "augrc_of",
    "aurc",
    "aurc_of",
    "coverage_at_risk",
    "failure_auc",
    "filtering_curve",
    "fpr_at_tpr",
    "ood_auc",
    "risk_at_coverage",
    "risk_coverage",
    "threshold_at_tpr",
]

Wrong = Bool[ndarray, " image"]
Uncertainty = Float[ndarray, " _"]  # one an image; larger: less sure; infinite for an abstention


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RiskCoverage:
    """The error among the surest images, for every number of them.

    Args:
        coverage: share of the images that is kept, 1/n to 1.
        risk: expected share of wrong answers among those kept.
        usable: whether a threshold on the uncertainty keeps just so many: false in the middle of a tie.

    Source:
        Geifman and El-Yaniv 2017, section 2 (arXiv:1705.08500).
    """

    coverage: Float64[ndarray, " image"]
    risk: Float64[ndarray, " image"]
    usable: Bool[ndarray, " image"]


def risk_coverage(wrong: Wrong, uncertainty: Uncertainty) -> RiskCoverage:
    """Return the risk-coverage curve.

    Args:
        wrong: whether the answer was wrong; an abstention is.
        uncertainty: of each answer.

    Raises:
        InputError: there is no image, or an uncertainty is NaN.

    Source:
        Geifman and El-Yaniv 2017, section 2 (arXiv:1705.08500).
    """
    _check(wrong, uncertainty)
    mistakes, ends = _mistakes(wrong, uncertainty)
    kept = np.arange(1, len(wrong) + 1)
    return RiskCoverage(coverage=kept / len(wrong), risk=mistakes / kept, usable=np.isin(kept, ends))


def aurc(
    wrong: Wrong, uncertainty: Uncertainty, *, confidence: float = 0.95, n_resamples: int = 1000, seed: int = 0
) -> Estimate:
    """Estimate the area under the risk-coverage curve: the mean over k of the error among the k surest images.

    Lower is better. It weighs the surest images most: a sure mistake counts in every one of the n means.

    Source:
        Geifman, Uziel and El-Yaniv 2019, section 3 (arXiv:1805.08206).
    """
    return _estimate(aurc_of, wrong, uncertainty, confidence, n_resamples, seed)


def aurc_of(wrong: Wrong, uncertainty: Uncertainty) -> float:
    """Return the area that `aurc` estimates, of these images alone.

    Source:
        Geifman, Uziel and El-Yaniv 2019, section 3 (arXiv:1805.08206).
    """
    mistakes, _ = _mistakes(wrong, uncertainty)
    return float((mistakes / np.arange(1, len(wrong) + 1)).mean())


def augrc(
    wrong: Wrong, uncertainty: Uncertainty, *, confidence: float = 0.95, n_resamples: int = 1000, seed: int = 0
) -> Estimate:
    """Estimate the area under the curve of risk x coverage: how often an image is both kept and wrong.

    Averaged over thresholds that keep every share of the images equally often. It is at most 1/2 (all wrong) and equals
    (1 - failure AUC) a (1 - a) + (1 - a)^2 / 2 with a the accuracy.

    Source:
        Traub et al. 2024, section 3 (arXiv:2407.01032).
    """
    return _estimate(augrc_of, wrong, uncertainty, confidence, n_resamples, seed)


def augrc_of(wrong: Wrong, uncertainty: Uncertainty) -> float:
    """Return the area that `augrc` estimates, of these images alone.

    Source:
        Traub et al. 2024, section 3 (arXiv:2407.01032).
    """
    mistakes = np.concatenate([[0.0], _mistakes(wrong, uncertainty)[0]]) / len(wrong)
    return float((mistakes[1:] + mistakes[:-1]).sum() / 2 / len(wrong))


def coverage_at_risk(
    wrong: Wrong,
    uncertainty: Uncertainty,
    *,
    risk: float = 0.05,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Estimate the largest share of images that a threshold can keep with no more than this error among them.

    The threshold is chosen on the same images, so that the figure flatters on few of them. 0 where none does.

    Args:
        wrong: whether the answer was wrong.
        uncertainty: of each answer.
        risk: share of wrong answers that is allowed.
        confidence: of the interval.
        n_resamples: of the bootstrap.
        seed: of the bootstrap.

    Source:
        Geifman and El-Yaniv 2017, section 3 (arXiv:1705.08500).
    """
    _check_share("risk", "coverage_at_risk", risk)

    def coverage(wrong: ndarray, uncertainty: ndarray) -> float:
        mistakes, ends = _mistakes(wrong, uncertainty)
        fine = ends[mistakes[ends - 1] <= risk * ends + 1e-9]
        return float(fine.max(initial=0)) / len(wrong)

    return _estimate(coverage, wrong, uncertainty, confidence, n_resamples, seed)


def risk_at_coverage(
    wrong: Wrong,
    uncertainty: Uncertainty,
    *,
    coverage: float = 0.8,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Estimate the error among the surest images that are this share of all, rounded up to whole images.

    Source:
        Geifman and El-Yaniv 2017, section 2 (arXiv:1705.08500).
    """
    _check_share("coverage", "risk_at_coverage", coverage)

    def risk(wrong: ndarray, uncertainty: ndarray) -> float:
        kept = max(1, int(np.ceil(coverage * len(wrong) - 1e-9)))
        return float(_mistakes(wrong, uncertainty)[0][kept - 1]) / kept

    return _estimate(risk, wrong, uncertainty, confidence, n_resamples, seed)


def failure_auc(wrong: Wrong, uncertainty: Uncertainty, *, confidence: float = 0.95) -> Estimate:
    """Estimate how often a wrong answer is more uncertain than a right one (a tie counts half), with DeLong's interval.

    It judges the ranking alone: a classifier that errs more may have the larger one.

    Raises:
        InputError: every answer is right, or every one wrong.

    Source:
        Hendrycks and Gimpel 2017, section 2 (arXiv:1610.02136); DeLong, DeLong and Clarke-Pearson 1988.
    """
    _check(wrong, uncertainty)
    if wrong.all() or not wrong.any():
        raise InputError(
            f"The failure AUC needs right answers and wrong ones. Got {wrong.sum()} wrong of {len(wrong)}."
        )
    return _ranked(wrong, uncertainty, confidence)


def ood_auc(inside: Uncertainty, outside: Uncertainty, *, confidence: float = 0.95) -> Estimate:
    """Estimate how often an image from outside has a larger score than one from the distribution; a tie counts half.

    Args:
        inside: scores of images like those that the score was fitted to.
        outside: scores of the others.
        confidence: of DeLong's interval.

    Raises:
        InputError: one of them is empty, or a score is NaN.

    Source:
        Hendrycks and Gimpel 2017, section 2 (arXiv:1610.02136); DeLong, DeLong and Clarke-Pearson 1988.
    """
    _check_scores(inside, outside)
    foreign = np.repeat([False, True], [len(inside), len(outside)])
    return _ranked(foreign, np.concatenate([inside, outside]).astype(np.float64), confidence)


def fpr_at_tpr(inside: Uncertainty, outside: Uncertainty, *, tpr: float = 0.95, confidence: float = 0.95) -> Estimate:
    """Estimate the share of images from outside that pass a threshold which this share of the others passes.

    The threshold is the smallest score that at least `tpr` of the images inside do not exceed; Wilson's interval takes
    it as given.

    Args:
        inside: scores of images like those that the score was fitted to.
        outside: scores of the others.
        tpr: share of images inside that must pass.
        confidence: of the interval.

    Raises:
        InputError: one of them is empty, or a score is NaN.

    Source:
        Liang, Li and Srikant 2018, section 4.3 (arXiv:1706.02690).
    """
    _check_share("tpr", "fpr_at_tpr", tpr)
    _check_scores(inside, outside)
    threshold = threshold_at_tpr(inside, tpr=tpr)
    return wilson(int((outside <= threshold).sum()), len(outside), confidence=confidence)


def threshold_at_tpr(inside: Uncertainty, *, tpr: float = 0.95) -> float:
    """Return the smallest score that at least this share of the images inside do not exceed.

    Source:
        Liang, Li and Srikant 2018, section 4.3 (arXiv:1706.02690).
    """
    return float(np.sort(inside)[max(0, int(np.ceil(tpr * len(inside) - 1e-9)) - 1)])


def filtering_curve(
    wrong: Wrong, uncertainty: Uncertainty, dropped: Sequence[float], *, confidence: float = 0.95
) -> list[Estimate]:
    """Estimate the accuracy that is left when the most uncertain images are dropped, for each share of them.

    Wilson's interval is that of the images kept, their right answers rounded where a tie is cut.

    Args:
        wrong: whether the answer was wrong.
        uncertainty: of each answer.
        dropped: shares of the images, each in [0, 1); at least one image is kept.
        confidence: of the intervals.

    Source:
        Favero et al. 2025, section 4 (arXiv:2502.03687).
    """
    _check(wrong, uncertainty)
    mistakes, _ = _mistakes(wrong, uncertainty)
    curve = []
    for share in dropped:
        if not 0 <= share < 1:
            raise RangeError(f"The 'dropped' parameter of filtering_curve must hold shares in [0, 1). Got {share}.")
        kept = max(1, len(wrong) - round(share * len(wrong)))
        right = kept - float(mistakes[kept - 1])
        made = wilson(round(right), kept, confidence=confidence)
        value = right / kept
        curve.append(replace(made, value=value, low=min(made.low, value), high=max(made.high, value)))
    return curve


def _mistakes(wrong: ndarray, uncertainty: ndarray) -> tuple[ndarray, ndarray]:
    """Return the expected mistakes among the k surest images, k = 1..n, and the k at which no tie is cut."""
    order = np.argsort(uncertainty, kind="stable")
    ordered = uncertainty[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) + 1
    totals = np.cumsum(wrong[order])[ends - 1]
    kept = np.arange(1, len(wrong) + 1)
    return np.interp(kept, np.append(0, ends), np.append(0, totals)), ends


def _estimate(
    statistic: Callable[..., float],
    wrong: ndarray,
    uncertainty: ndarray,
    confidence: float,
    n_resamples: int,
    seed: int,
) -> Estimate:
    _check(wrong, uncertainty)
    return bootstrap(statistic, wrong, uncertainty, n_resamples=n_resamples, seed=seed, confidence=confidence)


def _ranked(positive: ndarray, score: ndarray, confidence: float) -> Estimate:
    """Return the area under the ROC curve; ranks in place of scores, so that infinite ones are ranked too."""
    from scipy.stats import rankdata

    ranks = rankdata(score)
    return auc(positive.astype(np.int64), np.stack([np.zeros_like(ranks), ranks], axis=1), confidence=confidence)


def _check(wrong: ndarray, uncertainty: ndarray) -> None:
    if not len(wrong) or len(wrong) != len(uncertainty):
        raise InputError(
            f"Selective measures need one uncertainty for each answer. Got {len(uncertainty)} for {len(wrong)} answers."
        )
    if np.isnan(uncertainty).any():
        raise InputError(
            f"Uncertainties must be numbers; infinity stands for an abstention. Got NaN for image "
            f"{np.flatnonzero(np.isnan(uncertainty))[0]}."
        )


def _check_scores(inside: ndarray, outside: ndarray) -> None:
    if not len(inside) or not len(outside):
        raise InputError(f"Two sets of scores are needed. Got {len(inside)} inside and {len(outside)} outside.")
    if np.isnan(inside).any() or np.isnan(outside).any():
        raise InputError("Scores must be numbers. Got NaN.")


def _check_share(name: str, function: str, value: float) -> None:
    if not 0 < value < 1:
        raise RangeError(f"The '{name}' parameter of {function} must be a float in (0, 1). Got {value}.")
