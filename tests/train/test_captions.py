"""A small text-to-image model trained from captions: it runs, resumes, is saved, and reads other prompts too."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.denoisers import PipelineDenoiser, Space, check_denoiser, load, read_card
from diffclass.denoisers.text_to_image.pixels import small_tokenizer
from diffclass.errors import ConditionError, ConfigError, UnsupportedModel
from diffclass.train import Recipe, load_recipe, run_recipe
from diffclass.train.captioned import CaptionedNetwork
from diffclass.train.crew import Crew
from diffclass.train.loop import TrainingSet, _one_step, _Run
from diffclass.train.network import build_network

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def tiny() -> Recipe:
    """The recipe for MNIST, cut down to scikit-learn's digits and a few steps."""
    recipe = load_recipe("textdigits")
    options = {**recipe.network.options, "block_out_channels": [16], "norm_num_groups": 4}
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return replace(
        recipe,
        data=replace(recipe.data, name="digits", shape=(1, 8, 8)),
        network=replace(recipe.network, patch=2, options=options, text=text),
        train=replace(recipe.train, steps=51, batch_size=8),
        classifier={**recipe.classifier, "n_draws": 4},
    )


def weights(model: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted(model.rglob("*.safetensors")):
        found |= {f"{path.parent.name}.{name}": tensor for name, tensor in load_file(path).items()}
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_recipe(tiny(), out=tmp_path_factory.mktemp("text") / "run", test_images=20)


def test_a_stopped_run_ends_with_the_weights_of_an_unbroken_one(trained: Path, tmp_path: Path) -> None:
    def stop(progress: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_recipe(tiny(), out=tmp_path / "run", report=stop, test_images=0)
    resumed: list[int] = []
    again = run_recipe(tiny(), out=tmp_path / "run", report=lambda p: resumed.append(p.step), test_images=0)
    assert resumed == [51]  # it went on from step 50
    whole, broken = weights(trained), weights(again)
    assert whole.keys() == broken.keys()
    assert {name.partition(".")[0] for name in whole} == {"unet", "text_encoder"}
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_the_directory_conforms_and_reads_any_text(trained: Path) -> None:
    denoiser = load(trained, device="cpu", dtype="float32")
    assert isinstance(denoiser, PipelineDenoiser)
    report = check_denoiser(denoiser)
    assert report.passed, str(report)
    classifier = DiffusionClassifier.from_pretrained(
        denoiser, classes=["a seven", "a cat"], templates=["{}"], race=Exhaustive(n_draws=4)
    )
    assert classifier.classify(torch.rand(1, 1, 8, 8))[0].leader in ("a seven", "a cat")


def test_the_model_is_told_the_captions_it_was_trained_with(trained: Path) -> None:
    classifier = DiffusionClassifier.from_pretrained(trained, device="cpu", dtype="float32")
    assert classifier.classes_ == tuple("0123456789")
    assert classifier.prompts is not None
    assert classifier.prompts.texts[0] == tuple(f"a handwritten {name}" for name in NAMES)
    assert len(classifier.prompts) == 4
    card = read_card(trained)
    assert (card.kind, card.name) == ("network", "textdigits")
    assert card.figures["test"]["accuracy"]["n"] == 20


def test_the_text_encoder_learns_too() -> None:
    recipe = tiny()
    space = Space(channels=1, height=8, width=8, patch=2, data_std=0.6)
    network = build_network(recipe.network, space, 10, recipe.captions(NAMES))
    assert isinstance(network, CaptionedNetwork)
    run = _Run(network, recipe.train, torch.device("cpu"), Crew())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    data = TrainingSet(images=torch.rand(32, 1, 8, 8), labels=torch.arange(32) % 10)
    for _ in range(3):
        _one_step(run, recipe, data, space, 10)
    changed = {name.partition(".")[0] for name, t in network.state_dict().items() if not torch.equal(t, before[name])}
    assert changed == {"unet", "text_encoder"}


def test_the_network_hears_the_caption_of_the_number() -> None:
    recipe = tiny()
    network = build_network(recipe.network, Space(channels=1, height=8, width=8, patch=2), 10, recipe.captions(NAMES))
    assert isinstance(network, CaptionedNetwork)
    torch.nn.init.normal_(network.unet.conv_out.weight)  # type: ignore[union-attr,arg-type]
    denoiser = network.eval().requires_grad_(False)
    sample, time = torch.randn(1, 4, 4, 4).expand(2, -1, -1, -1), torch.tensor([3.0, 3.0])
    told = denoiser(sample, time, class_labels=torch.tensor([23, 40])).sample  # "a photo of the number three", nothing
    captions = recipe.captions(NAMES)
    assert captions[23] == "a photo of the number three"
    tokens = network.tokenizer([captions[23], ""], padding="max_length", max_length=16, return_tensors="pt").input_ids
    states = network.text_encoder(tokens).last_hidden_state
    assert torch.allclose(told, network.unet(sample, time, encoder_hidden_states=states).sample, atol=1e-5)


def test_known_words_are_tokens_and_others_are_spelled() -> None:
    tokenizer = small_tokenizer(["a handwritten three", "a five."])
    assert tokenizer.tokenize("a handwritten three") == ["a</w>", "handwritten</w>", "three</w>"]
    assert tokenizer.tokenize("five") == ["five</w>"]
    assert "".join(tokenizer.tokenize("zebra")).replace("</w>", "") == "zebra"


def test_mistakes_are_named(trained: Path) -> None:
    recipe, space = tiny(), Space(channels=1, height=8, width=8, patch=2)
    cases = {
        "'spoken' must name each of the 3 classes. Got 10 names.": lambda: recipe.captions(("a", "b", "c")),
        "A caption must hold {} where the class goes. Got 'a digit'.": lambda: replace(
            recipe, data=replace(recipe.data, captions=("a digit",))
        ).captions(NAMES),
        "A UNet2DConditionModel needs captions in [data], and other networks take none.": lambda: build_network(
            recipe.network, space, 10
        ),
        "A caption has 23 tokens and the tokenizer reads 16. Shorten the captions.": lambda: build_network(
            recipe.network, space, 2, ("one " * 21, "two")
        ),
    }
    for sentence, call in cases.items():
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value) == sentence
    with pytest.raises(ConditionError) as told:
        load(trained, classes=["a", "b"])
    assert str(told.value) == "This model reads prompts. Give the classes to the classifier, not to load."


def test_a_damaged_directory_is_refused(trained: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(trained, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "unet")
    with pytest.raises(UnsupportedModel, match=r"^The text-to-image model in '.*' cannot be opened: [^\n]*\.$"):
        load(tmp_path / "model")
