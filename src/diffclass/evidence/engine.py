"""The engine: the one place that calls the network to classify.

Each image is a race that asks for cells (draw, class). The engine packs the pending cells of many races into batches of
one fixed shape, calls the network once a batch, hands the errors back, and starts new races as old ones end. On a GPU
the next batch is packed and launched while one runs. `Engine.run` classifies a list; `Engine.open` leaves it to the
caller when races start, are given up, and when the network is called.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
import torch
from torch import Tensor

from diffclass.denoisers.protocol import Conditions, Denoiser, SharesDraws
from diffclass.errors import ConditionError, InputError, NonFiniteError, RangeError
from diffclass.evidence.batch import Cells, Contest, Flight, Queue, send
from diffclass.evidence.distance import distances, total
from diffclass.evidence.draws import Draws
from diffclass.evidence.evidence import Evidence
from diffclass.evidence.foresight import Foresight
from diffclass.evidence.objective import Objective
from diffclass.evidence.race import Race
from diffclass.evidence.target import Clean, Target
from diffclass.noise import epsilons, image_key
from diffclass.types import Latents, LogJoint, Survivors

__all__ = ["Engine", "Failed", "Finished", "Follow", "OpenRaces"]

Follow = Callable[[Evidence, Survivors], None]  # told what is known of a race that goes on, and which classes are in it


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


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Failed:
    """A race that was broken off because the network returned NaN or infinity.

    Args:
        index: of the image, as it was given.
        error: what to raise for it.
    """

    index: int
    error: NonFiniteError


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Engine:
    """Measures paired errors for many images at once.

    The noise of an image depends on the seed and its content alone, and a race is judged at its planned looks alone, so
    that neither the batch size, nor the order, nor the depth, nor an interruption changes an answer. What is kept
    depends on the batch size and the depth, and not on how many images there are: races that wait for at most so many
    cells are open, each with its matrix of errors.

    Args:
        denoiser: the model.
        conditions: one for each class, or for each prompt and class, the classes of a prompt side by side.
        classes: names.
        objective: weight, proposal and distance.
        race: when classes are dropped.
        target: clean or noised.
        log_prior: of each class; zeros if None.
        foresight: what is believed of an image in [0, 1] before its first draw; nothing if None.
        seed: of the noise.
        batch_size: cells (image, draw, class) a network call; every call has exactly this many. What the classes of a
            draw share (`SharesDraws`) is called on the draws among them.
        depth: batches under way at once; None is 2 on a GPU, which computes one while the next is packed, and else 1.
        watch: called with the cells of every batch and what each value of a latent adds to their errors, in the order
            of the cells; it waits for the device.
    """

    denoiser: Denoiser
    conditions: Conditions
    classes: tuple[str, ...]
    objective: Objective
    race: Race
    target: Target = field(default_factory=Clean)
    log_prior: LogJoint | None = None
    foresight: Callable[[Tensor], Foresight] | None = None
    seed: int = 0
    batch_size: int = 256
    depth: int | None = None
    watch: Callable[[Cells, Latents], None] | None = None

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise ConditionError(f"A classifier needs at least two classes. Got {len(self.classes)}.")
        if self.batch_size < 1:
            raise RangeError(f"The 'batch_size' parameter must be at least 1. Got {self.batch_size}.")
        if self.depth is not None and self.depth < 1:
            raise RangeError(f"The 'depth' parameter must be at least 1. Got {self.depth}.")
        assert len(self.conditions) % len(self.classes) == 0, (len(self.conditions), len(self.classes))

    @property
    def n_prompts(self) -> int:
        """Prompts of each class."""
        return len(self.conditions) // len(self.classes)

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
        return (outcome for outcome in self.stepwise(images) if outcome is not None)

    def stepwise(self, images: Iterable[tuple[int, Tensor]]) -> Iterator[Finished | None]:
        """Classify a stream as `run` does, and yield None after every network call: a place to stop at.

        Raises:
            NonFiniteError: the network returned NaN or infinity.
        """
        races, source = self.open(), iter(images)
        exhausted = False
        while True:
            while not exhausted and races.hungry:
                item = next(source, None)
                if item is None:
                    exhausted = True
                else:
                    races.enter(*item)
            if not len(races):
                return
            for outcome in races.step():
                if isinstance(outcome, Failed):
                    raise outcome.error
                yield outcome
            yield None

    def open(self) -> "OpenRaces":
        """Return races of this engine that start, go on and are given up as the caller says."""
        return OpenRaces(self)

    @torch.inference_mode()
    def _enter(self, index: int, image: Tensor, span: tuple[float, float]) -> Contest:
        """Encode one image and place its draws."""
        draws = Draws.place(
            self.objective,
            span,
            n=self.race.n_draws,
            block=self.race.block,
            seed=self.seed,
            key=image_key(image),
            n_prompts=self.n_prompts,
        )
        x = self.denoiser.encode(send(image[None], self.denoiser.device))
        x = self.target.prepare(x, lambda y, sigma: self.denoiser(y, sigma, self.conditions.without_class(len(y))))
        first = self.conditions[torch.arange(len(self.classes), device=self.denoiser.device)]
        targets = self.target.class_targets(x, len(self.classes), lambda y, s: self.denoiser(y, s, first))
        belief = None if self.foresight is None else self.foresight(image)
        stand_ins = self.race.stand_ins
        waiting = None if stand_ins is None or belief is not None else stand_ins.wait  # a first look has chosen already
        return Contest(index, x, draws, len(self.classes), targets, belief, waiting)

    @torch.inference_mode()
    def _launch(self, cells: Cells) -> Flight:
        """Call the network once, on a batch of the fixed shape; on a GPU, without waiting for it."""
        device, last = self.denoiser.device, len(cells) - 1
        owners, draws = cells.owners, cells.draws[cells.firsts]  # of each pair
        of_pair = [cells.contests[owner].draws for owner in owners]
        x = torch.cat([contest.x for contest in cells.contests])
        sources = [pair.source(int(draw)) for pair, draw in zip(of_pair, draws, strict=True)]
        shape = tuple(x.shape[1:])
        epsilon = epsilons(self.seed, [pair.key for pair in of_pair], [draw for draw, _ in sources], shape)
        epsilon *= torch.tensor([sign for _, sign in sources], dtype=torch.float32).reshape(-1, *[1] * len(shape))
        sigma = np.array([pair.sigmas[draw] for pair, draw in zip(of_pair, draws, strict=True)], dtype=np.float32)
        filled = np.minimum(np.arange(self.batch_size), last)  # the last cell again, to the fixed shape
        rows, classes = send(torch.from_numpy(np.stack([cells.pairs, cells.classes])[:, filled]), device)
        sigmas = send(torch.from_numpy(sigma), device)
        owner = send(torch.from_numpy(owners), device)
        noisy, target = self.target(x[owner], sigmas, send(epsilon, device))
        told = classes
        if self.n_prompts > 1:
            prompts = np.array([pair.prompt(int(draw)) for pair, draw in zip(of_pair, draws, strict=True)])
            told = classes + len(self.classes) * send(torch.from_numpy(prompts), device)[rows]
        denoised = self._denoise(noisy, sigmas, self.conditions[told], rows)
        of_classes = [contest.targets for contest in cells.contests if contest.targets is not None]
        wanted = torch.stack(of_classes)[owner[rows], classes] if of_classes else target[rows]
        parts = distances(denoised, wanted, self.objective.distance)[: len(cells)]
        if self.watch is not None:
            self.watch(cells, parts)
        return Flight(cells, total(parts).float())

    def _denoise(self, noisy: Tensor, sigmas: Tensor, conditions: Conditions, rows: Tensor) -> Tensor:
        """Denoise the cells of pairs; what all classes of a pair share is done once, if the model knows how."""
        if isinstance(self.denoiser, SharesDraws):
            return self.denoiser.denoise_each(noisy, sigmas, conditions, rows)
        return self.denoiser(noisy[rows], sigmas[rows], conditions)

    def _let_in(self, contest: Contest, queue: Queue) -> bool:
        """Ask the race, once, which of the classes that wait join; tell whether there is more to measure for that."""
        if contest.waiting is None:
            return False
        joining = contest.waiting & self.race.joins(self._evidence(contest))
        contest.looks[contest.waiting & ~joining] = contest.asked
        contest.waiting = None
        contest.alive = contest.alive | joining
        if joining.any():
            queue.ask_again(contest, joining)
        return bool(joining.any())

    def _fault(self, contest: Contest, draw: int, c: int) -> NonFiniteError:
        """Say where the network returned NaN or infinity."""
        return NonFiniteError(
            f"The model returned NaN or infinity for image {contest.index}, draw {draw}, "
            f"sigma {contest.draws.sigmas[draw]:.4g}, class {self.classes[c]!r}. "
            "Try dtype float32."
        )

    def _evidence(self, contest: Contest) -> Evidence:
        """Return what has been measured."""
        prior = np.zeros(len(self.classes)) if self.log_prior is None else self.log_prior
        return Evidence(
            errors=contest.errors, draws=contest.draws, classes=self.classes, log_prior=prior,
            foresight=contest.foresight, stand_ins=self.race.stand_ins,
        )  # fmt: skip

    def _judge(self, contest: Contest) -> Finished | None:
        """Ask the race who goes on; None if it does."""
        evidence = self._evidence(contest)
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


@final
class OpenRaces:
    """Races of one engine that share its batches while some start, some end and some are given up.

    What is measured of an image is what `Engine.run` would measure of it, whoever else is in the batch. One thread at a
    time may call these methods.

    Args:
        engine: that measures.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self._span = engine, engine.sigma_range()
        self._depth = engine.depth or (2 if engine.denoiser.device.type == "cuda" else 1)
        self._queue, self._flights = Queue(), deque[Flight]()
        self._races: dict[int, Contest] = {}
        self._followed: dict[int, tuple[Follow, tuple[int, int]]] = {}  # and the draws and classes last shown

    def __len__(self) -> int:
        return len(self._races)

    @property
    def hungry(self) -> bool:
        """Whether the next batch has room for another race."""
        return len(self._queue) < self.engine.batch_size

    def enter(self, index: int, image: Tensor, follow: Follow | None = None) -> None:
        """Start a race.

        Args:
            index: by which its outcome and `leave` name it, of no other race that is open.
            image: in [0, 1].
            follow: called whenever all classes in the race have seen further draws, and when some have left: with the
                evidence of these draws, and the classes that go on.
        """
        if index in self._races:
            raise InputError(f"Races that are open must have different indices. Got {index} twice.")
        contest = self.engine._enter(index, image, self._span)
        self._races[index] = contest
        if follow is not None:
            self._followed[index] = follow, (0, 0)
        self._ask(contest)

    def leave(self, index: int) -> bool:
        """Give a race up: none of its cells is measured from here on. Tell whether it was open."""
        contest = self._races.pop(index, None)
        self._followed.pop(index, None)
        if contest is not None:
            self._queue.drop(contest)
        return contest is not None

    def step(self) -> list[Finished | Failed]:
        """Call the network once at most, and return the races that end by it."""
        queue, flights = self._queue, self._flights
        # A batch that would not be full waits for what the batches under way will ask for.
        if len(queue) >= self.engine.batch_size or (queue and not flights):
            flights.append(self.engine._launch(queue.take(self.engine.batch_size)))
            if len(flights) < self._depth:
                return []
        return self._land(flights.popleft()) if flights else []

    def _ask(self, contest: Contest) -> None:
        """Queue the cells up to the race's next look."""
        race = self.engine.race
        self._queue.ask(contest, min(race.next_look(contest.asked), race.n_draws))

    def _land(self, flight: Flight) -> list[Finished | Failed]:
        """Hand the errors back, judge the races that have all of theirs, and return those that end."""
        cells, errors = flight.cells, flight.land()
        cells.store(errors)
        ended: list[Finished | Failed] = []
        broken = np.flatnonzero(~np.isfinite(errors))
        for cell, owner in zip(broken, np.searchsorted(cells.bounds, broken, side="right") - 1, strict=True):
            contest = cells.contests[owner]
            if self._is_open(contest):
                error = self.engine._fault(contest, int(cells.draws[cell]), int(cells.classes[cell]))
                self.leave(contest.index)
                ended.append(Failed(index=contest.index, error=error))
        for contest in filter(self._is_open, cells.contests):
            if contest.pending == 0 and not self.engine._let_in(contest, self._queue):
                finished = self.engine._judge(contest)
                if finished is not None:
                    del self._races[contest.index]
                    self._followed.pop(contest.index, None)
                    ended.append(finished)
                    continue
                self._ask(contest)
            self._show(contest)
        return ended

    def _is_open(self, contest: Contest) -> bool:
        return self._races.get(contest.index) is contest

    def _show(self, contest: Contest) -> None:
        """Tell who follows a race what is new, if something is."""
        if contest.index not in self._followed:
            return
        follow, shown = self._followed[contest.index]
        n = int(np.isfinite(contest.errors[:, contest.alive]).all(axis=1).sum())
        new = (n, int(contest.alive.sum()))
        if n and new != shown:
            self._followed[contest.index] = follow, new
            errors = contest.errors.copy()
            errors[n:] = np.nan
            follow(replace(self.engine._evidence(contest), errors=errors), contest.alive.copy())
