"""Models by name, and their cards."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from diffclass.denoisers import PixelDenoiser, catalogue, list_models, load, read_card, save_model
from diffclass.errors import ConditionError, InputError, WeightsMissing
from tiny_networks import CARD, CLASSES, METADATA, tiny_unet


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of bundled models with one network in it."""
    save_model(tmp_path / "tiny", tiny_unet(in_channels=4, out_channels=4), METADATA, CARD)
    (tmp_path / "not-a-model").mkdir()
    monkeypatch.setattr(catalogue, "_models", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def mixture(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of a mixture, and a stand-in for the class that loads it."""
    directory = shelf / "tiny-mixture"
    save_model(directory, tiny_unet(), {**METADATA, "name": "tiny-mixture"}, "")
    (directory / "config.json").write_text('{"_class_name": "MixtureDenoiser"}')

    class MixtureDenoiser:
        """Enough of a denoiser to be taken for one."""

        space, sigma_range, classes = None, (0.1, 1.0), CLASSES

        def __init__(self, directory: Path, device: torch.device) -> None:
            self.directory, self.device = directory, device

        def encode(self, *arguments: Any) -> None: ...

        decode = condition_on = __call__ = encode

        @classmethod
        def load(cls, directory: Path, *, device: torch.device) -> Any:
            return cls(directory, device)

    module = ModuleType("diffclass.denoisers.mixture")
    module.MixtureDenoiser = MixtureDenoiser  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "diffclass.denoisers.mixture", module)
    return directory


def test_models_are_loaded_by_name_path_and_string(shelf: Path) -> None:
    for model in ("tiny", shelf / "tiny", str(shelf / "tiny")):
        denoiser = load(model, device="cpu", dtype="float32")
        assert isinstance(denoiser, PixelDenoiser)
        assert denoiser.classes == CLASSES
        assert denoiser.dtype == torch.float32


def test_a_denoiser_is_returned_as_it_is(shelf: Path) -> None:
    denoiser = load("tiny", device="cpu")
    assert load(denoiser) is denoiser


@pytest.mark.parametrize("computes", [True, False])
def test_auto_is_bfloat16_where_the_machine_computes_with_it(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, computes: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": computes}, raising=False)
    denoiser = load("tiny", device="cpu")
    assert isinstance(denoiser, PixelDenoiser)
    assert denoiser.dtype == (torch.bfloat16 if computes else torch.float32)


def test_auto_device_is_the_gpu_if_there_is_one(shelf: Path) -> None:
    assert load("tiny").device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("dtype", ["float64", torch.float64])
def test_dtypes_have_names(shelf: Path, dtype: str | torch.dtype) -> None:
    denoiser = load("tiny", device="cpu", dtype=dtype)
    assert isinstance(denoiser, PixelDenoiser)
    assert denoiser.dtype == torch.float64


def test_unknown_devices_and_dtypes(shelf: Path) -> None:
    with pytest.raises(InputError) as caught:
        load("tiny", dtype="int8")
    assert str(caught.value) == (
        "The 'dtype' parameter of load must be auto, float32, bfloat16, float16, float64. Got 'int8'."
    )
    for device in ("gpu", "cuda:63"):
        with pytest.raises(InputError) as caught:
            load("tiny", device=device)
        assert str(caught.value) == (
            f"The 'device' parameter of load must be a device of this machine, as 'cpu' or 'cuda'. Got {device!r}."
        )


def test_names_are_suggested(shelf: Path) -> None:
    with pytest.raises(WeightsMissing) as caught:
        load("tny")
    assert str(caught.value) == (
        "The model must be a bundled one (tiny), a directory or 'owner/name' on the Hugging Face hub. "
        "Got 'tny'. Did you mean 'tiny'?"
    )


def test_hub_models_are_fetched_without_pickles(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def snapshot_download(repo_id: str, *, allow_patterns: list[str]) -> str:
        asked.append((repo_id, allow_patterns))
        return str(shelf / "tiny")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert tuple(load("someone/tiny").classes) == CLASSES
    assert asked == [("someone/tiny", ["*.safetensors", "*.json", "*.md"])]


def test_mixtures_are_loaded_by_their_own_class(mixture: Path) -> None:
    denoiser: Any = load("tiny-mixture", device="cpu")
    assert (denoiser.directory, denoiser.device) == (mixture, torch.device("cpu"))
    assert load(mixture, classes=list(CLASSES)) is not None
    with pytest.raises(ConditionError) as caught:
        load(mixture, classes=["a", "b"])
    assert str(caught.value) == (
        f"The mixture in {str(mixture)!r} names its own classes: 'ant', 'bee', 'cat'. "
        "Leave the 'classes' parameter of load out."
    )


# Cards


def test_cards_say_what_a_model_is(shelf: Path) -> None:
    (card,) = list_models()
    assert card == read_card("tiny") == read_card(shelf / "tiny")
    assert (card.name, card.kind, card.classes, card.shape) == ("tiny", "network", CLASSES, (1, 16, 16))
    assert (card.licence, card.data, card.figures) == ("CC0", "none", {"accuracy": [0.3, 0.4]})
    assert card.size_bytes == (shelf / "tiny" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert card.path == shelf / "tiny"
    assert card.description == "A network with random weights."


def test_cards_tell_mixtures_from_networks(mixture: Path) -> None:
    assert [(card.name, card.kind, card.description) for card in list_models()] == [
        ("tiny", "network", "A network with random weights."),
        ("tiny-mixture", "mixture", ""),
    ]


def test_bundled_models_have_the_names_of_their_folders() -> None:
    assert all(card.name == card.path.name and card.description for card in list_models())


def test_importing_denoisers_imports_neither_diffusers_nor_sklearn() -> None:
    code = "import sys, diffclass.denoisers; print({'diffusers', 'sklearn', 'huggingface_hub'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_options_of_pipelines_are_known_without_importing_them() -> None:
    from dataclasses import fields

    from diffclass.denoisers import LOAD_OPTIONS
    from diffclass.denoisers.text_to_image import PipelineOptions

    assert {field.name: field.default for field in fields(PipelineOptions)} == LOAD_OPTIONS
