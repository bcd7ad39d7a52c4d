"""One attack's looks at a defence, and the best image that it found."""

from collections.abc import Callable
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from torch import Tensor

from diffclass.robust.gradient import View, margin, wrong_log_odds
from diffclass.robust.threat import Threat

__all__ = ["Loss", "Search", "difference_ratio"]

Image = Float[Tensor, "channel height width"]
Loss = Callable[[Tensor, int], Tensor]  # (log joints, truth) -> what an attack climbs, one a row
_REMEMBERED = 8  # points: an attack asks for the loss of a point, then for its gradient, then for its label


def difference_ratio(target: int | None = None) -> Loss:
    """Return the difference-of-logits ratio, towards a class or away from the truth.

    (z_t - z_y) / (z_1 - z_3) away from the truth with t the best other class, and (z_t - z_y) / (z_1 - (z_3 + z_4) / 2)
    towards a class t, with z_i the i-th largest. With too few classes for it, the difference alone.

    Source:
        Croce and Hein 2020, equations 6 and 7 (arXiv:2003.01690).
    """

    def loss(joint: Tensor, label: int) -> Tensor:
        found = margin(joint, label) if target is None else joint[:, target] - joint[:, label]
        ordered = joint.sort(dim=1, descending=True).values
        n = joint.shape[1]
        if n < (3 if target is None else 4):
            return found
        low = ordered[:, 2] if target is None else (ordered[:, 2] + ordered[:, 3]) / 2
        return found / (ordered[:, 0] - low + 1e-12)

    return loss


@final
class Search:
    """What an attack may ask of a defence, and what it has found.

    Points outside the threat are answered, but never kept. The best point is the one of the largest log-odds against
    the truth, whatever loss is climbed.

    Args:
        view: of the defence.
        image: that is attacked.
        label: the truth, an index.
        threat: the budget.
        loss: what gradients are of.
    """

    def __init__(self, view: View, image: Image, label: int, threat: Threat, loss: Loss = wrong_log_odds) -> None:
        self.view, self.image, self.label, self.threat, self.loss = view, image, label, threat, loss
        self.best, self.margin = image, float("-inf")
        self.steps: list[float] = []  # best margin after each gradient
        self._seen: dict[bytes, tuple[ndarray, ndarray | None]] = {}

    def climb(self, loss: Loss) -> None:
        """Choose another loss; what was found so far stays."""
        self.loss = loss
        self._seen.clear()

    @property
    def gradients(self) -> int:
        """Gradients that were taken."""
        return len(self.steps)

    def joints(self, points: Float[ndarray, "batch _ _ _"]) -> Float64[ndarray, "batch class"]:
        """Return the log joint of some points."""
        return np.stack([self._look(point, gradient=False)[0] for point in _float32(points)])

    def margins(self, points: Float[ndarray, "batch _ _ _"]) -> Float64[ndarray, " batch"]:
        """Return the log-odds of the best wrong class at some points."""
        return margin(torch.from_numpy(self.joints(points)), self.label).numpy()

    def losses(self, points: Float[ndarray, "batch _ _ _"]) -> Float64[ndarray, " batch"]:
        """Return the loss of some points, whose gradients will be asked for next."""
        joints = np.stack([self._look(point, gradient=True)[0] for point in _float32(points)])
        return self.loss(torch.from_numpy(joints), self.label).numpy()

    def loss_gradients(self, points: Float[ndarray, "batch _ _ _"]) -> Float[ndarray, "batch _ _ _"]:
        """Return the exact gradient of the loss at some points."""
        found = [self._look(point, gradient=True)[1] for point in _float32(points)]
        return np.stack([one for one in found if one is not None])

    def _look(self, point: Float[ndarray, "_ _ _"], *, gradient: bool) -> tuple[ndarray, ndarray | None]:
        """Measure one point, or remember it."""
        name = point.tobytes()
        known = self._seen.get(name)
        if known is not None and (known[1] is not None or not gradient):
            return known
        x = torch.from_numpy(point)[None].clone().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            joint = self.view(x).cpu()
        slope = None
        if gradient:
            (found,) = torch.autograd.grad(self.loss(joint, self.label).sum(), x)
            slope = found[0].numpy()
        self._keep(x[0].detach(), float(margin(joint.detach(), self.label)[0]))
        if gradient:
            self.steps.append(self.margin)
        self._seen[name] = joint[0].detach().numpy(), slope
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return self._seen[name]

    def _keep(self, point: Image, found: float) -> None:
        """Remember the best point within the threat."""
        if found > self.margin and self.threat.distance(self.image, point) <= self.threat.epsilon * (1 + 1e-5):
            self.best, self.margin = self.threat.project(self.image, point), found

    def settle(self) -> float:
        """Measure the best point once more and return its margin: fresh noise flatters what was picked for it."""
        if self.view.access.noise == "fresh":
            with torch.no_grad():
                self.margin = float(margin(self.view(self.best[None]).cpu(), self.label)[0])
        return self.margin


def _float32(points: Float[ndarray, "batch _ _ _"]) -> Float[ndarray, "batch _ _ _"]:
    return np.ascontiguousarray(points, dtype=np.float32)
