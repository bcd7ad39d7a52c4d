"""Why an answer was given: where classes disagree, and what would have to change for another one."""

from diffclass.explain.card import check_endings, save_explanation, verdict_cells
from diffclass.explain.edit import Counterfactual, Edit, counterfactual
from diffclass.explain.explanation import Explanation, Verdict, explain_image
from diffclass.explain.metric import Curve, Proximity, agreement, cout, deletion, insertion, proximity, ssim
from diffclass.explain.pixels import EvidenceMap, Watched, evidence_map, watched

__all__ = [
    "Counterfactual",
    "Curve",
    "Edit",
    "EvidenceMap",
    "Explanation",
    "Proximity",
    "Verdict",
    "Watched",
    "agreement",
    "check_endings",
    "counterfactual",
    "cout",
    "deletion",
    "evidence_map",
    "explain_image",
    "insertion",
    "proximity",
    "save_explanation",
    "ssim",
    "verdict_cells",
    "watched",
]
