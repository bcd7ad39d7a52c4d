"""Intervals, metrics and confidence sequences: arrays in, floats with their uncertainty out."""

from diffclass.stats.interval import Estimate, bootstrap, clopper_pearson, mean_interval, wilson
from diffclass.stats.metric import ABSTAINED, accuracy, auc, balanced_accuracy, ece, nll, top
from diffclass.stats.sequence import AsymptoticSequence, Betting, EmpiricalBernstein, Sequence, StudentLooks

__all__ = [
    "ABSTAINED",
    "AsymptoticSequence",
    "Betting",
    "EmpiricalBernstein",
    "Estimate",
    "Sequence",
    "StudentLooks",
    "accuracy",
    "auc",
    "balanced_accuracy",
    "bootstrap",
    "clopper_pearson",
    "ece",
    "mean_interval",
    "nll",
    "top",
    "wilson",
]
