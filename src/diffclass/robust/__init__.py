"""How safe an answer is: certificates that no small change of the image alters it, and attacks that look for one."""

from diffclass.robust.attack import ATTACKS, Attack, AttackedImage, Found, attack_image, default_attacks
from diffclass.robust.certificate import Certificate, largest_radius, probability_for, radius_of
from diffclass.robust.copies import (
    NOISED,
    CopyClassifier,
    LabelsStepwise,
    NoisedLikelihood,
    NoisedRaces,
    Smoothable,
    SmoothedDiffusion,
    copy_classifier,
    natural_noised,
)
from diffclass.robust.gradient import Access, Defence
from diffclass.robust.lipschitz import (
    Clipped,
    LipschitzBound,
    LipschitzCertificate,
    lipschitz_bound,
    lipschitz_certificate,
    log_odds_gradients,
)
from diffclass.robust.purify import LikelihoodMaximisation
from diffclass.robust.smoothing import Certification, Smoothing, certify
from diffclass.robust.threat import Threat
from diffclass.robust.votes import NO_LABEL, Votes

__all__ = [
    "ATTACKS",
    "NOISED",
    "NO_LABEL",
    "Access",
    "Attack",
    "AttackedImage",
    "Certificate",
    "Certification",
    "Clipped",
    "CopyClassifier",
    "Defence",
    "Found",
    "LabelsStepwise",
    "LikelihoodMaximisation",
    "LipschitzBound",
    "LipschitzCertificate",
    "NoisedLikelihood",
    "NoisedRaces",
    "Smoothable",
    "SmoothedDiffusion",
    "Smoothing",
    "Threat",
    "Votes",
    "attack_image",
    "certify",
    "copy_classifier",
    "default_attacks",
    "largest_radius",
    "lipschitz_bound",
    "lipschitz_certificate",
    "log_odds_gradients",
    "natural_noised",
    "probability_for",
    "radius_of",
]
