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
from diffclass.stats.metric import ABSTAINED, accuracy, auc, balanced_accuracy, brier, ece, nll, top
from diffclass.stats.selective import (
    RiskCoverage,
    augrc,
    aurc,
    coverage_at_risk,
    failure_auc,
    filtering_curve,
    fpr_at_tpr,
    ood_auc,
    risk_at_coverage,
    risk_coverage,
)
from diffclass.stats.sequence import AsymptoticSequence, Betting, EmpiricalBernstein, Sequence, StudentLooks

__all__ = [
    "ABSTAINED",
    "AsymptoticSequence",
    "Betting",
    "EmpiricalBernstein",
    "Estimate",
    "LookPlan",
    "RiskCoverage",
    "Sequence",
    "StudentLooks",
    "accuracy",
    "auc",
    "augrc",
    "aurc",
    "balanced_accuracy",
    "bootstrap",
    "brier",
    "clopper_pearson",
    "clustered_mean",
    "clustered_proportion",
    "coverage_at_risk",
    "ece",
    "failure_auc",
    "filtering_curve",
    "fpr_at_tpr",
    "lower_bound",
    "mean_interval",
    "nll",
    "ood_auc",
    "risk_at_coverage",
    "risk_coverage",
    "top",
    "upper_bound",
    "wilson",
]
