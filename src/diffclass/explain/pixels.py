"""Where two classes disagree: the paired log-odds, pixel by pixel.

The error of a draw is a sum over pixels, so that the log-odds are one too. A map is that sum before it is taken, from
the engine's own errors, and adds up to the log-odds that the engine reports for the same draws.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Bool, Float64
from numpy import ndarray
from torch import Tensor

from diffclass.data.images import check_images
from diffclass.decide import Decision, DiffusionClassifier
from diffclass.errors import ConditionError, InputError, NonFiniteError, RangeError
from diffclass.evidence import Engine, Evidence, PairedDifference, Race
from diffclass.evidence.batch import Cells
from diffclass.types import Latents, Survivors

__all__ = ["EvidenceMap", "Watched", "class_index", "evidence_map", "watched"]

N_DRAWS = 128
_LEAST_BLOCKS = 2

PixelErrors = dict[tuple[int, int], ndarray]  # (draw, class): what each value of the latent adds to the error


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvidenceMap:
    """The log-odds of one class over another, pixel by pixel.

    Args:
        values: what each pixel adds to the log-odds (each cell of the latent, for a model on latents); positive where
            it speaks for `favoured`.
        p_values: of the hypothesis that a pixel adds nothing in the mean over draws, each by itself.
        significant: pixels at which that is rejected, with a false discovery rate of at most `fdr` among them.
        favoured: the class that positive values speak for.
        against: the class that it is compared with.
        difference: the log-odds, as the engine has them on the same draws; the sum of `values` and `log_prior`.
        log_prior: log-odds of the two classes before the image.
        n_blocks: of draws, the units of the test.
        fdr: false discovery rate of the mask.
    """

    values: Float64[ndarray, "height width"]
    p_values: Float64[ndarray, "height width"]
    significant: Bool[ndarray, "height width"]
    favoured: str
    against: str
    difference: PairedDifference
    log_prior: float
    n_blocks: int
    fdr: float


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Watched:
    """A classified image with the errors of its pixels.

    Args:
        classifier: that answered.
        image: in [0, 1].
        decision: its answer.
        pixels: errors of every draw and class that were measured, before they were summed.
    """

    classifier: DiffusionClassifier
    image: Tensor
    decision: Decision
    pixels: PixelErrors = field(repr=False)

    def map(self, favoured: str, against: str, *, n_draws: int | None = N_DRAWS, fdr: float = 0.05) -> EvidenceMap:
        """Return the evidence map of two classes.

        Args:
            favoured: that positive values speak for.
            against: that it is compared with.
            n_draws: the fewest, up to the race's budget. Where the two classes shared fewer in the race, they are
                measured on so many of its draws; None takes the draws of the race and measures nothing.
            fdr: false discovery rate of the mask.

        Raises:
            ConditionError: the classes are one, or not of the classifier.
            RangeError: `n_draws` or `fdr` is outside its range.
            InputError: the two classes shared less than two blocks of draws, and no more are to be measured.
            NonFiniteError: the model returned NaN or infinity.

        Source:
            The error of a draw: Li et al. 2023, equation 6 (arXiv:2303.16203). Its test: Student 1908, two-sided, on
            the means of blocks; over pixels: Benjamini and Hochberg 1995, equation 1.
        """
        a, b = (class_index(self.classifier, name) for name in (favoured, against))
        _check(favoured, against, n_draws, fdr)
        evidence, pixels = self.decision.evidence, self.pixels
        shared = int(evidence.n_measured[[a, b]].min())
        wanted = 0 if n_draws is None else min(n_draws, len(evidence.draws))
        if shared < wanted:
            evidence, pixels = _measure_pair(self.classifier, self.image, a, b, wanted)
            a, b, shared = 0, 1, evidence.n_draws
        block = evidence.draws.block
        if shared < _LEAST_BLOCKS * block:
            raise InputError(
                f"An evidence map needs at least {_LEAST_BLOCKS * block} draws that both classes share. {favoured!r} "
                f"and {against!r} share {shared}. Give 'n_draws'."
            )
        ratios = _ratios(evidence, pixels, self.classifier, a, b, shared)
        return _tested(evidence, ratios, a, b, fdr)


def evidence_map(
    classifier: DiffusionClassifier,
    image: Tensor,
    favoured: str | None = None,
    against: str | None = None,
    *,
    n_draws: int | None = N_DRAWS,
    fdr: float = 0.05,
) -> EvidenceMap:
    """Classify an image, and map the log-odds of one class over another onto its pixels.

    Args:
        classifier: of any denoiser.
        image: in [0, 1].
        favoured: that positive values speak for; the leader if None.
        against: that it is compared with; the runner-up if None, or the leader where that is `favoured`'s rival.
        n_draws: as in `Watched.map`, which also says what is raised.
        fdr: false discovery rate of the mask.

    Raises:
        ShapeError, RangeError: the image is not one that the model takes.

    Example:
        >>> from diffclass.denoisers.analytic import GaussianDenoiser
        >>> means = torch.stack([torch.full((1, 4, 4), 0.2), torch.full((1, 4, 4), 0.8)])
        >>> classifier = DiffusionClassifier(denoiser=GaussianDenoiser(means, 0.1, classes=["dark", "bright"]))
        >>> found = evidence_map(classifier, torch.full((1, 4, 4), 0.7))
        >>> found.favoured, bool(abs(found.values.sum() - found.difference.mean) < 1e-3)
        ('bright', True)
    """
    seen = watched(classifier, image)
    leader, runner_up = seen.decision.leader, seen.decision.runner_up
    favoured = leader if favoured is None else favoured
    if against is None:
        against = runner_up if favoured == leader else leader
    return seen.map(favoured, against, n_draws=n_draws, fdr=fdr)


def watched(classifier: DiffusionClassifier, image: Tensor) -> Watched:
    """Classify one image, and keep where its errors came from.

    Args:
        classifier: of any denoiser.
        image: of shape (channel, height, width), in [0, 1].

    Raises:
        ShapeError, RangeError: the image is not one that the model takes.
        NonFiniteError: the model returned NaN or infinity.
    """
    check_images(image[None], classifier.denoiser.space.image_shape)
    pixels: PixelErrors = {}
    engine = replace(classifier.engine(), watch=_keep(pixels))
    finished = next(iter(engine.run([(0, image)])))
    return Watched(classifier=classifier, image=image, decision=classifier.decide(finished), pixels=pixels)


def class_index(classifier: DiffusionClassifier, name: str) -> int:
    """Return the position of a class.

    Raises:
        ConditionError: the classifier does not know it.
    """
    names = classifier.classes_
    if name not in names:
        known = ", ".join(map(repr, names[:10])) + (f", ... ({len(names)} in all)" if len(names) > 10 else "")
        raise ConditionError(f"An explanation must be of classes that are chosen from: {known}. Got {name!r}.")
    return names.index(name)


def _check(favoured: str, against: str, n_draws: int | None, fdr: float) -> None:
    if favoured == against:
        raise ConditionError(f"An evidence map compares two classes. Got {favoured!r} twice.")
    if n_draws is not None and n_draws < 1:
        raise RangeError(f"The 'n_draws' parameter of an evidence map must be at least 1. Got {n_draws}.")
    if not 0 < fdr < 1:
        raise RangeError(f"The 'fdr' parameter of an evidence map must be a float in (0, 1). Got {fdr}.")


def _keep(pixels: PixelErrors) -> Callable[[Cells, Latents], None]:
    """Return a watch that files what it sees by draw and class."""

    def watch(cells: Cells, parts: Latents) -> None:
        for draw, index, one in zip(cells.draws.tolist(), cells.classes.tolist(), parts.cpu().numpy(), strict=True):
            pixels[draw, index] = one

    return watch


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Part(Race):
    """Every class is measured on the first draws of a longer list."""

    abstains: ClassVar[bool] = False
    n_draws: int
    block: int
    upto: int

    def next_look(self, n_draws: int) -> int:
        """Return where the part ends."""
        return self.upto

    def survivors(self, evidence: Evidence) -> Survivors:
        """End the race there."""
        return np.arange(len(evidence.classes)) == evidence.leader()


def _measure_pair(
    classifier: DiffusionClassifier, image: Tensor, a: int, b: int, n_draws: int
) -> tuple[Evidence, PixelErrors]:
    """Measure two classes alone on the first draws of the race, whole blocks of them."""
    assert classifier.race is not None
    pixels: PixelErrors = {}
    engine, race, n_classes = classifier.engine(), classifier.race, len(classifier.classes_)
    rows = torch.arange(engine.n_prompts)[:, None] * n_classes + torch.tensor([a, b])
    upto = min(-(-n_draws // race.block) * race.block, race.n_draws)
    pair: Engine = replace(
        engine,
        classes=(engine.classes[a], engine.classes[b]),
        conditions=engine.conditions[rows.flatten().to(engine.denoiser.device)],
        log_prior=None if engine.log_prior is None else engine.log_prior[[a, b]],
        race=_Part(n_draws=race.n_draws, block=race.block, upto=upto),
        foresight=None,
        watch=_keep(pixels),
    )
    return next(iter(pair.run([(0, image)]))).evidence, pixels


def _ratios(
    evidence: Evidence, pixels: PixelErrors, classifier: DiffusionClassifier, a: int, b: int, n: int
) -> Float64[ndarray, "draw height width"]:
    """Return weight x (error of b - error of a) of each draw, where it is in the image."""
    apart = np.stack([pixels[draw, b].astype(np.float64) - pixels[draw, a] for draw in range(n)])
    if not np.isfinite(apart).all():
        raise NonFiniteError("The model returned NaN or infinity for some pixel. Try dtype float32.")
    located = classifier.denoiser.space.located(torch.from_numpy(apart)).numpy()
    return evidence.draws.weights[:n, None, None] * located


def _tested(
    evidence: Evidence, ratios: Float64[ndarray, "draw height width"], a: int, b: int, fdr: float
) -> EvidenceMap:
    """Average over draws, and test every pixel over whole blocks of them."""
    from scipy.stats import false_discovery_control, t

    size, grid = evidence.draws.block, ratios.shape[1:]
    n_blocks = len(ratios) // size
    units = ratios[: n_blocks * size].reshape(n_blocks, size, *grid).mean(axis=1)
    mean, se = units.mean(axis=0), units.std(axis=0, ddof=1) / np.sqrt(n_blocks)
    sure = np.where(mean == 0, 0.0, np.inf)  # of pixels that all draws agree on
    p_values = 2 * t.sf(np.abs(np.divide(mean, se, out=sure, where=se > 0)), n_blocks - 1)
    return EvidenceMap(
        values=ratios.mean(axis=0),
        p_values=p_values,
        significant=false_discovery_control(p_values.ravel(), method="bh").reshape(grid) <= fdr,
        favoured=evidence.classes[a],
        against=evidence.classes[b],
        difference=evidence.difference(a, b),
        log_prior=float(evidence.log_prior[a] - evidence.log_prior[b]),
        n_blocks=n_blocks,
        fdr=fdr,
    )
