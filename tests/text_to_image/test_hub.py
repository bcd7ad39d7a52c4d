"""Pipelines on the hub: only their parts are downloaded, and what can go wrong there is one sentence."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diffclass.denoisers import PipelineDenoiser, load
from diffclass.errors import WeightsMissing
from pipeline_file import save_single_file
from tiny_pipelines import original


@pytest.fixture
def hub(pipelines: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A hub that has the tiny Stable Diffusion as owner/tiny; it notes what is asked for."""
    import huggingface_hub
    from diffusers import DiffusionPipeline

    asked: list[tuple[Any, ...]] = []

    def one_file(repo_id: str, name: str) -> str:
        asked.append((repo_id, name))
        return str(pipelines / "sd1" / name)

    def parts(model_id: str, **options: Any) -> str:
        asked.append((model_id, options))
        return str(pipelines / "sd1")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", one_file)
    monkeypatch.setattr(DiffusionPipeline, "download", parts)
    return asked


def test_the_parts_of_a_pipeline_are_downloaded_as_safetensors(hub: list[tuple[Any, ...]]) -> None:
    denoiser = load("owner/tiny", device="cpu", dtype="float32")
    assert isinstance(denoiser, PipelineDenoiser)
    assert denoiser.metadata["name"] == "owner/tiny"
    assert hub == [("owner/tiny", "model_index.json"), ("owner/tiny", {"use_safetensors": True})]


def test_single_files_take_from_the_hub_what_they_have_not(
    pipelines: Path, hub: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def snapshot(repo_id: str, *, allow_patterns: list[str]) -> str:
        hub.append((repo_id, allow_patterns))
        return str(pipelines / "sd1")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    network = pipelines / "sd1/unet/diffusion_pytorch_model.safetensors"
    assert isinstance(load(network, device="cpu", dtype="float32", config="owner/tiny"), PipelineDenoiser)
    assert hub == [
        ("owner/tiny", ["*.json", "*.txt", "*.model"]),
        ("owner/tiny", "model_index.json"),
        ("owner/tiny", {"use_safetensors": True, "unet": None}),
    ]
    hub.clear()
    path = save_single_file(original(pipelines / "sd1"), pipelines / "whole.safetensors")
    assert isinstance(load(path, device="cpu", dtype="float32", config="owner/tiny"), PipelineDenoiser)
    assert hub == [("owner/tiny", ["*.json", "*.txt", "*.model"])]


def test_names_on_the_hub_tell_of_distillation(hub: list[tuple[Any, ...]]) -> None:
    with pytest.raises(Exception, match=r"^The model 'owner/sd-turbo' was distilled to take few steps \(the name"):
        load("owner/sd-turbo", device="cpu")


def test_licences_must_be_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def refuse(*arguments: Any) -> str:
        request = SimpleNamespace(method="GET", url="x")
        raise GatedRepoError("gated", response=SimpleNamespace(headers={}, request=request, status_code=403))  # type: ignore[arg-type]

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(WeightsMissing) as caught:
        load("owner/gated")
    assert str(caught.value) == (
        "The model 'owner/gated' is given to those who accepted its licence. Accept it on its page on the Hugging Face "
        "hub, log in with `hf auth login`, and try again."
    )


def test_a_download_that_breaks_off_is_one_sentence(
    hub: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import DiffusionPipeline

    def break_off(model_id: str, **options: Any) -> str:
        raise OSError("Connection reset by peer.\nand more")

    monkeypatch.setattr(DiffusionPipeline, "download", break_off)
    with pytest.raises(WeightsMissing) as caught:
        load("owner/tiny")
    assert str(caught.value) == (
        "The parts of 'owner/tiny' could not be downloaded: Connection reset by peer. Check the connection, and that "
        "the model has safetensors."
    )
