"""Intervals, metrics and confidence sequences: arrays in, floats with their uncertainty out."""

from diffclass.stats.binomial import LookPlan, lower_bound, upper_bound
from diffclass.stats.interval import Estimate, bootstrap, clopper_pearson, mean_interval, wilson
from diffclass.stats.metric import (
    ABSTAINED,
    accuracy,
    auc,
    balanced_accuracy,
    binned_error,
    calibration_gaps,
    ece,
    macro_area,
    nll,
    top,
)
from diffclass.stats.paired import Difference, delong, mcnemar, paired_bootstrap
from diffclass.stats.sequence import AsymptoticSequence, Betting, EmpiricalBernstein, Sequence, StudentLooks

__all__ = [
    "ABSTAINED",
    "AsymptoticSequence",
    "Betting",
    "Difference",
    "EmpiricalBernstein",
    "Estimate",
    "LookPlan",
    "Sequence",
    "StudentLooks",
    "accuracy",
    "auc",
    "balanced_accuracy",
    "binned_error",
    "bootstrap",
    "calibration_gaps",
    "clopper_pearson",
    "delong",
    "ece",
    "lower_bound",
    "macro_area",
    "mcnemar",
    "mean_interval",
    "nll",
    "paired_bootstrap",
    "top",
    "upper_bound",
    "wilson",
]
