"""The loop that changes the weights of any model on captions: AdamW, resumable to the bit."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import get_ema_multi_avg_fn

from diffclass.errors import NonFiniteError, ResultError
from diffclass.train.crew import Crew
from diffclass.train.loop import Progress, plain_attention, random_at
from diffclass.train.tuning.recipe import TuningPart

__all__ = ["Task", "learning_rate_share", "tune"]

_REPORT_EVERY = 10  # steps
_ALONE = Crew()

Report = Callable[[Progress], None]


@runtime_checkable
class Task(Protocol):
    """A model with its data: what is trained, and the loss of a batch."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Return what is trained, by name."""
        ...

    def loss(self, step: int, part: int) -> Tensor:
        """Return the loss of one batch, of which a step has `accumulate`; a function of its arguments and weights."""
        ...


def learning_rate_share(train: TuningPart, step: int, steps: int) -> float:
    """Return the share of the peak learning rate at one step: linear warm-up, then the decay."""
    warmup = round(train.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[train.decay]


@contextmanager
def _global_stream(seed: int, step: int, part: int, device: torch.device) -> Iterator[None]:
    """Start torch's own random numbers, which dropout takes, anew for each batch, and leave them as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(random_at(seed, 4, step, part).initial_seed())
        yield


@final
class _Run:
    """Everything that changes while a model is tuned."""

    def __init__(self, task: Task, train: TuningPart, steps: int, identity: str, crew: Crew) -> None:
        self.crew, self.mine = crew, crew.share(train.accumulate, "the 'accumulate'")
        self.task, self.train, self.steps = task, train, steps
        self.identity = repr((identity, steps))
        named = task.parameters()
        self.names, self.weights = list(named), list(named.values())
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=train.learning_rate, betas=(0.9, 0.999), weight_decay=train.weight_decay, fused=True
        )
        self.average = [w.detach().clone() for w in self.weights] if train.ema_half_life else []
        self.step, self.seconds, self.loss = 0, 0.0, float("nan")

    def advance(self) -> Tensor:
        """Take one optimiser step and return its loss, left on the device."""
        train, total = self.train, torch.zeros((), device=self.task.device)
        self.optimizer.zero_grad(set_to_none=True)
        for part in range(train.accumulate)[self.mine]:
            device = self.task.device  # attention is the same where activations are computed a second time
            with _global_stream(train.seed, self.step, part, device), plain_attention(device):
                with torch.autocast(device.type, torch.bfloat16):
                    loss = self.task.loss(self.step, part) / train.accumulate
                loss.backward()
            total += loss.detach()
        total = self.crew.add(self.weights, total)
        if train.gradient_clip:
            clip_grad_norm_(self.weights, train.gradient_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = train.learning_rate * learning_rate_share(train, self.step, self.steps)
        self.optimizer.step()
        self.step += 1
        if self.average:
            decay = 0.5 ** (1 / max(1.0, train.ema_half_life * self.steps))
            with torch.no_grad():
                get_ema_multi_avg_fn(decay)(self.average, [w.detach() for w in self.weights], torch.tensor(self.step))
        return total

    def save(self, path: Path) -> None:
        """Write a checkpoint so that a kill at any moment leaves the old one or the new one."""
        part = path.with_suffix(".part")
        state = {
            "weights": dict(zip(self.names, (w.detach() for w in self.weights), strict=True)),
            "average": self.average, "optimizer": self.optimizer.state_dict(), "step": self.step,
            "seconds": self.seconds, "loss": self.loss, "recipe": self.identity,
        }  # fmt: skip
        try:
            torch.save(state, part)
            part.replace(path)
        except (OSError, RuntimeError) as error:
            part.unlink(missing_ok=True)
            raise ResultError(f"The checkpoint {path} could not be written: {error}.") from error

    def load(self, path: Path) -> None:
        """Take up a checkpoint of the same run."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["recipe"] != self.identity or list(state["weights"]) != self.names:
            raise ResultError(
                f"{path} belongs to another recipe, model or data set. Choose another --out, or remove it to start "
                "afresh."
            )
        with torch.no_grad():
            for kept, weight in zip(state["weights"].values(), self.weights, strict=True):
                weight.copy_(kept)
            for kept, average in zip(state["average"], self.average, strict=True):
                average.copy_(kept)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.loss = state["step"], state["seconds"], state["loss"]

    def finish(self) -> None:
        """Put the averaged weights, if there are any, into the model."""
        with torch.no_grad():
            for weight, average in zip(self.weights, self.average, strict=bool(self.average)):
                weight.copy_(average)


def tune(
    task: Task, train: TuningPart, *, steps: int, identity: str, checkpoint: Path, report: Report,
    crew: Crew = _ALONE, checkpoint_seconds: float = 300.0, report_every: int = _REPORT_EVERY,
) -> float:  # fmt: skip
    """Train by the recipe's [train] part, in place, and return the seconds it took in all.

    A checkpoint is written every five minutes, on an interrupt and at the end; a run that finds one goes on from there
    and ends with the weights that an unbroken run would have had.

    Args:
        task: the model and its data.
        train: how.
        steps: optimiser steps.
        identity: what else the weights depend on.
        checkpoint: file of the run's state.
        report: called with the progress.
        crew: of processes that train together, each on its part of the batches of a step; the one that leads reports
            and writes.
        checkpoint_seconds: time between checkpoints.
        report_every: steps between reports.

    Raises:
        ConfigError: the batches of a step cannot be shared by the crew equally.
        NonFiniteError: the loss became NaN or infinite; the last checkpoint is kept.
        ResultError: a checkpoint could not be written, or belongs to another run.
    """
    run = _Run(task, train, steps, identity, crew)
    if checkpoint.is_file():
        run.load(checkpoint)
    started, first, before, saved = time.monotonic(), run.step, run.seconds, time.monotonic()
    try:
        while run.step < steps:
            loss = run.advance()
            now = time.monotonic()
            run.seconds = before + now - started
            if run.step % report_every == 0 or run.step == steps:
                value = float(loss)
                if not math.isfinite(value):
                    raise NonFiniteError(f"The training loss became {value} at step {run.step}. Lower learning_rate.")
                run.loss = value if math.isnan(run.loss) else 0.9 * run.loss + 0.1 * value
                if not crew.leads:
                    continue
                speed = (run.step - first) * train.batch_size * train.accumulate / max(now - started, 1e-9)
                report(Progress(step=run.step, steps=steps, loss=run.loss, images_per_second=speed,
                                seconds=run.seconds))  # fmt: skip
                if now - saved > checkpoint_seconds:
                    run.save(checkpoint)
                    saved = time.monotonic()
    except KeyboardInterrupt:
        if crew.leads:
            run.save(checkpoint)
        raise
    if run.step > first and crew.leads:
        run.save(checkpoint)
    run.finish()
    return run.seconds
