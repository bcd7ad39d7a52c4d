"""The paired errors of one image, and what can be read off them."""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from diffclass.evidence.draws import Draws
from diffclass.evidence.foresight import Foresight
from diffclass.types import Errors, LogJoint, Survivors

__all__ = ["Evidence", "PairedDifference", "StandIns"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """Log-odds of one class over another with their standard error.

    Args:
        mean: log p(a | x) - log p(b | x) [nats under the likelihood weight].
        se: standard error of the mean over blocks of draws; infinite for a single draw.
        n_draws: draws that both classes shared.
    """

    mean: float
    se: float
    n_draws: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StandIns:
    """What is said of classes that a race never measured, because others foretold that they would lose.

    Args:
        classes: the class that stands for each; those that start stand for themselves.
        lag: [nats] how far behind the leader a class is at least if it was never measured.
    """

    classes: tuple[int, ...]
    lag: float

    @property
    def wait(self) -> Survivors:
        """Classes that do not start."""
        return np.array(self.classes) != np.arange(len(self.classes))


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """errors[draw, class] of one image: the one matrix that everything is read off.

    Classes share the draws by construction: there is one list of draws, and two classes can be compared only through
    `difference`, over the draws both of them saw.

    Args:
        errors: [model units squared] squared distance summed over the latent; NaN where a class had left the race.
        draws: noise levels, weights, seed.
        classes: names.
        log_prior: of each class.
        foresight: what was believed before the first draw, if anything was.
        stand_ins: what is said of classes that were never measured; None: nothing.
    """

    errors: Errors
    draws: Draws
    classes: tuple[str, ...]
    log_prior: LogJoint
    foresight: Foresight | None = None
    stand_ins: StandIns | None = None

    @property
    def n_draws(self) -> int:
        """Draws that at least one class has seen."""
        return int(self.n_measured.max())

    @property
    def n_measured(self) -> np.ndarray:
        """Draws that each class has seen: always the first ones of the list."""
        return np.isfinite(self.errors).sum(axis=0)

    @property
    def alive(self) -> Survivors:
        """Classes still in the race: those that have seen every draw so far."""
        return self.n_measured == self.n_draws

    @property
    def evaluations(self) -> int:
        """Network evaluations spent."""
        return int(self.n_measured.sum())

    def weighted(self) -> Float64[ndarray, "draw class"]:
        """Return weight x error in float64: the mean over draws is -log p(x | class) + constant."""
        return self.draws.weights[:, None] * self.errors.astype(np.float64)

    def blocks(self, a: int, b: int) -> Float64[ndarray, " block"]:
        """Return the mean log-likelihood ratio of class a over class b in each complete block of shared draws."""
        size = self.draws.block
        n = int(min(self.n_measured[a], self.n_measured[b])) // size * size
        errors = self.errors[:n].astype(np.float64)
        return (self.draws.weights[:n] * (errors[:, b] - errors[:, a])).reshape(-1, size).mean(axis=1)

    def difference(self, a: int, b: int) -> PairedDifference:
        """Compare two classes on the draws they share.

        The standard error is taken over whole blocks; where both classes shared less than two of them, over single
        draws, which vary more than an even block does. Of a class that was never measured nothing is known.
        """
        n = int(min(self.n_measured[a], self.n_measured[b]))
        if n == 0:
            return PairedDifference(mean=float("nan"), se=float("inf"), n_draws=0)
        errors = self.errors[:n].astype(np.float64)
        ratios = self.draws.weights[:n] * (errors[:, b] - errors[:, a])
        units = self.blocks(a, b) if n >= 2 * self.draws.block else ratios
        se = float(units.std(ddof=1) / np.sqrt(len(units))) if len(units) > 1 else float("inf")
        prior = float(self.log_prior[a] - self.log_prior[b])
        return PairedDifference(mean=float(ratios.mean()) + prior, se=se, n_draws=n)

    def leader(self) -> int:
        """Return the class with the largest log joint among those alive."""
        n = self.n_draws
        log_joint = self.log_prior - self.weighted()[:n].mean(axis=0)
        return int(np.nanargmax(np.where(self.alive, log_joint, -np.inf)))

    def log_odds(self) -> LogJoint:
        """Return the log-odds of every class over the leader, each over the draws both saw (0 for the leader).

        A class that was never measured has the likelihood of the class that stands for it, but lags behind the leader
        by what was foretold at least; it is left out, at minus infinity, if none stands for it.
        """
        leader, measured = self.leader(), self.n_measured
        odds = np.full(len(self.classes), -np.inf)
        for c in range(len(odds)):
            if measured[c]:
                odds[c] = self.difference(c, leader).mean
            elif self.stand_ins is not None and measured[self.stand_ins.classes[c]]:
                shown = self.stand_ins.classes[c]
                behind = self.difference(shown, leader).mean + self.log_prior[c] - self.log_prior[shown]
                odds[c] = min(behind, -self.stand_ins.lag)
        return odds
