"""The engine: the one place that calls the network to classify.

Each image is a race that asks for cells (draw, class). The engine packs the pending cells of many races into batches of
one fixed shape, calls the network once a batch, hands the errors back, and starts new races as old ones end.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from diffclass.denoisers.protocol import Conditions, Denoiser
from diffclass.errors import ConditionError, NonFiniteError, RangeError
from diffclass.evidence.draws import Draws
from diffclass.evidence.evidence import Evidence
from diffclass.evidence.objective import Objective
from diffclass.evidence.race import Race
from diffclass.evidence.target import Clean, Target
from diffclass.noise import image_key
from diffclass.types import LogJoint, Survivors

__all__ = ["Engine", "Finished"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finished:
    """A race that has ended.

    Args:
        index: of the image, as it was given.
        evidence: everything that was measured.
        survivors: classes the race ended with.
        reason: "confidence" (one class left before the budget), "budget" (every draw used) or "undecided" (every draw
            used, and the race wanted a single survivor).
        looks: after how many draws each class was dropped; 0 for survivors.
    """

    index: int
    evidence: Evidence
    survivors: Survivors
    reason: str
    looks: np.ndarray


class _Contest:
    """One image's race while it runs."""

    __slots__ = ("alive", "asked", "draws", "errors", "index", "looks", "pending", "x")

    def __init__(self, index: int, x: Tensor, draws: Draws, n_classes: int) -> None:
        self.index, self.x, self.draws = index, x, draws
        self.errors = np.full((len(draws), n_classes), np.nan, dtype=np.float32)
        self.alive = np.ones(n_classes, dtype=bool)
        self.looks = np.zeros(n_classes, dtype=np.int64)
        self.asked = self.pending = 0


def _distance(denoised: Tensor, target: Tensor, name: str) -> Tensor:
    """Return the distance summed over each latent, in float32."""
    difference = denoised.float() - target.float()
    if name == "l2":
        values = difference**2
    elif name == "l1":
        values = difference.abs()
    else:
        values = smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none")
    return values.flatten(1).sum(dim=1)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Engine:
    """Measures paired errors for many images at once.

    The noise of an image depends on the seed and its content alone, so that neither the batch size, nor the order, nor
    an interruption changes an answer.

    Args:
        denoiser: the model.
        conditions: one for each class.
        classes: names.
        objective: weight, proposal and distance.
        race: when classes are dropped.
        target: clean or noised.
        log_prior: of each class; zeros if None.
        seed: of the noise.
        batch_size: cells (image, draw, class) a network call; every call has exactly this many.
    """

    denoiser: Denoiser
    conditions: Conditions
    classes: tuple[str, ...]
    objective: Objective
    race: Race
    target: Target = field(default_factory=Clean)
    log_prior: LogJoint | None = None
    seed: int = 0
    batch_size: int = 256

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise ConditionError(f"A classifier needs at least two classes. Got {len(self.classes)}.")
        if self.batch_size < 1:
            raise RangeError(f"The 'batch_size' parameter must be at least 1. Got {self.batch_size}.")

    def sigma_range(self) -> tuple[float, float]:
        """[model units] The part of the objective's noise range that the model and the target allow."""
        low, high = self.objective.sigma_range or self.denoiser.sigma_range
        low = max(low, self.denoiser.sigma_range[0], self.target.sigma_floor)
        high = min(high, self.denoiser.sigma_range[1])
        if not low < high:
            raise RangeError(
                f"No noise level is left between {low:.4g} and {high:.4g} [model units]: the objective, the model "
                f"(trained on {self.denoiser.sigma_range}) and tau = {self.target.tau:.4g} exclude each other."
            )
        return low, high

    def run(self, images: Iterable[tuple[int, Tensor]]) -> Iterator[Finished]:
        """Classify a stream of (index, image in [0, 1]) and yield races as they end, in no fixed order.

        Raises:
            NonFiniteError: the network returned NaN or infinity.
        """
        source = iter(images)
        span = self.sigma_range()
        queue: deque[tuple[_Contest, int, int]] = deque()  # (contest, draw, class)
        exhausted = False
        while True:
            while not exhausted and len(queue) < self.batch_size:
                item = next(source, None)
                if item is None:
                    exhausted = True
                else:
                    self._ask(self._enter(*item, span), queue)
            if not queue:
                return
            cells = [queue.popleft() for _ in range(min(self.batch_size, len(queue)))]
            self._measure(cells)
            for contest in dict.fromkeys(cell[0] for cell in cells):
                if contest.pending == 0:
                    finished = self._judge(contest)
                    if finished is None:
                        self._ask(contest, queue)
                    else:
                        yield finished

    @torch.inference_mode()
    def _enter(self, index: int, image: Tensor, span: tuple[float, float]) -> _Contest:
        """Encode one image and place its draws."""
        draws = Draws.place(
            self.objective, span, n=self.race.n_draws, block=self.race.block, seed=self.seed, key=image_key(image)
        )
        x = self.denoiser.encode(image[None].to(self.denoiser.device))
        x = self.target.prepare(x, lambda y, sigma: self.denoiser(y, sigma, self.conditions.without_class(len(y))))
        return _Contest(index, x, draws, len(self.classes))

    def _ask(self, contest: _Contest, queue: deque[tuple[_Contest, int, int]]) -> None:
        """Queue the cells up to the race's next look, the classes of a draw side by side."""
        upto = min(self.race.next_look(contest.asked), self.race.n_draws)
        alive = np.flatnonzero(contest.alive).tolist()
        queue.extend((contest, draw, c) for draw in range(contest.asked, upto) for c in alive)
        contest.pending = (upto - contest.asked) * len(alive)
        contest.asked = upto

    @torch.inference_mode()
    def _measure(self, cells: list[tuple[_Contest, int, int]]) -> None:
        """Call the network once, on a batch of the fixed shape, and hand the errors back."""
        pairs: dict[tuple[_Contest, int], int] = {}
        row = [pairs.setdefault((contest, draw), len(pairs)) for contest, draw, _ in cells]
        padding = self.batch_size - len(cells)
        device = self.denoiser.device
        rows = torch.tensor(row + row[-1:] * padding, device=device)
        classes = torch.tensor([c for _, _, c in cells] + [cells[-1][2]] * padding, device=device)
        x = torch.cat([contest.x for contest, _ in pairs])
        shape = tuple(x.shape[1:])
        epsilon = torch.cat([contest.draws.epsilon(range(d, d + 1), shape) for contest, d in pairs]).to(device)
        sigma = torch.tensor([contest.draws.sigmas[d] for contest, d in pairs], dtype=torch.float32, device=device)
        noisy, target = self.target(x, sigma, epsilon)
        denoised = self.denoiser(noisy[rows], sigma[rows], self.conditions[classes])
        errors = _distance(denoised, target[rows], self.objective.distance)[: len(cells)].cpu().numpy()
        if not np.isfinite(errors).all():
            contest, draw, c = cells[int(np.flatnonzero(~np.isfinite(errors))[0])]
            raise NonFiniteError(
                f"The model returned NaN or infinity for image {contest.index}, draw {draw}, "
                f"sigma {contest.draws.sigmas[draw]:.4g}, class {self.classes[c]!r}. Try dtype float32."
            )
        for (contest, draw, c), error in zip(cells, errors, strict=True):
            contest.errors[draw, c] = error
            contest.pending -= 1

    def _judge(self, contest: _Contest) -> Finished | None:
        """Ask the race who goes on; None if it does."""
        prior = np.zeros(len(self.classes)) if self.log_prior is None else self.log_prior
        evidence = Evidence(errors=contest.errors, draws=contest.draws, classes=self.classes, log_prior=prior)
        survivors = self.race.survivors(evidence)
        contest.looks[contest.alive & ~survivors] = contest.asked
        contest.alive = survivors
        done = contest.asked >= self.race.n_draws
        if survivors.sum() > 1 and not done:
            return None
        reason = "confidence"
        if done:
            reason = "undecided" if self.race.abstains and survivors.sum() > 1 else "budget"
        return Finished(index=contest.index, evidence=evidence, survivors=survivors, reason=reason, looks=contest.looks)
