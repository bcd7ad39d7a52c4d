"""What attacks on a set add up to: accuracy under each and under all of them, and signs that they were too weak."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np

from diffclass.stats.interval import Estimate, wilson

__all__ = ["AttackSummary", "Attacked"]

_FORMAT = 1
_BLIND = ("square", "random", "transfer")  # attacks that a good gradient must beat
_CLIMBING = ("apgd-ce", "apgd-dlr", "apgd-t", "apgd-exact")
_SLOPE, _AGREE, _LARGE, _LATE = 0.05, 0.5, 0.95, 0.1  # beyond which a check is a sign of trouble


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AttackSummary:
    """One attack over a set.

    Args:
        attack: its name.
        accuracy: share of all images that were right and stayed right, as the classifier itself judges.
        own_noise: the same, as the attack saw it on its own draws.
        abstained: images where the classifier ended without a label.
        late: of the images fooled on the attack's own noise, those first fooled in the last quarter of its steps.
        gradients: of each image, on average.
        evaluations: of each image, on average, those of gradients not counted again.
    """

    attack: str
    accuracy: Estimate
    own_noise: Estimate
    abstained: int
    late: float
    gradients: float
    evaluations: float


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attacked:
    """A set under attack.

    Args:
        clean: accuracy without an attack; None without images.
        robust: share of images that no attack changed; None without images.
        attacks: one by one.
        checks: by name, what was found out about gradients, over images that were attacked.
        rows: a row for each image, failed pictures included.
        failures: id and reason of pictures that could not be opened.
        config: everything that the rows depend on.
    """

    clean: Estimate | None
    robust: Estimate | None
    attacks: tuple[AttackSummary, ...]
    checks: Mapping[str, float]
    rows: tuple[Mapping[str, Any], ...]
    failures: tuple[tuple[str, str], ...]
    config: Mapping[str, Any]

    @property
    def n_images(self) -> int:
        """Images of the set."""
        return len(self.rows)

    @classmethod
    def from_rows(
        cls, rows: Iterable[Mapping[str, Any]], *, attacks: Sequence[str], config: Mapping[str, Any]
    ) -> "Attacked":
        """Add up the rows of a result file."""
        every = tuple(rows)
        good = [row for row in every if "error" not in row]
        tried = [row for row in good if row["correct"]]
        return cls(
            clean=_share(good, "correct"),
            robust=_share(good, "robust"),
            attacks=tuple(_of_attack(name, tried, len(good)) for name in attacks) if good else (),
            checks=_checks(tried),
            rows=every,
            failures=tuple((row["id"], row["error"]) for row in every if "error" in row),
            config=config,
        )

    @property
    def signs(self) -> tuple[str, ...]:
        """What speaks against trusting the figure: signs that attacks were too weak, a sentence each."""
        accuracy = {one.attack: one.accuracy.value for one in self.attacks}
        climbing = [accuracy[name] for name in _CLIMBING if name in accuracy]
        found = []
        for name in _BLIND:
            if climbing and accuracy.get(name, 1.0) < min(climbing):
                found.append(f"'{name}' is stronger than attacks by gradients: these may be masked.")
        if self.checks.get("finite_difference_error", 0.0) > _SLOPE:
            found.append(
                "Gradients differ from finite differences: 16 bits round them (try dtype float32), or they are wrong."
            )
        if self.checks.get("agreement", 1.0) < _AGREE:
            found.append("Gradients on two sets of draws hardly agree: try more draws or a larger eot.")
        if self.checks.get("large_budget_fooled", 1.0) < _LARGE:
            found.append("A budget eight times as large does not fool nearly all images: the attack fails by itself.")
        late = [one.attack for one in self.attacks if one.late > _LATE]
        if late:
            found.append(f"Many images fell in the last quarter of the steps of {', '.join(late)}: try more steps.")
        return tuple(found)

    def summary(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "format": _FORMAT,
            "threat": self.config["attack"]["threat"],
            "n_images": self.n_images,
            "n_failed": len(self.failures),
            "failures": [{"id": name, "error": error} for name, error in self.failures],
            "clean_accuracy": None if self.clean is None else asdict(self.clean),
            "robust_accuracy": None if self.robust is None else asdict(self.robust),
            "attacks": [asdict(one) for one in self.attacks],
            "checks": dict(self.checks),
            "signs": list(self.signs),
            "config": dict(self.config),
        }


def _share(rows: Sequence[Mapping[str, Any]], name: str) -> Estimate | None:
    return wilson(sum(row[name] for row in rows), len(rows)) if rows else None


def _of_attack(name: str, tried: Sequence[Mapping[str, Any]], n: int) -> AttackSummary:
    """Add up one attack over the images that were right to begin with, among n."""
    found = [row["attacks"][name] for row in tried]
    first = [(one["first_step"], one["gradients"]) for one in found if one["first_step"] is not None]
    return AttackSummary(
        attack=name,
        accuracy=wilson(sum(not one["fooled"] for one in found), n),
        own_noise=wilson(sum(not one["margin"] > 0 for one in found), n),
        abstained=sum(one["label"] is None for one in found),
        late=sum(step > 0.75 * steps for step, steps in first) / len(first) if first else 0.0,
        gradients=float(np.mean([one["gradients"] for one in found])) if found else 0.0,
        evaluations=float(np.mean([one["evaluations"] for one in found])) if found else 0.0,
    )


def _checks(tried: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return medians of what was measured, and shares of what was yes or no."""
    with_checks = [row["checks"] for row in tried if row["checks"]]
    if not with_checks:
        return {}
    columns = {name: np.array([row[name] for row in with_checks], dtype=np.float64) for name in with_checks[0]}
    return {
        "finite_difference_error": float(np.median(columns["finite_difference_error"])),
        "agreement": float(np.median(columns["agreement"])),
        "large_budget_fooled": float(columns["large_budget_fooled"].mean()),
    }
