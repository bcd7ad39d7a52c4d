"""Explanations of many images, measured: a row an image on the disk, then a table with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from torch import Tensor

from diffclass.bench.recording import configuration, recording
from diffclass.bench.referee import Referee
from diffclass.data.datasets import Dataset, Progress
from diffclass.data.results import versions, write_json_atomic
from diffclass.decide.classifier import DiffusionClassifier
from diffclass.errors import DiffclassError, RangeError
from diffclass.explain import (
    Counterfactual,
    Edit,
    EvidenceMap,
    agreement,
    counterfactual,
    cout,
    deletion,
    insertion,
    proximity,
    watched,
)
from diffclass.explain.metric import Judge, Map
from diffclass.explain.reference import grad_cam, integrated_gradients, own_judge, random_map, shuffled, sobel_map
from diffclass.stats.interval import Estimate, mean_interval, wilson

__all__ = ["EDITS", "Explained", "Plan", "explain_dataset"]

EDITS = {"inversion": Edit(), "partial": Edit(method="partial")}
_YES_OR_NO = ("flipped", "held", "judge_flipped", "judge_held")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured of each image.

    Args:
        edits: by name.
        n_draws: behind each evidence map.
        judge_draws: of the classifier where it judges images between two others.
        steps: looks of a curve.
        sanity: whether evidence maps are compared with those of shuffled weights.
        seed: of random maps, of shuffled weights and of the choice of images.
    """

    edits: Mapping[str, Edit]
    n_draws: int = 128
    judge_draws: int = 16
    steps: int = 20
    sanity: bool = True
    seed: int = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explained:
    """Measures of explanations over a set.

    Args:
        edits: by the edit and the measure, each with its interval; None where it could not be measured.
        maps: by the map, the judge and the curve.
        against_random: the same minus that of random ranks, image by image.
        sanity: rank correlation of an evidence map with that of other noise, and with that of shuffled weights.
        n_images: that were explained.
        failures: id and reason of pictures that could not be explained.
        config: everything that the rows depend on.
    """

    edits: Mapping[str, Mapping[str, Estimate | None]]
    maps: Mapping[str, Mapping[str, Estimate | None]]
    against_random: Mapping[str, Mapping[str, Estimate | None]]
    sanity: Mapping[str, Estimate | None]
    n_images: int
    failures: tuple[tuple[str, str], ...]
    config: Mapping[str, Any]

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]], *, config: Mapping[str, Any]) -> "Explained":
        """Add up the rows of a result file."""
        good = [row for row in rows if "error" not in row]
        return cls(
            edits=_nested([row["edits"] for row in good]),
            maps=_nested([row["maps"] for row in good]),
            against_random=_nested([_against(row["maps"], "random") for row in good]),
            sanity=_nested([{"sanity": row["sanity"]} for row in good]).get("sanity", {}),
            n_images=len(good),
            failures=tuple((row["id"], row["error"]) for row in rows if "error" in row),
            config=config,
        )

    def summary(self) -> dict[str, Any]:
        """Return plain values, for JSON."""

        def plain(values: Mapping[str, Estimate | None]) -> dict[str, Any]:
            return {name: None if e is None else asdict(e) for name, e in values.items()}

        return {
            "n_images": self.n_images,
            "failures": [{"id": name, "error": error} for name, error in self.failures],
            "edits": {name: plain(values) for name, values in self.edits.items()},
            "maps": {name: plain(values) for name, values in self.maps.items()},
            "against_random": {name: plain(values) for name, values in self.against_random.items()},
            "sanity": plain(self.sanity),
            "config": dict(self.config),
        }


def explain_dataset(
    classifier: DiffusionClassifier,
    dataset: Dataset,
    plan: Plan,
    *,
    judge: Referee | None = None,
    limit: int | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Explained:
    """Explain images of a set against their runner-up, and measure the explanations.

    The same call with the same `out` goes on where an earlier one was stopped. A picture that cannot be opened becomes
    a row with its "error".

    Args:
        classifier: that is explained.
        dataset: of any labels: what is explained is the answer and not the truth.
        plan: what is measured.
        judge: a classifier that had no part in it; supervised ones add their own maps.
        limit: at most so many images, each class in its proportion.
        out: folder of results.jsonl, run.json and summary.json; nothing is kept if None.
        progress: called with the images done, and of how many.

    Raises:
        RangeError: the limit is below 1.
        ResultError: `out` holds another run, or cannot be written; it keeps what was finished.
    """
    if limit is not None and limit < 1:
        raise RangeError(f"The 'limit' of explanations must be at least 1. Got {limit}.")
    part = dataset if limit is None or limit >= len(dataset) else dataset.sample(limit, seed=plan.seed)
    config = configuration(classifier) | {
        "dataset": {"name": part.name, "split": part.split, "n": len(part), "fingerprint": part.fingerprint},
        "plan": asdict(plan) | {"edits": {name: asdict(edit) for name, edit in plan.edits.items()}},
        "judge": None if judge is None else judge.described(),
    }
    blind = shuffled(classifier, seed=plan.seed) if plan.sanity else None
    with recording(out, config, versions(device=str(classifier.denoiser.device))) as results:
        for number, item in enumerate(part):
            if item.id not in results.done:
                truth = None if item.label is None else part.classes[item.label]
                head = {"id": item.id, "truth": truth}
                try:
                    image = item.prepare(classifier.denoiser.space.image_shape).image
                except DiffclassError as error:
                    results.append([{**head, "error": str(error)}])
                else:
                    results.append([{**head, **_row(classifier, blind, image, plan, judge)}])
            if progress is not None:
                progress(number + 1, len(part))
        explained = Explained.from_rows(list(results.rows()), config=config)
    if out is not None:
        write_json_atomic(out / "summary.json", explained.summary())
    return explained


def _row(
    classifier: DiffusionClassifier, blind: DiffusionClassifier | None, image: Tensor, plan: Plan,
    referee: Referee | None,
) -> dict[str, Any]:  # fmt: skip
    """Explain one image and measure it."""
    seen = watched(classifier, image)
    leader, other = seen.decision.leader, seen.decision.runner_up
    found = seen.map(leader, other, n_draws=plan.n_draws)
    judges = {"own": own_judge(classifier, image, n_draws=plan.judge_draws)}
    if referee is not None:
        judges["judge"] = referee.of(image)
    labels = classifier.classes_.index(leader), classifier.classes_.index(other)
    made = {name: counterfactual(classifier, image, other, edit=edit, decision=seen.decision)
            for name, edit in plan.edits.items()}  # fmt: skip
    maps = _maps(image, found, made, labels[0], referee, plan.seed)
    curves = {"deletion": deletion, "insertion": insertion}
    return {
        "source": leader,
        "to": other,
        "edits": {name: _edit_row(one, judges, labels, plan.steps) for name, one in made.items()},
        "maps": {
            name: {
                f"{curve} ({judge})": measured(asked, image, ranking, labels[0], steps=plan.steps).area
                for judge, asked in judges.items()
                for curve, measured in curves.items()
            }
            for name, ranking in maps.items()
        },
        "sanity": _sanity(classifier, blind, image, found, plan),
    }


def _maps(
    image: Tensor, found: EvidenceMap, made: Mapping[str, Counterfactual], label: int, referee: Referee | None,
    seed: int,
) -> dict[str, Map]:  # fmt: skip
    """Return every map by its name; pixels of the largest values matter most."""
    maps = {}
    if found.values.shape == tuple(image.shape[1:]):  # not the grid of latents
        maps["evidence"] = found.values
    maps |= {f"{name} difference": one.difference.abs().double().sum(dim=0).numpy() for name, one in made.items()}
    maps |= {"random": random_map(image, seed=seed), "Sobel": sobel_map(image)}
    if referee is not None and referee.last_stage is not None:
        maps["integrated gradients of the judge"] = integrated_gradients(referee.logits, image, label)
        maps["Grad-CAM of the judge"] = grad_cam(referee.logits, referee.last_stage, image, label)
    return maps


def _edit_row(
    made: Counterfactual, judges: Mapping[str, Judge], labels: tuple[int, int], steps: int
) -> dict[str, float | bool | None]:
    """Measure one counterfactual. A judge that did not share the answer on the image is not asked what changed it."""
    near, control = proximity(made.counterfactual, made.image), proximity(made.factual, made.image)
    row: dict[str, float | bool | None] = {
        "flipped": made.flipped,
        "held": made.held,
        **{name: asdict(near)[name] for name in ("l1", "l2", "changed", "ssim")},
        "l1_of_the_factual": control.l1,
        "strength": made.edit.strength,
        "clipped": made.clipped,
        "evaluations": float(made.evaluations),
    }
    for name, judge in judges.items():
        row[f"cout ({name})"] = cout(judge, made.image, made.counterfactual, *labels, steps=steps)
    if "judge" in judges:
        pictures = (made.image, made.factual, made.counterfactual)
        before, factual, after = (int(judges["judge"](picture[None])[0].argmax()) for picture in pictures)
        agrees = before == labels[0]
        row["judge_held"] = factual == labels[0] if agrees else None
        row["judge_flipped"] = after == labels[1] if agrees else None
    return row


def _sanity(
    classifier: DiffusionClassifier, blind: DiffusionClassifier | None, image: Tensor, found: EvidenceMap, plan: Plan
) -> dict[str, float | None]:
    """Compare the evidence map with that of other noise and with that of shuffled weights."""
    others = {"other noise": replace(classifier, seed=classifier.seed + 1)}
    if blind is not None:
        others["shuffled weights"] = blind
    values: dict[str, float | None] = {}
    for name, other in others.items():
        again = watched(other, image).map(found.favoured, found.against, n_draws=plan.n_draws)
        value = agreement(found.values, again.values)
        values[name] = value if np.isfinite(value) else None
    return values


def _against(maps: Mapping[str, Mapping[str, float]], other: str) -> dict[str, dict[str, float]]:
    """Return the areas of one image minus those of another map of it."""
    return {
        name: {key: area - maps[other][key] for key, area in areas.items()}
        for name, areas in maps.items()
        if name != other and other in maps
    }


def _nested(rows: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Estimate | None]]:
    """Estimate every measure of every name over the images that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    every = {}
    for name in names:
        measures = dict.fromkeys(key for row in rows for key in row[name])
        every[name] = {key: _estimate(key, [row[name].get(key) for row in rows]) for key in measures}
    return every


def _estimate(name: str, values: Sequence[Any]) -> Estimate | None:
    """Return a share with Wilson's interval, or a mean with Student's; None where there is too little."""
    known = [value for value in values if value is not None]
    if name in _YES_OR_NO:
        return wilson(sum(known), len(known)) if known else None
    return mean_interval(np.array(known, dtype=np.float64)) if len(known) > 1 else None
