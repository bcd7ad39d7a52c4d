"""A model's classifier calibrated on labelled images: weight, proposal, stopping rule and temperature."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from diffclass.bench.recording import configuration, recording
from diffclass.data.datasets import Dataset
from diffclass.data.images import Resize
from diffclass.data.results import ResultFile, versions, write_json_atomic
from diffclass.decide.calibration import best_temperature, probabilities
from diffclass.decide.classifier import DiffusionClassifier
from diffclass.decide.learning import learn_stopping
from diffclass.decide.measure import measure
from diffclass.decide.proposing import WORTH, FittedProposal, fit_proposal, measured_ratio
from diffclass.decide.race import PairedRace
from diffclass.decide.replay import full_answers, replay
from diffclass.decide.stopping import Calibrated
from diffclass.decide.weighting import LearnedWeight, learn_weight, weight_ratio
from diffclass.errors import ConditionError, InputError, RangeError
from diffclass.evidence import ErrorMatrices, Objective, Race, StandIns
from diffclass.stats.interval import Estimate, mean_interval, wilson
from diffclass.stats.metric import accuracy, ece, nll

__all__ = ["Calibration", "calibrate"]

LEAST_IMAGES = 40  # half of them is what a weight is learned from
_CHUNK = 25  # images whose errors reach the disk together
_PILOT = 50  # images at most on which opposite noise is tried

Stage = Callable[[str, int, int], None]  # what is done, how much of it, of how much
Figures = Mapping[str, Estimate | None]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """What was learned, and what it changed on images held out.

    Args:
        objective: the weight and proposal to be used.
        weight: how the weight was learned.
        proposal: how the proposal was fitted.
        stopping: when classes leave a race; None if there were too few images to promise anything.
        temperature: of the log-odds of that race; None if none could be fitted.
        n_draws: full budget of draws for a class.
        delta: of the race.
        before: metrics of the classifier as it was, on the held-out half.
        after: the same of the calibrated one.
        notes: what was done, and what could not be.
        n_images: measured, both halves.
        evaluations: of the network, to measure them.
        config: everything that the errors depend on.
    """

    objective: Objective
    weight: LearnedWeight
    proposal: FittedProposal
    stopping: Calibrated | None
    temperature: float | None
    n_draws: int
    delta: float
    before: Figures
    after: Figures
    notes: Sequence[str]
    n_images: int
    evaluations: int
    config: Mapping[str, Any]

    def summary(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "before": _plain(self.before),
            "after": _plain(self.after),
            "weight": {"learned": self.weight.learned, "gain": asdict(self.weight.gain)},
            "proposal": {
                "fitted": self.proposal.fitted,
                "predicted_variance": self.proposal.predicted,
                "simulated_variance": asdict(self.proposal.simulated),
            },
            "stopping": None if self.stopping is None else self.stopping.as_dict(),
            "temperature": self.temperature,
            "n_draws": self.n_draws,
            "delta": self.delta,
            "notes": list(self.notes),
            "n_images": self.n_images,
            "evaluations": self.evaluations,
            "config": dict(self.config),
        }


def calibrate(
    classifier: DiffusionClassifier,
    dataset: Dataset,
    *,
    out: Path,
    limit: int | None = None,
    n_draws: int | None = None,
    delta: float = 0.01,
    confidence: float = 0.9,
    seed: int = 0,
    progress: Stage = lambda stage, done, total: None,
    resize: Resize = "refuse",
    convert: bool = False,
) -> Calibration:
    """Learn what a classifier's answers and costs can gain from labelled images, and measure it on half of them.

    Every class is measured on every draw, once. On one half of the images the weight is learned and the proposal
    fitted, and on up to 50 of them draws with opposite noise are tried. The other half, which none of this has seen, is
    measured again if the draws are new: old ones are not exchangeable with those that races will meet, and a rule
    learned on them would promise nothing. There the stopping rule and the temperature are learned, and everything is
    compared; figures of what is learned there come from two folds, each answered by what was learned on the other.

    Measured errors reach the disk as they come; the same call with the same `out` goes on from them.

    Args:
        classifier: with a model's own objective, classes, aggregate and target, and a uniform prior.
        dataset: labelled, in the classifier's classes; none of the images that the model was trained on.
        out: folder of the errors, of results.jsonl, run.json and summary.json.
        limit: use at most so many images, picked at random with each class in its proportion.
        n_draws: full budget of draws for a class; the classifier's own if None.
        delta: share of new images whose answer may differ from the full budget's.
        confidence: that it does not exceed delta.
        seed: of the choice, the halves and the folds.
        progress: called with what is being done, how far it is, and of how much.
        resize: "refuse", "crop" or "stretch" pictures of another size than the model's.
        convert: allow grey to become colour and colour grey.

    Raises:
        InputError: too few images, or a picture cannot be opened.
        ResultError: `out` holds another run, or cannot be written.

    Source:
        Angelopoulos et al. 2021 (arXiv:2110.01052) and Guo et al. 2017 (arXiv:1706.04599); see `learn_weight`,
        `fit_proposal` and `learn_stopping`.
    """
    assert classifier.race is not None
    if not 0 < delta < 1:
        raise RangeError(f"The 'delta' parameter of calibrate must be a float in (0, 1). Got {delta}.")
    n = classifier.race.n_draws if n_draws is None else n_draws
    block = classifier.race.block
    if n % block or n < 2 * block:
        raise RangeError(
            f"The 'n_draws' parameter of calibrate must be two or more whole blocks of {block} draws. Got {n}."
        )
    learning, held_out = _halves(classifier, dataset, limit, seed)
    pictures: dict[str, Any] = {"resize": resize, "convert": convert}
    config = _config(classifier, [learning, held_out], n, seed, pictures)
    with recording(out, config, versions(device=str(classifier.denoiser.device))) as results:
        meter = _Meter(classifier, results, n, pictures, progress)
        first, own = meter("measuring", learning, held_out)
        learned, fitted, objective = _objective(classifier, first, seed)
        objective, tried = _paired(meter, classifier, objective, learning, first)
        final = _final(meter, classifier, objective, held_out, own)
        progress("learning", 0, 1)
        judged = _judged(classifier, own, final, n, delta=delta, confidence=confidence, seed=seed)
        progress("learning", 1, 1)
        calibration = Calibration(
            objective=objective, weight=learned, proposal=fitted, n_draws=n, delta=delta,
            n_images=len(first) + len(own), evaluations=meter.evaluations, config=config, **judged,
        )  # fmt: skip
        calibration = replace(calibration, notes=(learned.told, fitted.told, *tried, *judged["notes"]))
        write_json_atomic(out / "summary.json", calibration.summary())
    return calibration


def _plain(figures: Figures) -> dict[str, Any]:
    return {name: None if estimate is None else asdict(estimate) for name, estimate in figures.items()}


def _halves(classifier: DiffusionClassifier, dataset: Dataset, limit: int | None, seed: int) -> tuple[Dataset, Dataset]:
    """Return the images to learn the objective from, and those held out of that."""
    if dataset.classes != classifier.classes_:
        raise ConditionError(
            f"The data set '{dataset.name}' must be opened in the classes of the classifier: "
            f"{', '.join(classifier.classes_[:10])}. Got {', '.join(dataset.classes[:10])}."
        )
    known = dataset.subset(np.flatnonzero(dataset.labels >= 0))
    part = known if limit is None or limit >= len(known) else known.sample(limit, seed=seed)
    if len(part) < LEAST_IMAGES:
        raise InputError(f"calibrate needs at least {LEAST_IMAGES} labelled images. Got {len(part)}.")
    learning = part.sample(len(part) // 2, seed=seed)
    chosen = set(learning.ids)
    return learning, part.subset([index for index, name in enumerate(part.ids) if name not in chosen])


def _config(
    classifier: DiffusionClassifier, halves: Sequence[Dataset], n_draws: int, seed: int, pictures: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the errors depend on; not delta, so that another one can be asked for without measuring again."""
    config = {key: value for key, value in configuration(classifier).items() if key not in ("race", "temperature")}
    assert classifier.race is not None
    sets = [{"name": d.name, "split": d.split, "n": len(d), "fingerprint": d.fingerprint} for d in halves]
    return config | {
        "n_draws": n_draws, "block": classifier.race.block, "halves": sets, "seed_of_halves": seed,
        "pictures": dict(pictures),
    }  # fmt: skip


@final
class _Meter:
    """Measures images in full, a chunk at a time, and keeps what is measured."""

    def __init__(
        self, classifier: DiffusionClassifier, results: ResultFile, n_draws: int, pictures: Mapping[str, Any],
        progress: Stage,
    ) -> None:  # fmt: skip
        self.classifier, self.results, self.n_draws = classifier, results, n_draws
        self.pictures, self.progress = pictures, progress
        self.evaluations = 0

    def __call__(self, stage: str, *parts: Dataset, objective: Objective | None = None) -> list[ErrorMatrices]:
        """Measure sets under the classifier's own objective or another."""
        classifier = self.classifier if objective is None else replace(self.classifier, objective=objective)
        name = "own" if objective is None else blake2b(repr(objective).encode(), digest_size=6).hexdigest()
        total, done, found = sum(map(len, parts)), 0, []
        for part in parts:
            chunks = []
            for start in range(0, len(part), _CHUNK):
                rows = range(start, min(start + _CHUNK, len(part)))
                chunks.append(self._chunk(classifier, part, rows, f"{name}-{part.fingerprint}-{start:06d}"))
                done += len(rows)
                self.progress(stage, done, total)
            found.append(ErrorMatrices.concatenate(chunks))
        self.evaluations += total * self.n_draws * len(classifier.classes_)
        return found

    def _chunk(self, classifier: DiffusionClassifier, part: Dataset, rows: range, name: str) -> ErrorMatrices:
        """Measure a chunk, or read it if it has been measured."""
        path = self.results.path.parent / "errors" / f"{name}.npz"
        if name in self.results.done and path.is_file():
            return ErrorMatrices.load(path)
        options: dict[str, Any] = dict(self.pictures)
        images, labels = part.array(classifier.denoiser.space.image_shape, list(rows), **options)
        matrices = measure(classifier, images, labels.numpy(), n_draws=self.n_draws)
        matrices.save(path)
        if name not in self.results.done:
            self.results.append([{"id": name, "images": len(rows)}])
        return matrices


def _objective(
    classifier: DiffusionClassifier, matrices: ErrorMatrices, seed: int
) -> tuple[LearnedWeight, FittedProposal, Objective]:
    """Learn the weight, then fit the proposal to it."""
    old = classifier.objective
    assert old is not None
    span = classifier.engine().sigma_range()
    learned = learn_weight(matrices, weight=old.weight, sigma_range=span, seed=seed)
    ratio = weight_ratio(matrices.sigmas, old.weight, learned.weight)
    fitted = fit_proposal(
        matrices.reweighted(matrices.weights * ratio), proposal=old.proposal, sigma_range=span, seed=seed
    )
    return learned, fitted, replace(old, weight=learned.weight, proposal=fitted.proposal)


def _paired(
    meter: _Meter, classifier: DiffusionClassifier, objective: Objective, learning: Dataset, first: ErrorMatrices
) -> tuple[Objective, list[str]]:
    """Try draws in pairs of opposite noise on some images, and keep them if differences vary less."""
    old = classifier.objective
    assert old is not None
    if objective.antithetic or first.block % 2:
        return objective, []
    paired = replace(objective, antithetic=True)
    some = np.arange(min(_PILOT, len(learning)))
    tried = meter("trying opposite noise", learning.subset(some), objective=paired)[0]
    plain = first.part(some)
    plain = plain.reweighted(plain.weights * weight_ratio(plain.sigmas, old.weight, objective.weight))
    ratio = measured_ratio(plain, tried)
    kept = ratio.value < WORTH and ratio.high < 1
    fate = "are used" if kept else "are not used"
    new = "" if objective.proposal == old.proposal else " from the fitted proposal"
    note = (
        f"draws{new} in pairs of opposite noise have {ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) of the "
        f"variance of the model's own, measured on {ratio.n} images: pairs {fate}"
    )
    return (paired if kept else objective), [note]


def _final(
    meter: _Meter, classifier: DiffusionClassifier, objective: Objective, held_out: Dataset, own: ErrorMatrices
) -> ErrorMatrices:
    """Return the held-out half under the final objective: measured again only where its draws are others."""
    old = classifier.objective
    assert old is not None
    if (objective.proposal, objective.antithetic) != (old.proposal, old.antithetic):
        return meter("measuring the new draws", held_out, objective=objective)[0]
    return own.reweighted(own.weights * weight_ratio(own.sigmas, old.weight, objective.weight))


def _judged(
    classifier: DiffusionClassifier, own: ErrorMatrices, final: ErrorMatrices, n_draws: int, *, delta: float,
    confidence: float, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Learn when to stop and how sure to be, and compare the classifier before and after on the held-out half."""
    notes: list[str] = []
    folds = np.random.default_rng(seed).permutation(len(own)) % 2
    student = PairedRace(n_draws=n_draws, block=own.block, delta=delta)
    old = student if classifier.race is None or classifier.race.n_draws != n_draws else classifier.race
    before, _ = _figures(own, folds, [old, old], classifier.temperature, "before", notes, seed)
    rules = [_rule(part, delta, confidence, seed) for part in (final, *(final.part(_of(folds, 1 - k)) for k in (0, 1)))]
    stopping, *crossed = rules
    races = [student, student]
    if isinstance(stopping, str):
        notes.append(f"no stopping rule was learned: {stopping}")
    else:
        notes.append(
            f"with confidence {confidence:g} at most {delta:g} of new images are answered otherwise than by the full "
            f"budget: {stopping.disagreements} of {stopping.n} were"
        )
        races = [PairedRace.calibrated(stopping if isinstance(rule, str) else rule) for rule in crossed]
        if any(isinstance(rule, str) for rule in crossed):
            notes.append("half of the held-out images are too few to learn a rule from: races after are those of the "
                         "final rule, which saw the images")  # fmt: skip
    after, temperature = _figures(final, folds, races, None, "after", notes, seed)
    rule = None if isinstance(stopping, str) else stopping
    return {"stopping": rule, "temperature": temperature, "before": before, "after": after, "notes": notes}


def _of(folds: Int64[ndarray, " image"], fold: int) -> Int64[ndarray, " _"]:
    return np.flatnonzero(folds == fold)


def _rule(matrices: ErrorMatrices, delta: float, confidence: float, seed: int) -> Calibrated | str:
    """Learn a stopping rule, or say why there is none."""
    try:
        return learn_stopping(matrices, delta=delta, confidence=confidence, seed=seed)
    except InputError as error:
        return str(error)


def _figures(
    matrices: ErrorMatrices, folds: Int64[ndarray, " image"], races: Sequence[Race], temperature: float | None,
    when: str, notes: list[str], seed: int,
) -> tuple[Figures, float | None]:  # fmt: skip
    """Measure races on stored errors, each fold by its own race; return also the temperature of all images."""
    labels, full = matrices.labels, full_answers(matrices)
    said, spent, drawn = (np.empty_like(labels) for _ in range(3))
    odds = np.empty((len(labels), len(matrices.classes)))
    for fold, race in enumerate(races):
        rows = _of(folds, fold)
        part = matrices.part(rows)
        played = replay(race, part)
        said[rows], spent[rows], drawn[rows] = played.answers, played.evaluations, played.n_measured.max(axis=1)
        odds[rows] = _log_odds(part, played.n_measured, race.stand_ins)
    figures: dict[str, Estimate | None] = {
        "accuracy": accuracy(labels, said),
        "accuracy_of_full_budget": accuracy(labels, full),
        "agreement_with_full_budget": wilson(int((said == full).sum()), len(full)),
        "evaluations_per_image": mean_interval(spent),
        "draws_per_image": mean_interval(drawn),
        "nll": None,
        "ece": None,
    }
    try:
        whole = best_temperature(odds, labels) if temperature is None else temperature
    except InputError as error:
        notes.append(f"{when}: {error}")
        return figures, None
    chances = np.empty_like(odds)
    for fold in (0, 1):
        rows = _of(folds, fold)
        chances[rows] = probabilities(odds[rows], temperature or _crossed(odds, labels, _of(folds, 1 - fold), whole))
    figures |= {"nll": nll(labels, chances, seed=seed), "ece": ece(labels, chances, seed=seed)}
    return figures, whole


def _crossed(
    odds: Float64[ndarray, "image class"], labels: Int64[ndarray, " image"], rows: Int64[ndarray, " _"], whole: float
) -> float:
    """Return the temperature of one fold, or of all images where every one of the fold's is right already."""
    try:
        return best_temperature(odds[rows], labels[rows])
    except InputError:
        return whole


def _log_odds(
    matrices: ErrorMatrices, n_measured: Int64[ndarray, "image class"], stand_ins: StandIns | None
) -> Float64[ndarray, "image class"]:
    """Return the log-odds that a race ends with: every class over the leader, on the draws that both saw."""
    odds = np.empty(n_measured.shape)
    unseen = np.arange(matrices.n_draws)[:, None]
    for image, seen in enumerate(n_measured):
        whole = matrices.evidence(image)
        errors = np.where(unseen < seen, whole.errors, np.float32(np.nan))
        odds[image] = replace(whole, errors=errors, stand_ins=stand_ins).log_odds()
    return odds
