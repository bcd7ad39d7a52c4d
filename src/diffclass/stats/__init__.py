"""Intervals, metrics and confidence sequences: arrays in, floats with their uncertainty out."""

from diffclass.stats.binomial import LookPlan, lower_bound, upper_bound
from diffclass.stats.interval import (
    Estimate,
    bootstrap,
    clopper_pearson,
    clustered_mean,
    clustered_proportion,
    mean_interval,
    wilson,
)
from diffclass.stats.metric import ABSTAINED, accuracy, auc, balanced_accuracy, ece, nll, top
from diffclass.stats.sequence import AsymptoticSequence, Betting, EmpiricalBernstein, Sequence, StudentLooks

__all__ = [
    "ABSTAINED",
    "AsymptoticSequence",
    "Betting",
    "EmpiricalBernstein",
    "Estimate",
    "LookPlan",
    "Sequence",
    "StudentLooks",
    "accuracy",
    "auc",
    "balanced_accuracy",
    "bootstrap",
    "clopper_pearson",
    "clustered_mean",
    "clustered_proportion",
    "ece",
    "lower_bound",
    "mean_interval",
    "nll",
    "top",
    "upper_bound",
    "wilson",
]
