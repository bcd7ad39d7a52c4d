"""What a trained network becomes: a denoiser, and what diffclass.json says of it."""

import copy
import platform
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import diffclass
from diffclass.denoisers import EDM, Denoiser, PixelDenoiser, Space
from diffclass.denoisers.precision import fastest_dtype, place_network
from diffclass.train.captioned import CaptionedNetwork
from diffclass.train.recipe import Recipe

__all__ = ["describe", "hardware", "pixel_std", "rounded_denoiser", "training_facts"]


def rounded_denoiser(network: nn.Module, recipe: Recipe, space: Space, classes: tuple[str, ...]) -> Denoiser:
    """Wrap the averaged weights, rounded as they will be saved, on the device they are on."""
    device = next(network.parameters()).device
    rounded = nn.Module.to(copy.deepcopy(network), torch.bfloat16)
    train = recipe.train
    spread = np.exp(train.log_sigma_mean + np.array([-3, 3]) * train.log_sigma_std)
    options: dict[str, Any] = {
        "parametrisation": EDM(space.data_std, train.time_scale),
        "space": space,
        "sigma_range": (float(spread[0]), float(spread[1])),
        "metadata": {"classifier": dict(recipe.classifier)},
    }
    rounded = place_network(rounded, device=device, dtype=fastest_dtype(device))
    if isinstance(rounded, CaptionedNetwork):
        return rounded.eval().requires_grad_(False).as_denoiser(device=device, **options)
    return PixelDenoiser(network=rounded, classes=classes, null_class=len(classes), **options)


def pixel_std(images: Tensor) -> float:
    """[model units] Standard deviation of the pixels of up to 5,000 images."""
    part = images[:: max(1, len(images) // 5000)]
    scale = 1.0 if part.is_floating_point() else 255.0
    return round(float((2 * part.float() / scale - 1).std()), 4)


def describe(recipe: Recipe, space: Space, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return what diffclass.json says of a model before anything is measured."""
    return {
        "format": 1,
        "name": recipe.name,
        "description": recipe.description,
        "classes": list(classes),
        "null_class": len(classes),
        "space": {
            "channels": space.channels, "height": space.height, "width": space.width, "scale": space.scale,
            "offset": space.offset, "patch": space.patch, "data_std": space.data_std,
        },
        "parametrisation": {"kind": "edm", "sigma_data": space.data_std, "time_scale": recipe.train.time_scale},
        "licence": recipe.data.licence,
        "data": recipe.data.title,
    }  # fmt: skip


def training_facts(seconds: float, device: torch.device) -> dict[str, Any]:
    """Return what diffclass.json says of the training."""
    return {
        "seconds": round(seconds, 1), "date": date.today().isoformat(),
        "hardware": hardware(device), "torch": torch.__version__, "diffclass": diffclass.__version__,
    }  # fmt: skip


def hardware(device: torch.device) -> str:
    """Name what the network was trained on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = [line for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
    n = torch.get_num_threads()
    return f"{n} thread{'s' if n > 1 else ''} of {name}"


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []
