"""Fitted proposals: Neyman's allocation where it is known, and variances that are what was predicted."""

import numpy as np
import pytest

from diffclass.decide import proposing
from diffclass.decide.proposing import fit_proposal, measured_ratio, variance_ratio
from diffclass.errors import InputError
from diffclass.evidence import (
    Draws,
    ErrorMatrices,
    LikelihoodWeight,
    LogUniform,
    Objective,
    Proposal,
    TabulatedProposal,
    TabulatedWeight,
)

SPAN = (0.1, 10.0)
LENGTH = np.log(SPAN[1] / SPAN[0])


def matrices(n: int, proposal: Proposal, *, spread: TabulatedWeight, seed: int = 0, draws: int = 64) -> ErrorMatrices:
    """Two classes; w(sigma) times their difference has mean 1 and standard deviation spread(sigma)."""
    objective = Objective(weight=LikelihoodWeight(), proposal=proposal)
    placed = [Draws.place(objective, SPAN, n=draws, block=4, seed=seed, key=key) for key in range(n)]
    sigmas, weights = (np.stack([getattr(d, name) for d in placed]) for name in ("sigmas", "weights"))
    random = np.random.default_rng(seed)
    difference = 1 + spread(sigmas.ravel()).reshape(sigmas.shape) * random.standard_normal((n, draws))
    errors = np.stack([np.full_like(sigmas, 500.0), 500.0 + difference * sigmas**2], axis=2)
    return ErrorMatrices(
        errors=errors.astype(np.float32), sigmas=sigmas, weights=weights, labels=np.zeros(n, dtype=np.int64),
        classes=("a", "b"), block=4, seed=seed, keys=tuple(range(n)),
    )  # fmt: skip


STEEP = TabulatedWeight((np.log(SPAN[0]), np.log(SPAN[1])), (np.log(4.0), np.log(0.2)))


def neyman(spread: TabulatedWeight, grid: np.ndarray) -> np.ndarray:
    """The optimum at every log(sigma) of a grid over the whole range, a tenth of it even."""
    root = np.sqrt(1 + spread(np.exp(grid)) ** 2)
    return 0.9 * root / np.trapezoid(root, grid) + 0.1 / LENGTH


def block_variance(part: ErrorMatrices) -> np.ndarray:
    """Variance of the block means of the difference, of each image."""
    joint = part.log_likelihood()
    return (joint[:, :, 0] - joint[:, :, 1]).reshape(len(part), -1, 4).mean(axis=2).var(axis=1, ddof=1)


def test_the_allocation_is_neymans() -> None:
    fitted = fit_proposal(matrices(200, LogUniform(), spread=STEEP), proposal=LogUniform(), sigma_range=SPAN)
    assert fitted.fitted
    grid = np.linspace(*np.log(SPAN), 81)
    # About 800 draws a knot: a mean square has a standard error of 5%, its root of 2.5%; the kernel blurs 4% more.
    found, wanted = fitted.proposal.density(np.exp(grid), *SPAN), neyman(STEEP, grid)
    assert found[10:-10] == pytest.approx(wanted[10:-10], rel=0.12)


def test_a_tenth_stays_even() -> None:
    narrow = TabulatedWeight((np.log(0.1), np.log(0.2), np.log(0.4)), (4.0, 4.0, -9.0))
    part = matrices(100, LogUniform(), spread=narrow)
    fitted = fit_proposal(part, proposal=LogUniform(), sigma_range=SPAN)
    density = fitted.proposal.density(np.geomspace(*SPAN, 500), *SPAN)
    assert density.min() * LENGTH > 0.09  # interpolation of the logarithm takes a little of the tenth
    assert density.max() * LENGTH > 3


def test_the_variance_is_what_was_predicted_and_simulated() -> None:
    part = matrices(150, LogUniform(), spread=STEEP)
    fitted = fit_proposal(part, proposal=LogUniform(), sigma_range=SPAN)
    fresh = [matrices(300, q, spread=STEEP, seed=7) for q in (fitted.proposal, LogUniform())]
    new, old = (block_variance(one) for one in fresh)
    truth = new.mean() / old.mean()
    assert measured_ratio(fresh[1], fresh[0]).value == pytest.approx(truth, rel=0.06)
    # 300 variances of 16 blocks each: relative standard error sqrt(2/15/300) = 2.1%, of their ratio 3%
    assert truth < 0.8
    assert fitted.predicted == pytest.approx(truth, rel=0.12)
    assert fitted.simulated.value == pytest.approx(truth, rel=0.12)
    assert "it is used" in fitted.told


def test_the_best_proposal_is_kept() -> None:
    knots = np.linspace(*np.log(SPAN), 17)
    best = TabulatedProposal(tuple(knots.tolist()), tuple(np.log(neyman(STEEP, knots)).tolist()))
    fitted = fit_proposal(matrices(200, best, spread=STEEP), proposal=best, sigma_range=SPAN)
    assert not fitted.fitted
    assert fitted.proposal is best
    assert fitted.simulated.value == pytest.approx(1.0, abs=0.06)


def test_a_simulation_tells_a_bad_proposal() -> None:
    part = matrices(100, LogUniform(), spread=STEEP)
    wrong = TabulatedProposal((np.log(SPAN[0]), np.log(SPAN[1])), (np.log(0.2), np.log(2.0)))
    ratio = variance_ratio(part, old=LogUniform(), new=wrong, sigma_range=SPAN)
    assert ratio.low > 1.2
    same = variance_ratio(part, old=LogUniform(), new=LogUniform(), sigma_range=SPAN)
    assert same.value == 1.0


def test_near_ties_and_clear_images_do_not_drown_the_others() -> None:
    part = matrices(50, LogUniform(), spread=STEEP)
    scales = np.array([2.0**-10, 1.0, 2.0**10]).repeat([20, 10, 20])  # powers of 2 round nothing
    errors = (part.errors - 500) * scales[:, None, None]
    scaled = ErrorMatrices(
        errors=errors.astype(np.float32), sigmas=part.sigmas, weights=part.weights, labels=part.labels,
        classes=part.classes, block=4, seed=0, keys=part.keys,
    )  # fmt: skip
    first, second = (
        proposing._contrasts(one, LogUniform(), SPAN, 1).importance[:, 0] * scales**power
        for one, power in ((part, 0), (scaled, 2))
    )
    assert second == pytest.approx(first, rel=1e-2)  # units of the errors cancel


def test_only_the_same_images_can_be_compared() -> None:
    part = matrices(20, LogUniform(), spread=STEEP)
    with pytest.raises(InputError, match=r"matrices of the same images, classes and block\. Got others\."):
        measured_ratio(part, part.part(np.arange(10)))


def test_too_few_images_are_refused() -> None:
    part = matrices(19, LogUniform(), spread=STEEP)
    with pytest.raises(InputError, match=r"fit_proposal needs at least 20 images\. Got 19\."):
        fit_proposal(part, proposal=LogUniform(), sigma_range=SPAN)
