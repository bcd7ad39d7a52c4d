"""Everything that is said of why one image got its answer."""

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, final

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray
from torch import Tensor

from diffclass.decide import Decision, DiffusionClassifier
from diffclass.explain.edit import Counterfactual, Edit, check_target, counterfactual
from diffclass.explain.metric import proximity
from diffclass.explain.pixels import EvidenceMap, watched

__all__ = ["Explanation", "Verdict", "explain_image"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the classifier says of one of the pictures.

    Args:
        picture: "picture", "factual" or "counterfactual".
        label: its answer; None for an abstention.
        log_odds: of the picture's class over the other one, whatever the answer is.
        log_odds_se: their standard error.
        n_draws: that both classes saw.
        probability: of the picture's class, calibrated; None without a temperature.
        other_probability: of the other class.
    """

    picture: str
    label: str | None
    log_odds: float
    log_odds_se: float
    n_draws: int
    probability: float | None
    other_probability: float | None


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """An answer, where it comes from, and what would have to change for another one.

    Args:
        decision: of the classifier on the image.
        map: of the log-odds of the leader over the other class.
        counterfactual: of the other class, with its control.
    """

    decision: Decision
    map: EvidenceMap
    counterfactual: Counterfactual

    @property
    def source(self) -> str:
        """The class that the image was given, or that leads where there is no answer."""
        return self.counterfactual.source

    @property
    def to(self) -> str:
        """The other class."""
        return self.counterfactual.to

    @property
    def verdicts(self) -> tuple[Verdict, Verdict, Verdict]:
        """What the classifier says of the picture, of the factual and of the counterfactual."""
        factual, other = self.counterfactual.answers
        return (
            self._verdict("picture", self.decision),
            self._verdict("factual", factual),
            self._verdict("counterfactual", other),
        )

    def _verdict(self, picture: str, decision: Decision) -> Verdict:
        classes = decision.evidence.classes
        difference = decision.evidence.difference(classes.index(self.source), classes.index(self.to))
        known = decision.probabilities
        return Verdict(
            picture=picture, label=decision.label, log_odds=difference.mean, log_odds_se=difference.se,
            n_draws=difference.n_draws, probability=None if known is None else known[self.source],
            other_probability=None if known is None else known[self.to],
        )  # fmt: skip

    def row(self) -> dict[str, Any]:
        """Return everything but the pictures as plain values, for JSON."""
        edited = self.counterfactual
        return {
            "source": self.source,
            "to": self.to,
            "flipped": edited.flipped,
            "held": edited.held,
            "verdicts": [_finite(asdict(verdict)) for verdict in self.verdicts],
            "edit": asdict(edited.edit) | {"sigma": edited.sigma, "tried": list(edited.tried)},
            "clipped": edited.clipped,
            "changed": asdict(proximity(edited.counterfactual, edited.image)),
            "control": asdict(proximity(edited.factual, edited.image)),
            "map": {
                "log_odds": self.map.difference.mean,
                "log_odds_se": self.map.difference.se,
                "n_draws": self.map.difference.n_draws,
                "log_prior": self.map.log_prior,
                "significant": float(self.map.significant.mean()),
                "fdr": self.map.fdr,
            },
            "evaluations": {"answer": self.decision.evaluations, "edits": edited.evaluations},
            "decision": self.decision.row(),
        }

    def arrays(self) -> dict[str, Shaped[ndarray, "..."]]:
        """Return pictures and maps, by name: [channel, height, width] in [0, 1], and [height, width]."""
        edited = self.counterfactual
        return {
            "image": edited.image.numpy(),
            "factual": edited.factual.numpy(),
            "counterfactual": edited.counterfactual.numpy(),
            "difference": edited.difference.numpy(),
            "evidence": self.map.values,
            "p_values": self.map.p_values,
            "significant": self.map.significant,
            "classes": np.array([self.source, self.to]),
        }


def explain_image(
    classifier: DiffusionClassifier,
    image: Tensor,
    to: str | None = None,
    *,
    edit: Edit | None = None,
    n_draws: int = 128,
    fdr: float = 0.05,
) -> Explanation:
    """Classify an image and explain the answer against another class.

    Args:
        classifier: of any denoiser.
        image: of shape (channel, height, width), in [0, 1].
        to: the other class; the runner-up if None.
        edit: how the counterfactual is made; `Edit()` if None.
        n_draws: the fewest draws behind the evidence map, up to the race's budget.
        fdr: false discovery rate of its mask.

    Raises:
        ConditionError: the other class is unknown, or the one that the image has.
        ShapeError, RangeError: the image is not one that the model takes, or a number is outside its range.
        UnsupportedModel: guidance is asked of a model that has no condition without a class.
        NonFiniteError: the model returned NaN or infinity.
    """
    seen = watched(classifier, image)
    decision = seen.decision
    to = check_target(classifier, decision, to)
    found = seen.map(decision.leader, to, n_draws=n_draws, fdr=fdr)
    edited = counterfactual(classifier, image, to, edit=edit, decision=decision)
    return Explanation(decision=decision, map=found, counterfactual=edited)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Write numbers that JSON does not have as None."""
    return {name: None if isinstance(v, float) and not isfinite(v) else v for name, v in values.items()}
