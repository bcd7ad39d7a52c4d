"""`convert_checkpoint`: from files as they are published to model directories that everything else works with."""

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from diffclass.cli import main
from diffclass.decide import DiffusionClassifier
from diffclass.denoisers import check_denoiser, compiled, convert_checkpoint, load
from diffclass.denoisers.convert import read_classes
from diffclass.denoisers.guided import config_of, guided_flags
from diffclass.denoisers.pixel import network_class
from published_layout import ADM, DDPMPP, guided_weights, save_edm

UNCONDITIONAL = DDPMPP | {"label_dim": 0}
FLAGS = (
    "--image_size 16 --num_channels 64 --num_res_blocks 1 --attention_resolutions 8 --channel_mult 1,1 "
    "--resblock_updown True --learn_sigma True"
)


def read(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "diffclass.json").read_text())


def plain(directory: Path, **options: Any) -> Any:
    return load(directory, dtype="float32", device="cpu", **options)


def test_the_directory_says_how_the_model_classifies(tmp_path: Path) -> None:
    save_edm(tmp_path / "net.pkl", DDPMPP)
    path = convert_checkpoint(tmp_path / "net.pkl", tmp_path / "model", classes=("ant", "bee", "cat", "dog"))
    metadata = read(path)
    assert metadata["classes"] == ["ant", "bee", "cat", "dog"]
    assert (metadata["sigma_range"], metadata["null_class"]) == ([0.002, 80.0], None)
    assert metadata["licence"].startswith("CC BY-NC-SA 4.0")
    assert metadata["parametrisation"] == {"kind": "edm", "sigma_data": 0.5, "time_scale": 1.0}
    classifier = DiffusionClassifier.from_pretrained(path, device="cpu", dtype="float32")
    assert classifier.objective is not None
    assert type(classifier.objective.weight).__name__ == "EDMWeight"
    assert classifier.objective.sigma_range == (0.002, 3.0)
    card = (path / "README.md").read_text()
    assert "Converted from `net.pkl`" in card
    assert "map_augment" in card


def test_a_converted_model_classifies_pictures(tmp_path: Path) -> None:
    save_edm(tmp_path / "net.pkl", DDPMPP)
    path = convert_checkpoint(tmp_path / "net.pkl", tmp_path / "model")
    Image.new("RGB", (16, 16), "grey").save(tmp_path / "x.png")
    arguments = ["classify", tmp_path / "x.png", "--model", path, "--draws", 8, "--race", "exhaustive", "--json"]
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert row["label"] in ("0", "1", "2", "3")
    assert row["evaluations"] == 32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_network_without_label_dropout_gets_a_companion(dtype: str, tmp_path: Path) -> None:
    save_edm(tmp_path / "cond.pkl", DDPMPP)
    save_edm(tmp_path / "uncond.pkl", UNCONDITIONAL)
    alone = plain(convert_checkpoint(tmp_path / "cond.pkl", tmp_path / "alone"))
    both = plain(convert_checkpoint(tmp_path / "cond.pkl", tmp_path / "both", unconditional=tmp_path / "uncond.pkl"))
    if dtype == "bfloat16":
        both = load(tmp_path / "both", dtype=dtype, device="cpu")
    report = check_denoiser(both)
    assert report.passed, str(report)
    assert (alone.null_class, both.null_class) == (None, 4)
    noisy, sigma = torch.randn(3, 3, 16, 16), torch.tensor([0.5, 1.0, 2.0])
    tolerance = 1e-5 if dtype == "float32" else 0.05
    with torch.no_grad():
        told = both(noisy, sigma, both.condition_on(both.classes)[torch.tensor([0, 1, 2])])
        wanted = alone(noisy, sigma, alone.condition_on(alone.classes)[torch.tensor([0, 1, 2])])
        torch.testing.assert_close(told, wanted, rtol=tolerance, atol=tolerance)
        untold = both(noisy, sigma, both.condition_on(both.classes).without_class(3))
        assert (untold - told).abs().max() > 1e-3
        ids = torch.tensor([0, 4, 2])  # a class, none, a class
        sample, time = both.parametrisation.prepare(noisy, sigma)
        output = both.network(sample.to(both.dtype), time, class_labels=ids).sample.float()
        answer = both.parametrisation.denoised(noisy, sigma, output)
    expected = torch.stack([told[0], untold[1], told[2]])
    torch.testing.assert_close(answer, expected, rtol=tolerance, atol=tolerance)


def test_a_network_with_a_companion_can_be_compiled(tmp_path: Path) -> None:
    save_edm(tmp_path / "cond.pkl", DDPMPP)
    save_edm(tmp_path / "uncond.pkl", UNCONDITIONAL)
    both = plain(convert_checkpoint(tmp_path / "cond.pkl", tmp_path / "both", unconditional=tmp_path / "uncond.pkl"))
    fast: Any = compiled.compile_denoiser(both, batch_size=4, backend="eager")
    assert compiled.is_compiled(fast)
    noisy, sigma, conditions = torch.randn(4, 3, 16, 16), torch.ones(4), both.condition_on(both.classes)
    with torch.inference_mode():
        for condition in (conditions, conditions.without_class(4)):
            torch.testing.assert_close(fast(noisy, sigma, condition), both(noisy, sigma, condition))


def save_guided(path: Path, flags: str, *, n_classes: int, legacy: bool = False) -> Path:
    network = network_class("ADMUNet").from_config(config_of(guided_flags(flags), n_classes=n_classes)).eval()
    state = {name: tensor.detach().contiguous() for name, tensor in guided_weights(network, mixes=True).items()}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("legacy", [False, True])
def test_guided_diffusion_with_and_without_classes(legacy: bool, tmp_path: Path) -> None:
    told = save_guided(tmp_path / "told.pt", FLAGS, n_classes=3, legacy=legacy)
    untold = save_guided(tmp_path / "untold.pt", FLAGS, n_classes=0, legacy=legacy)
    path = convert_checkpoint(told, tmp_path / "model", unconditional=untold, flags=FLAGS, name="mine")
    assert read(path)["name"] == "mine"
    assert read(path)["converted_from"] == ["told.pt", "untold.pt"]
    assert read(path)["classifier"]["sigma_range"][1] == 3.0
    assert check_denoiser(plain(path)).passed


def test_published_shapes_are_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the flags of a published network; this one stands for those with hundreds of millions of weights."""
    from diffclass.denoisers import convert

    other = FLAGS.replace("--channel_mult 1,1", "--channel_mult 1,2")
    monkeypatch.setattr(convert, "PUBLISHED", {"large": other, "small": f"{FLAGS} --noise_schedule cosine"})
    path = convert_checkpoint(save_guided(tmp_path / "net.pt", FLAGS, n_classes=3), tmp_path / "model")
    assert read(path)["parametrisation"]["schedule"]["beta_schedule"] == "squaredcos_cap_v2"


def test_weights_are_saved_in_the_format_asked_for(tmp_path: Path) -> None:
    save_edm(tmp_path / "net.pkl", ADM)
    arguments = ["convert", tmp_path / "net.pkl", "--out", tmp_path / "m", "--dtype", "bfloat16", "--json"]
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["name"] == "net"
    weights = load_file(tmp_path / "m" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


def test_names_of_classes(tmp_path: Path) -> None:
    assert read_classes("cifar10")[3] == "cat"
    assert read_classes("ant, bee") == ("ant", "bee")
    (tmp_path / "names.txt").write_text("kit fox\n\nstar\n")
    assert read_classes(str(tmp_path / "names.txt")) == ("kit fox", "star")
    (tmp_path / "map.txt").write_text("n02119789 1 kit_fox\nn01440764 449 tench\nn02100735 2 setter\n")
    assert read_classes(str(tmp_path / "map.txt")) == ("n01440764", "n02100735", "n02119789")


def test_a_converted_pair_certifies_cifar10_from_its_tar(tmp_path: Path) -> None:
    """The command of docs/checkpoints.md, with next to no draws and copies."""
    small = {"img_resolution": 32, "channel_mult": [1, 1], "num_blocks": 1, "label_dim": 10, "attn_resolutions": [16]}
    save_edm(tmp_path / "cond.pkl", DDPMPP | small)
    save_edm(tmp_path / "uncond.pkl", DDPMPP | small | {"label_dim": 0})
    batch = {"data": np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8), "labels": [3, 8]}
    content = pickle.dumps(batch, protocol=2)
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/test_batch")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))

    def call(*arguments: object) -> Any:
        result = CliRunner().invoke(main, [*map(str, arguments), "--json"])
        assert result.exit_code == 0, (result.output, result.exception)
        return json.loads(result.stdout)

    companion = ("--unconditional", tmp_path / "uncond.pkl", "--classes", "cifar10", "--out", tmp_path / "edm")
    call("convert", tmp_path / "cond.pkl", *companion)
    copies = ("--sigma", 0.25, "--n0", 2, "--n", 10, "--alpha", 0.01, "--draws", 4, "--race", "exhaustive")
    options = ("--noised", "apndc", "--weight", "edm_official", "--dtype", "float32", "--device", "cpu")
    data = (tmp_path / "cifar-10-python.tar.gz", "--split", "test", "--model", tmp_path / "edm")
    summary = call("certify", *data, *copies, *options, "--out", tmp_path / "out")
    assert (summary["n_images"], summary["n_failed"]) == (2, 0)
    assert summary["results"][0]["evaluations_per_image"] == 12 * 10 * 4
    assert summary["config"]["objective"]["weight"]["kind"] == "EDMOfficialWeight"
    assert summary["config"]["objective"]["sigma_range"] == [0.002, 3.0]
