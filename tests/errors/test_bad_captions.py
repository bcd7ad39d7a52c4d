"""Captions and recipes for them that cannot be used: a table of calls and the exact sentence."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from diffclass.cli import main
from diffclass.data.captions import open_captions
from diffclass.errors import ConditionError, ConfigError, DiffclassError, InputError, MissingExtra, UnsupportedModel
from diffclass.train.loop import random_at
from diffclass.train.tuning.batches import CaptionNumbers
from diffclass.train.tuning.encoders import Encoder, build_encoder, open_encoder
from diffclass.train.tuning.recipe import LoraPart, StartPart, TuningPart, TuningRecipe, load_any_recipe
from diffclass.train.tuning.text_to_image import TextToImageTask, open_start
from tiny_captions import save_captions


def rewrite(folder: Path, number: int, **values: object) -> Path:
    """Change one line of the metadata; None removes a key."""
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    lines[number] = {k: v for k, v in (lines[number] | values).items() if v is not None}
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def put(folder: Path, text: str) -> Path:
    (folder / "metadata.jsonl").write_text(text)
    return folder


def bare(folder: Path) -> Path:
    (folder / "metadata.jsonl").unlink()
    return folder


def labelled(home: Path) -> Path:
    for name in ("cat", "dog"):
        (home / "labelled" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(home / "labelled" / name / "0.png")
    return home / "labelled"


def splits(folder: Path) -> Path:
    save_captions(folder / "more/train", copies=1)
    save_captions(folder / "more/test", copies=1)
    return folder / "more"


def mixed(folder: Path) -> Path:
    save_captions(folder.parent / "other/train", copies=1)
    return folder.parent


Call = Callable[[Path], object]
# {s} is a folder with captions, which every call gets.
CAPTIONS: dict[str, tuple[Call, type[DiffclassError], str]] = {
    "a picture that is not there": (
        lambda s: open_captions(rewrite(s, 1, file_name="x.png")),
        InputError,
        "Line 2 of '{s}/metadata.jsonl' names the picture 'x.png', which is not there.",
    ),
    "a picture without a caption": (
        lambda s: open_captions(put(s, (s / "metadata.jsonl").read_text().partition("\n")[2])),
        InputError,
        "The file '{s}/metadata.jsonl' has no caption for: red_green_0.png. Add the lines, or move them away.",
    ),
    "an empty caption": (
        lambda s: open_captions(rewrite(s, 2, text=" ")),
        InputError,
        "Line 3 of '{s}/metadata.jsonl' must hold a caption with words in it. Got ' '.",
    ),
    "an empty list of captions": (
        lambda s: open_captions(rewrite(s, 0, text=[])),
        InputError,
        "Line 1 of '{s}/metadata.jsonl' must hold a caption with words in it. Got [].",
    ),
    "a line without a caption": (
        lambda s: open_captions(rewrite(s, 0, text=None)),
        InputError,
        "Line 1 of '{s}/metadata.jsonl' has no 'text'. It has: file_name.",
    ),
    "folders with splits and without": (
        lambda s: open_captions(mixed(s)),
        InputError,
        "Some folders in '{h}' are divided into splits and others are not. Give one of them.",
    ),
    "no JSON": (
        lambda s: open_captions(put(s, "{")),
        InputError,
        "The file '{s}/metadata.jsonl' cannot be read: Expecting property name enclosed in double quotes: line 1 "
        "column 2 (char 1).",
    ),
    "no object": (
        lambda s: open_captions(put(s, "[1]")),
        InputError,
        "The file '{s}/metadata.jsonl' cannot be read: line 1 is no object.",
    ),
    "no lines": (
        lambda s: open_captions(put(s, "")),
        InputError,
        "The file '{s}/metadata.jsonl' lists no pictures.",
    ),
    "no captions": (
        lambda s: open_captions(bare(s)),
        InputError,
        "The data set '{s}' has no captions. Put a metadata.jsonl with file_name and text into its folder, or give a "
        "template or sentences for its classes.",
    ),
    "a split that is not there": (
        lambda s: open_captions(splits(s), split="validation"),
        InputError,
        "The data set '{s}/more' has no split 'validation'. Choose one of: test, train.",
    ),
    "no split": (
        lambda s: open_captions(splits(s)),
        InputError,
        "The data set '{s}/more' has several splits. Choose one of: test, train.",
    ),
    "a split of a set without any": (
        lambda s: open_captions(s, split="train"),
        InputError,
        "The data set '{s}' is not divided into splits. Leave out split='train'.",
    ),
    "a class without a sentence": (
        lambda s: open_captions(labelled(s), sentences={"cat": "a cat"}),
        InputError,
        "The class 'dog' has no sentence. There are sentences for: cat.",
    ),
    "a template without a place": (
        lambda s: open_captions(labelled(s), template="a photo"),
        InputError,
        "A template must hold {} where the class goes. Got 'a photo'.",
    ),
    "one class in a contrastive batch": (
        lambda s: CaptionNumbers.of(
            replace(data := open_captions(s), images=data.images.subset([0, 1, 2, 3]))
        ).check_distinct(),
        ConditionError,
        "A contrastive batch needs images of at least two distinct classes, which share no caption. Got 1 class of "
        "images that are captioned alike, and no two apart.",
    ),
    "classes that share a caption": (
        lambda s: CaptionNumbers.of(
            replace(open_captions(s), captions=tuple(("same", str(i)) for i in range(12)))
        ).check_distinct(),
        ConditionError,
        "A contrastive batch needs images of at least two distinct classes, which share no caption. Got 12 classes of "
        "images that are captioned alike, and no two apart.",
    ),
    "no wrong caption": (
        lambda s: CaptionNumbers.of(
            replace(open_captions(s), captions=(("same",),) * 12)
        ).with_negatives(torch.tensor([0]), 1, random_at(0)),
        ConditionError,
        "Matching needs captions that are wrong of an image. Every caption is true of one.",
    ),
    "a caption that is too long": (
        lambda s: small("clip-small").tokens(["red", "red " * 30]),
        InputError,
        "The caption '" + "red " * 30 + "' has 32 tokens and the model reads 24. Shorten it.",
    ),
    "a model of another kind": (
        lambda s: open_encoder("matching", put(s, "").joinpath("../clip").resolve()),
        UnsupportedModel,
        "A matching recipe starts from a ViltForImageAndTextRetrieval (model_type 'vilt'). The config.json of "
        "'{h}/clip' says 'clip'.",
    ),
}  # fmt: skip


def small(name: str) -> Encoder:
    recipe = load_any_recipe(name)
    assert isinstance(recipe, TuningRecipe)
    return build_encoder(recipe.kind, recipe.start, ["red"], 0)


@pytest.mark.parametrize("case", CAPTIONS)
def test_the_sentence(case: str, tmp_path: Path) -> None:
    call, kind, wanted = CAPTIONS[case]
    scenes = save_captions(tmp_path / "scenes", copies=1 if "class" not in case else 4)
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(kind) as caught:
        call(scenes)
    assert str(caught.value) == wanted.replace("{s}", str(scenes)).replace("{h}", str(tmp_path))


RECIPES: dict[str, tuple[Callable[[], object], str]] = {
    "steps and epochs": (
        lambda: TuningPart(learning_rate=1e-3, steps=2, epochs=1),
        "[train] must give either 'steps' or 'epochs'. Got 2 steps and 1 epochs.",
    ),
    "no images": (
        lambda: TuningPart(learning_rate=1e-3, steps=2, batch_size=0),
        "The 'batch_size' of [train] must be at least 1. Got 0.",
    ),
    "no learning": (
        lambda: TuningPart(learning_rate=0.0, steps=2),
        "The 'learning_rate' of [train] must be positive. Got 0.0.",
    ),
    "decay": (
        lambda: TuningPart(learning_rate=1.0, steps=2, decay="step"),
        "The 'decay' of [train] must be constant, linear or cosine. Got 'step'.",
    ),
    "share": (
        lambda: TuningPart(learning_rate=1.0, steps=2, warmup=1.5),
        "The 'warmup' of [train] must be in [0, 1). Got 1.5.",
    ),
    "kind": (
        lambda: TuningRecipe(name="x", description="x", kind="magic", train=TuningPart(learning_rate=1.0, steps=2)),
        "The 'kind' of a recipe must be one of text-to-image, contrastive, matching. Got 'magic'.",
    ),
    "LoRA of CLIP": (
        lambda: TuningRecipe(
            name="x", description="x", kind="contrastive", train=TuningPart(learning_rate=1.0, steps=2),
            lora=LoraPart(),
        ),
        "A [lora] is for the network of a text-to-image model, with text encoders as they are.",
    ),
    "unknown key": (
        lambda: TuningRecipe.from_dict(
            {"name": "x", "description": "x", "kind": "contrastive", "train": {"learning_rate": 1.0, "step": 2}}
        ),
        "[train] of the recipe has the unknown key 'step'. Did you mean 'steps'?",
    ),
    "sizes": (
        lambda: build_encoder(
            "contrastive", StartPart(options={"text": {"hidden_size": 9, "num_attention_heads": 2}, "vision": {}}),
            ["red"], 0,
        ),
        "transformers cannot build CLIPModel from these options: The hidden size (9) is not a multiple of the "
        "number of attention heads (2).",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RECIPES)
def test_the_sentence_of_a_recipe(case: str) -> None:
    call, wanted = RECIPES[case]
    with pytest.raises(ConfigError) as caught:
        call()
    assert str(caught.value) == wanted


Tune = Callable[[Path, Path, pytest.MonkeyPatch], TuningRecipe]


def sd(model: Path | None, **train: object) -> TuningRecipe:
    """A LoRA of a tiny model, without dropped captions."""
    recipe = load_any_recipe("concepts-sd-lora")
    assert isinstance(recipe, TuningRecipe)
    start = replace(recipe.start, model=None if model is None else str(model), size=None)
    part = replace(recipe.train, **({"steps": 1, "caption_dropout": 0.0} | train))  # type: ignore[arg-type]
    return replace(recipe, start=start, train=part)


def without_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


# What a text-to-image recipe makes of a model among tiny ones.
STARTS: dict[str, tuple[Tune, type[DiffclassError], str]] = {
    "LoRA without peft": (
        lambda p, h, m: without_peft(m) or sd(p / "sd1"),
        MissingExtra,
        "A LoRA needs peft. Install it with: pip install 'diffclass[lora]'.",
    ),
    "no model": (
        lambda p, h, m: sd(None),
        ConfigError,
        "The recipe 'concepts-sd-lora' names no model to start from. Give one with --from.",
    ),
    "a model of classes": (
        lambda p, h, m: sd(p / "dit"),
        UnsupportedModel,
        "A text-to-image recipe starts from a model that reads text, and '{p}/dit' does not.",
    ),
    "a model of classes that comes along": (
        lambda p, h, m: replace(sd(p), start=StartPart(model="digits")),
        UnsupportedModel,
        "A text-to-image recipe starts from a model that reads text, and 'digits' does not.",
    ),
    "LoRA where diffusers has none": (
        lambda p, h, m: sd(p / "pixart-alpha"),
        ConfigError,
        "diffusers has no LoRA for a PixArtAlphaPipeline. Leave [lora] out.",
    ),
    "LoRA of no layer": (
        lambda p, h, m: replace(sd(p / "sd1"), lora=LoraPart(targets=("nowhere", "here"))),
        ConfigError,
        "No layer of the network ends with the 'targets' of [lora]. Got nowhere, here.",
    ),
    "dropped captions of a trained encoder": (
        lambda p, h, m: replace(sd(p / "sd1", caption_dropout=0.1, text_encoder=False), lora=None, train=TuningPart(
            learning_rate=1.0, steps=1, caption_dropout=0.1, text_encoder=True)),
        ConfigError,
        "A 'caption_dropout' needs a model that knows the empty prompt, and text encoders as they are. Set it to 0.",
    ),
}  # fmt: skip


def test_mirrored_pictures_must_not_say_left_and_right(pipelines: Path, tmp_path: Path) -> None:
    recipe = sd(pipelines / "sd1")
    flipped = replace(recipe, data=replace(recipe.data, flip=True))
    data = open_captions(save_captions(tmp_path / "scenes", copies=1))
    denoiser = open_start(flipped, torch.device("cpu"))
    with pytest.raises(InputError) as caught:
        TextToImageTask(denoiser, data, flipped, tmp_path / "latents.safetensors", lambda line: None)
    assert str(caught.value) == (
        "The caption 'a photo of green to the right of red' says left or right, and 'flip' mirrors pictures. Set it to "
        "false."
    )


@pytest.mark.parametrize("case", STARTS)
def test_the_sentence_of_a_start(case: str, pipelines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, kind, wanted = STARTS[case]
    recipe = make(pipelines, tmp_path, monkeypatch)
    with pytest.raises(kind) as caught:
        open_start(recipe, torch.device("cpu"))
    assert str(caught.value) == wanted.replace("{p}", str(pipelines))


SHELL = {
    "no data": (
        "train clip-small --out {h}/out",
        "Error: The recipe 'clip-small' needs --data: a folder of pictures with captions.",
    ),
    "test images": (
        "train concepts --data {h} --test-images 3 --out {h}/out",
        "Error: The recipe 'concepts' is for pictures with captions and takes no --test-images.",
    ),
    "from scratch": (
        "train digits --from somewhere --out {h}/out",
        "Error: The recipe 'digits' starts from random weights and takes no --from.",
    ),
    "data": (
        "train clip-small --data {h}/nothing --out {h}/out",
        "Error: The data set '{h}/nothing' does not exist. Give a file, a folder, or 'digits'.",
    ),
}


@pytest.mark.parametrize("case", SHELL)
def test_the_sentence_on_the_command_line(case: str, tmp_path: Path) -> None:
    line, wanted = (text.format(h=tmp_path) for text in SHELL[case])
    result = CliRunner().invoke(main, line.split())
    assert (result.stderr.splitlines()[-1], result.exit_code) == (wanted, 2)
