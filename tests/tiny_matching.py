"""Scorers of captions small enough for tests: a denoiser that reads brightness, a tiny CLIP and a tiny ViLT."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffclass.bench.compositional.item import Candidate, Item
from diffclass.denoisers import Conditions, GaussianDenoiser, Space
from diffclass.denoisers.text_to_image.quiet import libraries_quiet
from tiny_pipelines import TOKENS, WIDTH, clip_tokenizer

STD = 0.1
_KNOTS = [-4.0, 0.0, 3.0]
SETTINGS = {
    "n_draws": 32,
    "weight": {"kind": "tabulated", "log_sigma": _KNOTS, "log_weight": [8.0, 0.0, -6.0]},
    "proposal": {"kind": "tabulated", "log_sigma": _KNOTS, "log_density": [0.0, 0.0, 0.0]},
}


@dataclass(frozen=True, kw_only=True, eq=False)
class BrightnessReader:
    """Gaussians of 2 x 2 grey images; a caption's last word is the mean, so that "a thing of 0.3" is one of 0.3.

    A caption that ends in no number cannot be read. Without a caption the mean is 0.5.
    """

    classes: tuple[str, ...] = ()
    with_null: bool = True

    @property
    def metadata(self) -> dict[str, Any]:
        return {"name": "brightness", "classifier": SETTINGS}

    @property
    def space(self) -> Space:
        return Space(channels=1, height=2, width=2)

    @property
    def sigma_range(self) -> tuple[float, float]:
        return 0.02, 20.0

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def encode(self, images: Tensor) -> Tensor:
        return self.space.to_model(images)

    def decode(self, latents: Tensor) -> Tensor:
        return self.space.to_images(latents)

    def condition_on(self, prompts: Sequence[str]) -> Conditions:
        from diffclass.errors import ConditionError

        try:
            means = torch.tensor([float(prompt.split()[-1]) for prompt in prompts])
        except ValueError:
            raise ConditionError("A caption must end in a number.") from None
        return Conditions({"mean": means}, {"mean": torch.tensor([0.5])} if self.with_null else None)

    def __call__(self, noisy: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        mean = (2 * conditions.tensors["mean"] - 1)[:, None, None, None]
        variance, noise = (2 * STD) ** 2, sigma[:, None, None, None] ** 2
        return (variance * noisy + noise * mean) / (variance + noise)

    def exact(self, means: Sequence[float]) -> GaussianDenoiser:
        """The same as a model of classes."""
        return GaussianDenoiser(
            torch.tensor(means)[:, None, None, None].expand(len(means), 1, 2, 2).clone(), STD,
            classes=[str(mean) for mean in means],
        )  # fmt: skip


def save_grey(path: Path, value: float, size: tuple[int, int] = (4, 4)) -> Path:
    """Write a picture of one grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size[::-1], 3), round(255 * value), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def save_noise(path: Path, seed: int, size: tuple[int, int] = (16, 16)) -> Path:
    """Write a picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path)
    return path


def item(
    key: str, image: Path, captions: Sequence[str], *, target: int = 0, tags: Sequence[str] = (),
    seen: Sequence[bool] = (), cluster: str = "", task: str = "two-object", split: str = "test",
) -> Item:  # fmt: skip
    """An item by hand."""
    tags = tags or ["target" if i == target else "random" for i in range(len(captions))]
    seen = seen or [False] * len(captions)
    candidates = tuple(Candidate(c, t, s) for c, t, s in zip(captions, tags, seen, strict=True))
    return Item(key, image, candidates, target, task, split, cluster or key)


def grey_items(folder: Path, values: Sequence[float], n: int = 3) -> list[Item]:
    """Pictures of some greys, each with its own caption and n - 1 others."""
    items = []
    for number, value in enumerate(values):
        image = save_grey(folder / f"{number}.png", value)
        wrong = [round((value + 0.23 * k) % 1.0, 2) for k in range(1, n)]
        captions = [f"a thing of {v}" for v in (value, *wrong)]
        items.append(item(f"item {number}", image, captions, cluster=str(number // 2)))
    return items


def save_matching(home: Path) -> Path:
    """Save a tiny CLIP (folders clip and tuned) and a tiny ViLT (vilt) with random weights."""
    import transformers

    text = {
        "vocab_size": len(clip_tokenizer()), "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": TOKENS, "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    vision = {
        "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 16, "patch_size": 8,
    }  # fmt: skip
    vilt = {
        "vocab_size": len(clip_tokenizer()), "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": TOKENS, "image_size": 16, "patch_size": 8,
    }  # fmt: skip
    numbers = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "do_normalize": True, "do_rescale": True}
    with libraries_quiet(), torch.random.fork_rng(devices=[]):
        for seed, name in enumerate(("clip", "tuned", "vilt")):
            torch.manual_seed(seed)
            if name == "vilt":
                model: Any = transformers.ViltForImageAndTextRetrieval(transformers.ViltConfig(**vilt))
            else:
                model = transformers.CLIPModel(
                    transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)
                )
            model.save_pretrained(home / name)
            clip_tokenizer().save_pretrained(home / name)
            (home / name / "preprocessor_config.json").write_text(json.dumps(numbers))
    return home
