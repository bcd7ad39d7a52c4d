"""Where requests become jobs: places that are limited, pictures, and following a job until it ends or nobody waits."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from functools import partial
from math import ceil
from typing import Any, final

from anyio import CapacityLimiter, to_thread
from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from diffclass.data.images import Prepared, Resize
from diffclass.decide.classifier import DiffusionClassifier
from diffclass.errors import Busy, InputError
from diffclass.robust import Certification, CopyClassifier, NoisedRaces, Smoothing, copy_classifier
from diffclass.web.limits import Limits
from diffclass.web.offer import Offer
from diffclass.web.pictures import open_picture, png, png_address
from diffclass.web.samples import find_sample
from diffclass.web.telling import progress_row
from diffclass.web.worker import Job, Worker

__all__ = ["ClientGone", "Desk", "Place", "certificate_steps", "seen"]

_CHUNK = 128  # noisy copies between two reports
_EVERY = 0.1  # [seconds] between two reports
_DECODERS = 2  # pictures decoded at once


class ClientGone(Exception):
    """Whoever asked has hung up."""


@final
class Place:
    """A place among the requests in hand; given back once."""

    def __init__(self, pool: "_Pool") -> None:
        self._pool, self._taken, self._started = pool, True, time.monotonic()

    def give_back(self) -> None:
        """Let the next one in."""
        if self._taken:
            self._taken = False
            self._pool.leave(time.monotonic() - self._started)


class _Pool:
    """So many places, and about how long one is taken."""

    def __init__(self, size: int, what: str) -> None:
        self.size, self._what, self.taken, self._seconds = size, what, 0, 1.0

    def take(self) -> Place:
        if self.taken >= self.size:
            raise Busy(f"The server has {self.taken} {self._what} in hand and takes no more. "
                       f"Try again in {self.wait} s.")  # fmt: skip
        self.taken += 1
        return Place(self)

    def leave(self, seconds: float) -> None:
        self.taken -= 1
        self._seconds += 0.2 * (seconds - self._seconds)

    @property
    def wait(self) -> int:
        """[seconds] After which a place should be free."""
        return min(60, max(1, ceil(self._seconds)))


@final
class Desk:
    """Takes requests in and follows them.

    Args:
        offer: the models.
        limits: of what is taken in.
    """

    def __init__(self, offer: Offer, limits: Limits) -> None:
        self.offer, self.limits, self.worker = offer, limits, Worker()
        self._pools = {
            "race": _Pool(limits.waiting, "pictures"),
            "steps": _Pool(limits.certificates, "certificates and explanations"),
        }
        self._decoders = CapacityLimiter(_DECODERS)

    def take(self, kind: str) -> Place:
        """Take a place, of "race" or "steps".

        Raises:
            Busy: there is none.
        """
        return self._pools[kind].take()

    def wait(self) -> int:
        """[seconds] After which it is worth trying again."""
        return max(pool.wait for pool in self._pools.values() if pool.taken)

    @property
    def in_hand(self) -> dict[str, int]:
        """Requests in hand by kind, and jobs that the worker holds."""
        return {
            "pictures": self._pools["race"].taken, "certificates": self._pools["steps"].taken,
            "working": self.worker.load,
        }  # fmt: skip

    async def classifier(self, model: str, labels: list[str]) -> DiffusionClassifier:
        """Find a classifier, and load its model if it is the first time."""
        if len(labels) > self.limits.labels or any(len(label) > 200 for label in labels):
            raise InputError(f"A request may name {self.limits.labels} labels of 200 characters at most.")
        return await to_thread.run_sync(self.offer.classifier, model, labels)

    async def content(self, request: Request, sample: str | None) -> bytes:
        """Read the picture that came with a request, or that it names."""
        if sample is not None:
            return (await to_thread.run_sync(find_sample, sample)).content
        try:
            return await asyncio.wait_for(request.body(), self.limits.upload_seconds)
        except TimeoutError as error:
            sentence = f"An upload must be complete within {self.limits.upload_seconds:g} s."
            raise HTTPException(408, sentence) from error
        except ClientDisconnect as error:
            raise ClientGone from error

    async def prepare(
        self, content: bytes, classifier: DiffusionClassifier, *, resize: Resize, convert: bool
    ) -> Prepared:
        """Open a picture for a model; only a few are decoded at once."""
        shape = classifier.denoiser.space.image_shape
        work = partial(open_picture, content, shape, self.limits, resize=resize, convert=convert)
        return await to_thread.run_sync(work, limiter=self._decoders)

    async def follow(self, request: Request, job: Job, place: Place) -> AsyncGenerator[tuple[str, Any], None]:
        """Yield a job's events to the last; cancel it as soon as nobody waits for it.

        Raises:
            ClientGone: whoever asked has hung up.
        """
        gone = asyncio.create_task(_gone(request))
        try:
            while True:
                coming = asyncio.create_task(job.next())
                try:
                    await asyncio.wait({coming, gone}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    arrived = coming.done()
                    coming.cancel()
                if not arrived:
                    raise ClientGone
                kind, data = coming.result()
                if kind == "failed":
                    raise data
                yield kind, data
                if kind == "done":
                    return
        finally:
            gone.cancel()
            self.worker.cancel(job)
            place.give_back()

    async def result(self, request: Request, job: Job, place: Place) -> Any:
        """Return what a job ends with."""
        async with aclosing(self.follow(request, job, place)) as events:
            async for kind, data in events:
                if kind == "done":
                    return data
        raise AssertionError("a job ends with a result or an error")

    async def copies(
        self, classifier: DiffusionClassifier, *, sigma: float, noised: str | None, settings: Smoothing
    ) -> CopyClassifier:
        """Build what labels noisy copies, and check everything that can be checked before the first one."""

        def build() -> CopyClassifier:
            settings.plan(sigma)
            return copy_classifier(classifier, sigma=sigma, noised=noised)

        copies = await to_thread.run_sync(build)
        copies.chunk = 16 if isinstance(copies, NoisedRaces) else _CHUNK
        return copies


async def _gone(request: Request) -> None:
    """Return when whoever asked has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def seen(prepared: Prepared) -> dict[str, Any]:
    """Return what was done to a picture, and how the model sees it."""
    content = png(prepared)
    _, height, width = prepared.pixels.shape
    return {
        "changes": list(prepared.changes), "width": width, "height": height,
        "png": None if content is None else png_address(content),
    }  # fmt: skip


def certificate_steps(work: Certification, job: Job) -> Generator[None, None, Certification]:
    """Make a certificate step by step, and report now and then."""
    reported = 0.0
    while work.reason is None:
        for _ in work.steps():
            yield
        if time.monotonic() - reported >= _EVERY:
            reported = time.monotonic()
            job.tell("progress", progress_row(work))
        yield
    return work
