"""Fine-tuning of text-to-image models: each family's own loss, resumed to the byte, and read back by our adapters."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffclass.data.captions import open_captions
from diffclass.denoisers import PipelineDenoiser, Space, load, read_card
from diffclass.denoisers.text_to_image.pixels import save_pixel_text
from diffclass.train import load_recipe
from diffclass.train.captioned import CaptionedNetwork
from diffclass.train.captioned_run import split_captions
from diffclass.train.loop import Progress
from diffclass.train.network import build_network
from diffclass.train.run import describe
from diffclass.train.tuning import TuningRecipe, load_any_recipe, run_tuning
from diffclass.train.tuning.loop import tune
from diffclass.train.tuning.recipe import LoraPart
from diffclass.train.tuning.text_to_image import TextToImageTask, open_start
from tiny_captions import save_captions

TEXTS = ["red and blue", "blue and red"]  # short enough for tokenizers that spell


def tiny(model: Path, **train: Any) -> TuningRecipe:
    """A recipe that comes along, for a tiny model and a few steps; of all weights."""
    recipe = load_any_recipe("concepts-sd-lora")
    assert isinstance(recipe, TuningRecipe)
    start = replace(recipe.start, model=str(model), size=None)
    part = replace(recipe.train, steps=12, batch_size=4, accumulate=1, **train)
    return replace(recipe, start=start, train=part, lora=None)


def with_lora(recipe: TuningRecipe) -> TuningRecipe:
    return replace(recipe, lora=LoraPart(rank=4, alpha=8))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two colours, told in few letters."""
    folder = save_captions(tmp_path_factory.mktemp("captions") / "scenes", copies=6, names=("red", "blue"))
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for line in lines:
        line["text"] = TEXTS[0] if line["file_name"].startswith("red") else TEXTS[1]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def quiet(said: object) -> None:
    """Listen to nothing."""


def answer(denoiser: Any) -> torch.Tensor:
    """What a model answers to some noisy pictures."""
    space = denoiser.space
    noisy = torch.randn(2, *space.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return denoiser(noisy, torch.tensor([0.5, 2.0]), denoiser.condition_on(TEXTS))


@pytest.mark.parametrize("name", ["sd1", "sd2-v", "sd3-no-t5"])
def test_the_loss_of_every_prediction_falls(name: str, pipelines: Path, scenes: Path, tmp_path: Path) -> None:
    recipe = tiny(pipelines / name, learning_rate=5e-3, caption_dropout=0.0)
    denoiser = open_start(recipe, torch.device("cpu"))
    task = TextToImageTask(denoiser, open_captions(scenes), recipe, tmp_path / "latents.safetensors", quiet)

    def loss() -> float:  # on noise that is not trained on, the same before and after
        with torch.no_grad():
            return sum(float(task.loss(step, 0)) for step in range(1000, 1016)) / 16

    before = loss()
    tune(task, recipe.train, steps=20, identity="", checkpoint=tmp_path / "checkpoint.pt", report=quiet)
    assert loss() < 0.95 * before


def test_a_tuned_pipeline_is_opened_as_any_other(pipelines: Path, scenes: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    model = run_tuning(tiny(pipelines / "sd1"), data=scenes, out=tmp_path / "out", report=seen.append)
    assert [progress.step for progress in seen] == [10, 12]
    before, after = (answer(load(where, device="cpu", dtype="float32")) for where in (pipelines / "sd1", model))
    assert not torch.allclose(before, after, atol=1e-4)
    facts = json.loads((model / "diffclass.json").read_text())
    assert (facts["images"], facts["captions"], facts["steps"]) == (11, 2, 12)
    card = (model / "README.md").read_text()
    assert f"- **Started from**: {pipelines / 'sd1'}" in card
    assert "Nothing was measured on it." in card


def _texts_too(recipe: TuningRecipe) -> TuningRecipe:
    return replace(recipe, train=replace(recipe.train, text_encoder=True, caption_dropout=0.0, ema_half_life=0.1))


WAYS: dict[str, Callable[[TuningRecipe], TuningRecipe]] = {"lora": with_lora, "all weights": _texts_too}


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(
    way: str, pipelines: Path, scenes: Path, tmp_path: Path
) -> None:
    recipe = WAYS[way](tiny(pipelines / "sd1"))
    whole = run_tuning(recipe, data=scenes, out=tmp_path / "whole")

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tuning(recipe, data=scenes, out=tmp_path / "broken", report=interrupt)
    steps: list[int] = []
    broken = run_tuning(recipe, data=scenes, out=tmp_path / "broken", report=lambda p: steps.append(p.step))
    assert steps == [12]  # it was stopped after step 10
    files = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    assert len(files) == (1 if way == "lora" else 3)
    for file in files:
        one, other = (load_file(model / file) for model in (whole, broken))
        assert one.keys() == other.keys()
        assert all(one[name].numpy().tobytes() == other[name].numpy().tobytes() for name in one), file


def test_a_lora_is_read_back_by_our_adapter(pipelines: Path, scenes: Path, tmp_path: Path) -> None:
    recipe = with_lora(tiny(pipelines / "sd1"))
    recipe = replace(recipe, train=replace(recipe.train, learning_rate=1e-2))
    task = trained(recipe, scenes, tmp_path)
    wanted = answer(task.denoiser)
    fused = load(pipelines / "sd1", lora=tmp_path / "out/model", device="cpu", dtype="float32")
    assert torch.allclose(answer(fused), wanted, atol=1e-4)
    plain = load(pipelines / "sd1", device="cpu", dtype="float32")
    assert not torch.allclose(answer(plain), wanted, atol=1e-3)
    assert f'lora="{tmp_path / "out/model"}"' in (tmp_path / "out/model/README.md").read_text()


def trained(recipe: TuningRecipe, scenes: Path, tmp_path: Path) -> TextToImageTask:
    """Train to the end, and return the task as it was before it was saved."""
    run_tuning(recipe, data=scenes, out=tmp_path / "out")
    denoiser = open_start(recipe, torch.device("cpu"))
    data, _ = split_captions(scenes, recipe.train.seed)
    task = TextToImageTask(denoiser, data, recipe, tmp_path / "out/latents.safetensors", quiet)
    checkpoint = tmp_path / "out/checkpoint.pt"
    identity = repr((recipe.identity, data.fingerprint))
    tune(task, recipe.train, steps=12, identity=identity, checkpoint=checkpoint, report=quiet)
    denoiser.network.eval()
    return task


def test_text_encoders_are_trained_where_that_is_asked_for(pipelines: Path, scenes: Path, tmp_path: Path) -> None:
    recipe = tiny(pipelines / "sd1")
    recipe = replace(recipe, train=replace(recipe.train, steps=2))
    frozen = run_tuning(recipe, data=scenes, out=tmp_path / "frozen")
    both = run_tuning(_texts_too(recipe), data=scenes, out=tmp_path / "both")
    before, same, other = (
        load_file(where / "text_encoder/model.safetensors") for where in (pipelines / "sd1", frozen, both)
    )
    assert all(torch.equal(before[name], same[name]) for name in before)
    assert not all(torch.equal(before[name], other[name]) for name in before)


def test_latents_are_encoded_once(
    pipelines: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(pipelines / "sd1")
    recipe = replace(recipe, data=replace(recipe.data, flip=True))
    denoiser, data = open_start(recipe, torch.device("cpu")), open_captions(scenes)
    first = TextToImageTask(denoiser, data, recipe, tmp_path / "latents.safetensors", quiet)
    assert first._latents.shape == (12, 2, 4, 8, 8)
    image = data.images[3].load((3, 16, 16))[None]
    assert torch.allclose(first._latents[3, 1], denoiser.encode(image.flip(-1))[0], atol=1e-5)

    def encode(self: object, images: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(PipelineDenoiser, "encode", encode)
    again = TextToImageTask(denoiser, data, recipe, tmp_path / "latents.safetensors", quiet)
    assert torch.equal(first._latents, again._latents)
    other = replace(recipe, data=replace(recipe.data, flip=False))
    with pytest.raises(AssertionError, match="encoded again"):
        TextToImageTask(denoiser, data, other, tmp_path / "latents.safetensors", quiet)


def test_a_dropped_caption_is_the_empty_one(pipelines: Path, scenes: Path, tmp_path: Path) -> None:
    recipe = tiny(pipelines / "sd1")
    denoiser = open_start(recipe, torch.device("cpu"))
    task = TextToImageTask(denoiser, open_captions(scenes), recipe, tmp_path / "l.safetensors", quiet)
    told = task._told(torch.tensor([0, 1, 1]), torch.tensor([False, True, False]))["encoder_hidden_states"]
    known = denoiser.condition_on(TEXTS)
    assert known.null is not None
    assert torch.equal(told[1], known.null["encoder_hidden_states"][0])
    assert torch.equal(told[[0, 2]], known.tensors["encoder_hidden_states"])


def test_small_models_of_pixels_are_tuned_too(scenes: Path, tmp_path: Path) -> None:
    recipe = load_recipe("concepts")
    options = {**recipe.network.options, "block_out_channels": [8, 16], "norm_num_groups": 4, "attention_head_dim": 2}
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    part = replace(recipe.network, options=options, text=text)
    space = Space(channels=3, height=16, width=16, patch=4, data_std=0.5)
    network = build_network(part, space, 2, TEXTS)
    assert isinstance(network, CaptionedNetwork)
    plan = replace(recipe, network=part)
    metadata = {
        **describe(plan, space, ()),
        "sigma_range": [0.1, 10.0],
        "classifier": {**recipe.classifier, "temperature": 9.0},
    }
    start = save_pixel_text(tmp_path / "start", network.parts, metadata, "A model.")
    tuning = tiny(start, learning_rate=1e-3)
    model = run_tuning(tuning, data=scenes, out=tmp_path / "out")
    before, after = (load(where, device="cpu", dtype="float32") for where in (start, model))
    assert not torch.allclose(answer(before), answer(after), atol=1e-3)
    assert (after.space, after.parametrisation) == (before.space, before.parametrisation)
    assert "temperature" not in after.metadata["classifier"]
    assert read_card(model).name == "concepts-sd-lora"
