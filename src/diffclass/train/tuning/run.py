"""From a tuning recipe and captioned images to a directory that diffusers or transformers opens."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diffclass.data.captions import CaptionedSet
from diffclass.data.datasets import Item
from diffclass.errors import InputError
from diffclass.train.caption_pairs import caption_figures
from diffclass.train.captioned_run import split_captions
from diffclass.train.crew import Crew, assemble
from diffclass.train.loop import Progress
from diffclass.train.run import training_facts
from diffclass.train.tuning.card import write_tuning_card
from diffclass.train.tuning.contrastive import ContrastiveTask
from diffclass.train.tuning.encoders import build_encoder, open_encoder, save_encoder
from diffclass.train.tuning.loop import tune
from diffclass.train.tuning.matching import MatchingTask
from diffclass.train.tuning.recipe import TuningRecipe

__all__ = ["run_tuning"]

Report = Callable[[Progress], None]
Note = Callable[[str], None]


def run_tuning(
    recipe: TuningRecipe,
    *,
    data: str | Path,
    out: Path,
    start: str | None = None,
    device: str = "cpu",
    report: Report = lambda progress: None,
    note: Note = lambda line: None,
) -> Path:
    """Train by a recipe on captioned images, measure on held-out ones, and write a model directory.

    Running it again with the same `out` goes on where it was stopped, and ends with the weights of an unbroken run.

    Args:
        recipe: what to do.
        data: captioned images (`open_captions`).
        out: folder of the checkpoint and, in out/model, of the result.
        start: directory or "owner/name" of the model to start from, in place of the recipe's.
        device: where to train.
        report: called with the progress.
        note: called with a line about each other part of the run.

    Returns:
        The model directory, which the process that leads writes.

    Raises:
        ConfigError: the batches of a step cannot be shared by the processes equally.
        InputError: the data cannot be used.
        ModelError: the model to start from cannot be used.
        ResultError: out belongs to another recipe, model or data set, or cannot be written.
    """
    if start is not None:
        recipe = replace(recipe, start=replace(recipe.start, model=start))
    told = recipe.data
    options: dict[str, Any] = {
        "text_column": told.text_column, "template": told.template, "sentences": told.sentences,
    }  # fmt: skip
    train_set, validation = split_captions(data, recipe.train.seed, **options)
    note(f"{len(train_set.images)} training images with {len(train_set.texts)} captions")
    out.mkdir(parents=True, exist_ok=True)
    facts = {
        "name": recipe.name, "data": told.title or train_set.images.name, "images": len(train_set.images),
        "captions": len(train_set.texts), "recipe": recipe.as_dict(),
        "steps": recipe.train.n_steps(len(train_set.images)),
    }  # fmt: skip
    crew, place = assemble(device)
    if recipe.kind == "text-to-image":
        from diffclass.train.tuning.text_to_image import run_text_to_image

        return run_text_to_image(recipe, train_set, out, crew, place, facts, report, note)
    return _run_encoder(recipe, train_set, validation, out, crew, place, facts, report, note)


def _run_encoder(
    recipe: TuningRecipe, train_set: CaptionedSet, validation: CaptionedSet, out: Path, crew: Crew,
    device: torch.device, facts: dict[str, Any], report: Report, note: Note,
) -> Path:  # fmt: skip
    """Train, measure and save a CLIP or a ViLT."""
    kind, train = recipe.kind, recipe.train
    if recipe.start.model is None:
        encoder = build_encoder(kind, recipe.start, train_set.texts, train.seed)
    else:
        encoder = open_encoder(kind, recipe.start.model)
    task = (ContrastiveTask if kind == "contrastive" else MatchingTask)(encoder, train_set, train, device)
    seconds = tune(
        task, train, steps=facts["steps"], identity=repr((recipe.identity, train_set.fingerprint)),
        checkpoint=out / "checkpoint.pt", report=report, crew=crew,
    )  # fmt: skip
    if not crew.leads:
        return out / "model"
    encoder.model.eval()
    note("measuring on the held-out images")
    try:
        figures = {"validation": caption_figures(validation, train.seed, _prefers(task))}
    except InputError as error:  # too few images: a model all the same
        figures = {}
        note(f"nothing was measured: {error}")
    facts |= {"figures": figures, "training": training_facts(seconds, device)}
    where = out / "model"
    metadata = json.dumps({"format": 1, **facts}, indent=2, ensure_ascii=False, allow_nan=False)
    encoder.model.to("cpu")
    return save_encoder(where, encoder, metadata + "\n", write_tuning_card(facts, str(where)))


def _prefers(task: ContrastiveTask | MatchingTask) -> Callable[[Item, tuple[str, str]], bool]:
    """Return what tells whether a picture fits the first of two captions better."""

    def prefers(item: Item, texts: tuple[str, str]) -> bool:
        own, other = task.scores(task.encoder.picture(item), texts).tolist()
        return own > other

    return prefers
