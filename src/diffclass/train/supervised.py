"""Train a small ResNet on images with noise or without: the baselines that certificates are compared with."""

import io
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy

from diffclass.data.datasets import Dataset, dataset_splits, open_dataset
from diffclass.errors import ConfigError, InputError, NonFiniteError, ResultError
from diffclass.noise import image_key, smoothing
from diffclass.robust.supervised import SupervisedNetwork, build_resnet
from diffclass.stats.metric import accuracy
from diffclass.train.loop import Progress, TrainingSet, augment, pick, random_at, schedule
from diffclass.train.optimizer import Optimizer
from diffclass.train.recipe import DataPart, TrainPart

__all__ = ["SupervisedRecipe", "train_supervised"]

_REPORT_EVERY, _KEEP_EVERY = 20, 60.0  # steps; [seconds]
_TEST_CHUNK = 500  # images
_GREY = ("1", "L", "LA", "I", "I;16", "F")  # modes of Pillow


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedRecipe:
    """How a baseline is trained.

    Args:
        sigma: [image units] std of the noise that every training image gets anew; 0 for none.
        steps: optimiser steps.
        batch_size: images a step.
        learning_rate: of AdamW at its peak, after a linear warm-up and before a cosine decay to zero.
        weight_decay: of AdamW.
        widths: channels of each stage.
        depths: residual blocks of each stage.
        enlarge: every pixel becomes so many squared.
        flip: mirror half of the images.
        shift: [pixels] largest random shift.
        seed: of everything.

    Raises:
        ConfigError: a number is outside its range.

    Source:
        Cohen, Rosenfeld and Kolter 2019, section 3.3 (arXiv:1902.02918).
    """

    sigma: float = 0.0
    steps: int = 1000
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    widths: tuple[int, ...] = (32, 64, 128)
    depths: tuple[int, ...] = (1, 1, 1)
    enlarge: int = 4
    flip: bool = False
    shift: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be used."""
        if not 0 <= self.sigma < float("inf"):
            raise ConfigError(f"The 'sigma' of a baseline must be a finite number of at least 0. Got {self.sigma}.")
        for name in ("steps", "batch_size", "enlarge"):
            if getattr(self, name) < 1:
                raise ConfigError(f"The '{name}' of a baseline must be at least 1. Got {getattr(self, name)}.")
        if not self.widths or len(self.widths) != len(self.depths):
            raise ConfigError(
                f"A baseline needs as many widths as depths. Got {len(self.widths)} and {len(self.depths)}."
            )

    def train_part(self) -> TrainPart:
        """Return what the optimiser and the schedule take."""
        return TrainPart(
            steps=self.steps, batch_size=self.batch_size, learning_rate=self.learning_rate,
            weight_decay=self.weight_decay, seed=self.seed,
        )  # fmt: skip


def train_supervised(
    recipe: SupervisedRecipe,
    data: str | Path,
    *,
    shape: tuple[int, int, int] | None = None,
    out: Path,
    device: str = "cpu",
    report: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Train a network on the training split, measure it on the test split, and write a directory.

    Running it again with the same `out` goes on where it was stopped, and ends with the weights of an unbroken run.

    Args:
        recipe: how.
        data: the data set.
        shape: channels, height and width [pixels]; those of the first picture if None.
        out: folder of the checkpoint and, in out/model, of the network.
        device: where to train.
        report: called with the progress.

    Returns:
        The directory of the network.

    Raises:
        InputError: the data cannot be used.
        ResultError: out belongs to another recipe, or cannot be written.
        MissingExtra: transformers is not installed.
    """
    there = dataset_splits(data)
    dataset = open_dataset(data, split="train" if "train" in there else None)
    shape = _shape(dataset) if shape is None else shape
    training = _load(dataset, shape)
    torch.manual_seed(recipe.seed)
    network = build_resnet(shape[0], len(dataset.classes), widths=recipe.widths, depths=recipe.depths).to(device)
    baseline = SupervisedNetwork(
        network=network, classes=dataset.classes, image_shape=shape, sigma=recipe.sigma, enlarge=recipe.enlarge
    )
    seconds = _Trainer(baseline, recipe, training, out / "checkpoint.pt").run(report)
    network.eval().requires_grad_(False)
    figures = {}
    if "test" in there:
        figures = _figures(baseline, open_dataset(data, split="test", classes=dataset.classes), recipe.seed)
    facts = {
        "name": f"resnet-sigma-{recipe.sigma:g}", "data": dataset.name, "figures": figures,
        "training": {"recipe": asdict(recipe), "seconds": round(seconds, 1), "torch": torch.__version__},
    }  # fmt: skip
    finished = SupervisedNetwork(
        network=network, classes=dataset.classes, image_shape=shape, sigma=recipe.sigma, enlarge=recipe.enlarge,
        metadata=facts,
    )  # fmt: skip
    return finished.save(out / "model")


def _shape(dataset: Dataset) -> tuple[int, int, int]:
    """Return the shape of the first picture, whether grey or colour."""
    if not len(dataset):
        raise InputError(f"The data set '{dataset.name}' has no pictures to learn from.")
    source = dataset[0].read()
    if isinstance(source, np.ndarray):
        return (3 if source.ndim == 3 and source.shape[2] > 1 else 1), source.shape[0], source.shape[1]
    if isinstance(source, Image.Image):
        return _shape_of(source)
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
        return _shape_of(picture)


def _shape_of(picture: Image.Image) -> tuple[int, int, int]:
    return (1 if picture.mode in _GREY else 3), picture.height, picture.width


def _load(dataset: Dataset, shape: tuple[int, int, int]) -> TrainingSet:
    """Read all images, as bytes where they are bytes."""
    try:
        images, labels = dataset.uint8(shape)
    except InputError:
        images, labels = dataset.array(shape)
    known = labels >= 0
    return TrainingSet(images=images[known], labels=labels[known])


def _floats(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else images.float() / 255


@final
class _Trainer:
    """A network, its optimiser and where they are."""

    def __init__(
        self, baseline: SupervisedNetwork, recipe: SupervisedRecipe, data: TrainingSet, checkpoint: Path
    ) -> None:  # fmt: skip
        self._baseline, self._recipe, self._data, self._checkpoint = baseline, recipe, data, checkpoint
        self._plan = recipe.train_part()
        self._optimizer = Optimizer(baseline.network, self._plan)
        self._step, self._seconds = 0, 0.0
        if checkpoint.is_file():
            self._load()

    def run(self, report: Callable[[Progress], None]) -> float:
        """Train to the end, and return the seconds it took in all."""
        self._baseline.network.train()
        started = saved = time.monotonic()
        first, before = self._step, self._seconds
        try:
            while self._step < self._recipe.steps:
                loss = self._one_step()
                now = time.monotonic()
                self._seconds = before + now - started
                if self._step % _REPORT_EVERY == 0 or self._step == self._recipe.steps:
                    if not np.isfinite(value := float(loss)):
                        raise NonFiniteError(f"The training loss became {value} at step {self._step}. "
                                             "Lower learning_rate.")  # fmt: skip
                    speed = (self._step - first) * self._recipe.batch_size / max(now - started, 1e-9)
                    report(Progress(step=self._step, steps=self._recipe.steps, loss=value, images_per_second=speed,
                                    seconds=self._seconds))  # fmt: skip
                if now - saved > _KEEP_EVERY:
                    self._save()
                    saved = now
        except KeyboardInterrupt:
            self._save()
            raise
        if self._step > first:
            self._save()
        return self._seconds

    def _one_step(self) -> Tensor:
        """Take one optimiser step on noisy images."""
        recipe, device = self._recipe, self._baseline.device
        random = random_at(recipe.seed, 2, self._step)
        picked = pick(self._data, self._plan, self._step)
        part = DataPart(
            name="", title="", licence="", shape=self._baseline.image_shape, flip=recipe.flip, shift=recipe.shift
        )
        images = _floats(augment(self._data.images[picked], part, random))
        images = images + recipe.sigma * torch.randn(images.shape, generator=random)
        loss = cross_entropy(self._baseline.logits(images.to(device)), self._data.labels[picked].to(device))
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step(schedule(self._plan, self._step))
        self._step += 1
        return loss.detach()

    def _save(self) -> None:
        """Write a checkpoint so that a kill at any moment leaves the old one or the new one."""
        part = self._checkpoint.with_suffix(".part")
        state = {
            "network": self._baseline.network.state_dict(), "optimizer": self._optimizer.state_dict(),
            "step": self._step, "seconds": self._seconds, "recipe": self._identity(),
        }  # fmt: skip
        try:
            self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, part)
            part.replace(self._checkpoint)
        except (OSError, RuntimeError) as error:
            part.unlink(missing_ok=True)
            raise ResultError(f"The checkpoint {self._checkpoint} could not be written: {error}.") from error

    def _load(self) -> None:
        """Take up a checkpoint of the same recipe."""
        state: dict[str, Any] = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
        if state["recipe"] != self._identity():
            raise ResultError(
                f"{self._checkpoint} belongs to another recipe. Choose another --out, or remove it to start afresh."
            )
        self._baseline.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._step, self._seconds = state["step"], state["seconds"]

    def _identity(self) -> str:
        """Return what the weights depend on."""
        return repr((self._recipe, self._baseline.classes, self._baseline.image_shape, len(self._data.labels)))


def _figures(baseline: SupervisedNetwork, dataset: Dataset, seed: int) -> dict[str, Any]:
    """Measure accuracy on clean test images and, for a network that learned from noise, on noisy ones."""
    data = _load(dataset, baseline.image_shape)
    levels = {"test": 0.0} | ({f"test, noise {baseline.sigma:g}": baseline.sigma} if baseline.sigma else {})
    found = {}
    for name, sigma in levels.items():
        chunks = data.images.split(_TEST_CHUNK)
        predicted = np.concatenate([baseline.predict(_with_noise(_floats(part), sigma, seed)) for part in chunks])
        estimate = accuracy(data.labels.numpy(), predicted)
        found[name] = {"accuracy": asdict(estimate)}
    return found


def _with_noise(
    images: Float[Tensor, "image channel height width"], sigma: float, seed: int
) -> Float[Tensor, "image channel height width"]:
    """Add to each image the noise of its first smoothing copy."""
    if sigma == 0:
        return images
    noise = [smoothing(seed, image_key(image), range(1), tuple(image.shape)) for image in images]
    return images + sigma * torch.cat(noise)
