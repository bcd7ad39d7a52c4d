"""CLIP and ViLT trained on captions: they learn, a broken run ends as an unbroken one, and transformers opens them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

from diffclass.data.captions import open_captions
from diffclass.errors import ResultError
from diffclass.train.loop import Progress, random_at
from diffclass.train.tuning import TuningRecipe, load_any_recipe, run_tuning
from diffclass.train.tuning.batches import CaptionNumbers
from diffclass.train.tuning.contrastive import contrastive_loss
from diffclass.train.tuning.encoders import open_encoder
from diffclass.train.tuning.matching import matching_scores
from tiny_captions import caption, save_captions

SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
OPTIONS: dict[str, dict[str, Any]] = {
    "clip-small": {
        "projection_dim": 16, "vision": {**SIZES, "image_size": 16, "patch_size": 8}, "text": SIZES,
    },
    "vilt-small": {**SIZES, "image_size": 16, "patch_size": 8, "num_hidden_layers": 2, "initializer_range": 0.1},
}  # fmt: skip
KINDS = list(OPTIONS)


def tiny(name: str, **train: Any) -> TuningRecipe:
    """A recipe that comes along, for a tiny model and a few steps."""
    recipe = load_any_recipe(name)
    assert isinstance(recipe, TuningRecipe)
    part = replace(recipe.train, steps=90, batch_size=6, learning_rate=5e-3, **train)
    return replace(recipe, start=replace(recipe.start, options=OPTIONS[name]), train=part)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_captions(tmp_path_factory.mktemp("captions") / "scenes")


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The name of a recipe, the directory that it made, and what was reported."""
    seen: list[Progress] = []
    out = tmp_path_factory.mktemp("encoders") / request.param
    return request.param, run_tuning(tiny(request.param), data=scenes, out=out, report=seen.append), seen


def test_the_loss_falls(trained: Any) -> None:
    name, _, seen = trained
    assert [progress.step for progress in seen] == list(range(10, 100, 10))
    assert seen[-1].loss < 0.85 * seen[0].loss, name


@pytest.mark.parametrize(("name", "ema"), [("clip-small", 0.1), ("vilt-small", 0.0)])
def test_a_killed_run_ends_with_the_bytes_of_an_unbroken_one(
    name: str, ema: float, scenes: Path, tmp_path: Path
) -> None:
    recipe = tiny(name, accumulate=2, ema_half_life=ema, checkpointing=True)
    recipe = replace(recipe, train=replace(recipe.train, steps=14))
    whole = run_tuning(recipe, data=scenes, out=tmp_path / "whole")

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tuning(recipe, data=scenes, out=tmp_path / "broken", report=interrupt)
    steps: list[int] = []
    broken = run_tuning(recipe, data=scenes, out=tmp_path / "broken", report=lambda p: steps.append(p.step))
    assert steps == [14]  # it was stopped after step 10
    assert (whole / "model.safetensors").read_bytes() == (broken / "model.safetensors").read_bytes()


def test_transformers_opens_what_was_saved(trained: Any, scenes: Path) -> None:
    name, model, _ = trained
    texts = [caption("red", "blue"), caption("green", "yellow")]
    with Image.open(scenes / "red_blue_0.png") as opened:
        picture = opened.convert("RGB")
    tokens = transformers.AutoTokenizer.from_pretrained(model)(texts, padding=True, return_tensors="pt")
    if name == "clip-small":
        processor = transformers.CLIPProcessor.from_pretrained(model)
        found = transformers.CLIPModel.from_pretrained(model)(
            **processor(text=texts, images=picture, padding="max_length", return_tensors="pt")
        )
        logits = found.logits_per_image[0]
    else:
        processor = transformers.ViltProcessor.from_pretrained(model)
        network = transformers.ViltForImageAndTextRetrieval.from_pretrained(model)
        logits = torch.cat(
            [network(**processor(images=picture, text=text, return_tensors="pt")).logits[0] for text in texts]
        )
    assert tokens.input_ids.shape == (2, 11)  # a word a token
    assert logits[0] > logits[1]


def test_the_card_says_what_was_measured(trained: Any) -> None:
    name, model, _ = trained
    facts = json.loads((model / "diffclass.json").read_text())
    measured = facts["figures"]["validation"]["accuracy_against_another_caption"]
    assert measured["n"] == 4
    assert facts["images"] == 44
    card = (model / "README.md").read_text()
    assert f"# {name}\n" in card
    assert "random weights" in card
    assert str(model) in card


def test_a_checkpoint_of_other_captions_is_refused(scenes: Path, tmp_path: Path) -> None:
    recipe = replace(tiny("clip-small"), train=replace(tiny("clip-small").train, steps=1))
    run_tuning(recipe, data=scenes, out=tmp_path / "run")
    other = save_captions(tmp_path / "other", names=("red", "blue"))
    with pytest.raises(ResultError) as caught:
        run_tuning(recipe, data=other, out=tmp_path / "run")
    assert str(caught.value) == (
        f"{tmp_path / 'run/checkpoint.pt'} belongs to another recipe, model or data set. Choose another --out, or "
        "remove it to start afresh."
    )


def test_training_goes_on_from_a_saved_model(trained: Any, scenes: Path, tmp_path: Path) -> None:
    name, model, _ = trained
    recipe = replace(tiny(name), train=replace(tiny(name).train, steps=1, learning_rate=1e-12))
    again = run_tuning(recipe, data=scenes, out=tmp_path / "again", start=str(model))
    before, after = load_file(model / "model.safetensors"), load_file(again / "model.safetensors")
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)
    assert str(model) in (again / "README.md").read_text()


@pytest.mark.parametrize("trained", ["clip-small"], indirect=True)
def test_the_contrastive_loss_is_that_of_transformers(trained: Any, scenes: Path) -> None:
    _, model, _ = trained
    encoder = open_encoder("contrastive", model)
    data = open_captions(scenes)
    items = [data.images[0], data.images[9], data.images[40]]
    pixels = encoder.batch([encoder.picture(item) for item in items], torch.device("cpu"))
    tokens = encoder.tokens([data.captions[item.label or 0][0] for item in items])
    with torch.no_grad():
        wanted = encoder.model(**pixels, **tokens, return_loss=True).loss
        seen = encoder.model.get_image_features(**pixels).pooler_output
        read = encoder.model.get_text_features(**tokens).pooler_output
        assert torch.allclose(contrastive_loss(seen, read, encoder.model.logit_scale), wanted, atol=1e-5)


@pytest.mark.parametrize("trained", ["vilt-small"], indirect=True)
def test_scores_of_many_captions_are_those_of_pairs(trained: Any, scenes: Path) -> None:
    _, model, _ = trained
    encoder = open_encoder("matching", model)
    network = encoder.model.eval()
    images = [encoder.picture(item) for item in open_captions(scenes).images.subset([0, 30])]
    images[1] = images[1][:, :, :8]  # another shape, filled up behind a mask
    tokens = encoder.tokens([caption("red", "green"), caption("blue", "red"), "a photo of red"])
    with torch.no_grad():
        both = {key: values.expand(2, -1, -1) for key, values in tokens.items()}
        scores = matching_scores(network, encoder.batch(images, torch.device("cpu")), both)
        for row, image in enumerate(images):
            alone = {key: values.expand(3, *values.shape[1:]) for key, values in
                     encoder.batch([image], torch.device("cpu")).items()}  # fmt: skip
            assert torch.allclose(scores[row], network(**alone, **tokens).logits[:, 0], atol=1e-5)


def test_no_two_images_of_a_batch_share_a_caption(scenes: Path) -> None:
    data = open_captions(scenes)
    numbers = CaptionNumbers.of(data)
    for step in range(20):
        images, prompts = numbers.distinct(8, random_at(0, step))
        groups = [set(data.captions[int(data.images.labels[i])]) for i in images]
        assert len(images) == 8
        assert len(set.union(*groups)) == sum(map(len, groups))
        assert all(numbers.texts[p] in group for p, group in zip(prompts, groups, strict=True))


def test_wrong_captions_are_wrong(scenes: Path) -> None:
    numbers = CaptionNumbers.of(open_captions(scenes))
    rows = numbers.with_negatives(torch.arange(48), 30, random_at(0))
    assert rows.shape == (48, 31)
    for label, row in zip(numbers.labels.tolist(), rows.tolist(), strict=True):
        own = set(numbers.of_class[label])
        assert row[0] in own
        assert not own & set(row[1:])
        assert len(set(row[1:23])) == 22  # all there are, before any comes again
