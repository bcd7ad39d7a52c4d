"""Rows of many images, made by actors of a Ray cluster that hold the model."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

from diffclass import errors
from diffclass.errors import DiffclassError, MissingExtra, RangeError

__all__ = ["answer_on_ray"]

Rows = list[dict[str, Any]]
Open = Callable[[], Callable[[Sequence[int]], Rows]]  # called once in each actor; what it returns, once a task


@final
class _Actor:
    """Holds the model, and answers the images it is sent."""

    def __init__(self, open_: Open, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._answer: Callable[[Sequence[int]], Rows] | None = None
        self._refusal: DiffclassError | None = None
        try:
            self._answer = open_()
        except DiffclassError as error:  # an actor that cannot start would be started again and again
            self._refusal = error

    def __call__(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """Answer the images of a task. Rows travel as JSON, so that they arrive as they are; so do errors of ours."""
        try:
            if self._answer is None:
                assert self._refusal is not None
                raise self._refusal
            return {"rows": json.dumps(self._answer(list(task["indices"]))), "error": "", "kind": ""}
        except DiffclassError as error:
            return {"rows": "[]", "error": str(error), "kind": type(error).__name__}


def answer_on_ray(
    open_: Open,
    indices: Sequence[int],
    *,
    workers: int | None = None,
    chunk: int = 16,
    gpus: float = 0.0,
) -> Iterator[Rows]:
    """Yield the rows of images as actors finish them, in no fixed order.

    A cluster that is running is used where RAY_ADDRESS names it; otherwise one is started on this machine and stopped
    at the end. Tasks are small, so that images that take long do not hold up others; a task whose actor dies is given
    to another one.

    Args:
        open_: loads the model and the data in an actor, and returns what turns indices into rows. It travels to the
            actors: a function that can be imported there, or a partial of one.
        indices: of images.
        workers: actors; None: one a GPU, or one for every two CPUs.
        chunk: images a task.
        gpus: of each actor.

    Raises:
        MissingExtra: Ray is not installed.
        RangeError: there is no worker.
        DiffclassError: an actor could not open what it needs, or could not answer; of the kind that it raised.
    """
    if workers is not None and workers < 1:
        raise RangeError(f"The 'workers' parameter of answer_on_ray must be at least 1. Got {workers}.")
    ray = _ray()
    mine = not ray.is_initialized()
    if mine:
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False, logging_level="error",
                 include_dashboard=False)  # fmt: skip
    try:
        resources = ray.cluster_resources()
        cpus = int(resources.get("CPU", 1))
        if workers is None:
            workers = max(1, int(resources.get("GPU", 0) / gpus) if gpus else cpus // 2)
        threads = max(1, cpus // workers)
        ray.data.DataContext.get_current().enable_progress_bars = False
        tasks = [{"indices": list(indices[start : start + chunk])} for start in range(0, len(indices), chunk)]
        answered = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map(
            _Actor, fn_constructor_args=(open_, threads), num_cpus=threads, num_gpus=gpus,
            compute=ray.data.ActorPoolStrategy(size=workers),
        )  # fmt: skip
        for row in answered.iter_rows():
            if row["kind"]:
                raise _raised(row["kind"], row["error"])
            yield json.loads(row["rows"])
    finally:
        if mine:
            ray.shutdown()


def _raised(kind: str, message: str) -> DiffclassError:
    """Return the error that an actor had, one of ours."""
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, DiffclassError):
        return found(message)
    return DiffclassError(message)


def _ray() -> Any:
    """Import Ray when it is asked for."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtra('--engine ray needs Ray: pip install "diffclass[ray]".') from error
    return ray
