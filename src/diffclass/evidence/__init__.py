"""The paired errors, and the engine that measures them."""

from diffclass.evidence.differentiable import DifferentiableEvidence
from diffclass.evidence.draws import Draws
from diffclass.evidence.engine import Engine, Failed, Finished, Follow, OpenRaces
from diffclass.evidence.evidence import Evidence, PairedDifference, StandIns
from diffclass.evidence.foresight import Foresight
from diffclass.evidence.matrix import ErrorMatrices
from diffclass.evidence.objective import (
    EDMOfficialWeight,
    EDMWeight,
    LikelihoodWeight,
    LogNormal,
    LogUniform,
    Objective,
    Proposal,
    SimpleWeight,
    TabulatedProposal,
    TabulatedWeight,
    UniformTimeWeight,
    Weight,
    as_table,
)
from diffclass.evidence.race import Race
from diffclass.evidence.target import Clean, NoisedApproximate, NoisedConditional, NoisedExact, Target

__all__ = [
    "Clean",
    "DifferentiableEvidence",
    "Draws",
    "EDMOfficialWeight",
    "EDMWeight",
    "Engine",
    "ErrorMatrices",
    "Evidence",
    "Failed",
    "Finished",
    "Follow",
    "Foresight",
    "LikelihoodWeight",
    "LogNormal",
    "LogUniform",
    "NoisedApproximate",
    "NoisedConditional",
    "NoisedExact",
    "Objective",
    "OpenRaces",
    "PairedDifference",
    "Proposal",
    "Race",
    "SimpleWeight",
    "StandIns",
    "TabulatedProposal",
    "TabulatedWeight",
    "Target",
    "UniformTimeWeight",
    "Weight",
    "as_table",
]
