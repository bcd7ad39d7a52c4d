"""The paired errors, and the engine that measures them."""

from diffclass.evidence.draws import Draws
from diffclass.evidence.engine import Engine, Finished
from diffclass.evidence.evidence import Evidence, PairedDifference
from diffclass.evidence.objective import (
    EDMWeight,
    LikelihoodWeight,
    LogNormal,
    LogUniform,
    Objective,
    Proposal,
    SimpleWeight,
    UniformTimeWeight,
    Weight,
)
from diffclass.evidence.race import Race
from diffclass.evidence.target import Clean, NoisedApproximate, NoisedExact, Target

__all__ = [
    "Clean",
    "Draws",
    "EDMWeight",
    "Engine",
    "Evidence",
    "Finished",
    "LikelihoodWeight",
    "LogNormal",
    "LogUniform",
    "NoisedApproximate",
    "NoisedExact",
    "Objective",
    "PairedDifference",
    "Proposal",
    "Race",
    "SimpleWeight",
    "Target",
    "UniformTimeWeight",
    "Weight",
]
