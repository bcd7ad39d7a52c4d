"""Conditional diffusion models as classifiers.

The class under which a diffusion model denoises an image best is the answer. Names are imported when they are first
used, so that `import diffclass` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from diffclass import errors

if TYPE_CHECKING:
    from diffclass.data import load_image, open_dataset
    from diffclass.decide import (
        Decision,
        DiffusionClassifier,
        Exhaustive,
        FirstLook,
        MajorityVote,
        Mean,
        PairedRace,
        Prompts,
        SuccessiveHalving,
        ZeroShotClassifier,
    )
    from diffclass.denoisers import Space, check_denoiser, fit_mixture, list_models, load
    from diffclass.evidence import Objective
    from diffclass.explain import (
        Counterfactual,
        Edit,
        EvidenceMap,
        Explanation,
        counterfactual,
        evidence_map,
        explain_image,
    )
    from diffclass.robust import Certificate, certify

__all__ = [
    "Certificate",
    "Counterfactual",
    "Decision",
    "DiffusionClassifier",
    "Edit",
    "EvidenceMap",
    "Exhaustive",
    "Explanation",
    "FirstLook",
    "MajorityVote",
    "Mean",
    "Objective",
    "PairedRace",
    "Prompts",
    "Space",
    "SuccessiveHalving",
    "ZeroShotClassifier",
    "__version__",
    "certify",
    "check_denoiser",
    "counterfactual",
    "errors",
    "evidence_map",
    "explain_image",
    "fit_mixture",
    "list_models",
    "load",
    "load_image",
    "open_dataset",
]

__version__ = "0.1.0"

_HOMES = {
    "diffclass.data": ("load_image", "open_dataset"),
    "diffclass.decide": (
        "Decision",
        "DiffusionClassifier",
        "Exhaustive",
        "FirstLook",
        "MajorityVote",
        "Mean",
        "PairedRace",
        "Prompts",
        "SuccessiveHalving",
        "ZeroShotClassifier",
    ),
    "diffclass.denoisers": ("Space", "check_denoiser", "fit_mixture", "list_models", "load"),
    "diffclass.evidence": ("Objective",),
    "diffclass.explain": (
        *("Counterfactual", "Edit", "EvidenceMap", "Explanation"),
        *("counterfactual", "evidence_map", "explain_image"),
    ),
    "diffclass.robust": ("Certificate", "certify"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'diffclass' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
