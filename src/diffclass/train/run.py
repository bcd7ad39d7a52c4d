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
from diffclass.data.datasets import Dataset
from diffclass.decide import DiffusionClassifier, Prompts, against_rest, fit_temperature
from diffclass.denoisers import Denoiser, PixelDenoiser, Space, save_model
from diffclass.denoisers.compiled import compile_denoiser
from diffclass.denoisers.precision import fastest_dtype, place_network
from diffclass.denoisers.text_to_image.pixels import save_pixel_text
from diffclass.errors import ConfigError, InputError
from diffclass.stats.interval import mean_interval
from diffclass.stats.metric import accuracy, auc, balanced_accuracy
from diffclass.train.captioned import CaptionedNetwork
from diffclass.train.card import write_card
from diffclass.train.crew import assemble
from diffclass.train.loop import Progress, TrainingSet, train_network
from diffclass.train.network import build_network
from diffclass.train.noising import parametrisation, trained_range
from diffclass.train.recipe import Recipe
from diffclass.train.splits import choose_shape, load_images, three_splits

__all__ = ["describe", "hardware", "held_out", "pixel_std", "rounded_denoiser", "run_recipe", "training_facts"]

_WORTH_COMPILING = 1_000_000  # cells (image, draw, class)

Report = Callable[[Progress], None]
Note = Callable[[str], None]


def _load(dataset: Dataset, recipe: Recipe) -> TrainingSet:
    """Read all images, as bytes where they are bytes."""
    assert recipe.data.shape is not None
    return load_images(dataset, recipe.data.shape, resize=recipe.data.resize)


def held_out(recipe: Recipe, source: str | Path | None = None) -> Dataset:
    """Return the images that a recipe keeps out of training: what a model trained by it may be calibrated on.

    Args:
        recipe: whose seed picks them where the data has no validation split.
        source: the data set; the recipe's own name if None.
    """
    source = recipe.data.name if source is None else source
    return three_splits(source, classes=recipe.data.classes, seed=recipe.train.seed)[1]


def rounded_denoiser(network: nn.Module, recipe: Recipe, space: Space, classes: tuple[str, ...]) -> Denoiser:
    """Wrap the averaged weights, rounded as they will be saved, on the device they are on."""
    device = next(network.parameters()).device
    rounded = nn.Module.to(copy.deepcopy(network), torch.bfloat16)
    options: dict[str, Any] = {
        "parametrisation": parametrisation(recipe, space),
        "space": space,
        "sigma_range": trained_range(recipe, space.height),
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
    size: int | None = None,
) -> Path:
    """Train, calibrate on validation images, measure on test images, and write a model directory.

    Running it again with the same `out` goes on where it was stopped.

    Args:
        recipe: what to train.
        data: the data set; the recipe's own name if None.
        out: folder of the checkpoint and, in out/model, of the result.
        device: where to train; "cuda" is a GPU of its own for each process that `accelerate launch` started.
        report: called with the progress of training.
        note: called with a line about each other part of the run.
        test_images: how many images of the test split are classified for the card, by seed; None: all, 0: none.
        size: [pixels] height and width of the images, for a recipe that leaves them to the data.

    Returns:
        The model directory, which the process that leads writes.

    Raises:
        ConfigError: the recipe is at odds with the size, or its batch cannot be shared by the processes.
        InputError: the data cannot be used.
        ResultError: out belongs to another recipe, or cannot be written.
    """
    if recipe.data.captioned:
        from diffclass.train.captioned_run import run_captioned

        return run_captioned(recipe, data, out=out, device=device, report=report, note=note)
    source = recipe.data.name if data is None else data
    train_set, validation_set, test_set = three_splits(source, classes=recipe.data.classes, seed=recipe.train.seed)
    recipe = _for_data(recipe, train_set, size)
    training = _load(train_set, recipe)
    shape = recipe.data.shape
    assert shape is not None
    note(f"{len(training.labels)} training images of {len(train_set.classes)} classes, {shape[2]}x{shape[1]} pixels")
    space = Space(
        channels=shape[0], height=shape[1], width=shape[2], patch=recipe.network.patch, haar=recipe.network.haar,
        data_std=pixel_std(training.images),
    )  # fmt: skip
    classes, (crew, place) = train_set.classes, assemble(device)
    torch.manual_seed(recipe.train.seed)
    network = build_network(recipe.network, space, len(classes), recipe.captions(classes))
    validation = _load(validation_set, recipe)

    def on_report(progress: Progress, average: nn.Module) -> None:
        report(progress)
        every = recipe.train.validate_every
        if every and progress.step % every == 0 and progress.step < progress.steps:
            n = recipe.train.validation_images
            subset = TrainingSet(images=validation.images[:n], labels=validation.labels[:n])
            measured = _measure(_classifier(average, recipe, space, classes), subset, lambda line: None)
            found = _figures(measured)["accuracy"]["value"]
            note(f"step {progress.step}: validation accuracy {found:.4f} (n={len(subset.labels)})")

    out.mkdir(parents=True, exist_ok=True)
    average, seconds = train_network(
        network, recipe, data=training, space=space, n_classes=len(classes), checkpoint=out / "checkpoint.pt",
        device=place, report=on_report, crew=crew,
    )  # fmt: skip
    if not crew.leads:
        return out / "model"
    return _finish(average, recipe, space, classes, seconds, validation, _part(test_set, test_images), out, note)


def _for_data(recipe: Recipe, dataset: Dataset, size: int | None) -> Recipe:
    """Fill in what a recipe leaves to the data: the shape of the images, and what they are called."""
    if recipe.data.shape is not None:
        if size is not None:
            raise ConfigError(f"The recipe '{recipe.name}' has images of {recipe.data.shape[1]} pixels. Omit the size.")
        return recipe
    title = recipe.data.title.replace("{}", dataset.name)
    return replace(recipe, data=replace(recipe.data, shape=choose_shape(dataset, size), title=title))


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
    edm = parametrisation(recipe, space)
    told = {"sigma_data": edm.sigma_data, "time_scale": edm.time_scale} | ({"sign": edm.sign} if edm.sign < 0 else {})
    return {
        "format": 1,
        "name": recipe.name,
        "description": recipe.description,
        "classes": list(classes),
        "null_class": len(classes),
        "space": {
            "channels": space.channels, "height": space.height, "width": space.width, "scale": space.scale,
            "offset": space.offset, "patch": space.patch, "data_std": space.data_std,
            **({"haar": True} if space.haar else {}),
        },
        "parametrisation": {"kind": "edm", **told},
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
    size = assemble(device.type)[0].size
    several = f"{size} x " if size > 1 else ""
    if device.type == "cuda":
        return several + torch.cuda.get_device_name(device)
    names = [line for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
    n = torch.get_num_threads()
    return f"{several}{n} thread{'s' if n > 1 else ''} of {name}"


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []
