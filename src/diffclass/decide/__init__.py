"""From evidence to an answer: races, votes, calibration, and the classifier."""

from diffclass.decide.aggregate import Aggregate, MajorityVote, Mean, Tally
from diffclass.decide.calibration import Temperature, against_rest, fit_temperature, probabilities
from diffclass.decide.classifier import DiffusionClassifier
from diffclass.decide.decision import Decision
from diffclass.decide.race import Exhaustive, PairedRace, SuccessiveHalving

__all__ = [
    "Aggregate",
    "Decision",
    "DiffusionClassifier",
    "Exhaustive",
    "MajorityVote",
    "Mean",
    "PairedRace",
    "SuccessiveHalving",
    "Tally",
    "Temperature",
    "against_rest",
    "fit_temperature",
    "probabilities",
]
