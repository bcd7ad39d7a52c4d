"""A fine-tuned text-to-image model on disk: a pipeline that diffusers opens, a LoRA, or a small model of pixels."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from diffclass.denoisers import PipelineDenoiser
from diffclass.denoisers.saving import save_denoiser
from diffclass.denoisers.text_to_image.pixels import TextParts, save_pixel_text
from diffclass.denoisers.text_to_image.quiet import libraries_quiet
from diffclass.denoisers.weights import write_directory
from diffclass.train.tuning.card import write_tuning_card

__all__ = ["save_tuned"]

_LORA = "pytorch_lora_weights.safetensors"
_KEPT = ("weight", "weight_mean", "weight_std", "proposal", "proposal_mean", "proposal_std", "sigma_range", "n_draws",
         "block")  # fmt: skip  # what a calibration learned is void


def save_tuned(directory: Path, denoiser: PipelineDenoiser, facts: Mapping[str, Any], *, lora: bool) -> Path:
    """Write a model directory; it appears whole or not at all.

    Args:
        directory: replaced if it holds such a model already.
        denoiser: the model, whose parts go to the CPU.
        facts: of the card and of diffclass.json.
        lora: whether its low-rank matrices alone are saved.

    Raises:
        ResultError: the directory holds other files, or it cannot be written.
    """
    card = write_tuning_card(facts, str(directory))
    for part in denoiser.pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval().requires_grad_(False).to("cpu")
    if isinstance(denoiser.pipe, TextParts):
        kept = {key: value for key, value in denoiser.metadata["classifier"].items() if key in _KEPT}
        return save_pixel_text(directory, denoiser.pipe, {**denoiser.metadata, **facts, "classifier": kept}, card)
    if not lora:
        return save_denoiser(directory, denoiser, {"format": 1, **facts}, card)
    text = json.dumps({"format": 1, **facts}, indent=2, ensure_ascii=False, allow_nan=False)

    def fill(part: Path) -> None:
        with libraries_quiet():
            _save_lora(part, denoiser)
        (part / "diffclass.json").write_text(text + "\n", encoding="utf-8")
        (part / "README.md").write_text(card, encoding="utf-8")

    return write_directory(directory, fill, own={"README.md", "diffclass.json", _LORA})


def _save_lora(directory: Path, denoiser: PipelineDenoiser) -> None:
    """Write a LoRA as diffusers' pipelines read it."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    part = denoiser.family.part
    network: Any = denoiser.network
    weights = get_peft_model_state_dict(network)
    if part == "unet":
        weights = convert_state_dict_to_diffusers(weights)
    config = network.peft_config["default"].to_dict()
    told = {f"{part}_lora_layers": weights, f"{part}_lora_adapter_metadata": config}
    type(denoiser.pipe).save_lora_weights(directory, **told)
    (directory / _LORA).chmod(0o644)
