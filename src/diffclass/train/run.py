"""From a recipe to a model directory with measured figures on its card."""

import copy
import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import diffclass
from diffclass.data.datasets import Dataset, dataset_splits, open_dataset
from diffclass.decide import DiffusionClassifier, Prompts, against_rest, fit_temperature
from diffclass.denoisers import EDM, Denoiser, PixelDenoiser, Space, save_model
from diffclass.denoisers.compiled import compile_denoiser
from diffclass.denoisers.precision import fastest_dtype, place_network
from diffclass.denoisers.text_to_image.pixels import save_pixel_text
from diffclass.errors import InputError
from diffclass.stats.interval import mean_interval
from diffclass.stats.metric import accuracy, auc, balanced_accuracy
from diffclass.train.captioned import CaptionedNetwork
from diffclass.train.card import write_card
from diffclass.train.loop import Progress, TrainingSet, train_network
from diffclass.train.network import build_network
from diffclass.train.recipe import Recipe

__all__ = ["describe", "hardware", "held_out", "pixel_std", "rounded_denoiser", "run_recipe", "training_facts"]

_WORTH_COMPILING = 1_000_000  # cells (image, draw, class)

Report = Callable[[Progress], None]
Note = Callable[[str], None]


def _load(dataset: Dataset, recipe: Recipe) -> TrainingSet:
    """Read all images, as bytes where they are bytes."""
    options: dict[str, Any] = {"resize": recipe.data.resize}
    try:
        images, labels = dataset.uint8(recipe.data.shape, **options)
    except InputError:
        images, labels = dataset.array(recipe.data.shape, **options)
    return TrainingSet(images=images, labels=labels)


def _splits(recipe: Recipe, source: str | Path) -> tuple[Dataset, Dataset, Dataset | None]:
    """Return training, validation and test sets; a missing validation set is held out of training, by seed."""
    there = dataset_splits(source)
    names = recipe.data.classes
    train = open_dataset(source, split="train" if "train" in there else None, classes=names)
    test = open_dataset(source, split="test", classes=names) if "test" in there else None
    if "validation" in there:
        return train, open_dataset(source, split="validation", classes=names), test
    order = np.random.default_rng(recipe.train.seed).permutation(len(train))
    n = min(1000, len(train) // 10)
    return train.subset(np.sort(order[n:])), train.subset(np.sort(order[:n])), test


def held_out(recipe: Recipe, source: str | Path | None = None) -> Dataset:
    """Return the images that a recipe keeps out of training: what a model trained by it may be calibrated on.

    Args:
        recipe: whose seed picks them where the data has no validation split.
        source: the data set; the recipe's own name if None.
    """
    return _splits(recipe, recipe.data.name if source is None else source)[1]


def rounded_denoiser(network: nn.Module, recipe: Recipe, space: Space, classes: tuple[str, ...]) -> Denoiser:
    """Wrap the averaged weights, rounded as they will be saved, on the device they are on."""
    device = next(network.parameters()).device
    rounded = nn.Module.to(copy.deepcopy(network), torch.bfloat16)
    train = recipe.train
    spread = np.exp(train.log_sigma_mean + np.array([-3, 3]) * train.log_sigma_std)
    options: dict[str, Any] = {
        "parametrisation": EDM(space.data_std, train.time_scale),
        "space": space,
        "sigma_range": (float(spread[0]), float(spread[1])),
        "metadata": {"classifier": dict(recipe.classifier)},
    }
    rounded = place_network(rounded, device=device, dtype=fastest_dtype(device))
    if isinstance(rounded, CaptionedNetwork):
        return rounded.eval().requires_grad_(False).as_denoiser(device=device, **options)
    return PixelDenoiser(network=rounded, classes=classes, null_class=len(classes), **options)


def _classifier(network: nn.Module, recipe: Recipe, space: Space, classes: tuple[str, ...]) -> DiffusionClassifier:
    """Make a classifier of the averaged weights, told the recipe's captions if it reads text."""
    captions, n = recipe.captions(classes), len(classes)
    prompts = None
    if captions:
        prompts = Prompts(classes=classes, texts=tuple(captions[i : i + n] for i in range(0, len(captions), n)))
    return DiffusionClassifier(denoiser=rounded_denoiser(network, recipe, space, classes), prompts=prompts)


def _measure(classifier: DiffusionClassifier, data: TrainingSet, note: Note) -> dict[str, Any]:
    """Classify a set and return the figures of a card with their intervals, and what calibration needs."""
    images = data.images if data.images.is_floating_point() else None
    labels = data.labels.numpy()
    n, decisions = len(labels), {}

    def stream() -> Any:
        for i in range(n):
            yield i, (data.images[i].float() / 255 if images is None else images[i])

    for index, decision in classifier.stream(stream()):
        decisions[index] = (decision.label, decision.evidence.log_odds(), decision.evaluations, decision.n_draws)
        if len(decisions) % 250 == 0 or len(decisions) == n:
            note(f"classified {len(decisions)} of {n}")
    order = [decisions[i] for i in range(n)]
    names = {name: i for i, name in enumerate(classifier.classes_)}
    predicted = np.array([-1 if label is None else names[label] for label, *_ in order], dtype=np.int64)
    return {
        "labels": labels,
        "predicted": predicted,
        "log_odds": np.stack([odds for _, odds, *_ in order]),
        "evaluations": np.array([spent for *_, spent, _ in order], dtype=np.float64),
        "draws": np.array([draws for *_, draws in order], dtype=np.float64),
    }


def _figures(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Summarise what `_measure` returned, each figure with its 95% interval."""
    labels, predicted = measured["labels"], measured["predicted"]
    estimates = {
        "accuracy": accuracy(labels, predicted),
        "balanced_accuracy": balanced_accuracy(labels, predicted),
        "auc": auc(labels, against_rest(measured["log_odds"])),
        "evaluations_per_image": mean_interval(measured["evaluations"]),
        "draws_per_image": mean_interval(measured["draws"]),
    }
    return {
        name: {"value": e.value, "low": e.low, "high": e.high, "n": e.n, "method": e.method}
        for name, e in estimates.items()
    }


def run_recipe(
    recipe: Recipe,
    *,
    data: str | Path | None = None,
    out: Path,
    device: str = "cpu",
    report: Report = lambda progress: None,
    note: Note = lambda line: None,
    test_images: int | None = None,
) -> Path:
    """Train, calibrate on validation images, measure on test images, and write a model directory.

    Running it again with the same `out` goes on where it was stopped.

    Args:
        recipe: what to train.
        data: the data set; the recipe's own name if None.
        out: folder of the checkpoint and, in out/model, of the result.
        device: where to train.
        report: called with the progress of training.
        note: called with a line about each other part of the run.
        test_images: how many images of the test split are classified for the card, by seed; None: all, 0: none.

    Returns:
        The model directory.

    Raises:
        InputError: the data cannot be used.
        ResultError: out belongs to another recipe, or cannot be written.
    """
    if recipe.data.captioned:
        from diffclass.train.captioned_run import run_captioned

        return run_captioned(recipe, data, out=out, device=device, report=report, note=note)
    source = recipe.data.name if data is None else data
    train_set, validation_set, test_set = _splits(recipe, source)
    training = _load(train_set, recipe)
    note(f"{len(training.labels)} training images of {len(train_set.classes)} classes")
    channels, height, width = recipe.data.shape
    space = Space(
        channels=channels, height=height, width=width, patch=recipe.network.patch, data_std=pixel_std(training.images)
    )
    classes, place = train_set.classes, torch.device(device)
    torch.manual_seed(recipe.train.seed)
    network = build_network(recipe.network, space, len(classes), recipe.captions(classes))
    validation = _load(validation_set, recipe)

    def on_report(progress: Progress, average: nn.Module) -> None:
        report(progress)
        every = recipe.train.validate_every
        if every and progress.step % every == 0 and progress.step < progress.steps:
            subset = TrainingSet(
                images=validation.images[: recipe.train.validation_images],
                labels=validation.labels[: recipe.train.validation_images],
            )
            classifier = _classifier(average, recipe, space, classes)
            figures = _figures(_measure(classifier, subset, lambda line: None))
            note(
                f"step {progress.step}: validation accuracy {figures['accuracy']['value']:.4f} (n={len(subset.labels)})"
            )

    out.mkdir(parents=True, exist_ok=True)
    average, seconds = train_network(
        network, recipe, data=training, space=space, n_classes=len(classes), checkpoint=out / "checkpoint.pt",
        device=place, report=on_report,
    )  # fmt: skip
    return _finish(average, recipe, space, classes, seconds, validation, _part(test_set, test_images), out, note)


def _part(dataset: Dataset | None, n: int | None) -> Dataset | None:
    """Return a seeded, stratified part of a data set; None for none of it."""
    if dataset is None or n == 0:
        return None
    return dataset if n is None or n >= len(dataset) else dataset.sample(n, seed=0)


def pixel_std(images: Tensor) -> float:
    """[model units] Standard deviation of the pixels of up to 5,000 images."""
    part = images[:: max(1, len(images) // 5000)]
    scale = 1.0 if part.is_floating_point() else 255.0
    return round(float((2 * part.float() / scale - 1).std()), 4)


def _finish(
    average: nn.Module, recipe: Recipe, space: Space, classes: tuple[str, ...], seconds: float,
    validation: TrainingSet, test_set: Dataset | None, out: Path, note: Note,
) -> Path:  # fmt: skip
    """Calibrate, measure and save."""
    classifier = _classifier(average, recipe, space, classes)
    denoiser = classifier.denoiser
    assert classifier.race is not None
    if len(validation.labels) * classifier.race.n_draws * len(classes) > _WORTH_COMPILING:
        classifier = replace(classifier, denoiser=compile_denoiser(denoiser, batch_size=classifier.batch_size))
    note("calibrating on the validation images")
    on_validation = _measure(classifier, validation, note)
    try:
        temperature = fit_temperature(on_validation["log_odds"], on_validation["labels"]).value
    except InputError as error:  # too few images, or every one of them right: a model all the same
        temperature = None
        note(f"no temperature was fitted: {error}")
    figures = {"validation": _figures(on_validation)}
    if test_set is not None:
        note("measuring on the test images")
        figures["test"] = _figures(_measure(classifier, _load(test_set, recipe), note))
    settings = {**recipe.classifier, "temperature": temperature}
    metadata = {
        **describe(recipe, space, classes),
        "sigma_range": list(denoiser.sigma_range),
        "classifier": settings,
        "figures": figures,
        "training": {"recipe": recipe.as_dict(), **training_facts(seconds, next(average.parameters()).device)},
    }
    if isinstance(average, CaptionedNetwork):
        metadata |= {"prompts": [list(row) for row in classifier.prompts.texts]} if classifier.prompts else {}
        return save_pixel_text(out / "model", average.parts, metadata, write_card(metadata))
    return save_model(out / "model", average, metadata, write_card(metadata))


def describe(recipe: Recipe, space: Space, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return what diffclass.json says of a model before anything is measured."""
    return {
        "format": 1,
        "name": recipe.name,
        "description": recipe.description,
        "classes": list(classes),
        "null_class": len(classes),
        "space": {
            "channels": space.channels, "height": space.height, "width": space.width, "scale": space.scale,
            "offset": space.offset, "patch": space.patch, "data_std": space.data_std,
        },
        "parametrisation": {"kind": "edm", "sigma_data": space.data_std, "time_scale": recipe.train.time_scale},
        "licence": recipe.data.licence,
        "data": recipe.data.title,
    }  # fmt: skip


def training_facts(seconds: float, device: torch.device) -> dict[str, Any]:
    """Return when, where and how long something was trained."""
    return {
        "seconds": round(seconds, 1), "date": date.today().isoformat(), "hardware": hardware(device),
        "torch": torch.__version__, "diffclass": diffclass.__version__,
    }  # fmt: skip


def hardware(device: torch.device) -> str:
    """Name what the network was trained on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = [line for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
    n = torch.get_num_threads()
    return f"{n} thread{'s' if n > 1 else ''} of {name}"


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []
