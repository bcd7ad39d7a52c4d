"""Pictures on the disk, each with the record of its scene beside it: made by one process, or by several."""

import json
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any, final

from diffclass.data.scenes.placing import Wanted, draw_scene
from diffclass.data.scenes.rendering import Renderer
from diffclass.data.scenes.scene import SIZES, Scene
from diffclass.data.scenes.seeing import Seen, doubts, see
from diffclass.errors import RangeError, ResultError

__all__ = ["Job", "draw_visible_scene", "make_pictures"]

_DRAWS = 200  # scenes that may be rejected before it is said that there is no room
_CHUNK = 4  # jobs that a process takes at a time


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One picture to make.

    Args:
        path: of the picture; the record is beside it, ending in .json.
        seed: of everything that is drawn; any text.
        wanted: objects to show.
        relation: of the first to the second.
        sizes: of objects, to draw from.
        about: what else the record says.
    """

    path: Path
    seed: str
    wanted: tuple[Wanted, ...]
    relation: str | None = None
    sizes: tuple[str, ...] = tuple(SIZES)
    about: tuple[tuple[str, str], ...] = ()

    @property
    def record_path(self) -> Path:
        """Of the record."""
        return self.path.with_suffix(".json")

    @property
    def is_done(self) -> bool:
        """Whether the picture and its record are there; the record is written first."""
        return self.path.is_file() and self.record_path.is_file()


def draw_visible_scene(
    renderer: Renderer, random: Random, wanted: Sequence[Wanted], *, relation: str | None = None,
    sizes: Sequence[str] = tuple(SIZES),
) -> tuple[Scene, tuple[Seen, ...]]:  # fmt: skip
    """Draw scenes until nothing is wrong with one, and say what can be seen in it.

    Raises:
        RangeError: no scene of many was right.
    """
    for _ in range(_DRAWS):
        scene = draw_scene(random, wanted, relation=relation, sizes=sizes)
        seen = see(renderer, scene)
        if not doubts(scene, seen, renderer.size):
            return scene, seen
    raise RangeError(f"{len(wanted)} objects hide each other in {_DRAWS} scenes. Ask for fewer.")


def make_pictures(jobs: Sequence[Job], *, size: int, samples: int, workers: int = 1) -> Iterator[Job]:
    """Make the pictures that are not there, and yield every job when it is done, in their order.

    A file appears whole or not at all, so that a run that was killed can be started again.

    Args:
        size: height and width [pixels].
        samples: of light a pixel.
        workers: processes. Pictures do not depend on their number.

    Raises:
        MissingExtra: mitsuba is not installed.
        RangeError: the size or the samples are out of range, or there is no room for the objects.
        ResultError: a picture cannot be written, or a process was killed.
    """
    if workers < 1:
        raise RangeError(f"The number of workers must be at least 1. Got {workers}.")
    if workers == 1:
        with Renderer(size, samples) as renderer:
            for job in jobs:
                _make(renderer, job)
                yield job
        return
    with Renderer(size, samples):  # what is wrong is said here, before there are processes
        pass
    options: dict[str, Any] = {"mp_context": get_context("spawn"), "initializer": _start, "initargs": (size, samples)}
    with ProcessPoolExecutor(workers, **options) as pool:
        try:
            for job, _ in zip(jobs, pool.map(_work, jobs, chunksize=_CHUNK), strict=True):
                yield job
        except BrokenProcessPool as error:
            raise ResultError("A process that rendered was killed. Run the same command again to go on.") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_renderer: Renderer | None = None  # of a worker process


def _start(size: int, samples: int) -> None:
    """Prepare a worker; interrupts are for the process that started it, and it ends when that one does."""
    global _renderer  # noqa: PLW0603
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    _renderer = Renderer(size, samples)


def _end_with_parent() -> None:
    """Wait until the process that started this one is gone, killed perhaps, and leave."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    if _renderer is not None:
        _renderer.__exit__()
    os._exit(1)


def _work(job: Job) -> None:
    assert _renderer is not None
    _make(_renderer, job)


def _make(renderer: Renderer, job: Job) -> None:
    """Draw, check, render and write one picture, unless it is there."""
    from PIL import Image

    if job.is_done:
        return
    drawn = draw_visible_scene(renderer, Random(job.seed), job.wanted, relation=job.relation, sizes=job.sizes)
    scene, seen = drawn
    image = {"size": renderer.size, "samples": renderer.samples, "renderer": f"mitsuba {renderer.version}"}
    record = {**scene.record(), "image": image, "seen": [asdict(one) for one in seen], **dict(job.about)}
    scratch = job.path.with_name(f".{job.path.stem}.{os.getpid()}.tmp")
    try:
        job.path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(f"{json.dumps(record)}\n", encoding="utf-8")
        scratch.replace(job.record_path)
        Image.fromarray(renderer.picture(scene)).save(scratch, format="PNG")
        scratch.replace(job.path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise ResultError(f"The picture '{job.path}' cannot be written: {error.strerror or error}.") from error
