"""Models that cannot be used: each is refused with one sentence."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffclass.denoisers import catalogue, load, save_model
from diffclass.errors import ConditionError, DiffclassError, UnsupportedModel, WeightsMismatch, WeightsMissing
from tiny_networks import CARD, METADATA, tiny_dit, tiny_unet

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def no_bundled_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(catalogue, "_models", lambda: tmp_path / "nothing")


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory and two pipelines that are right, to be copied and broken."""
    home = tmp_path_factory.mktemp("good")
    save_model(home / "ours", tiny_unet(in_channels=4, out_channels=4), METADATA, CARD)
    tiny_unet().save_pretrained(home / "pipeline" / "unet")
    write(home / "pipeline" / "scheduler" / "scheduler_config.json", {"_class_name": "DDPMScheduler"})
    tiny_dit().save_pretrained(home / "dit" / "transformer")
    write(home / "dit" / "scheduler" / "scheduler_config.json", {"_class_name": "DDPMScheduler"})
    return home


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def change(path: Path, **values: Any) -> None:
    write(path, json.loads(path.read_text()) | values)


def drop(path: Path, *keys: str) -> None:
    write(path, {key: value for key, value in json.loads(path.read_text()).items() if key not in keys})


def rename_weight(path: Path) -> None:
    weights = load_file(path)
    weights["conv_in.wait"] = weights.pop("conv_in.weight")
    weights["conv_out.bias"] = torch.zeros(5)
    save_file(weights, path)


def drop_block(path: Path) -> None:
    save_file({name: tensor for name, tensor in load_file(path).items() if "down_blocks" not in name}, path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def unsafe(directory: Path, content: bytes) -> None:
    (directory / WEIGHTS).unlink()
    (directory / "diffusion_pytorch_model.bin").write_bytes(content)


def saved(directory: Path, content: Any) -> None:
    (directory / WEIGHTS).unlink()
    torch.save(content, directory / "diffusion_pytorch_model.bin")


NETWORKS = "UNet2DModel, DiTTransformer2DModel, LateUNet2DModel, ADMUNet, SongUNet, WithUnconditional"
Break = Callable[[Path], object]
TABLE: dict[str, tuple[str, Break, type[DiffclassError], str]] = {
    "no weights": (
        "ours",
        lambda m: (m / WEIGHTS).unlink(),
        WeightsMissing,
        "The model directory '{m}' holds no weights. It must hold 'diffusion_pytorch_model.safetensors'.",
    ),
    "no config": (
        "ours",
        lambda m: (m / "config.json").unlink(),
        WeightsMissing,
        "The model directory '{m}' holds no 'config.json'.",
    ),
    "empty directory": (
        "ours",
        lambda m: [path.unlink() for path in m.iterdir()],
        WeightsMissing,
        "The directory '{m}' holds no model. It must hold diffclass.json, model_index.json or config.json.",
    ),
    "truncated safetensors": (
        "ours",
        lambda m: truncate(m / WEIGHTS),
        WeightsMismatch,
        "The file '{m}/diffusion_pytorch_model.safetensors' is truncated or altered. Copy or download it again.",
    ),
    "empty safetensors": (
        "ours",
        lambda m: (m / WEIGHTS).write_bytes(b""),
        WeightsMismatch,
        "The file '{m}/diffusion_pytorch_model.safetensors' is truncated or altered. Copy or download it again.",
    ),
    "truncated pickle": (
        "ours",
        lambda m: unsafe(m, b"PK\x03\x04 but no archive"),
        WeightsMismatch,
        "The file '{m}/diffusion_pytorch_model.bin' is truncated or altered. Copy or download it again.",
    ),
    "pickle of a whole network": (
        "ours",
        lambda m: saved(m, torch.nn.Linear(2, 2)),
        UnsupportedModel,
        "The file '{m}/diffusion_pytorch_model.bin' holds more than tensors, and opening it could run code. Convert "
        "it to safetensors with safetensors.torch.save_file, on a machine that may run it.",
    ),
    "pickle of a checkpoint": (
        "ours",
        lambda m: saved(m, {"model": {"weight": torch.zeros(2)}, "step": 3}),
        UnsupportedModel,
        "The file '{m}/diffusion_pytorch_model.bin' must hold a dictionary of tensors. "
        "Save the network's state_dict() alone.",
    ),
    "wrong keys and shapes": (
        "ours",
        lambda m: rename_weight(m / WEIGHTS),
        WeightsMismatch,
        "The weights in '{m}/diffusion_pytorch_model.safetensors' do not fit the network of its config.json: 1 missing "
        "('conv_in.weight'), 1 unexpected ('conv_in.wait'), 1 of another shape ('conv_out.bias'). "
        "Use the two files that were saved together.",
    ),
    "a block is missing": (
        "ours",
        lambda m: drop_block(m / WEIGHTS),
        WeightsMismatch,
        "The weights in '{m}/diffusion_pytorch_model.safetensors' do not fit the network of its config.json: "
        "10 missing ('down_blocks.0.resnets.0.norm1.weight', 'down_blocks.0.resnets.0.norm1.bias', "
        "'down_blocks.0.resnets.0.conv1.weight', ...). Use the two files that were saved together.",
    ),
    "another format": (
        "ours",
        lambda m: change(m / "diffclass.json", format=2),
        UnsupportedModel,
        "The file '{m}/diffclass.json' must have format 1. Got 2; another version of diffclass may have written it.",
    ),
    "metadata without classes": (
        "ours",
        lambda m: drop(m / "diffclass.json", "classes", "space"),
        UnsupportedModel,
        "The file '{m}/diffclass.json' lacks 'classes', 'space'.",
    ),
    "metadata that is no JSON": (
        "ours",
        lambda m: (m / "diffclass.json").write_text("{"),
        UnsupportedModel,
        "The file '{m}/diffclass.json' must be JSON: Expecting property name enclosed in double quotes: line 1 column "
        "2 (char 1).",
    ),
    "metadata that is a list": (
        "ours",
        lambda m: write(m / "diffclass.json", [1]),
        UnsupportedModel,
        "The file '{m}/diffclass.json' must hold a JSON object. Got list.",
    ),
    "metadata of an unknown space": (
        "ours",
        lambda m: change(m / "diffclass.json", space={"depth": 3}),
        UnsupportedModel,
        "The 'space' of '{m}/diffclass.json' must hold channels, height, width, scale, offset, patch, data_std, "
        "haar, latent. It lacks 'channels'.",
    ),
    "metadata of a space with more": (
        "ours",
        lambda m: change(m / "diffclass.json", space={**METADATA["space"], "depth": 3}),
        UnsupportedModel,
        "The 'space' of '{m}/diffclass.json' must hold channels, height, width, scale, offset, patch, data_std, "
        "haar, latent. It has 'depth', which is unknown.",
    ),
    "metadata of no space": (
        "ours",
        lambda m: change(m / "diffclass.json", space=28),
        UnsupportedModel,
        "The 'space' of '{m}/diffclass.json' must be a JSON object. Got 28.",
    ),
    "metadata of no noise range": (
        "ours",
        lambda m: change(m / "diffclass.json", sigma_range=[0.1]),
        UnsupportedModel,
        "The 'sigma_range' of '{m}/diffclass.json' must be two numbers. Got [0.1].",
    ),
    "unknown parametrisation": (
        "ours",
        lambda m: change(m / "diffclass.json", parametrisation={"kind": "score"}),
        UnsupportedModel,
        "The parametrisation must be one of edm, flow, epsilon, v, x0. Got 'score'.",
    ),
    "parametrisation without a schedule": (
        "ours",
        lambda m: change(m / "diffclass.json", parametrisation={"kind": "epsilon"}),
        UnsupportedModel,
        "The parametrisation 'epsilon' must hold schedule. It lacks 'schedule'.",
    ),
    "one class": (
        "ours",
        lambda m: change(m / "diffclass.json", classes=["ant"]),
        ConditionError,
        "A denoiser must know at least two classes to tell apart. Got ['ant'].",
    ),
    "another network": (
        "ours",
        lambda m: change(m / "config.json", _class_name="UNet3DConditionModel"),
        UnsupportedModel,
        f"The network in '{{m}}' must be one of {NETWORKS}. Got 'UNet3DConditionModel'.",
    ),
    "a network that diffusers cannot build": (
        "ours",
        lambda m: change(m / "config.json", block_out_channels=[32, 32]),
        UnsupportedModel,
        "diffusers cannot build the network in '{m}': Must provide the same number of `block_out_channels` as "
        "`down_block_types`. `block_out_channels`: [32, 32]. `down_block_types`: ['DownBlock2D']..",
    ),
    "consistency scheduler": (
        "pipeline",
        lambda m: change(m / "scheduler/scheduler_config.json", _class_name="CMStochasticIterativeScheduler"),
        UnsupportedModel,
        "A network of CMStochasticIterativeScheduler was distilled to jump to the end of a trajectory: it does not "
        "estimate the mean of the clean image, so its errors say nothing about likelihood. "
        "Use the model it was distilled from.",
    ),
    "consistency pipeline": (
        "pipeline",
        lambda m: write(m / "model_index.json", {"_class_name": "ConsistencyModelPipeline"}),
        UnsupportedModel,
        "Consistency models jump to the end of a trajectory instead of estimating the mean of the clean image: "
        "ConsistencyModelPipeline is not supported.",
    ),
    "no scheduler": (
        "pipeline",
        lambda m: shutil.rmtree(m / "scheduler"),
        UnsupportedModel,
        "The model in '{m}' must come with a scheduler_config.json, which says what its network predicts. "
        "Save the scheduler that it was trained with into scheduler/.",
    ),
    "no class conditioning": (
        "pipeline",
        lambda m: change(m / "unet/config.json", num_class_embeds=None),
        UnsupportedModel,
        "A classifier needs a network that is told the class (num_class_embeds of a UNet2DModel, num_embeds_ada_norm "
        "of a DiT). This one has no class conditioning by number.",
    ),
    "classes as vectors": (
        "pipeline",
        lambda m: change(m / "unet/config.json", class_embed_type="identity"),
        UnsupportedModel,
        "A classifier needs a network that is told the class (num_class_embeds of a UNet2DModel, num_embeds_ada_norm "
        "of a DiT). This one has no class conditioning by number.",
    ),
    "one class embedding": (
        "pipeline",
        lambda m: tiny_unet(num_class_embeds=1).save_pretrained(m / "unet"),
        ConditionError,
        "A denoiser must know at least two classes to tell apart. Got ['0'].",
    ),
    "autoencoder": (
        "dit",
        lambda m: write(
            m / "model_index.json",
            {"_class_name": "DiTPipeline", "transformer": ["diffusers", "x"], "vae": ["diffusers", "AutoencoderKL"]},
        ),
        WeightsMissing,
        "The model in '{m}' has no 'vae': a DiTPipeline must come with the directory 'vae'. Download or save all of "
        "it.",
    ),
    "latent channels": (
        "dit",
        lambda m: change(m / "transformer/config.json", in_channels=4),
        UnsupportedModel,
        "A network on pixels must take 1 or 3 channels. The one in '{m}/transformer' takes 4; "
        "a network on latents needs the pipeline that it belongs to, with its autoencoder.",
    ),
    "odd outputs": (
        "pipeline",
        lambda m: change(m / "unet/config.json", out_channels=3),
        UnsupportedModel,
        "A network of 1 channels must return 1, or 2 with learned variances. The one in '{m}/unet' returns 3.",
    ),
    "fourier time": (
        "pipeline",
        lambda m: change(m / "unet/config.json", time_embedding_type="fourier"),
        UnsupportedModel,
        "The network in '{m}/unet' must embed time by position, so that it takes any noise level. "
        "Got time_embedding_type 'fourier'.",
    ),
    "no size": (
        "pipeline",
        lambda m: change(m / "unet/config.json", sample_size=None),
        UnsupportedModel,
        "The config.json in '{m}/unet' must have a sample_size, the size of its images.",
    ),
    "text to image": (
        "pipeline",
        lambda m: change(m / "unet/config.json", _class_name="UNet2DConditionModel"),
        UnsupportedModel,
        f"The network in '{{m}}/unet' must be one of {NETWORKS}. Got 'UNet2DConditionModel'.",
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_bad_models_are_refused(case: str, good: Path, tmp_path: Path) -> None:
    source, damage, error, sentence = TABLE[case]
    model = tmp_path / "model"
    shutil.copytree(good / source, model)
    damage(model)
    with pytest.raises(error) as caught:
        load(model, device="cpu")
    assert type(caught.value) is error
    assert str(caught.value) == sentence.replace("{m}", str(model))


def test_good_models_are_not_refused(good: Path) -> None:
    assert all(load(good / name, device="cpu").classes for name in ("ours", "pipeline", "dit"))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (
            "mnits",
            "The model must be a bundled one (none), a directory or 'owner/name' on the Hugging Face hub. Got 'mnits'.",
        ),
        ("./no/such/model", "The model directory './no/such/model' does not exist. Check the path."),
        (Path("nowhere"), "The model directory 'nowhere' does not exist. Check the path."),
        (
            "someone/something",
            "The model 'someone/something' is neither a directory here nor to be had from the Hugging Face hub "
            "(LocalEntryNotFoundError). Check the name and the connection, or download it first and give its "
            "directory.",
        ),
    ],
)
def test_missing_models(model: str | Path, sentence: str) -> None:
    with pytest.raises(WeightsMissing) as caught:
        load(model)
    assert str(caught.value) == sentence


class Bomb:
    """Unpickling it makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", [pickle.dumps, None], ids=["pickle", "torch.save"])
def test_code_in_a_pickle_does_not_run(good: Path, tmp_path: Path, how: Callable[[Any], bytes] | None) -> None:
    model, trace = tmp_path / "model", tmp_path / "the-code-ran"
    shutil.copytree(good / "ours", model)
    if how is None:
        saved(model, {"weight": Bomb(trace)})
    else:
        unsafe(model, how({"weight": Bomb(trace)}))
    with pytest.raises(UnsupportedModel) as caught:
        load(model, device="cpu")
    assert not trace.exists()
    assert str(caught.value) == (
        f"The file '{model}/diffusion_pytorch_model.bin' holds more than tensors, and opening it could run code. "
        "Convert it to safetensors with safetensors.torch.save_file, on a machine that may run it."
    )
