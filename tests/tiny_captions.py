"""A folder of captioned pictures that can be learned in seconds: one colour in each half."""

import json
from itertools import permutations
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 30), "blue": (40, 40, 220), "yellow": (230, 220, 40)}


def caption(left: str, right: str) -> str:
    return f"a photo of {left} to the left of {right}"


def save_captions(folder: Path, *, copies: int = 4, size: int = 16, names: tuple[str, ...] = tuple(COLOURS)) -> Path:
    """Pictures of every ordered pair of colours, each true of two captions."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    lines = []
    for left, right in permutations(names, 2):
        for copy in range(copies):
            pixels = np.empty((size, size, 3))
            pixels[:, : size // 2], pixels[:, size // 2 :] = COLOURS[left], COLOURS[right]
            noisy = (pixels + random.normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8)
            name = f"{left}_{right}_{copy}.png"
            Image.fromarray(noisy).save(folder / name)
            both = [caption(left, right), f"a photo of {right} to the right of {left}"]
            lines.append({"file_name": name, "text": both})
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return folder
