"""From evidence to an answer: races, votes, calibration, and the classifier."""

from diffclass.decide.aggregate import Aggregate, MajorityVote, Mean, Tally
from diffclass.decide.calibration import Temperature, against_rest, fit_temperature, probabilities
from diffclass.decide.certainty import certainty
from diffclass.decide.classifier import DiffusionClassifier
from diffclass.decide.decision import Decision
from diffclass.decide.first_look import FirstLook
from diffclass.decide.learning import learn_stopping
from diffclass.decide.prompts import DEFAULT_TEMPLATE, Prompts
from diffclass.decide.published import ClarkJaini, SiftAndRefine, SuccessiveHalving
from diffclass.decide.race import Exhaustive, PairedRace
from diffclass.decide.replay import Replay, full_answers
from diffclass.decide.stopping import Calibrated
from diffclass.decide.uncertainty import Uncertainty, uncertainty
from diffclass.decide.voting import VoteRace
from diffclass.decide.zero_shot import ZeroShotClassifier

__all__ = [
    "DEFAULT_TEMPLATE",
    "Aggregate",
    "Calibrated",
    "ClarkJaini",
    "Decision",
    "DiffusionClassifier",
    "Exhaustive",
    "FirstLook",
    "MajorityVote",
    "Mean",
    "PairedRace",
    "Prompts",
    "Replay",
    "SiftAndRefine",
    "SuccessiveHalving",
    "Tally",
    "Temperature",
    "Uncertainty",
    "VoteRace",
    "ZeroShotClassifier",
    "against_rest",
    "certainty",
    "fit_temperature",
    "full_answers",
    "learn_stopping",
    "probabilities",
    "uncertainty",
]
