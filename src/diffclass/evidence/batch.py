"""What races ask for, kept as ranges and packed into batches of cells, and what a batch measured on its device."""

from collections import deque
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy import ndarray
from torch import Tensor

from diffclass.evidence.draws import Draws
from diffclass.evidence.foresight import Foresight
from diffclass.types import Survivors

__all__ = ["Cells", "Contest", "Flight", "Queue", "send"]


@final
class Contest:
    """One image's race while it runs.

    Args:
        index: of the image, as it was given.
        x: the encoded image, on the model's device.
        draws: of the image.
        n_classes: classes that start.
        targets: what the denoiser should return for each class, where that differs from class to class.
        foresight: what is believed of the image; classes that are not tried do not start.
        waiting: classes that do not start, and may join later.
    """

    __slots__ = (
        *("alive", "asked", "draws", "errors", "foresight", "index", "looks", "pending", "targets", "waiting", "x"),
    )

    def __init__(
        self,
        index: int,
        x: Tensor,
        draws: Draws,
        n_classes: int,
        targets: Tensor | None = None,
        foresight: Foresight | None = None,
        waiting: Survivors | None = None,
    ) -> None:
        self.index, self.x, self.draws, self.targets = index, x, draws, targets
        self.errors = np.full((len(draws), n_classes), np.nan, dtype=np.float32)
        self.foresight, self.waiting = foresight, waiting
        self.alive: Survivors = np.ones(n_classes, dtype=bool) if foresight is None else foresight.tried.copy()
        if waiting is not None:
            self.alive &= ~waiting
        self.looks = np.zeros(n_classes, dtype=np.int64)
        self.asked = self.pending = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cells:
    """A batch of cells (image, draw, class): contest by contest, draw by draw, the classes of a draw side by side.

    A pair is a draw with the classes that are measured on it: they share one noisy image, and a model could share
    more.

    Args:
        contests: that the cells belong to, each once.
        bounds: where the cells of each contest begin, and the number of cells.
        draws: of each cell.
        classes: of each cell.
        pairs: pair of each cell.
        firsts: first cell of each pair.
    """

    contests: tuple[Contest, ...]
    bounds: Int64[ndarray, " _"]
    draws: Int64[ndarray, " batch"]
    classes: Int64[ndarray, " batch"]
    pairs: Int64[ndarray, " batch"]
    firsts: Int64[ndarray, " group"]

    def __len__(self) -> int:
        return len(self.draws)

    @property
    def owners(self) -> Int64[ndarray, " group"]:
        """Position of each pair's contest among the contests."""
        return np.searchsorted(self.bounds, self.firsts, side="right") - 1

    def store(self, errors: Float32[ndarray, " batch"]) -> None:
        """Hand each race the errors it asked for."""
        for contest, start, end in zip(self.contests, self.bounds[:-1], self.bounds[1:], strict=True):
            contest.errors[self.draws[start:end], self.classes[start:end]] = errors[start:end]
            contest.pending -= int(end - start)


class _Request:
    """Cells of one race: some classes on each draw of a range, in that order, of which some are taken."""

    __slots__ = ("alive", "contest", "start", "taken", "upto")

    def __init__(self, contest: Contest, start: int, upto: int, alive: ndarray) -> None:
        self.contest, self.start, self.upto, self.alive, self.taken = contest, start, upto, alive, 0

    def __len__(self) -> int:
        return (self.upto - self.start) * len(self.alive) - self.taken


@final
class Queue:
    """Cells that wait for a place in a batch, first come first served.

    A request is two numbers and its classes, however many cells it stands for, so that what is kept grows neither with
    the draws that are asked for at once nor with the images.
    """

    __slots__ = ("_n", "_requests")

    def __init__(self) -> None:
        self._requests: deque[_Request] = deque()
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def ask(self, contest: Contest, upto: int) -> None:
        """Queue a race's next draws, up to this number, for the classes still alive."""
        self._add(_Request(contest, contest.asked, upto, np.flatnonzero(contest.alive)))
        contest.asked = upto

    def ask_again(self, contest: Contest, classes: Survivors) -> None:
        """Queue all the draws so far for classes that join a race."""
        self._add(_Request(contest, 0, contest.asked, np.flatnonzero(classes)))

    def _add(self, request: _Request) -> None:
        request.contest.pending = len(request)
        if len(request):
            self._requests.append(request)
        self._n += len(request)

    def drop(self, contest: Contest) -> None:
        """Forget what a race asked for and has not been taken yet."""
        kept = [request for request in self._requests if request.contest is not contest]
        self._n -= sum(len(request) for request in self._requests if request.contest is contest)
        self._requests = deque(kept)

    def take(self, n: int) -> Cells:
        """Take the next n cells, or all there are."""
        chosen: list[_Request] = []
        before: list[int] = []  # cells of each that were taken earlier
        counts: list[int] = []
        room = n
        while room and self._requests:
            request = self._requests[0]
            left = len(request)
            count = min(left, room)
            chosen.append(request)
            before.append(request.taken)
            counts.append(count)
            request.taken += count
            room -= count
            if count == left:
                self._requests.popleft()
        self._n -= n - room
        return _cells(chosen, before, counts)


def _cells(requests: list[_Request], before: list[int], counts: list[int]) -> Cells:
    """Spell out the cells of requests, some after those taken before."""
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    owner = np.repeat(np.arange(len(requests)), counts)
    widths = np.array([len(request.alive) for request in requests])
    position = np.arange(bounds[-1]) - bounds[owner] + np.array(before)[owner]
    draws = np.array([request.start for request in requests])[owner] + position // widths[owner]
    alive = np.concatenate([request.alive for request in requests])
    classes = alive[(np.cumsum(widths) - widths)[owner] + position % widths[owner]]
    new = np.ones(len(draws), dtype=bool)
    new[1:] = (draws[1:] != draws[:-1]) | (owner[1:] != owner[:-1])
    return Cells(
        contests=tuple(request.contest for request in requests),
        bounds=bounds,
        draws=draws,
        classes=classes,
        pairs=np.cumsum(new) - 1,
        firsts=np.flatnonzero(new),
    )


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; to a GPU without waiting for it or for the work that it has already."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)  # the page-locked memory outlives the copy
    return tensor.to(device)


@final
class Flight:
    """A batch that is being measured, and its errors once they are there.

    Args:
        cells: that were asked for.
        errors: one a cell, on the device that computes them.
    """

    __slots__ = ("_errors", "_landed", "cells")

    def __init__(self, cells: Cells, errors: Float32[Tensor, " batch"]) -> None:
        self.cells, self._errors, self._landed = cells, errors, None
        if errors.device.type == "cuda":
            # Behind this batch's work and before the next batch's: a later .cpu() would wait for both.
            self._errors = torch.empty(errors.shape, dtype=errors.dtype, pin_memory=True)
            self._errors.copy_(errors, non_blocking=True)
            self._landed = torch.cuda.Event()
            self._landed.record(torch.cuda.current_stream(errors.device))

    def land(self) -> Float32[ndarray, " batch"]:
        """Wait for the errors."""
        if self._landed is not None:
            self._landed.synchronize()
        return self._errors.cpu().numpy()
