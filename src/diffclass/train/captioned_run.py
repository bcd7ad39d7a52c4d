"""From a recipe and pictures with captions of their own to a model directory with measured figures on its card."""

from collections.abc import Callable
from dataclasses import replace
from math import lcm
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from diffclass.data.captions import CaptionedSet, caption_splits, open_captions
from diffclass.data.datasets import Item
from diffclass.decide import DiffusionClassifier, Prompts
from diffclass.denoisers import Denoiser, Space
from diffclass.denoisers.text_to_image.pixels import save_pixel_text
from diffclass.errors import ConfigError, InputError
from diffclass.train.caption_pairs import caption_figures
from diffclass.train.captioned import CaptionedNetwork
from diffclass.train.card import write_card
from diffclass.train.crew import assemble
from diffclass.train.loop import Progress, TrainingSet, train_network
from diffclass.train.network import build_network
from diffclass.train.recipe import Recipe
from diffclass.train.run import describe, pixel_std, rounded_denoiser, training_facts

__all__ = ["caption_table", "load_captioned", "run_captioned", "split_captions"]

_PICTURE_BATCH = 16  # evaluations: a race of two captions of one picture fills no more

Report = Callable[[Progress], None]
Note = Callable[[str], None]


def split_captions(source: str | Path, seed: int, **options: Any) -> tuple[CaptionedSet, CaptionedSet]:
    """Return training and validation sets; a missing validation set is held out of training, by seed.

    Args:
        source: the data set.
        seed: of what is held out.
        options: of `open_captions`.
    """
    there = caption_splits(source)
    whole = open_captions(source, split="train" if "train" in there else None, **options)
    if "validation" in there:
        return whole, open_captions(source, split="validation", **options)
    order = np.random.default_rng(seed).permutation(len(whole.images))
    n = min(1000, len(whole.images) // 10)
    parts = (whole.images.subset(np.sort(part)) for part in (order[n:], order[:n]))
    train, validation = (CaptionedSet(images=part, captions=whole.captions) for part in parts)
    return train, validation


def load_captioned(data: CaptionedSet, shape: tuple[int, int, int], resize: Any, texts: tuple[str, ...]) -> TrainingSet:
    """Read all images, with the numbers of their captions; an image with fewer than others has them several times.

    Args:
        data: the set.
        shape: channels, height and width [pixels] of the images.
        resize: "refuse", "crop" or "stretch" images of another size.
        texts: by number.
    """
    images, labels = data.images.uint8(shape, resize=resize)
    return TrainingSet(images=images, labels=labels, prompts=caption_table(data, texts)[labels])


def caption_table(data: CaptionedSet, texts: tuple[str, ...]) -> Int64[Tensor, "class prompt"]:
    """Return the numbers of the captions of each class; one with fewer than others has each several times.

    Args:
        data: the set.
        texts: captions by number.
    """
    position = {text: number for number, text in enumerate(texts)}
    numbers = [[position[text] for text in group] for group in data.captions]
    width = lcm(*(len(group) for group in numbers))
    return torch.tensor([group * (width // len(group)) for group in numbers])


def run_captioned(
    recipe: Recipe, data: str | Path | None, *, out: Path, device: str, report: Report, note: Note
) -> Path:  # fmt: skip
    """Train on pictures with captions, measure on held-out ones, and write a model directory.

    Args:
        recipe: what to train.
        data: the data set; the recipe's own name if None.
        out: folder of the checkpoint and, in out/model, of the result.
        device: where to train.
        report: called with the progress of training.
        note: called with a line about each other part of the run.

    Returns:
        The model directory.

    Raises:
        InputError: the data cannot be used.
        ResultError: out belongs to another recipe, or cannot be written.
    """
    shape = recipe.data.shape
    if shape is None:
        raise ConfigError(f"The recipe '{recipe.name}' learns from captions and must give a shape in [data].")
    source = recipe.data.name if data is None else data
    train_set, validation = split_captions(source, recipe.train.seed)
    texts = train_set.texts
    recipe = replace(recipe, data=replace(recipe.data, spoken=texts))  # a checkpoint of other captions is refused
    training = load_captioned(train_set, shape, recipe.data.resize, texts)
    note(f"{len(training.labels)} training images with {len(texts)} captions")
    space = Space(
        channels=shape[0], height=shape[1], width=shape[2], patch=recipe.network.patch, haar=recipe.network.haar,
        data_std=pixel_std(training.images),
    )  # fmt: skip
    crew, place = assemble(device)
    torch.manual_seed(recipe.train.seed)
    network = build_network(recipe.network, space, len(texts), texts)
    out.mkdir(parents=True, exist_ok=True)
    average, seconds = train_network(
        network, recipe, data=training, space=space, n_classes=len(texts), checkpoint=out / "checkpoint.pt",
        device=place, report=lambda progress, _: report(progress), crew=crew,
    )  # fmt: skip
    if not crew.leads:
        return out / "model"
    return _finish(average, recipe, space, seconds, validation, out, note)


def _finish(
    average: nn.Module, recipe: Recipe, space: Space, seconds: float, validation: CaptionedSet, out: Path, note: Note
) -> Path:  # fmt: skip
    """Measure and save."""
    assert isinstance(average, CaptionedNetwork)
    denoiser = rounded_denoiser(average, recipe, space, ())
    note("measuring on the held-out images")
    figures: dict[str, Any] = {}
    try:
        prefers = _prefers(denoiser, recipe.data.resize)
        figures["validation"] = caption_figures(validation, recipe.train.seed, prefers)
    except InputError as error:  # too few images, or all with the same captions: a model all the same
        note(f"nothing was measured: {error}")
    metadata = {
        **describe(recipe, space, ()),
        "sigma_range": list(denoiser.sigma_range),
        "classifier": dict(recipe.classifier),
        "figures": figures,
        "training": {"recipe": recipe.as_dict(), **training_facts(seconds, next(average.parameters()).device)},
    }
    return save_pixel_text(out / "model", average.parts, metadata, write_card(metadata))


def _prefers(denoiser: Denoiser, resize: Any) -> Callable[[Item, tuple[str, str]], bool]:
    """Return what tells whether a picture is denoised better under the first of two captions."""

    def prefers(item: Item, texts: tuple[str, str]) -> bool:
        prompts = Prompts(classes=texts, texts=(texts,))
        classifier = DiffusionClassifier(denoiser=denoiser, prompts=prompts, batch_size=_PICTURE_BATCH)
        picture = item.load(denoiser.space.image_shape, resize=resize)
        return classifier.classify(picture[None])[0].label == texts[0]

    return prefers
