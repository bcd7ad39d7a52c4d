"""The draws of one image: noise levels, their weights, and the order in which they are visited."""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray
from torch import Tensor

from diffclass.evidence.objective import Objective
from diffclass.noise import epsilon, placement

__all__ = ["Draws"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draws:
    """A list of (sigma, epsilon) pairs that every class of one image shares.

    The noise range is cut into n strata of equal probability under the proposal, with one draw at a random place in
    each. Draws are visited in blocks: a block holds one draw from each of `block` coarse strata, chosen by independent
    uniform permutations, so blocks are exchangeable and every block covers the whole range.

    Antithetic draws come in pairs, one after the other, of a block's neighbouring coarse strata: the second takes the
    noise of the first with the opposite sign. What of an error is odd in the noise, and at neighbouring noise levels it
    is nearly the same, cancels in the pair. Each draw by itself is as before, and a pair lies within one block, so that
    blocks stay exchangeable. Blocks of an odd number of draws have no pairs.

    Where classes have several prompts, each draw takes one of them, the same for all classes: every prompt equally
    often, in an order that is uniform over all draws (over pairs, if there are), so that blocks stay exchangeable.

    Args:
        sigmas: [model units] noise levels in the order of the visit.
        weights: w(sigma) / q(sigma); the mean of weight x error estimates the weighted integral.
        block: draws in a block.
        seed: of the noise.
        key: of the image (`noise.image_key`).
        antithetic: whether draws come in pairs of opposite noise.
        prompts: index of the prompt that each draw tells the classes by; None: there is one.

    Source:
        Stratified and Latin hypercube sampling: McKay, Beckman and Conover 1979. Antithetic variates: Hammersley and
        Morton 1956.
    """

    sigmas: Float64[ndarray, " draw"]
    weights: Float64[ndarray, " draw"]
    block: int
    seed: int
    key: int
    antithetic: bool = False
    prompts: Int64[ndarray, " draw"] | None = None

    def __len__(self) -> int:
        return len(self.sigmas)

    @classmethod
    def place(
        cls,
        objective: Objective,
        sigma_range: tuple[float, float],
        *,
        n: int,
        block: int,
        seed: int,
        key: int,
        n_prompts: int = 1,
    ) -> "Draws":
        """Place n draws (a multiple of `block`) over a noise range [model units]."""
        assert n % block == 0, (n, block)
        random = placement(seed, key, n)
        fine = np.stack([random.permutation(n // block) for _ in range(block)], axis=1)  # [n // block, block]
        stratum = fine + np.arange(block) * (n // block)
        antithetic = objective.antithetic and block % 2 == 0
        if antithetic:
            pairs = random.permuted(stratum.reshape(-1, block // 2, 2), axis=2)
            order = random.permuted(np.tile(np.arange(block // 2), (n // block, 1)), axis=1)
            stratum = np.take_along_axis(pairs, order[:, :, None], axis=1).reshape(-1)
        else:
            stratum = random.permuted(stratum, axis=1).reshape(-1)
        sigmas = objective.proposal.sigma((stratum + random.random(n)) / n, *sigma_range)
        sigmas = np.clip(sigmas, *sigma_range)
        weights = objective.weight(sigmas) / objective.proposal.density(sigmas, *sigma_range)
        prompts = None
        if n_prompts > 1:
            alike = 2 if antithetic else 1
            prompts = np.repeat(random.permutation(np.arange(n // alike) % n_prompts), alike)
        return cls(
            sigmas=sigmas, weights=weights, block=block, seed=seed, key=key, antithetic=antithetic, prompts=prompts
        )

    def prompt(self, draw: int) -> int:
        """Return the prompt by which a draw tells the classes."""
        return 0 if self.prompts is None else int(self.prompts[draw])

    def source(self, draw: int) -> tuple[int, int]:
        """Return the draw whose noise this one takes, and the sign that it takes it with."""
        second = self.antithetic and draw % self.block % 2 == 1
        return (draw - 1, -1) if second else (draw, 1)

    def epsilon(self, draws: range, shape: tuple[int, ...]) -> Tensor:
        """Return the noise of some draws, float32 of shape [len(draws), *shape]."""
        sources = [self.source(draw) for draw in draws]
        noise = epsilon(self.seed, self.key, [draw for draw, _ in sources], shape)
        for row, (_, sign) in zip(noise, sources, strict=True):
            row *= sign
        return noise
