"""Train supervised networks, on images with noise or without: what diffusion classifiers are compared with."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from diffclass.data.images import Resize
from diffclass.decide.calibration import fit_temperature
from diffclass.errors import ConfigError, InputError, NonFiniteError, ResultError
from diffclass.noise import image_key, smoothing
from diffclass.robust.architecture import ARCHITECTURES, Ensemble, build_supervised, pretrained
from diffclass.robust.supervised import SupervisedNetwork
from diffclass.stats.metric import accuracy
from diffclass.train.card import supervised_card
from diffclass.train.loop import Progress, TrainingSet, augment, pick, random_at, schedule
from diffclass.train.optimizer import Optimizer
from diffclass.train.recipe import DataPart, TrainPart
from diffclass.train.splits import choose_shape, load_images, picture_shape, three_splits

__all__ = ["SupervisedRecipe", "class_weights", "train_supervised"]

_REPORT_EVERY, _KEEP_EVERY = 20, 60.0  # steps; [seconds]
_TEST_CHUNK = 500  # images


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
        architecture: "small-resnet", which widths, depths and enlarge are of, "resnet-18" or "vit".
        weights: directory or "owner/name" of a ResNet or ViT to start from, in place of random weights.
        members: so many networks, of seeds that follow each other, answer together.
        prior: "training", or "uniform": every class counts as much as any other, however many images it has.

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
    architecture: str = field(default="small-resnet", repr=False)  # a checkpoint of old is known by the others
    weights: str | None = field(default=None, repr=False)
    members: int = field(default=1, repr=False)
    prior: str = field(default="training", repr=False)

    def __post_init__(self) -> None:
        """Refuse settings that cannot be used."""
        if not 0 <= self.sigma < float("inf"):
            raise ConfigError(f"The 'sigma' of a baseline must be a finite number of at least 0. Got {self.sigma}.")
        for name, known in (("architecture", ARCHITECTURES), ("prior", ("training", "uniform"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"The '{name}' of a baseline must be one of {', '.join(known)}. "
                                  f"Got {getattr(self, name)!r}.")  # fmt: skip
        for name in ("steps", "batch_size", "enlarge", "members"):
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
    size: int | None = None,
    out: Path,
    device: str = "cpu",
    report: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Train a network on the training split, calibrate and measure it on the others, and write a directory.

    The splits are those of `run_recipe`. Running it again with the same `out` goes on where it was stopped, and ends
    with the weights of an unbroken run.

    Args:
        recipe: how.
        data: the data set.
        shape: channels, height and width [pixels]; those of the first picture if None.
        size: [pixels] height and width that pictures of any size are cropped and resampled to.
        out: folder of the checkpoint and, in out/model, of the network.
        device: where to train.
        report: called with the progress.

    Returns:
        The directory of the network.

    Raises:
        InputError: the data cannot be used.
        ModelError: the weights to start from cannot be.
        ResultError: out belongs to another recipe, or cannot be written.
        MissingExtra: transformers is not installed.
    """
    dataset, validation, test = three_splits(data, seed=recipe.seed)
    resize: Resize = "refuse" if size is None else "crop"
    if shape is None:
        shape = picture_shape(dataset) if size is None else choose_shape(dataset, size)
    training = _known(load_images(dataset, shape, resize=resize))
    members, seconds = [], 0.0
    for member in range(recipe.members):
        one = replace(recipe, seed=recipe.seed + member)
        members.append(_untrained(one, dataset.classes, shape, torch.device(device)))
        checkpoint = out / ("checkpoint.pt" if member == 0 else f"checkpoint-{member}.pt")
        seconds += _Trainer(members[-1], one, training, checkpoint).run(report)
        members[-1].network.eval().requires_grad_(False)
    finished = members[0] if len(members) == 1 else replace(members[0], network=Ensemble([m.network for m in members]))
    held_out = _known(load_images(validation, shape, resize=resize)) if len(validation) else None
    tested = None if test is None else _known(load_images(test, shape, resize=resize))
    facts = {
        "name": _name(recipe), "data": dataset.name, "figures": _figures(finished, tested, recipe.seed),
        "temperature": None if held_out is None else _temperature(finished, held_out),
        "training": {"recipe": asdict(recipe), "seconds": round(seconds, 1), "torch": torch.__version__},
    }  # fmt: skip
    finished = replace(finished, metadata=facts)
    return finished.save(out / "model", supervised_card(facts, finished.classes, shape))


def _name(recipe: SupervisedRecipe) -> str:
    if recipe.weights is not None:
        return f"{Path(recipe.weights).name}, trained on"
    kind = "resnet" if recipe.architecture == "small-resnet" else recipe.architecture
    name = f"{kind}-sigma-{recipe.sigma:g}" if recipe.sigma or kind == "resnet" else kind
    return name if recipe.members == 1 else f"{recipe.members} x {name}"


def _untrained(
    recipe: SupervisedRecipe, classes: tuple[str, ...], shape: tuple[int, int, int], device: torch.device
) -> SupervisedNetwork:
    """Return the network as it starts."""
    torch.manual_seed(recipe.seed)
    if recipe.weights is not None:
        network, inputs = pretrained(recipe.weights, len(classes))
    else:
        network, inputs = build_supervised(
            recipe.architecture, shape, len(classes), widths=recipe.widths, depths=recipe.depths, enlarge=recipe.enlarge
        )
    return SupervisedNetwork(
        network=network.to(device), classes=classes, image_shape=shape, sigma=recipe.sigma, inputs=inputs
    )


def _known(data: TrainingSet) -> TrainingSet:
    """Leave out images without a label."""
    known = data.labels >= 0
    return TrainingSet(images=data.images[known], labels=data.labels[known])


def _temperature(network: SupervisedNetwork, data: TrainingSet) -> float | None:
    """Fit a temperature on validation images, if there are enough of them."""
    logits = torch.cat([network.scores(_floats(part)) for part in data.images.split(_TEST_CHUNK)]).double().numpy()
    try:
        return fit_temperature(logits - logits.max(axis=1, keepdims=True), data.labels.numpy()).value
    except InputError:  # too few images, or every one of them right
        return None


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
        self._weight = class_weights(data.labels, len(baseline.classes)) if recipe.prior == "uniform" else None
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
        weight = None if self._weight is None else self._weight.to(device)
        labels = self._data.labels[picked].to(device)
        loss = cross_entropy(self._baseline.logits(images.to(device)), labels, weight)
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
        recipe = self._recipe
        other = (recipe.architecture, recipe.weights, recipe.prior)
        parts = (recipe, self._baseline.classes, self._baseline.image_shape, len(self._data.labels))
        return repr(parts if other == ("small-resnet", None, "training") else (*parts, *other))


def class_weights(labels: Int64[Tensor, " image"], n_classes: int) -> Float[Tensor, " class"]:
    """Return by what the loss of a class is multiplied so that all classes together count alike; their mean is 1.

    A class without images, whose weight no image uses, has 0.

    Source:
        King and Zeng 2001, section 4.2 (weighting by the class's share).
    """
    count = labels.bincount(minlength=n_classes).float()
    return torch.where(count > 0, len(labels) / (count.clamp(min=1) * (count > 0).sum()), 0.0)


def _figures(baseline: SupervisedNetwork, data: TrainingSet | None, seed: int) -> dict[str, Any]:
    """Measure accuracy on clean test images and, for a network that learned from noise, on noisy ones."""
    if data is None:
        return {}
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
