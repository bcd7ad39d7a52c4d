"""The diffusion classifier: a denoiser, an objective and a race, with a naive-Bayes-shaped face."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from diffclass.data.images import check_images
from diffclass.decide.aggregate import Aggregate, MajorityVote, Mean
from diffclass.decide.calibration import probabilities
from diffclass.decide.decision import Decision
from diffclass.decide.first_look import FirstLook
from diffclass.decide.prompts import Prompts, check_classes
from diffclass.decide.race import PairedRace
from diffclass.decide.settings import stored_options
from diffclass.decide.voting import VoteRace
from diffclass.denoisers import LOAD_OPTIONS, Conditions, Denoiser, load
from diffclass.errors import ConditionError, InputError, RangeError
from diffclass.evidence import Clean, Engine, Finished, Foresight, Objective, Race, Target
from diffclass.types import Images

__all__ = ["DiffusionClassifier"]

Progress = Callable[[int], None]
_OTHER_MODEL = ("size", "lora", "lora_scale", "vae")  # options of `load` that void a calibration


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DiffusionClassifier:
    """Classifies images by which class lets the model denoise them best.

    Under `PairedRace(delta)` the label differs from that of the full budget of draws with probability at most delta.

    Args:
        denoiser: the model.
        classes: names to choose from; the model's own if None. A model that reads text is told them by `prompts`.
        prompts: what a model that reads text is told for each class; "a photo of a {}." if None.
        objective: what is compared; the model's own default if None.
        first_look: an encoder that guesses which classes lead before the race; with its `keep`, the others are not
            measured, and the race's guarantee holds among those that are.
        race: when classes are dropped; the model's own budget with `PairedRace` if None, `VoteRace` where votes decide.
        aggregate: mean error or majority vote.
        target: clean, or one of the noised classifiers.
        prior: probability of each class, in the order of `classes`; uniform if None.
        temperature: that calibrates the log-odds; None: answers carry no probability.
        seed: of the noise. The same seed gives the same answer in any batch or order.
        batch_size: network evaluations a call.

    Source:
        Li et al. 2023, section 3 (arXiv:2303.16203).

    Examples:
        >>> import torch
        >>> from diffclass.denoisers.analytic import GaussianDenoiser
        >>> means = torch.stack([torch.full((1, 4, 4), 0.2), torch.full((1, 4, 4), 0.8)])
        >>> classifier = DiffusionClassifier(denoiser=GaussianDenoiser(means, 0.1, classes=["dark", "bright"]))
        >>> classifier.predict(torch.full((1, 1, 4, 4), 0.7))
        ['bright']
    """

    denoiser: Denoiser
    classes: tuple[str, ...] | None = None
    prompts: Prompts | None = None
    objective: Objective | None = None
    first_look: FirstLook | None = None
    race: Race | None = None
    aggregate: Aggregate = field(default_factory=Mean)
    target: Target = field(default_factory=Clean)
    prior: Sequence[float] | None = None
    temperature: float | None = None
    seed: int = 0
    batch_size: int = 256

    def __post_init__(self) -> None:
        names, prompts = _told(self.denoiser, self.classes, self.prompts)
        if self.temperature is not None and not self.temperature > 0:
            raise RangeError(f"The 'temperature' parameter must be positive. Got {self.temperature}.")
        settings = self._settings()
        set_field = object.__setattr__
        set_field(self, "classes", names)
        set_field(self, "prompts", prompts)
        if self.objective is None:
            objective = Objective.from_settings(settings, sigma_data=self.denoiser.space.data_std)
            set_field(self, "objective", objective)
        if self.race is None:
            n_draws, block = int(settings.get("n_draws", 256)), int(settings.get("block", 4))
            kind = VoteRace if isinstance(self.aggregate, MajorityVote) else PairedRace
            set_field(self, "race", kind(n_draws=n_draws, block=block))
        self._log_prior()

    def _settings(self) -> Mapping[str, Any]:
        """Return the defaults that come with the model."""
        return getattr(self.denoiser, "metadata", {}).get("classifier", {})

    def _log_prior(self) -> Float[ndarray, " class"]:
        n = len(self.classes_)
        if self.prior is None:
            return np.full(n, -np.log(n))
        prior = np.asarray(self.prior, dtype=np.float64)
        if prior.shape != (n,) or not (prior > 0).all() or not np.isfinite(prior).all():
            raise RangeError(f"The 'prior' parameter must be {n} positive numbers, one for each class.")
        return np.log(prior / prior.sum())

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | Denoiser,
        *,
        device: str = "auto",
        dtype: str = "auto",
        compile: bool = False,
        templates: Sequence[str] | None = None,
        **options: Any,
    ) -> "DiffusionClassifier":
        """Load a bundled model, a directory or a hub id, with the objective and calibration stored in it.

        Args:
            model: a name that `list_models()` shows, a path, "owner/name" on the hub, or a denoiser.
            device: "auto", "cpu", "cuda", ...
            dtype: "auto", "float32" or "bfloat16".
            compile: compile the network for the classifier's batch size: worth its half a minute, or seconds with what
                the disk keeps of it, for thousands of images. Where that fails, a warning says so.
            templates: prompts with {} in the place of the class, for a model that reads text.
            options: any other argument of the constructor, and of `PipelineOptions`. The stored stopping rule and
                temperature hold for the model's own objective, classes, aggregate, target and budget, and are left out
                with any other, or with another size, LoRA or autoencoder; the rule for the stored prior only.
        """
        to_load = {name: options.pop(name) for name in list(options) if name in LOAD_OPTIONS}
        batch_size = options.get("batch_size", 256)
        denoiser = load(model, device=device, dtype=dtype, compile=compile, batch_size=batch_size, **to_load)
        stored = getattr(denoiser, "metadata", {}).get("classifier", {})
        options = {"batch_size": stored.get("batch_size", 256)} | options
        if options.get("classes") is not None:
            options["classes"] = tuple(options["classes"])
        if templates is not None:
            options["prompts"] = Prompts.from_templates(options.get("classes") or (), templates)
        same = all(to_load.get(name, LOAD_OPTIONS[name]) == LOAD_OPTIONS[name] for name in _OTHER_MODEL)
        return cls(denoiser=denoiser, **(stored_options(stored, options, same_model=same) | options))

    def save_pretrained(self, directory: str | Path, **facts: Any) -> Path:
        """Write a directory that `from_pretrained` opens to an equal classifier.

        It holds the model in its own format and, in diffclass.json, the classifier: objective, race with its stopping
        rule, temperature, classes, prompts, aggregate, target, prior, seed and batch size. Figures that were measured
        go along only with the classifier that they were measured on. A text-to-image model that was opened by its name
        on the hub is a reference of a few kilobytes, with the commit; from anywhere else it is saved with its parts.

        Args:
            directory: new, or holding a model of the same kind, which is replaced.
            facts: for the card, name (the directory's if left out), licence (a name, or the hub's identifier), datasets
                and base_model (identifiers on the hub); and weights: True to save the parts of a model of the hub.

        Returns:
            The directory.

        Raises:
            InputError: a part of the classifier is of a class of your own, or it has a first look.
            UnsupportedModel: the model is of a kind that no directory can hold.
            ResultError: the directory holds other files, or it cannot be written.
        """
        from diffclass.decide.saving import save_classifier

        return save_classifier(self, directory, **facts)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str | None = None,
        **facts: Any,
    ) -> str:
        """Save the classifier, as `save_pretrained` does, and upload it to the Hugging Face hub.

        Args:
            repo_id: "owner/name"; made if it is not there, and a model that it holds is replaced.
            private: whether a new repository is.
            token: of an account that may write there; the one that `hf auth login` stored if None.
            commit_message: what the hub's history says.
            facts: as in `save_pretrained`.

        Returns:
            The address of the commit.

        Raises:
            InputError: as `save_pretrained`, or `repo_id` is no "owner/name".
            ResultError: the hub cannot be reached, or refuses.
        """
        from diffclass.decide.saving import push_classifier

        return push_classifier(
            self, repo_id, private=private, token=token, commit_message=commit_message, **facts
        )  # fmt: skip

    @property
    def classes_(self) -> tuple[str, ...]:
        """Class names, in the order of the columns of `predict_proba`."""
        return self.classes or ()

    def conditions(self) -> Conditions:
        """Embed what the model is told, once: the model keeps it."""
        return self.denoiser.condition_on(self.classes_) if self.prompts is None else self.prompts.embed(self.denoiser)

    def engine(self) -> Engine:
        """Build the engine that measures the evidence."""
        assert self.objective is not None
        assert self.race is not None
        return Engine(
            denoiser=self.denoiser,
            conditions=self.conditions(),
            classes=self.classes_,
            objective=self.objective,
            race=self.race,
            target=self.target,
            log_prior=self._log_prior(),
            foresight=self._foresight(),
            seed=self.seed,
            batch_size=self.batch_size,
        )

    def _foresight(self) -> Callable[[Tensor], Foresight] | None:
        if self.first_look is None:
            return None
        return self.first_look(self.prompts or Prompts.from_templates(self.classes_))

    def stream(self, images: Iterable[tuple[int, Tensor]]) -> Iterator[tuple[int, Decision]]:
        """Classify a stream of (index, image in [0, 1]); answers come as they are reached, in no fixed order."""
        for finished in self.engine().run(images):
            yield finished.index, self.decide(finished)

    def classify(self, images: Images, *, progress: Progress | None = None) -> list[Decision]:
        """Classify a batch of images in [0, 1] and return everything about each answer.

        Raises:
            ShapeError: the images have another shape than the model's.
            RangeError: a pixel is outside [0, 1] or not finite.
        """
        check_images(images, self.denoiser.space.image_shape)
        decisions: dict[int, Decision] = {}
        for index, decision in self.stream(enumerate(images)):
            decisions[index] = decision
            if progress is not None:
                progress(len(decisions))
        return [decisions[i] for i in range(len(images))]

    def predict(self, images: Images) -> list[str | None]:
        """Return the label of each image, None where the classifier abstains."""
        return [decision.label for decision in self.classify(images)]

    def predict_proba(self, images: Images) -> Float[ndarray, "image class"]:
        """Return calibrated probabilities.

        Raises:
            InputError: the classifier has no temperature: raw posteriors of high-dimensional images are 0 or 1.
        """
        if self.temperature is None:
            raise InputError(
                "predict_proba needs a calibrated classifier. Give 'temperature', or fit one with fit_temperature."
            )
        rows = [decision.probabilities for decision in self.classify(images)]
        return np.array([[row[name] for name in self.classes_] for row in rows if row is not None])

    def predict_log_odds(self, images: Images) -> Float[ndarray, "image class"]:
        """Return the log-odds of every class over the leading one, as `fit_temperature` takes them."""
        return np.stack([decision.evidence.log_odds() for decision in self.classify(images)])

    def calibrated(self, temperature: float) -> "DiffusionClassifier":
        """Return the same classifier with a temperature."""
        return replace(self, temperature=temperature)

    def decide(self, finished: Finished) -> Decision:
        """Turn a finished race into an answer."""
        evidence, survivors = finished.evidence, finished.survivors
        tally = self.aggregate(evidence, survivors)
        winner = None if finished.reason == "undecided" else tally.winner
        log_odds = evidence.log_odds()
        best = evidence.leader() if winner is None else winner
        others = [c for c in range(len(self.classes_)) if c != best]
        measured = evidence.n_measured > 0
        rival = max(others, key=lambda c: (measured[c], log_odds[c]))
        margin = evidence.difference(best, rival)
        scaled = None if self.temperature is None else probabilities(log_odds[None], self.temperature)[0]
        names = self.classes_
        return Decision(
            label=None if winner is None else names[winner],
            leader=names[best],
            runner_up=names[rival],
            log_odds=margin.mean,
            log_odds_se=margin.se,
            probabilities=None if scaled is None else dict(zip(names, scaled.tolist(), strict=True)),
            vote_shares=dict(zip(names, tally.shares.tolist(), strict=True)),
            survivors=tuple(name for name, alive in zip(names, survivors, strict=True) if alive),
            evaluations=evidence.evaluations,
            n_draws=evidence.n_draws,
            reason=finished.reason,
            seed=self.seed,
            evidence=evidence,
            temperature=self.temperature,
        )


def _told(
    denoiser: Denoiser, classes: Sequence[str] | None, prompts: Prompts | None
) -> tuple[tuple[str, ...], Prompts | None]:
    """Settle the names of the classes, and what a model that reads text is told for each."""
    if denoiser.classes:
        if prompts is not None:
            raise ConditionError(
                "Prompts are for models that read text. This one knows its classes by number: leave the prompts and "
                "templates out."
            )
        names = tuple(denoiser.classes if classes is None else classes)
        check_classes(names)
        return names, None
    if classes is None and prompts is None:
        prompts = _stored_prompts(denoiser)
    if classes is None and prompts is None:
        raise ConditionError(
            "This model reads text and has no classes of its own. Name at least two with classes=[...] or --labels."
        )
    names = tuple(prompts.classes if classes is None else classes)  # pyright: ignore[reportOptionalMemberAccess]
    prompts = Prompts.from_templates(names) if prompts is None else prompts
    if names != prompts.classes:
        raise ConditionError(
            f"The classes must be those of the prompts, in their order: {', '.join(map(repr, prompts.classes[:5]))}. "
            f"Got {', '.join(map(repr, names[:5]))}."
        )
    return names, prompts


def _stored_prompts(denoiser: Denoiser) -> Prompts | None:
    """Return the prompts that a model was measured with, if it says."""
    metadata = getattr(denoiser, "metadata", {})
    if "prompts" not in metadata:
        return None
    return Prompts(classes=tuple(metadata["classes"]), texts=tuple(tuple(row) for row in metadata["prompts"]))
