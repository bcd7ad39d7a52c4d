"""The training loop: EDM's loss, top to bottom, resumable to the bit."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from diffclass.denoisers.parametrisation import EDM
from diffclass.denoisers.protocol import Space
from diffclass.errors import NonFiniteError, ResultError
from diffclass.train.crew import Crew
from diffclass.train.noising import draw_sigmas, loss_factor, parametrisation
from diffclass.train.optimizer import Optimizer
from diffclass.train.recipe import DataPart, NoisePart, Recipe, TrainPart

__all__ = [
    "Progress",
    "TrainingSet",
    "augment",
    "edm_loss",
    "pick",
    "pick_indices",
    "plain_attention",
    "random_at",
    "schedule",
    "train_network",
]

_ALONE = Crew()


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingSet:
    """Images with what is true of them.

    Args:
        images: as they are stored (uint8, a quarter of the memory), or floats in [0, 1].
        labels: their classes.
        prompts: numbers of the captions of each image, equally many for all, or None where classes are told.
    """

    images: UInt8[Tensor, "image channel height width"] | Float[Tensor, "image channel height width"]
    labels: Int64[Tensor, " image"]
    prompts: Int64[Tensor, "image prompt"] | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run is.

    Args:
        step: optimiser steps done.
        steps: of how many.
        loss: running mean of the training loss.
        images_per_second: since the run was started or resumed.
        seconds: of training so far, earlier starts included.
    """

    step: int
    steps: int
    loss: float
    images_per_second: float
    seconds: float


def random_at(seed: int, *position: int, device: torch.device | None = None) -> torch.Generator:
    """Open the stream of one place in the run: a resumed run draws exactly what an unbroken one would."""
    state = np.random.SeedSequence([seed, *position]).generate_state(1, np.uint64)[0]
    return torch.Generator(device or torch.device("cpu")).manual_seed(int(state) % 2**63)


def pick(data: TrainingSet, train: TrainPart, step: int) -> Int64[Tensor, " batch"]:
    """Pick the images of one step: consecutive pieces of one permutation an epoch."""
    return pick_indices(len(data.labels), train.batch_size, train.seed, step)


def pick_indices(n: int, batch_size: int, seed: int, step: int) -> Int64[Tensor, " batch"]:
    """Pick batch_size of n things for one step: consecutive pieces of one permutation an epoch."""
    wanted = np.arange(step * batch_size, (step + 1) * batch_size)
    picked = []
    for epoch in np.unique(wanted // n):
        order = torch.randperm(n, generator=random_at(seed, 1, int(epoch)))
        picked.append(order[torch.from_numpy(wanted[wanted // n == epoch] % n)])
    return torch.cat(picked)


def augment(images: Tensor, part: DataPart, random: torch.Generator) -> Tensor:
    """Mirror and shift images as the recipe says."""
    n, _, height, width = images.shape
    if part.flip:
        mirrored = torch.rand(n, generator=random) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    if part.shift:
        offset = torch.randint(-part.shift, part.shift + 1, (n, 2), generator=random)
        rows = (torch.arange(height) + offset[:, :1]).clamp(0, height - 1)
        columns = (torch.arange(width) + offset[:, 1:]).clamp(0, width - 1)
        images = images[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return images


def edm_loss(
    network: Callable[..., Any],
    x: Tensor,
    sigma: Tensor,
    epsilon: Tensor,
    labels: Tensor,
    edm: EDM,
    factor: Tensor | None = None,
) -> Tensor:
    """Return EDM's loss: lambda(sigma) ||D - x||^2 a value, which is the plain error of the network's output F.

    Args:
        network: called as the training loop calls it.
        x: [model units] images without noise.
        sigma: [model units] noise level of each.
        epsilon: noise of unit variance.
        labels: what the network is told.
        edm: what its output means.
        factor: of each image's error; None: 1.

    Source:
        Karras et al. 2022, equation 8 and Table 1, "Training" (arXiv:2206.00364).
    """
    noisy = x + sigma[:, None, None, None] * epsilon
    model_input, model_time = edm.prepare(noisy, sigma)
    output = network(model_input, model_time, class_labels=labels).sample
    denoised = edm.denoised(noisy, sigma, output.float())
    weight = (sigma**2 + edm.sigma_data**2) / (sigma * edm.sigma_data) ** 2
    weight = weight if factor is None else weight * factor
    return (weight[:, None, None, None] * (denoised - x) ** 2).mean()


@contextmanager
def plain_attention(device: torch.device) -> Iterator[None]:
    """Use plain attention on a CPU, whose backward pass is more than twice as fast there."""
    if device.type == "cpu":
        with sdpa_kernel(SDPBackend.MATH):
            yield
    else:
        yield


@contextmanager
def _precision(device: torch.device) -> Iterator[None]:
    """Use bf16 autocast, and on a CPU also plain attention."""
    with torch.autocast(device.type, torch.bfloat16), plain_attention(device):
        yield


def schedule(train: TrainPart, step: int) -> float:
    """Return the share of the peak learning rate at one step: linear warm-up, then cosine decay to zero."""
    warmup = max(1, round(train.warmup * train.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, train.steps - warmup)))


def _identity(recipe: Recipe) -> str:
    """Return what the weights depend on; names, texts and the default classifier may change."""
    parts = (recipe.data.shape, recipe.data.flip, recipe.data.shift, recipe.network, recipe.train)
    told = (recipe.data.captions, recipe.data.spoken, dict(recipe.network.text))
    other = (recipe.network.haar, recipe.network.fit, recipe.noise)
    named = recipe.data.captions or recipe.data.captioned
    return repr((*parts, *(told if named else ()), *(other if other != (False, False, NoisePart()) else ())))


@final
class _Run:
    """Everything that changes while a network trains."""

    def __init__(self, network: nn.Module, train: TrainPart, device: torch.device, crew: Crew) -> None:
        self.crew, self.mine = crew, crew.share(train.batch_size, "a batch")
        self.network = network.to(device).to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
        decay = 0.5 ** (1 / max(1.0, train.ema_half_life * train.steps))
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self.forward = torch.compile(self.network) if train.compile else self.network
        self.optimizer = Optimizer(self.network, train)
        self.step = 0
        self.seconds = 0.0
        self.loss = float("nan")

    def state(self) -> dict[str, object]:
        """Return what an exact resume needs."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "loss": self.loss,
        }

    def save(self, path: Path, recipe: Recipe) -> None:
        """Write a checkpoint so that a kill at any moment leaves the old one or the new one."""
        part = path.with_suffix(".part")
        try:
            torch.save(self.state() | {"recipe": _identity(recipe)}, part)
            part.replace(path)
        except (OSError, RuntimeError) as error:
            part.unlink(missing_ok=True)
            raise ResultError(f"The checkpoint {path} could not be written: {error}.") from error

    def load(self, path: Path, recipe: Recipe) -> None:
        """Take up a checkpoint of the same recipe."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["recipe"] != _identity(recipe):
            raise ResultError(f"{path} belongs to another recipe. Choose another --out, or remove it to start afresh.")
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.loss = state["step"], state["seconds"], state["loss"]


def _one_step(run: _Run, recipe: Recipe, data: TrainingSet, space: Space, n_classes: int) -> Tensor:
    """Take one optimiser step and return its loss, left on the device."""
    train, device, mine = recipe.train, next(run.network.parameters()).device, run.mine
    random = random_at(train.seed, 2, run.step)
    picked = pick(data, train, run.step)
    images = augment(data.images[picked], recipe.data, random)[mine]
    if not images.is_floating_point():
        images = images.float() / 255
    x = space.to_model(images).to(device, memory_format=torch.channels_last)
    sigma = draw_sigmas(recipe, space.height, random)[mine].to(device)
    noise = (
        random if device.type == "cpu" else random_at(train.seed, 3, run.step, device=device)
    )  # drawn where it is used
    epsilon = torch.randn((len(picked), *x.shape[1:]), generator=noise, device=device)[mine]
    epsilon = epsilon.contiguous(memory_format=torch.channels_last)
    dropped = torch.rand(len(picked), generator=random) < train.label_dropout
    told, n_told = _told(data, recipe, picked, n_classes, random)
    labels = torch.where(dropped, n_told, told)[mine].to(device)
    edm = parametrisation(recipe, space)
    with _precision(device):
        factor = loss_factor(recipe.noise, sigma, edm)
        loss = edm_loss(run.forward, x, sigma, epsilon, labels, edm, factor) / run.crew.size
    run.optimizer.zero_grad()
    loss.backward()
    loss = run.crew.add(run.optimizer.weights, loss.detach())
    run.optimizer.step(schedule(train, run.step))
    run.average.update_parameters(run.network)
    run.step += 1
    return loss


def _told(
    data: TrainingSet, recipe: Recipe, picked: Int64[Tensor, " batch"], n_classes: int, random: torch.Generator
) -> tuple[Int64[Tensor, " batch"], int]:
    """Choose what the network is told of each image, and return how many such conditions there are."""
    n = len(picked)
    if data.prompts is not None:  # one of its own captions
        chosen = torch.randint(data.prompts.shape[1], (n,), generator=random)
        return data.prompts[picked, chosen], n_classes
    if not recipe.data.captions:
        return data.labels[picked], n_classes
    templates = len(recipe.data.captions)  # one caption of its class
    return data.labels[picked] + n_classes * torch.randint(templates, (n,), generator=random), n_classes * templates


def train_network(
    network: nn.Module,
    recipe: Recipe,
    *,
    data: TrainingSet,
    space: Space,
    n_classes: int,
    checkpoint: Path,
    device: torch.device,
    report: Callable[[Progress, nn.Module], None],
    crew: Crew = _ALONE,
    checkpoint_seconds: float = 120.0,
    report_every: int = 50,
) -> tuple[nn.Module, float]:
    """Train by the recipe and return the network with its averaged weights, and the seconds it took in all.

    A checkpoint is written every two minutes, on an interrupt and at the end; a run that finds one goes on from there
    and ends with the weights an unbroken run would have had.

    Args:
        network: with its first weights.
        recipe: what to do.
        data: what to learn from.
        space: how images enter the network.
        n_classes: the label after the last class, or caption, is the null class.
        checkpoint: file of the run's state.
        device: where to train.
        report: called with the progress and the averaged network.
        crew: of processes that train together; the one that leads reports and writes.
        checkpoint_seconds: time between checkpoints.
        report_every: steps between reports.

    Raises:
        ConfigError: the batch cannot be shared by the crew equally.
        NonFiniteError: the loss became NaN or infinite; the last checkpoint is kept.
        ResultError: a checkpoint could not be written, or belongs to another recipe.
    """
    run = _Run(network, recipe.train, device, crew)
    if checkpoint.is_file():
        run.load(checkpoint, recipe)
    started, first, before, saved = time.monotonic(), run.step, run.seconds, time.monotonic()
    try:
        while run.step < recipe.train.steps:
            loss = _one_step(run, recipe, data, space, n_classes)
            now = time.monotonic()
            run.seconds = before + now - started
            if run.step % report_every == 0 or run.step == recipe.train.steps:
                value = float(loss)
                if not math.isfinite(value):
                    raise NonFiniteError(f"The training loss became {value} at step {run.step}. Lower learning_rate.")
                run.loss = value if math.isnan(run.loss) else 0.9 * run.loss + 0.1 * value
                if not crew.leads:
                    continue
                speed = (run.step - first) * recipe.train.batch_size / (now - started)
                report(Progress(step=run.step, steps=recipe.train.steps, loss=run.loss,
                                images_per_second=speed, seconds=run.seconds), run.average.module)  # fmt: skip
                if now - saved > checkpoint_seconds:
                    run.save(checkpoint, recipe)
                    saved = time.monotonic()
    except KeyboardInterrupt:
        if crew.leads:
            run.save(checkpoint, recipe)
        raise
    if run.step > first and crew.leads:
        run.save(checkpoint, recipe)
    return run.average.module, run.seconds
