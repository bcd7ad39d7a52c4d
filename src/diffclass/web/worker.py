"""The one thread that calls the models: races of many requests in shared batches, and certificates between them."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Generator
from contextlib import suppress
from typing import Any, final

from jaxtyping import Float32
from torch import Tensor

from diffclass.decide.classifier import DiffusionClassifier
from diffclass.errors import DiffclassError
from diffclass.evidence import Failed, Finished, Follow, OpenRaces

__all__ = ["Job", "Steps", "Worker"]

Steps = Generator[None, None, Any]  # work that can be stopped wherever it yields
_LOG = logging.getLogger("diffclass")
_LINES = 8  # classifiers whose engines are kept while they have nothing to do


@final
class Job:
    """One request's work: events while it goes on, and at last a result or an error.

    Made in the event loop that follows it; the worker tells it what happens.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.cancelled = self.ended = False

    def tell(self, kind: str, data: Any) -> None:
        """Hand an event over to the event loop; in a loop that is closed nobody listens."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._events.put_nowait, (kind, data))

    def end(self, kind: str, data: Any) -> None:
        """Hand the last event over: "done" with a result, or "failed" with an exception."""
        self.ended = True
        self.tell(kind, data)

    async def next(self) -> tuple[str, Any]:
        """Wait for the next event: its kind and what it says."""
        return await self._events.get()


class _Line:
    """The races of one classifier, and the pictures that wait to race."""

    def __init__(self, classifier: DiffusionClassifier) -> None:
        self.classifier, self.races = classifier, OpenRaces(classifier.engine())
        self.waiting: deque[tuple[Job, Tensor, Follow | None]] = deque()
        self.jobs: dict[int, Job] = {}
        self._index = 0

    def __len__(self) -> int:
        return len(self.waiting) + len(self.jobs)

    def sweep(self) -> None:
        """Let go of what nobody waits for any more."""
        if any(job.cancelled for job, *_ in self.waiting):
            self.waiting = deque(item for item in self.waiting if not item[0].cancelled)
        for index in [index for index, job in self.jobs.items() if job.cancelled]:
            self.races.leave(index)
            del self.jobs[index]

    def step(self) -> None:
        """Let pictures in while the next batch has room, and call the network once."""
        while self.waiting and self.races.hungry:
            job, image, follow = self.waiting.popleft()
            self._index += 1
            try:
                self.races.enter(self._index, image, follow)
            except DiffclassError as error:
                job.end("failed", error)
            else:
                self.jobs[self._index] = job
        for outcome in self.races.step():
            self._end(self.jobs.pop(outcome.index), outcome)

    def _end(self, job: Job, outcome: Finished | Failed) -> None:
        if isinstance(outcome, Failed):
            job.end("failed", outcome.error)
            return
        try:
            decision = self.classifier.decide(outcome)
        except Exception as error:
            _report(error)
            job.end("failed", error)
        else:
            job.end("done", decision)

    def fail(self, error: Exception) -> None:
        """Tell everyone who waits that it went wrong."""
        for job in (*self.jobs.values(), *(job for job, *_ in self.waiting)):
            job.end("failed", error)


@final
class Worker:
    """One thread that does all the work of all models, a network call at a time.

    Pictures of one classifier share the batches of its engine: whoever comes while races run joins at the next call.
    Classifiers take turns, and so do certificates. A job that is cancelled is let go of before the next network call.
    """

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._arrived: deque[tuple[DiffusionClassifier | Steps, Job, Any]] = deque()
        self._lines: dict[DiffusionClassifier, _Line] = {}
        self._steps: deque[tuple[Job, Steps]] = deque()
        self._closed, self._load = False, 0
        self._thread = threading.Thread(target=self._run, name="diffclass-worker", daemon=True)

    @property
    def load(self) -> int:
        """Jobs that the worker holds, waiting ones included."""
        with self._wake:
            return self._load + len(self._arrived)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def close(self, timeout: float | None = None) -> None:
        """Stop after the network call under way; jobs in hand are forgotten."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def race(
        self,
        classifier: DiffusionClassifier,
        image: Float32[Tensor, "channel height width"],
        job: Job,
        follow: Follow | None = None,
    ) -> None:
        """Queue a picture: its job ends with a `Decision`."""
        self._add(classifier, job, (image, follow))

    def work(self, steps: Steps, job: Job) -> None:
        """Queue work that is done step by step: its job ends with what the generator returns."""
        self._add(steps, job, None)

    def cancel(self, job: Job) -> None:
        """Let go of a job; of one that has ended there is nothing to let go."""
        if not job.ended:
            with self._wake:
                job.cancelled = True
                self._wake.notify()

    def _add(self, what: DiffusionClassifier | Steps, job: Job, more: Any) -> None:
        with self._wake:
            self._arrived.append((what, job, more))
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._load = len(self._steps) + sum(map(len, self._lines.values()))
                self._wake.wait_for(lambda: self._closed or self._arrived or self._load)
                if self._closed:
                    return
                arrived = list(self._arrived)
                self._arrived.clear()
                self._load += len(arrived)
            for what, job, more in arrived:
                self._sort_in(what, job, more)
            self._turn()

    def _sort_in(self, what: DiffusionClassifier | Steps, job: Job, more: Any) -> None:
        if not isinstance(what, DiffusionClassifier):
            self._steps.append((job, what))
            return
        try:
            line = self._line(what)
        except Exception as error:
            _report(error)
            job.end("failed", error)
        else:
            line.waiting.append((job, *more))

    def _line(self, classifier: DiffusionClassifier) -> _Line:
        """Find the line of a classifier, and forget those that have been idle longest where there are many."""
        line = self._lines.pop(classifier, None) or _Line(classifier)
        idle = [other for other, found in self._lines.items() if not len(found)]
        for other in idle[: max(0, len(self._lines) + 1 - _LINES)]:
            del self._lines[other]
        self._lines[classifier] = line  # the latest is the last
        return line

    def _turn(self) -> None:
        """Give every line with something to do one network call, and the first of the other jobs one step."""
        for classifier, line in list(self._lines.items()):
            line.sweep()
            if not len(line):
                continue
            try:
                line.step()
            except Exception as error:
                _report(error)
                line.fail(error)
                del self._lines[classifier]
        for job, steps in [item for item in self._steps if item[0].cancelled]:
            self._steps.remove((job, steps))
            steps.close()
        if self._steps:
            self._step(*self._steps.popleft())

    def _step(self, job: Job, steps: Steps) -> None:
        try:
            next(steps)
        except StopIteration as done:
            job.end("done", done.value)
        except Exception as error:
            _report(error)
            job.end("failed", error)
        else:
            self._steps.append((job, steps))


def _report(error: Exception) -> None:
    """Log an error that is not one of ours: those are told to whoever asked."""
    if not isinstance(error, DiffclassError):
        _LOG.error("the worker met an error", exc_info=error)
