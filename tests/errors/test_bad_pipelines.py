"""Text-to-image models and prompts that cannot be used: each is refused with one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from diffclass.denoisers import load
from diffclass.denoisers.text_to_image import FAMILIES
from diffclass.denoisers.text_to_image.quiet import libraries_quiet
from diffclass.errors import (
    ConditionError,
    DiffclassError,
    InputError,
    RangeError,
    UnsupportedModel,
    WeightsMismatch,
    WeightsMissing,
)
from tiny_networks import CARD, METADATA, tiny_unet
from tiny_pipelines import flux, kl, loaded, save, unet

KNOWN = ", ".join(name for family in FAMILIES for name in family.pipelines)
MEAN = (
    "it does not estimate the mean of the clean image, so its errors say little about likelihood. Use the model that "
    "it "
    "was distilled from."
)
FORCE = " To try it all the same, use force=True (--force)."
UNIT = Callable[[Path], dict[str, Any] | None]


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def no_part(model: Path, part: str) -> None:
    shutil.rmtree(model / part)


def rename(model: Path, name: str) -> dict[str, Any]:
    shutil.copytree(model, model.with_name(name))
    return {"model": model.with_name(name)}


def write(path: Path, content: bytes) -> dict[str, Any]:
    path.write_bytes(content)
    return {"model": path}


def other_vae(model: Path, vae: Any) -> dict[str, Any]:
    with libraries_quiet():
        vae.save_pretrained(model / "other")
    return {"vae": model / "other"}


def bad_lora(model: Path) -> dict[str, Any]:
    save_file({"unet.nowhere.lora_A.weight": torch.zeros(2, 2)}, model / "lora.safetensors")
    return {"lora": model / "lora.safetensors"}


def only_pickles(model: Path) -> None:
    weights = model / "unet/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))


# What is done to a copy of a tiny Stable Diffusion, and to the arguments of load.
TABLE: dict[str, tuple[UNIT, type[DiffclassError], str]] = {
    "another kind of pipeline": (
        lambda m: change(m / "model_index.json", _class_name="StableDiffusionInpaintPipeline"),
        UnsupportedModel,
        f"The model '{{m}}' must be one of these diffusers pipelines: {KNOWN}. Got 'StableDiffusionInpaintPipeline'.",
    ),
    "no text encoder": (
        lambda m: change(m / "model_index.json", text_encoder=[None, None]),
        WeightsMissing,
        "The model in '{m}' has no text encoder: a StableDiffusionPipeline must come with the directory "
        "'text_encoder'. Download or save all of it.",
    ),
    "text encoder not downloaded": (
        lambda m: no_part(m, "text_encoder"),
        WeightsMissing,
        "The model in '{m}' has no text encoder: a StableDiffusionPipeline must come with the directory "
        "'text_encoder'. Download or save all of it.",
    ),
    "no autoencoder": (
        lambda m: no_part(m, "vae"),
        WeightsMissing,
        "The model in '{m}' has no 'vae': a StableDiffusionPipeline must come with the directory 'vae'. "
        "Download or save all of it.",
    ),
    "pickles": (
        only_pickles,
        WeightsMissing,
        "The model '{m}' cannot be opened: Error no file named diffusion_pytorch_model.safetensors found in directory "
        "{m}/unet. Download or save all of it as safetensors.",
    ),
    "consistency pipeline": (
        lambda m: change(m / "model_index.json", _class_name="LatentConsistencyModelPipeline"),
        UnsupportedModel,
        "The model '{m}' was distilled to take few steps (its pipeline is a LatentConsistencyModelPipeline): " + MEAN,
    ),
    "consistency scheduler": (
        lambda m: (
            change(m / "scheduler/scheduler_config.json", _class_name="LCMScheduler")
            or change(m / "model_index.json", scheduler=["diffusers", "LCMScheduler"])
        ),
        UnsupportedModel,
        "A network of LCMScheduler was distilled to jump to the end of a trajectory: it does not estimate the mean of "
        "the clean image, so its errors say nothing about likelihood. Use the model it was distilled from.",
    ),
    "turbo by name": (
        lambda m: rename(m, "sd-Turbo"),
        UnsupportedModel,
        "The model '{p}/sd-Turbo' was distilled to take few steps (the name 'sd-Turbo' says so (turbo)): "
        + MEAN
        + FORCE,
    ),
    "distilled LoRA": (
        lambda m: {"lora": "someone/lcm-lora"},
        UnsupportedModel,
        "The model '{m}' was distilled to take few steps (the name 'lcm-lora' says so (lcm)): " + MEAN + FORCE,
    ),
    "LoRA of another network": (
        bad_lora,
        WeightsMismatch,
        "The LoRA '{m}/lora.safetensors' does not fit the model: {...}. Use one that was trained on it.",
    ),
    "LoRA that is not there": (
        lambda m: {"lora": m / "nowhere"},
        WeightsMissing,
        "The model directory '{m}/nowhere' does not exist. Check the path.",
    ),
    "autoencoder of other latents": (
        lambda m: other_vae(m, kl(channels=8)),
        UnsupportedModel,
        "The autoencoder makes latents of 8 channels and the network takes 4. Give the autoencoder that it was trained "
        "with.",
    ),
    "autoencoder that is none": (
        lambda m: other_vae(m, unet()),
        UnsupportedModel,
        "The 'vae' must be an autoencoder. The config.json of '{m}/other' says 'UNet2DConditionModel'.",
    ),
    "odd size": (
        lambda m: {"size": 9},
        RangeError,
        "The 'size' must be a positive multiple of 4 pixels for this model. Got 9.",
    ),
    "classes": (
        lambda m: {"classes": ["cat", "dog"]},
        ConditionError,
        "The 'classes' parameter of load names the classes of networks without names. A text-to-image model reads "
        "prompts: give the classes to the classifier.",
    ),
    "attention": (
        lambda m: {"attention": "psychic"},
        InputError,
        "The attention backend 'psychic' is not to be had here: {...}.",
    ),
    "checkpoint with pickles": (
        lambda m: write(m / "model.ckpt", b"x"),
        UnsupportedModel,
        "A model in a single file must be a safetensors file. Got '{m}/model.ckpt'. Convert it on a machine that may "
        "run what it holds.",
    ),
    "truncated file": (
        lambda m: write(m / "model.safetensors", b"x"),
        WeightsMismatch,
        "The file '{m}/model.safetensors' is truncated or altered. Copy or download it again.",
    ),
    "file without its other parts": (
        lambda m: {"model": m / "unet/diffusion_pytorch_model.safetensors"},
        WeightsMissing,
        "The file '{m}/unet/diffusion_pytorch_model.safetensors' holds no tokenizer, and the other parts of its model, "
        "'stable-diffusion-v1-5/stable-diffusion-v1-5', are not to be had from the Hugging Face hub. Give the "
        "directory "
        "of a model of its family with config (--config).",
    ),
    "hub without a network": (
        lambda m: {"model": "someone/stable-diffusion"},
        WeightsMissing,
        "The model 'someone/stable-diffusion' is neither a directory here nor to be had from the Hugging Face hub "
        "(LocalEntryNotFoundError). Check the name and the connection, or download it first and give its directory.",
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_bad_pipelines_are_refused(case: str, pipelines: Path, tmp_path: Path) -> None:
    unit, error, sentence = TABLE[case]
    model = tmp_path / "model"
    shutil.copytree(pipelines / "sd1", model)
    options = unit(model) or {}
    with pytest.raises(error) as caught:
        load(options.pop("model", model), device="cpu", dtype="float32", **options)
    assert type(caught.value) is error
    before, _, after = sentence.replace("{m}", str(model)).replace("{p}", str(tmp_path)).partition("{...}")
    assert str(caught.value).startswith(before)
    assert str(caught.value).endswith(after or before)
    assert "\n" not in str(caught.value)


def test_schnell_is_refused_unless_forced(tmp_path: Path) -> None:
    model = save("tiny-flux", tmp_path, lambda: flux(guidance=False))
    with pytest.raises(UnsupportedModel) as caught:
        loaded(model)
    assert str(caught.value) == (
        f"The model '{model}' was distilled to take few steps (its network takes no guidance (guidance_embeds is "
        f"false), as Flux.1 schnell, which takes four steps): {MEAN}{FORCE}"
    )
    assert loaded(model, force=True).note is None


def test_options_of_pipelines_are_theirs_alone(tmp_path: Path) -> None:
    from diffclass.denoisers import save_model

    save_model(tmp_path / "ours", tiny_unet(in_channels=4, out_channels=4), METADATA, CARD)
    with pytest.raises(InputError) as caught:
        load(tmp_path / "ours", device="cpu", lora="x")
    assert str(caught.value) == f"The 'lora' option is one of text-to-image models, and '{tmp_path / 'ours'}' is none."
    with pytest.raises(TypeError, match=r"load\(\) got an unexpected keyword argument 'lore'"):
        load(tmp_path / "ours", lore="x")


PROMPTS: dict[str, tuple[str, list[str], str]] = {
    "empty": ("sd1", ["a cat", " "], "A prompt must have words in it. Got ' '."),
    "none": ("sd1", [], "There must be at least one prompt. Got none."),
    "twice": ("sd1", ["a cat", "a cat"], "Every prompt must differ from the others. Got 'a cat' twice."),
    "too long": (
        "sd1",
        ["a cat", "a cat that sits on a very long mat and more"],
        "The prompt 'a cat that sits on a very long mat an...' has 35 tokens and the model reads 24. Shorten it.",
    ),
    "unknown class": (
        "dit",
        ["0", "cat"],
        "The model was trained on 3 classes by name, from '0' to '2', and reads no other text. Got 'cat'.",
    ),
}


@pytest.mark.parametrize("case", PROMPTS)
def test_bad_prompts_are_refused(case: str, pipelines: Path) -> None:
    name, prompts, sentence = PROMPTS[case]
    with pytest.raises(ConditionError) as caught:
        loaded(pipelines / name).condition_on(prompts)
    assert str(caught.value) == sentence


def test_pixel_noise_is_refused_by_latent_models(pipelines: Path) -> None:
    space = loaded(pipelines / "sd1").space
    for call in (lambda: space.sigma_to_model(0.25), lambda: space.to_model(torch.rand(1, 3, 16, 16))):
        with pytest.raises(UnsupportedModel) as caught:
            call()
        assert str(caught.value) == (
            "This model sees the latents of an autoencoder, in which noise of pixels is not Gaussian noise of known "
            "size. Use a model of pixels."
        )
