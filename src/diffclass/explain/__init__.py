"""Why an answer was given: where classes disagree, and what would have to change for another one."""

from diffclass.explain.counterfactual import Counterfactual, Edit, counterfactual
from diffclass.explain.evidence_map import EvidenceMap, Watched, evidence_map, watched

__all__ = [
    "Counterfactual",
    "Edit",
    "EvidenceMap",
    "Watched",
    "counterfactual",
    "evidence_map",
    "watched",
]
