"""Fit where noise levels are drawn: most where they tell the most about close decisions."""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float64, Int
from numpy import ndarray

from diffclass.errors import InputError
from diffclass.evidence.matrix import ErrorMatrices
from diffclass.evidence.objective import Proposal, TabulatedProposal
from diffclass.stats.interval import Estimate, bootstrap

__all__ = ["FittedProposal", "fit_proposal", "measured_ratio", "variance_ratio"]

LEAST_IMAGES = 20
FLOOR = 0.1  # share of the draws that stays log-uniform
WORTH = 0.95  # of the variance at most, or the own proposal is kept: a new one must be measured anew
_REPEATS = 8  # blocks of every image's budget, drawn this often in a simulation

Pairs = Float64[ndarray, "image draw _"]  # a column a rival
Values = Float64[ndarray, " _"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FittedProposal:
    """A proposal fitted to measured errors, or the model's own where a fitted one does not help.

    Args:
        proposal: to be used.
        fitted: whether it is another than the model's own.
        predicted: variance of a block under the fitted proposal over that under the own, by its formula.
        simulated: the same, by drawing blocks from the measured errors.
        n: images it was fitted to.
    """

    proposal: Proposal
    fitted: bool
    predicted: float
    simulated: Estimate
    n: int

    @property
    def told(self) -> str:
        """Say what became of the proposal, and why."""
        s = self.simulated
        end = "it is used" if self.fitted else "the model's own proposal is kept"
        return (
            f"a fitted proposal has {self.predicted:.2f} of the variance by its formula and {s.value:.2f} "
            f"({s.low:.2f} to {s.high:.2f}) by simulation on {s.n} images: {end}"
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Contrasts:
    """Differences between the winner of each image and its strongest rivals.

    Args:
        log_sigma: of every draw.
        density: with which it was drawn.
        values: w(sigma) times the difference of the errors, a column a rival.
        importance: of each image and rival.
    """

    log_sigma: Float64[ndarray, "image draw"]
    density: Float64[ndarray, "image draw"]
    values: Pairs
    importance: Float64[ndarray, "image _"]


def fit_proposal(
    matrices: ErrorMatrices,
    *,
    proposal: Proposal,
    sigma_range: tuple[float, float],
    n_rivals: int = 3,
    n_knots: int = 17,
    seed: int = 0,
) -> FittedProposal:
    """Fit the density of noise levels that makes close decisions cheapest.

    Drawing a noise level with density q makes the variance of a weighted difference the integral of w^2 E[d^2] / q, and
    that is least for q proportional to w sqrt(E[d^2]): Neyman's allocation. Here d is the difference of errors between
    the class that wins on all draws, which is what a race has to find, and one of its strongest rivals. A race spends
    about variance / mean^2 draws on a rival, and no more than its budget N, so that each pair counts as
    1 / (mean^2 + variance / N): pairs decided at the first look have little variance to begin with, and near ties,
    which end with the budget whatever is done, cannot drown the others. The root is smoothed over log(sigma), and a
    tenth of the draws stays log-uniform, which bounds the weights w / q.

    Args:
        matrices: measured in full under the own proposal; labels are not used.
        proposal: the own one.
        sigma_range: [model units] noise range of the draws.
        n_rivals: classes nearest to the winner that count.
        n_knots: of the density.
        seed: of the simulation.

    Raises:
        InputError: too few images.

    Source:
        Neyman 1934, section V; Cochran 1977, sections 5.5 and 5A.1 (optimum allocation); Owen 2013, "Monte Carlo
        theory, methods and examples", sections 9.1 and 9.11 (importance sampling, defensive mixtures).
    """
    if len(matrices) < LEAST_IMAGES:
        raise InputError(f"fit_proposal needs at least {LEAST_IMAGES} images. Got {len(matrices)}.")
    contrasts = _contrasts(matrices, proposal, sigma_range, n_rivals)
    knots = np.linspace(np.log(sigma_range[0]), np.log(sigma_range[1]), n_knots)
    root = np.sqrt(_smoothed(contrasts, knots))
    density = (1 - FLOOR) * root / np.trapezoid(root, knots) + FLOOR / (knots[-1] - knots[0])
    found = TabulatedProposal(tuple(knots.tolist()), tuple(np.log(density).tolist()))
    block = matrices.block
    new, old = (_predicted(contrasts, q, sigma_range, block) for q in (found, proposal))
    simulated = variance_ratio(matrices, old=proposal, new=found, sigma_range=sigma_range, n_rivals=n_rivals, seed=seed)
    fitted = simulated.value < WORTH and simulated.high < 1
    return FittedProposal(
        proposal=found if fitted else proposal,
        fitted=fitted,
        predicted=new / old,
        simulated=simulated,
        n=len(matrices),
    )


def variance_ratio(
    matrices: ErrorMatrices,
    *,
    old: Proposal,
    new: Proposal,
    sigma_range: tuple[float, float],
    n_rivals: int = 3,
    seed: int = 0,
) -> Estimate:
    """Simulate blocks of draws from measured errors under two proposals, and compare their variances.

    Noise levels are placed as the engine places them, in strata, and each takes the measured draw of its image whose
    noise level is nearest. Images and rivals count as in `fit_proposal`.

    Args:
        matrices: measured under the old proposal.
        old: a proposal.
        new: another.
        sigma_range: [model units] noise range of the draws.
        n_rivals: classes nearest to the winner that count.
        seed: of the simulation.

    Returns:
        Variance under the new proposal over that under the old, with an interval from resampling the images.
    """
    contrasts = _contrasts(matrices, old, sigma_range, n_rivals)
    random = np.random.default_rng(seed)
    place = random.random((2 * _REPEATS, len(matrices), matrices.n_draws))  # the same for both
    variances = [_simulated(contrasts, q, sigma_range, matrices.block, place) for q in (new, old)]
    return bootstrap(lambda a, b: float(a.sum() / b.sum()), *variances, seed=seed)


def measured_ratio(old: ErrorMatrices, new: ErrorMatrices, *, n_rivals: int = 3, seed: int = 0) -> Estimate:
    """Compare the variances of blocks that were measured on the same images in two ways.

    Args:
        old: measured in one way. It decides which images and rivals count, as in `fit_proposal`.
        new: measured in another.
        n_rivals: classes nearest to the winner that count.
        seed: of the interval.

    Returns:
        Variance of the new over that of the old, with an interval from resampling the images.

    Raises:
        InputError: they are not of the same images and blocks.
    """
    if old.keys != new.keys or old.block != new.block or old.classes != new.classes:
        raise InputError("measured_ratio needs matrices of the same images, classes and block. Got others.")
    winner, rivals, importance = _pairs(old, n_rivals)
    variances = []
    for matrices in (new, old):
        lead = _lead(matrices, winner, rivals)
        blocks = lead.reshape(len(lead), -1, matrices.block, lead.shape[2]).mean(axis=2)
        variances.append((blocks.var(axis=1, ddof=1) * importance).sum(axis=1))
    return bootstrap(lambda a, b: float(a.sum() / b.sum()), *variances, seed=seed)


def _contrasts(
    matrices: ErrorMatrices, proposal: Proposal, sigma_range: tuple[float, float], n_rivals: int
) -> _Contrasts:
    """Return the differences between winners and their rivals, and how much each pair counts."""
    winner, rivals, importance = _pairs(matrices, n_rivals)
    flat = matrices.sigmas.reshape(-1)
    density = proposal.density(flat, *sigma_range).reshape(matrices.sigmas.shape)
    values = _lead(matrices, winner, rivals) * density[:, :, None]
    return _Contrasts(log_sigma=np.log(matrices.sigmas), density=density, values=values, importance=importance)


def _pairs(
    matrices: ErrorMatrices, n_rivals: int
) -> tuple[Int[ndarray, " image"], Int[ndarray, "image _"], Float64[ndarray, "image _"]]:
    """Return the winner of each image, its nearest rivals, and how much each of them counts."""
    n, n_classes = len(matrices), len(matrices.classes)
    winner = matrices.log_likelihood().mean(axis=1).argmax(axis=1)
    lead = _lead(matrices, winner, np.tile(np.arange(n_classes), (n, 1)))
    blocks = lead.reshape(n, -1, matrices.block, n_classes).mean(axis=2)
    variance, gap = blocks.var(axis=1, ddof=1) * matrices.block, lead.mean(axis=1)
    distance = gap / np.sqrt(variance + np.finfo(float).tiny)
    distance[np.arange(n), winner] = np.inf
    rivals = _nearest(distance, min(n_rivals, n_classes - 1))
    gap, variance = (np.take_along_axis(x, rivals, axis=1) for x in (gap, variance))
    return winner, rivals, 1 / (gap**2 + variance / matrices.n_draws + np.finfo(float).tiny)


def _lead(matrices: ErrorMatrices, winner: Int[ndarray, " image"], rivals: Int[ndarray, "image _"]) -> Pairs:
    """Return the log-likelihood ratio of each image's winner over its rivals, draw by draw."""
    ahead = np.take_along_axis(matrices.errors, winner[:, None, None], axis=2).astype(np.float64)
    behind = np.take_along_axis(matrices.errors, rivals[:, None, :], axis=2)
    return matrices.weights[:, :, None] * (behind - ahead)


def _nearest(distance: Float64[ndarray, "image class"], n: int) -> Int[ndarray, "image _"]:
    return np.argsort(distance, axis=1, kind="stable")[:, :n]


def _smoothed(contrasts: _Contrasts, knots: Values) -> Values:
    """Return the mean square of w times the difference at each knot, by a Gaussian kernel as wide as a step."""
    square = np.einsum("idr,ir->id", contrasts.values**2, contrasts.importance).reshape(-1)
    width = knots[1] - knots[0]
    kernel = np.exp(-0.5 * ((contrasts.log_sigma.reshape(-1, 1) - knots) / width) ** 2)
    return kernel.T @ square / kernel.sum(axis=0)


def _predicted(contrasts: _Contrasts, proposal: Proposal, sigma_range: tuple[float, float], block: int) -> float:
    """Return the summed variance of a draw, in blocks of one draw from each of `block` equally probable strata.

    Source:
        Cochran 1977, equation 5.6, for one draw a stratum: the mean square less the square of each stratum's mean.
    """
    grid = np.linspace(np.log(sigma_range[0]), np.log(sigma_range[1]), 1025)
    centre = (grid[1:] + grid[:-1]) / 2
    square = _smoothed(contrasts, centre) / proposal.density(np.exp(centre), *sigma_range)
    edges = np.log(proposal.sigma(np.linspace(0, 1, block + 1)[1:-1], *sigma_range))
    part = np.searchsorted(edges, contrasts.log_sigma)
    values = contrasts.values / contrasts.density[:, :, None]
    means = np.stack([(values * (part == p)[:, :, None]).mean(axis=1) for p in range(block)])
    between = block * float(((means**2).sum(axis=0) * contrasts.importance).sum())
    return float(square.sum()) * (grid[1] - grid[0]) * len(contrasts.values) - between


def _simulated(
    contrasts: _Contrasts, proposal: Proposal, sigma_range: tuple[float, float], block: int, place: ndarray
) -> Float64[ndarray, " image"]:
    """Return the summed variance of the block means of each image's pairs, each pair by its importance."""
    _, n, draws = place.shape
    parts = np.arange(draws) % block
    variances = np.zeros(n)
    for i in range(n):
        order = np.argsort(contrasts.log_sigma[i], kind="stable")
        known = contrasts.log_sigma[i][order]
        quantile = ((parts + place[:, i]) / block).reshape(-1)
        wanted = np.log(proposal.sigma(quantile, *sigma_range))
        nearest = order[np.searchsorted((known[1:] + known[:-1]) / 2, wanted)]
        weight = 1 / proposal.density(np.exp(contrasts.log_sigma[i][nearest]), *sigma_range)
        values = (contrasts.values[i][nearest] * weight[:, None]).reshape(-1, block, contrasts.values.shape[2])
        variances[i] = values.mean(axis=1).var(axis=0, ddof=1) @ contrasts.importance[i]
    return variances
