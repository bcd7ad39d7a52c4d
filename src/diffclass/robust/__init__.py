"""How safe an answer is: certificates that no small change of the image alters it."""

from diffclass.robust.certificate import Certificate, largest_radius, probability_for, radius_of
from diffclass.robust.copies import (
    NOISED,
    CopyClassifier,
    NoisedLikelihood,
    NoisedRaces,
    copy_classifier,
    natural_noised,
)
from diffclass.robust.lipschitz import (
    Clipped,
    LipschitzBound,
    LipschitzCertificate,
    lipschitz_bound,
    lipschitz_certificate,
    log_odds_gradients,
)
from diffclass.robust.smoothing import Certification, Smoothing, certify
from diffclass.robust.votes import NO_LABEL, Votes

__all__ = [
    "NOISED",
    "NO_LABEL",
    "Certificate",
    "Certification",
    "Clipped",
    "CopyClassifier",
    "LipschitzBound",
    "LipschitzCertificate",
    "NoisedLikelihood",
    "NoisedRaces",
    "Smoothing",
    "Votes",
    "certify",
    "copy_classifier",
    "largest_radius",
    "lipschitz_bound",
    "lipschitz_certificate",
    "log_odds_gradients",
    "natural_noised",
    "probability_for",
    "radius_of",
]
