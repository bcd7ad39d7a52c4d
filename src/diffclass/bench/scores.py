"""From rows of answers to metrics."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float32, Int64
from numpy import ndarray

from diffclass.decide.calibration import against_rest, fit_temperature, probabilities
from diffclass.errors import InputError
from diffclass.stats.interval import Estimate, mean_interval, wilson
from diffclass.stats.metric import accuracy, auc, balanced_accuracy, brier, ece, nll

__all__ = ["Scores", "halves"]

_LISTED = 20  # failures that are named in a summary


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """What metrics need of a run's rows, in the order of the images' ids.

    Args:
        labels: the right class of each answered and labelled image.
        predictions: the class that was named; -1: none.
        log_odds: of each class over the leader.
        evaluations: network evaluations spent.
        draws: that the answer rests on; a network that is told the class late runs its shared part once for each.
        n_images: rows, failures and images without a label included.
        n_failed: pictures that could not be opened.
        failures: id and reason of the first of them.
        seconds: of all rows.
    """

    labels: Int64[ndarray, " image"]
    predictions: Int64[ndarray, " image"]
    log_odds: Float32[ndarray, "image class"]
    evaluations: Int64[ndarray, " image"]
    draws: Int64[ndarray, " image"]
    n_images: int
    n_failed: int
    failures: tuple[tuple[str, str], ...]
    seconds: float

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]], classes: tuple[str, ...]) -> "Scores":
        """Read rows one by one; their order, which depends on interruptions, does not matter."""
        index = {name: i for i, name in enumerate(classes)}
        kept: list[tuple[str, int, int, ndarray, int, int]] = []
        failures: list[tuple[str, str]] = []
        n_images, seconds = 0, 0.0
        for row in rows:
            n_images += 1
            if "error" in row:
                failures.append((row["id"], row["error"]))
                continue
            seconds += row["seconds"]
            if row["truth"] is not None:
                odds = np.array([row["class_log_odds"][name] for name in classes], dtype=np.float32)
                named = -1 if row["label"] is None else index[row["label"]]
                kept.append((row["id"], index[row["truth"]], named, odds, row["evaluations"], row["n_draws"]))
        kept.sort(key=lambda row: row[0])
        return cls(
            labels=np.array([row[1] for row in kept], dtype=np.int64),
            predictions=np.array([row[2] for row in kept], dtype=np.int64),
            log_odds=np.array([row[3] for row in kept], dtype=np.float32).reshape(len(kept), len(classes)),
            evaluations=np.array([row[4] for row in kept], dtype=np.int64),
            draws=np.array([row[5] for row in kept], dtype=np.int64),
            n_images=n_images,
            n_failed=len(failures),
            failures=tuple(sorted(failures)[:_LISTED]),
            seconds=seconds,
        )

    def metrics(
        self, temperature: float | None, *, seed: int = 0
    ) -> tuple[dict[str, Estimate | None], dict[str, str], float | None]:
        """Return metrics, notes on them, and the temperature that NLL, ECE and Brier rest on.

        These three need calibrated probabilities. Without a temperature one is fitted on a random half of the images,
        and they are measured on the other half, under names that say so.

        Args:
            temperature: of the classifier, fitted on other images; None if it has none.
            seed: of the halves and of the intervals that resample.
        """
        metrics: dict[str, Estimate | None] = {}
        notes: dict[str, str] = {}

        def measure(name: str, metric: Callable[[], Estimate]) -> None:
            try:
                metrics[name] = metric()
            except InputError as error:
                metrics[name], notes[name] = None, str(error)

        labels, named, n = self.labels, self.predictions, len(self.labels)
        measure("accuracy", lambda: accuracy(labels, named))
        measure("balanced_accuracy", lambda: balanced_accuracy(labels, named, seed=seed))
        measure("abstentions", lambda: wilson(int((named < 0).sum()), n))
        measure("auc", lambda: auc(labels, against_rest(self.log_odds.astype(np.float64))))
        measure("evaluations_per_image", lambda: mean_interval(self.evaluations.astype(np.float64)))
        measure("draws_per_image", lambda: mean_interval(self.draws.astype(np.float64)))
        chosen, suffix = np.arange(n), ""
        if temperature is None:
            (fit, chosen), suffix = halves(n, seed), "_on_half"
            try:
                found = fit_temperature(self.log_odds[fit], labels[fit], held_out=0.1, seed=seed)
            except InputError as error:
                reason = f"{str(error).split('. ')[0].rstrip('.')}."
                missing = ("nll", "ece", "brier")
                return metrics | dict.fromkeys(missing), notes | dict.fromkeys(missing, reason), None
            temperature = found.value
            for name in ("nll_on_half", "ece_on_half", "brier_on_half"):
                notes[name] = f"temperature fitted on {found.n} images of this run, measured on {len(chosen)} others"
        scaled = probabilities(self.log_odds[chosen], temperature)
        measure(f"nll{suffix}", lambda: nll(labels[chosen], scaled, seed=seed))
        measure(f"ece{suffix}", lambda: ece(labels[chosen], scaled, seed=seed))
        measure(f"brier{suffix}", lambda: brier(labels[chosen], scaled, seed=seed))
        return metrics, notes, temperature


def halves(n: int, seed: int) -> tuple[Int64[ndarray, " _"], Int64[ndarray, " _"]]:
    """Return the images on which a temperature is fitted, and those on which it is measured."""
    order = np.random.default_rng(seed).permutation(n)
    middle = n // 2
    return np.sort(order[:middle]), np.sort(order[middle:])
