"""A published experiment made ready: its settings as a classifier, its images, and what is known to differ."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch

from diffclass.bench.experiments import Certified, Experiment, ZeroShot
from diffclass.bench.published_data import OpenedData, select, spoken
from diffclass.data.datasets import Dataset
from diffclass.decide import DiffusionClassifier, Exhaustive, PairedRace
from diffclass.decide.prompts import Prompts
from diffclass.decide.published import ClarkJaini, SiftAndRefine, SuccessiveHalving
from diffclass.denoisers import Denoiser
from diffclass.denoisers.parametrisation import X0, Epsilon, V
from diffclass.denoisers.with_unconditional import WithUnconditional
from diffclass.errors import InputError, UnsupportedModel
from diffclass.evidence import Objective, Race, TabulatedProposal, TabulatedWeight
from diffclass.robust import Smoothing

__all__ = ["Changes", "Prepared", "even_in_sigma", "prepare", "weight_over_time"]

_MOST_A_BATCH = {"cpu": 64, "cuda": 256}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is asked for in place of the published settings; None or False leaves them as they are.

    Args:
        limit: images at most.
        selection: how they are picked.
        seed: of the noise, and of a stratified selection.
        fast: race by `PairedRace` in place of the published stopping rule.
        draws: of a class at most; published stages shrink in proportion.
        prompts: of a published prompt file.
        sigmas: [image units, as published] those to certify with.
        n: noisy copies that bound a probability.
        n0: noisy copies that choose a label.
        weight: of noise levels.
    """

    limit: int | None = None
    selection: str | None = None
    seed: int = 0
    fast: bool = False
    draws: int | None = None
    prompts: Prompts | None = None
    sigmas: tuple[float, ...] | None = None
    n: int | None = None
    n0: int | None = None
    weight: str | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """An experiment that is ready to run.

    Args:
        experiment: the published one.
        classifier: with the published settings, or those asked for.
        part: the images.
        changes: what was asked for.
        noised: how copies are classified, for certificates.
        differences: why figures are not comparable with the published ones; none if nothing is known to differ.
    """

    experiment: Experiment
    classifier: DiffusionClassifier
    part: Dataset
    changes: Changes
    noised: str | None
    differences: tuple[str, ...]

    @property
    def sigmas(self) -> tuple[float, ...]:
        """[image units, as published] Of the smoothing noise; empty without one."""
        settings = self.experiment.settings
        return () if isinstance(settings, ZeroShot) else self.changes.sigmas or settings.sigmas

    @property
    def evaluations(self) -> int:
        """Network evaluations at most."""
        settings, n_classes, draws = self.experiment.settings, len(self.classifier.classes_), self.changes.draws
        if isinstance(settings, ZeroShot):
            return len(self.part) * settings.evaluations(n_classes, draws)
        counted = replace(settings, draws=draws or settings.draws, n=self._n, n0=self._n0)
        return len(self.part) * len(self.sigmas) * counted.evaluations(n_classes)

    @property
    def _n(self) -> int:
        assert isinstance(self.experiment.settings, Certified)
        return self.changes.n or self.experiment.settings.n

    @property
    def _n0(self) -> int:
        assert isinstance(self.experiment.settings, Certified)
        return self.changes.n0 or self.experiment.settings.n0

    def smoothing(self) -> Smoothing:
        """Return how pictures are certified."""
        assert isinstance(self.experiment.settings, Certified)
        return Smoothing(n0=self._n0, n=self._n, alpha=self.experiment.settings.alpha)


def weight_over_time(denoiser: Denoiser, settings: ZeroShot) -> Objective:
    """Return the objective that averages the error over the times of a network's schedule, weighted by exp(-decay t).

    The error of the predicted noise is that of the clean latent over sigma: to the power 2 for squared errors, 1 for
    absolute ones. Against d log(sigma) the weight is therefore the density of log(sigma) at a uniform time, over
    sigma^2 or sigma ("epsilon") or over nothing ("x"), times exp(-decay t).

    Raises:
        UnsupportedModel: the network has no schedule of times, as flows.

    Source:
        Li et al. 2023, equation 6 and section 4 (arXiv:2303.16203): mean over t of the l2 or l1 error of the noise;
        Clark and Jaini 2023, section 3 (arXiv:2303.15233): exp(-7 t) |x - D|^2.
    """
    parametrisation: Any = getattr(denoiser, "parametrisation", None)
    table: Any = getattr(denoiser, "metadata", {}).get("classifier", {}).get("proposal")
    if not isinstance(parametrisation, Epsilon | V | X0) or not isinstance(table, Mapping):
        raise UnsupportedModel(
            "The experiment needs a text-to-image network with a noise schedule, as Stable Diffusion 1 and 2. "
            f"Got {type(parametrisation).__name__ if parametrisation is not None else type(denoiser).__name__}."
        )
    log_sigma, log_density = np.array(table["log_sigma"]), np.array(table["log_density"])
    power = 0 if settings.space == "x" else {"l2": 2, "l1": 1}[settings.distance]
    schedule = parametrisation.schedule
    time = schedule.time(torch.from_numpy(np.exp(log_sigma))).double().numpy() / (len(schedule.sigmas) - 1)
    log_weight = log_density - power * log_sigma - settings.decay * time
    return Objective(
        weight=TabulatedWeight(tuple(log_sigma.tolist()), tuple(log_weight.tolist())),
        proposal=TabulatedProposal(tuple(log_sigma.tolist()), tuple(log_density.tolist())),
        distance=settings.distance,
    )


def even_in_sigma(denoiser: Denoiser, settings: Certified, weight: str) -> Objective:
    """Return the objective of Chen et al.: EDM's weight, measured at noise levels that are even in sigma.

    A density against d log(sigma) that is proportional to sigma is uniform in sigma, and between two knots at which the
    log-density equals log(sigma) a tabulated proposal is just that.

    Source:
        Chen et al. 2024, section 3 and the published code (arXiv:2402.02316).
    """
    low, high = denoiser.sigma_range[0], min(settings.sigma_max, denoiser.sigma_range[1])
    knots = (float(np.log(low)), float(np.log(high)))
    named = Objective.from_settings({"weight": weight}, sigma_data=denoiser.space.data_std)
    return Objective(weight=named.weight, proposal=TabulatedProposal(knots, knots), sigma_range=(low, high))


def prepare(experiment: Experiment, denoiser: Denoiser, opened: OpenedData, changes: Changes) -> Prepared:
    """Put the published settings, the model and the data together.

    Raises:
        InputError: something is asked for that the experiment has not.
        ModelError: the model cannot be measured so.
        ConditionError: the classes are not the model's.
    """
    settings = experiment.settings
    _check_changes(settings, changes)
    differences = [*opened.differences, *_model_differences(experiment, denoiser), *_changed(experiment, changes)]
    noised, dataset, options = None, opened.dataset, {}
    if isinstance(settings, ZeroShot):
        dataset, prompts = spoken(opened, settings.template, changes.prompts)
        options: dict[str, Any] = {"prompts": prompts, "objective": weight_over_time(denoiser, settings)}
        if experiment.data.layout == "imagenet" and changes.prompts is None:
            differences.append("prompts: classes are named by the data's own list, not as in the published prompt file")
    else:
        options = {"objective": even_in_sigma(denoiser, settings, changes.weight or settings.weight)}
    race = _race(settings, denoiser, changes)
    classifier = DiffusionClassifier.from_pretrained(denoiser, race=race, seed=changes.seed, **options)
    classifier = replace(
        classifier, batch_size=min(classifier.batch_size, _MOST_A_BATCH.get(denoiser.device.type, 256))
    )
    if isinstance(settings, Certified):
        noised = settings.noised
        if noised == "apndc" and classifier.conditions().null is None:
            noised = "apndc-class"
            differences.append("copies: denoised with the class (apndc-class), as the model has no network without one")
    how = changes.selection or (settings.selection if isinstance(settings, Certified) else "stratified")
    part = select(dataset, changes.limit or experiment.images, how, seed=changes.seed)
    prepared = Prepared(
        experiment=experiment, classifier=classifier, part=part, changes=changes, noised=noised,
        differences=tuple(differences),
    )  # fmt: skip
    for sigma in prepared.sigmas:
        prepared.smoothing().plan(sigma)  # too few copies are said before the network is made ready
    return prepared


def _check_changes(settings: ZeroShot | Certified, changes: Changes) -> None:
    """Refuse what an experiment of this kind has not."""
    of_certified = {"--sigma": changes.sigmas, "--n": changes.n, "--n0": changes.n0, "--weight": changes.weight}
    wrong = of_certified if isinstance(settings, ZeroShot) else {"--prompts": changes.prompts}
    if given := [name for name, value in wrong.items() if value is not None]:
        kind = "certified" if isinstance(settings, ZeroShot) else "zero-shot"
        raise InputError(f"The option {given[0]} is for {kind} experiments. Leave it out.")
    if isinstance(settings, Certified) and (other := [s for s in changes.sigmas or () if s not in settings.sigmas]):
        published = ", ".join(f"{sigma:g}" for sigma in settings.sigmas)
        raise InputError(f"The 'sigma' of the experiment must be one of {published}. Got {other[0]:g}.")


def _race(settings: ZeroShot | Certified, denoiser: Denoiser, changes: Changes) -> Race:
    """Return the published stopping rule, or ours with as many draws."""
    draws = changes.draws or settings.draws
    block = next(block for block in (4, 5, 3, 2, 1) if draws % block == 0)
    if changes.fast:
        return PairedRace(n_draws=draws, block=block)
    if isinstance(settings, ZeroShot):
        if settings.stages is None:
            return ClarkJaini(n_draws=draws, n_first=min(20, draws))
        published = SuccessiveHalving.published(settings.stages)
        if draws == published.n_draws:
            return published
        stages = {max(1, round(upto * draws / published.n_draws)): keep for upto, keep in published.stages}
        return SuccessiveHalving(stages=tuple(stages.items()))
    if settings.race == "exhaustive":
        return Exhaustive(n_draws=draws, block=block)
    sift = SiftAndRefine.published(denoiser.space.dimension, noised=True)
    return replace(sift, n_draws=draws, n_sift=min(draws, sift.n_sift))


def _model_differences(experiment: Experiment, denoiser: Denoiser) -> list[str]:
    """Compare the size of the network and of its images with the published model's."""
    wanted, told = experiment.model, []
    network: Any = getattr(denoiser, "network", None)
    if isinstance(network, WithUnconditional):
        network = network.with_class
    n_weights = sum(p.numel() for p in network.parameters()) if isinstance(network, torch.nn.Module) else 0
    if n_weights != wanted.weights:
        told.append(f"model: its network has {n_weights:,} weights, that of {wanted.title} {wanted.weights:,}")
    side = denoiser.space.image_shape[1]
    if side != wanted.size:
        told.append(f"model: it sees {side}x{side} pixels, {wanted.title} {wanted.size}x{wanted.size}")
    return told


def _changed(experiment: Experiment, changes: Changes) -> list[str]:
    """Say which published settings were changed."""
    settings, told = experiment.settings, []
    for name in ("draws", "n", "n0", "weight"):
        given, published = getattr(changes, name), getattr(settings, name, None)
        if given is not None and given != published:
            told.append(f"settings: {name} {given} in place of {published}")
    if changes.fast:
        told.append("settings: PairedRace (delta 0.01) in place of the published stopping rule")
    return told
