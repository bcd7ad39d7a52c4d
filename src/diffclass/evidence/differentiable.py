"""The evidence as a differentiable function of the image.

Classes are decided upon by the engine alone, which measures without gradients. This is the same quantity, on the same
draws, objective, target and weights, for those who climb it: attacks, and whatever else asks how an image would have to
change. Noise is given by the caller, as a key: a hash of the content would be another draw at every step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffclass.errors import NonFiniteError, UnsupportedModel
from diffclass.evidence.distance import distance
from diffclass.evidence.draws import Draws
from diffclass.evidence.engine import Engine
from diffclass.noise import epsilons
from diffclass.types import Images

__all__ = ["DifferentiableEvidence"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DifferentiableEvidence:
    """log p(class) + evidence for every class, differentiable in the image through every draw and the denoiser.

    The gradient is exact, whatever the number of draws and classes, and memory does not grow with them: each chunk of
    cells (draw, class) is differentiated as soon as it is measured, and its gradient added to that of its class. What
    is kept is one gradient a class. It can be differentiated once; what lies before it (a purifier, the target's
    first step) is differentiated by autograd as usual.

    Args:
        engine: whose denoiser, classes, objective, target, prior and seed are meant. Its race and its stopping rule
            are not: every class sees every draw.
        chunk: cells measured at once; the engine's batch size if None.
    """

    engine: Engine
    chunk: int | None = None

    def draws(self, key: int, *, n: int | None = None) -> Draws:
        """Place the draws that an image of this key meets in the engine.

        Args:
            key: of the noise: `noise.image_key` of an image for the draws that the engine gives it.
            n: how many, whole blocks; the race's budget if None.
        """
        engine, block = self.engine, self.engine.race.block
        n = engine.race.n_draws if n is None else n
        return Draws.place(engine.objective, engine.sigma_range(), n=n, block=block, seed=engine.seed, key=key)

    def __call__(self, images: Images, draws: Sequence[Draws]) -> Float64[Tensor, "batch class"]:
        """Return the log joint of every image and class: log prior minus the mean of weight x error.

        Args:
            images: in image units; they may leave [0, 1].
            draws: of each image, as many for one as for another.

        Raises:
            UnsupportedModel: the images ask for a gradient, and the model gives none.
            NonFiniteError: the model returned NaN or infinity.
        """
        engine, denoiser = self.engine, self.engine.denoiser
        x = denoiser.encode(images.to(denoiser.device))
        x = engine.target.prepare(x, lambda y, sigma: denoiser(y, sigma, engine.conditions.without_class(len(y))))
        n_classes = len(engine.classes)
        told = [
            engine.target.class_targets(x[i : i + 1], n_classes, lambda y, s: denoiser(y, s, engine.conditions))
            for i in range(len(x))
        ]
        targets = None if told[0] is None else torch.stack([one for one in told if one is not None])
        joint = _Measured.apply(x, targets, lambda *given: self._measure(*given, draws=draws))
        if not bool(joint.isfinite().all()):
            raise NonFiniteError("The model returned NaN or infinity under attack. Try dtype float32.")
        prior = np.zeros(n_classes) if engine.log_prior is None else engine.log_prior
        return joint + torch.from_numpy(prior).to(joint)

    def _measure(
        self, x: Tensor, targets: Tensor | None, wanted: bool, *, draws: Sequence[Draws]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return minus the mean of weight x error [image, class], and its gradients by x and by the targets."""
        n_draws, n_classes = len(draws[0]), len(self.engine.classes)
        scales = torch.from_numpy(np.stack([one.weights for one in draws])) / -n_draws
        total = torch.zeros(len(x) * n_classes, dtype=torch.float64, device=x.device)
        rows = len(total) if wanted else 0
        by_x = torch.zeros(rows, *x.shape[1:], dtype=torch.float64, device=x.device)
        by_target = torch.zeros_like(by_x if targets is not None else by_x[:0])
        cells = torch.arange(len(x) * n_draws * n_classes)
        for chunk in cells.split(self.chunk or self.engine.batch_size):
            pair, label = chunk // n_classes, chunk % n_classes
            image, draw = pair // n_draws, pair % n_draws
            errors, gradients = self._errors(x, targets, image, draw, label, draws=draws, wanted=wanted)
            owner, scale = (image * n_classes + label).to(x.device), scales[image, draw].to(x.device)
            total.index_add_(0, owner, scale * errors.double())
            for sums, gradient in zip((by_x, by_target), gradients, strict=False):
                sums.index_add_(0, owner, scale.reshape(-1, 1, 1, 1) * gradient.double())
        by_x, by_target = (sums.reshape(-1, n_classes, *x.shape[1:]) for sums in (by_x, by_target))
        return total.reshape(len(x), n_classes), by_x, by_target

    def _errors(
        self, x: Tensor, targets: Tensor | None, image: Tensor, draw: Tensor, label: Tensor, *,
        draws: Sequence[Draws], wanted: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:  # fmt: skip
        """Return the errors of some cells, and each one's gradient by its own copy of x and of the target."""
        engine, device = self.engine, x.device
        sigma, noise = _noise(draws, image, draw, tuple(x.shape[1:]))
        sigma, noise, label = sigma.to(x), noise.to(x), label.to(device)
        with torch.set_grad_enabled(wanted):
            leaf = x[image.to(device)].detach().requires_grad_(wanted)
            noisy, target = engine.target(leaf, sigma, noise)
            leaves = (leaf,)
            if targets is not None:
                target = targets[image.to(device), label].detach().requires_grad_(wanted)
                leaves = (leaf, target)
            denoised = engine.denoiser(noisy, sigma, engine.conditions[label])
            if wanted and not denoised.requires_grad:
                raise UnsupportedModel(
                    f"The model gives no gradients: what {type(engine.denoiser).__name__} returns is cut off from what "
                    "it was given. Attack it without them, by 'square' and 'random'."
                )
            errors = distance(denoised, target, engine.objective.distance)
            gradients = torch.autograd.grad(errors.sum(), leaves) if wanted else ()
        return errors.detach(), gradients


def _noise(draws: Sequence[Draws], image: Tensor, draw: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return sigma and epsilon of some cells; cells of one draw, side by side, share them."""
    pairs, rows = torch.unique_consecutive(torch.stack([image, draw]), dim=1, return_inverse=True)
    places = [(draws[i], d) for i, d in pairs.T.tolist()]
    sources = [one.source(d) for one, d in places]
    noise = epsilons(draws[0].seed, [one.key for one, _ in places], [source for source, _ in sources], shape)
    noise *= torch.tensor([sign for _, sign in sources], dtype=torch.float32).reshape(-1, *[1] * len(shape))
    sigma = torch.tensor([one.sigmas[d] for one, d in places], dtype=torch.float32)  # as in the engine
    return sigma[rows], noise[rows]


class _Measured(torch.autograd.Function):
    """A value whose gradients were computed on the way, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, targets: Tensor | None, measure: Callable[..., tuple[Tensor, Tensor, Tensor]]
    ) -> Tensor:
        total, by_x, by_target = measure(x, targets, any(ctx.needs_input_grad[:2]))
        ctx.save_for_backward(by_x, by_target)
        ctx.dtype, ctx.has_targets = x.dtype, targets is not None
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        by_x, by_target = ctx.saved_tensors
        weights = upstream[:, :, None, None, None]
        of_targets = (weights * by_target).to(ctx.dtype) if ctx.has_targets else None
        return (weights * by_x).sum(dim=1).to(ctx.dtype), of_targets, None
