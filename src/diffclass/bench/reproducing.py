"""A published experiment run again: its settings, then its figures beside those that came out here."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from diffclass.bench.certifying import certify_items
from diffclass.bench.evaluation import evaluate
from diffclass.bench.experiments import Certified, Experiment, Figure, ZeroShot
from diffclass.bench.preparing import Prepared
from diffclass.data.datasets import Progress
from diffclass.data.results import write_json_atomic
from diffclass.robust import SmoothedDiffusion
from diffclass.stats.interval import Estimate

__all__ = ["Comparison", "Reproduction", "run"]

_FORMAT = 1


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A published figure, and the one that came out here; None where it was not measured."""

    figure: Figure
    published: Estimate
    here: Estimate | None


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reproduction:
    """What came out.

    Args:
        experiment: that was run.
        comparisons: a row a figure.
        differences: why figures are not comparable with the published ones.
        unchecked: what could not be found out of the published run, or of the model here.
        otherwise: what is done otherwise than in the published code, always.
        also: other accuracies that were measured, by name.
        failures: id and reason of pictures that could not be opened, or the first of them.
        n_images: of the run.
        n_failed: pictures that could not be opened.
        measured: the whole summary.
    """

    experiment: Experiment
    comparisons: tuple[Comparison, ...]
    differences: tuple[str, ...]
    unchecked: tuple[str, ...]
    otherwise: tuple[str, ...]
    also: Mapping[str, Estimate]
    failures: tuple[tuple[str, str], ...]
    n_images: int
    n_failed: int
    measured: Mapping[str, Any]

    @property
    def comparable(self) -> bool:
        """Whether nothing is known to differ: the data, the size of the network, the settings."""
        return not self.differences

    def summary(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "format": _FORMAT,
            "experiment": self.experiment.name,
            "source": f"{self.experiment.paper.title} ({self.experiment.paper.link})",
            "comparable": self.comparable,
            "comparisons": [
                {
                    "measure": row.figure.measure,
                    "published": asdict(row.published) | {"read": row.figure.read},
                    "here": None if row.here is None else asdict(row.here),
                }
                for row in self.comparisons
            ],
            "also": {name: asdict(estimate) for name, estimate in self.also.items()},
            "differences": list(self.differences),
            "unchecked": list(self.unchecked),
            "done_otherwise": list(self.otherwise),
            "n_images": self.n_images,
            "n_failed": self.n_failed,
            "measured": dict(self.measured),
        }


def run(prepared: Prepared, *, out: Path | None = None, progress: Progress | None = None) -> Reproduction:
    """Measure, and put the published figures beside what came out.

    The same call with the same `out` goes on where an earlier one was stopped.

    Args:
        prepared: the experiment.
        out: folder of the results and of reproduction.json; nothing is kept if None.
        progress: as in `evaluate` or `certify_items`.

    Raises:
        ResultError: `out` holds another run, or cannot be written.
    """
    measure = _zero_shot if isinstance(prepared.experiment.settings, ZeroShot) else _certified
    found = measure(prepared, out, progress)
    if out is not None:
        write_json_atomic(out / "reproduction.json", found.summary())
    return found


def _zero_shot(prepared: Prepared, out: Path | None, progress: Progress | None) -> Reproduction:
    measured = evaluate(
        prepared.classifier, prepared.part, out=out, seed=prepared.changes.seed, progress=progress, resize="crop",
        convert=True,
    )  # fmt: skip
    here = [measured.metrics.get("accuracy") for _ in prepared.experiment.figures]
    also = {name: e for name in ("balanced_accuracy", "abstentions") if (e := measured.metrics.get(name)) is not None}
    summary, failures = measured.summary(), measured.failures
    return _reproduction(prepared, here, also, failures, measured.n_images, measured.n_failed, summary)


def _certified(prepared: Prepared, out: Path | None, progress: Progress | None) -> Reproduction:
    experiment, part, settings = prepared.experiment, prepared.part, prepared.experiment.settings
    assert isinstance(settings, Certified)
    sigmas = tuple(sigma / settings.scale for sigma in prepared.sigmas)
    described = {"name": part.name, "split": part.split, "n": len(part), "fingerprint": part.fingerprint}
    certified = certify_items(
        SmoothedDiffusion(prepared.classifier, noised=prepared.noised), list(part), sigmas=sigmas,
        settings=prepared.smoothing(), names=part.classes, about={"dataset": described, "experiment": experiment.name},
        out=out, progress=progress,
    )  # fmt: skip
    results = {result.sigma: result for result in certified.results}
    here: list[Estimate | None] = []
    for figure in experiment.figures:
        assert figure.sigma is not None
        assert figure.radius is not None
        result = results.get(figure.sigma / settings.scale)
        here.append(result and result.certified_accuracy(figure.radius / settings.scale))
    failures, n = certified.failures, certified.n_images
    return _reproduction(prepared, here, {}, failures, n, len(failures), certified.summary())


def _reproduction(
    prepared: Prepared, here: Sequence[Estimate | None], also: Mapping[str, Estimate],
    failures: tuple[tuple[str, str], ...], n_images: int, n_failed: int, measured: Mapping[str, Any],
) -> Reproduction:  # fmt: skip
    experiment = prepared.experiment
    rows = (
        Comparison(figure=figure, published=figure.estimate(experiment.images), here=estimate)
        for figure, estimate in zip(experiment.figures, here, strict=True)
    )
    identity = f"that the weights are those of {experiment.model.title}: only their number was compared"
    return Reproduction(
        experiment=experiment, comparisons=tuple(rows), differences=prepared.differences,
        unchecked=(identity, *experiment.paper.uncertain, *experiment.uncertain),
        otherwise=(*experiment.paper.differs, *experiment.differs), also=also, failures=failures, n_images=n_images,
        n_failed=n_failed, measured=measured,
    )  # fmt: skip
