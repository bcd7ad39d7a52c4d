"""The diffusion classifier as a scorer of captions, which differ from picture to picture."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from diffclass.bench.compositional.scorer import Asked, Measured, Scored, Scorer, best
from diffclass.bench.recording import configuration
from diffclass.data.images import prepare_image
from diffclass.decide.classifier import DiffusionClassifier
from diffclass.decide.prompts import Prompts
from diffclass.decide.published import SuccessiveHalving
from diffclass.decide.race import Exhaustive, PairedRace
from diffclass.decide.zero_shot import ZeroShotClassifier
from diffclass.denoisers import Conditions
from diffclass.denoisers.parametrisation import Flow
from diffclass.errors import ConditionError, InputError
from diffclass.evidence import Engine, Finished, Foresight, Objective, Race, TabulatedWeight

__all__ = ["PUBLISHED_DRAWS", "RACES", "DiffusionScorer", "published_objective"]

RACES = ("paired", "exhaustive", "published")
PUBLISHED_DRAWS = (75, 200)  # of the first stage, and in all: 32 captions and 5 kept are 3,025 evaluations
_NO_CAPTION = "(no caption)"


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DiffusionScorer(Scorer):
    """Chooses the caption under which a text-to-image model denoises the picture best.

    The captions of many items are raced together: each picture tries its own alone, so that a race costs and promises
    what it would with those alone, and batches stay full.

    The published schedule measures all captions on 75 draws and the best `keep` on 200, by the mean absolute error of
    the predicted noise. The published code visits times 7, 17, ..., 747 first, so that no more than three quarters of
    the noise range have a say in who is kept; here every stage covers the whole range.

    Args:
        name: in results.
        model: the text-to-image model, with its options.
        race: "paired", "exhaustive" or "published".
        draws: most draws for a caption; the model's own number if None.
        delta: chance that a paired race ends with another caption than all draws would give.
        keep: captions that the published schedule keeps after its first stage.

    Source:
        Li et al. 2023, Algorithm 2 (arXiv:2303.16203); Pearson et al. 2025, whose code gives the schedule (75 and 200
        draws, 5 kept, L1).
    """

    name: str
    model: ZeroShotClassifier
    race: str = "paired"
    draws: int | None = None
    delta: float = 0.01
    keep: int = 5
    seeded: bool = field(default=True, init=False)
    n_others: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.race not in RACES:
            raise InputError(f"The 'race' parameter of DiffusionScorer must be one of {RACES}. Got {self.race!r}.")
        if self.race == "published" and self.draws is not None:
            raise InputError("The published schedule sets its own draws, 75 and 200. Leave out 'draws'.")

    def configuration(self) -> dict[str, Any]:
        """Return everything that the answers depend on but captions, pictures and seed."""
        told = configuration(self.classifier(("a caption", "another"), seed=0, whole=False))
        return {"kind": "diffusion", **{k: v for k, v in told.items() if k not in ("classes", "prompts", "seed")}}

    def classifier(self, captions: Sequence[str], *, seed: int, whole: bool) -> DiffusionClassifier:
        """Return the classifier among some captions; `whole` measures all of them on every draw."""
        prompts = Prompts(classes=tuple(captions), texts=(tuple(captions),))
        made = self.model.classifier(prompts)
        assert made.objective is not None
        objective = made.objective
        if self.race == "published":
            objective = published_objective(objective, getattr(made.denoiser, "parametrisation", None))
        made = replace(made, objective=objective, seed=seed)
        return replace(made, race=self._race(made, whole))

    def _race(self, classifier: DiffusionClassifier, whole: bool) -> Race:
        assert classifier.race is not None
        n_draws, block = self.draws or classifier.race.n_draws, classifier.race.block
        if self.race == "published":
            first, last = PUBLISHED_DRAWS
            published = SuccessiveHalving(stages=((first, self.keep), (last, 1)))
            return Exhaustive(n_draws=last, block=published.block) if whole else published
        if whole or self.race == "exhaustive":
            return Exhaustive(n_draws=n_draws, block=block)
        return PairedRace(n_draws=n_draws, block=block, delta=self.delta)

    def answer(
        self, asked: Sequence[Asked], *, seed: int, whole: bool = False, comparable: bool = False
    ) -> Iterator[tuple[int, Scored]]:
        """Race each picture's captions.

        Args:
            asked: items with their pictures.
            seed: of the noise.
            whole: measure every caption on every draw; scores are then minus the mean weighted error, less the mean of
                all captions.
            comparable: subtract the error without a caption in place of the mean, so that scores of one caption say
                under which picture it is likelier.

        Raises:
            InputError: an item has fewer captions than the published schedule keeps.
            ConditionError: a caption cannot be read, or the model has no error without a caption.
        """
        whole = whole or comparable
        self._check(asked)
        captions = list(dict.fromkeys(caption for one in asked for caption in one.captions))
        columns = [np.array([captions.index(caption) for caption in one.captions]) for one in asked]
        classifier = self.classifier(captions, seed=seed, whole=whole)
        engine = classifier.engine()
        if comparable:
            engine = _with_unconditional(engine)
        beliefs: dict[int, Foresight] = {}
        shape, n = classifier.denoiser.space.image_shape, len(engine.classes)

        def images() -> Iterator[tuple[int, Tensor]]:
            """Open one picture after the other, and say which captions it tries."""
            for number, one in enumerate(asked):
                image = prepare_image(one.picture, shape, resize="stretch", convert=True).image
                tried = np.isin(np.arange(n), [*columns[number], *([n - 1] if comparable else [])])
                # equal parts for all rivals, as a race among these captions alone would share its delta
                beliefs[id(image)] = Foresight(weights=tried / max(1, tried.sum() - 1), tried=tried)
                yield number, image

        # the engine enters an image as soon as it has taken it, so that its identity is enough to find its captions
        for finished in replace(engine, foresight=lambda image: beliefs.pop(id(image))).run(images()):
            yield finished.index, _scored(finished, columns[finished.index], whole, comparable)

    def _check(self, asked: Sequence[Asked]) -> None:
        """Refuse items with fewer captions than the published schedule keeps."""
        for one in asked:
            if self.race == "published" and len(one.captions) < self.keep:
                raise InputError(
                    f"The published schedule keeps {self.keep} captions after its first stage, and '{one.item.key}' "
                    f"has {len(one.captions)}. Try keep={len(one.captions)} or race='paired'."
                )


def published_objective(objective: Objective, parametrisation: object) -> Objective:
    """Return the mean absolute error of the predicted noise (or velocity), uniform over what a model was trained with.

    A weight for squared errors of the image becomes one for absolute errors: |noise error| = |image error| / sigma, and
    of a flow's velocity |image error| / t with t = sigma / (1 + sigma).

    Raises:
        InputError: the model does not say how its noise levels are distributed.

    Source:
        Pearson et al. 2025 (the option loss l1 of their code); Karras et al. 2022, Table 1 (arXiv:2206.00364).
    """
    weight = objective.weight
    if not isinstance(weight, TabulatedWeight):
        raise InputError(
            "The published schedule compares predicted noise uniformly over a model's own times, and this model has "
            "none. Try race='paired'."
        )
    log_sigma = np.array(weight.log_sigma)
    scale = log_sigma - np.log1p(np.exp(log_sigma)) if isinstance(parametrisation, Flow) else log_sigma
    log_weight = np.array(weight.log_weight) + scale
    return replace(objective, weight=TabulatedWeight(weight.log_sigma, tuple(log_weight.tolist())), distance="l1")


def _with_unconditional(engine: Engine) -> Engine:
    """Return an engine with one class more, the last: no caption."""
    null = engine.conditions.null
    if null is None:
        raise ConditionError(
            "Comparing pictures needs the model's error without a caption, and this model was trained with captions "
            "only. Leave out benchmarks that compare pictures, as winoground."
        )
    tensors = {name: torch.cat([tensor, null[name].to(tensor)]) for name, tensor in engine.conditions.tensors.items()}
    return replace(engine, conditions=Conditions(tensors, null), classes=(*engine.classes, _NO_CAPTION), log_prior=None)


def _scored(finished: Finished, columns: np.ndarray, whole: bool, comparable: bool) -> Scored:
    """Read scores off a race that has ended."""
    evidence = finished.evidence
    n = evidence.n_draws
    means = evidence.weighted()[:n].mean(axis=0)
    alive = finished.survivors[columns]
    if whole:
        scores = means[-1] - means[columns] if comparable else means[columns].mean() - means[columns]
        chosen = best(scores.tolist())
    else:
        scores = evidence.log_odds()[columns]
        lead = means[columns][alive].min()
        chosen = tuple(int(i) for i in np.flatnonzero(alive & (means[columns] == lead)))
    draws = evidence.draws
    measured = Measured(
        errors=np.ascontiguousarray(evidence.errors[:, columns]),
        unconditional=evidence.errors[:, -1].copy() if comparable else None,
        sigmas=draws.sigmas, weights=draws.weights,
    )  # fmt: skip
    return Scored(
        scores=tuple(scores.tolist()), chosen=chosen, evaluations=evidence.evaluations, draws=n, measured=measured,
        facts={"reason": finished.reason},
    )  # fmt: skip
