"""The recipe for pictures with captions of their own: it learns, resumes, is saved, and reads other prompts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffclass.data.captions import open_captions
from diffclass.decide import ZeroShotClassifier
from diffclass.denoisers import Space, check_denoiser, load, read_card
from diffclass.train import Recipe, load_recipe, run_recipe
from diffclass.train.captioned import CaptionedNetwork
from diffclass.train.captioned_run import load_captioned, split_captions
from diffclass.train.loop import Progress, TrainingSet, _told, random_at
from diffclass.train.network import build_network
from tiny_captions import caption, save_captions


def tiny(**train: object) -> Recipe:
    """The recipe for rendered scenes, cut down to pictures of 16x16 and a few steps."""
    recipe = load_recipe("concepts")
    options = {**recipe.network.options, "block_out_channels": [8, 16], "norm_num_groups": 4, "attention_head_dim": 2}
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return replace(
        recipe,
        data=replace(recipe.data, shape=(3, 16, 16)),
        network=replace(recipe.network, options=options, text={**text, "max_position_embeddings": 20}),
        train=replace(recipe.train, **({"steps": 51, "batch_size": 4, "optimizer": "adamw"} | train)),  # type: ignore[arg-type]
        classifier={**recipe.classifier, "n_draws": 4},
    )


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_captions(tmp_path_factory.mktemp("captions") / "scenes", copies=5)


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_recipe(tiny(), data=scenes, out=tmp_path_factory.mktemp("concepts") / "run")


def test_the_recipe_keeps_to_its_budget() -> None:
    recipe = load_recipe("concepts")
    space = Space(channels=3, height=64, width=64, patch=recipe.network.patch)
    words = "red green blue purple cyan brown gray yellow cube sphere cylinder cone left right"
    captions = [words, "a photo of a red cube to the left of a blue sphere and"]
    with torch.device("meta"):
        network = build_network(recipe.network, space, 2, captions)
    assert isinstance(network, CaptionedNetwork)
    assert 2 * sum(p.numel() for p in network.parameters()) <= 12e6  # bytes in bfloat16
    assert recipe.network.options["down_block_types"][-1] == "CrossAttnDownBlock2D"
    longest = "a photo of a purple cylinder to the right of a yellow cylinder"
    assert len(network.tokenizer(longest).input_ids) == 15  # of 24


def test_words_are_told_in_their_order(trained: Path) -> None:
    denoiser = load(trained, device="cpu", dtype="float32")
    told = denoiser.condition_on([caption("red", "blue"), caption("blue", "red")]).tensors["encoder_hidden_states"]
    assert told.shape == (2, 20, 16)  # a state a token
    assert not torch.allclose(told[0, -1], told[1, -1])
    noisy = torch.randn(1, 48, 4, 4).expand(2, -1, -1, -1)
    both = denoiser(noisy, torch.ones(2), denoiser.condition_on([caption("red", "blue"), caption("blue", "red")]))
    assert not torch.allclose(both[0], both[1])


def test_a_stopped_run_ends_with_the_weights_of_an_unbroken_one(trained: Path, scenes: Path, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_recipe(tiny(), data=scenes, out=tmp_path / "run", report=stop)
    steps: list[int] = []
    again = run_recipe(tiny(), data=scenes, out=tmp_path / "run", report=lambda p: steps.append(p.step))
    assert steps == [51]
    for part in ("unet/diffusion_pytorch_model", "text_encoder/model"):
        whole, broken = (load_file(model / f"{part}.safetensors") for model in (trained, again))
        assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_what_was_saved_is_a_model_of_text(trained: Path) -> None:
    card = read_card(trained)
    assert (card.name, card.classes) == ("concepts", ())
    assert card.figures["validation"]["accuracy_against_another_caption"]["n"] == 6
    assert "- **Reads**: captions" in (trained / "README.md").read_text()
    assert check_denoiser(load(trained, device="cpu", dtype="float32")).passed
    classifier = ZeroShotClassifier.from_pretrained(trained, device="cpu").classifier(["red", "blue"])
    assert classifier.classes_ == ("red", "blue")


def test_every_caption_of_an_image_is_told(scenes: Path) -> None:
    data = open_captions(scenes)
    loaded = load_captioned(data, (3, 16, 16), "refuse", data.texts)
    picked = torch.zeros(200, dtype=torch.int64)
    told, n = _told(loaded, tiny(), picked, len(data.texts), random_at(0))
    assert n == 24
    assert {data.texts[number] for number in told.tolist()} == set(data.captions[int(loaded.labels[0])])
    assert 60 < int((told == told[0]).sum()) < 140


def test_images_with_fewer_captions_have_them_several_times(scenes: Path) -> None:
    data = open_captions(scenes)
    data = replace(data, captions=(data.captions[0][:1], *data.captions[1:]))
    loaded = load_captioned(data, (3, 16, 16), "refuse", data.texts)
    assert isinstance(loaded, TrainingSet)
    assert loaded.prompts is not None
    assert loaded.prompts.shape == (60, 2)
    assert loaded.prompts[0, 0] == loaded.prompts[0, 1]


def test_held_out_pictures_are_not_trained_on(scenes: Path) -> None:
    train, validation = split_captions(scenes, 0)
    assert (len(train.images), len(validation.images)) == (54, 6)
    assert not set(train.images.ids) & set(validation.images.ids)
