"""A certificate: counted labels of noisy copies, and the radius that they prove."""

from dataclasses import dataclass
from typing import Any, final

from diffclass.robust.votes import NO_LABEL, Votes
from diffclass.stats.binomial import LookPlan, lower_bound

__all__ = ["Certificate", "largest_radius", "probability_for", "radius_of"]


def radius_of(p_lower: float, sigma: float) -> float:
    """Return the radius within which a label of at least this probability stays the likeliest; 0 below one half.

    Args:
        p_lower: bound on the probability of the label under the noise.
        sigma: [image units] std of the noise.

    Source:
        Cohen, Rosenfeld and Kolter 2019, Theorem 1 with p_B = 1 - p_A (arXiv:1902.02918).
    """
    from scipy.stats import norm

    return max(0.0, sigma * float(norm.ppf(p_lower))) if p_lower > 0 else 0.0


def probability_for(radius: float, sigma: float) -> float:
    """Return what the probability of a label must exceed for a radius: the inverse of `radius_of`.

    Source:
        Cohen, Rosenfeld and Kolter 2019, Theorem 1 (arXiv:1902.02918).
    """
    from scipy.stats import norm

    return float(norm.cdf(radius / sigma))


def largest_radius(n: int, *, alpha: float, sigma: float) -> float:
    """Return the radius [image units] that n copies prove if all of them get one label: sigma probit(alpha^(1/n)).

    Source:
        Cohen, Rosenfeld and Kolter 2019, section 3.2.2 (arXiv:1902.02918).
    """
    return radius_of(lower_bound(n, n, alpha), sigma)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What is proved about the smoothed label of one image.

    With probability at least 1 - alpha over the copies, the label is the smoothed classifier's for every perturbation
    of L2 norm below `radius`. Label, bound and radius are computed from the counts of copies that were drawn, and from
    nothing else: there is no way to state them for more copies than that.

    Args:
        classes: names.
        sigma: [image units] std of the smoothing noise.
        alpha: chance that the statement is false.
        selection: the votes that chose the label. They are never reused for the bound.
        votes: the votes that bound its probability.
        plan: when votes were to be judged.
        successes: votes for the label at every look that was reached.
        wanted_radius: [image units] the radius asked for; None where as much as possible was.
        reason: "proved" (the wanted radius is), "out of reach" (it will not be), or "budget" (all copies drawn).
        evaluations: network evaluations spent.
        seed: of the noise.

    Source:
        Cohen, Rosenfeld and Kolter 2019, CERTIFY and Proposition 2 (arXiv:1902.02918).
    """

    classes: tuple[str, ...]
    sigma: float
    alpha: float
    selection: Votes
    votes: Votes
    plan: LookPlan
    successes: tuple[int, ...]
    wanted_radius: float | None
    reason: str
    evaluations: int
    seed: int

    @property
    def candidate(self) -> int:
        """Index of the label that was put to the test, or `NO_LABEL`."""
        return self.selection.leader

    @property
    def n0(self) -> int:
        """Copies that chose the label."""
        return self.selection.n

    @property
    def n(self) -> int:
        """Copies that bound its probability."""
        return self.votes.n

    @property
    def p_lower(self) -> float:
        """Lower bound on the probability of the label under the noise."""
        return self.plan.lower(self.successes)

    @property
    def radius(self) -> float:
        """[image units] Within it the label cannot change; 0 for an abstention."""
        return radius_of(self.p_lower, self.sigma)

    @property
    def label(self) -> str | None:
        """The smoothed label, or None where the copies do not prove that it has more than half of the probability."""
        return self.classes[self.candidate] if self.candidate != NO_LABEL and self.radius > 0 else None

    def row(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "label": self.label,
            "radius": self.radius,
            "p_lower": self.p_lower,
            "candidate": None if self.candidate == NO_LABEL else self.classes[self.candidate],
            "sigma": self.sigma,
            "alpha": self.alpha,
            "n0": self.n0,
            "n": self.n,
            "selection": self.selection.row(),
            "votes": self.votes.row(),
            "looks": [list(pair) for pair in zip(self.plan.looks, self.successes, strict=False)],
            "wanted_radius": self.wanted_radius,
            "reason": self.reason,
            "evaluations": self.evaluations,
            "seed": self.seed,
        }
