"""Records of scenes and small copies of their pictures, to be rendered again.

python tests/scene_records.py           renders all of them and says which differ
python tests/scene_records.py --write   draws them anew
"""

import base64
import json
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy import ndarray

from diffclass.bench.compositional.concepts import SPLITS, TASKS, concepts
from diffclass.data.scenes.making import draw_visible_scene
from diffclass.data.scenes.rendering import Renderer
from diffclass.data.scenes.scene import Scene
from diffclass.data.scenes.seeing import doubts, see

FOLDER = Path(__file__).with_name("data") / "scenes"
SIZE, SAMPLES, SIDE = 64, 24, 8  # pixels, samples a pixel, pixels of a small copy
PER_TASK = 50
LEVELS = 2  # of 255, that a pixel of a small copy may differ by on another machine


def records(task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()]


def small(picture: ndarray) -> ndarray:
    """Average blocks of a picture."""
    block = SIZE // SIDE
    return picture.reshape(SIDE, block, SIDE, block, 3).mean(axis=(1, 3)).round().astype(np.uint8)


def rendered_alike(renderer: Renderer, record: dict[str, Any]) -> list[str]:
    """Render a record again and say what is wrong with it."""
    scene = Scene.from_record(record)
    seen = see(renderer, scene)
    kept = np.frombuffer(base64.b64decode(record["small"]), dtype=np.uint8).reshape(SIDE, SIDE, 3)
    found = doubts(scene, seen, SIZE)
    if (apart := np.abs(small(renderer.picture(scene)).astype(int) - kept).max()) > LEVELS:
        found.append(f"a pixel of the small copy differs by {apart}")
    for one, pixels in zip(seen, record["pixels"], strict=True):
        if abs(one.pixels - pixels) > 0.5:
            found.append(f"an object has {one.pixels:.2f} pixels, and had {pixels:.2f}")
    return found


def _write(renderer: Renderer) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        lines = []
        for number in range(PER_TASK):
            split = SPLITS[number % len(SPLITS)]
            choices = concepts(task, split)
            concept = choices[number * 7 % len(choices)]
            while True:
                random = Random(f"record/{task}/{number}/{len(lines)}")
                drawn, _ = draw_visible_scene(renderer, random, concept.wanted, relation=concept.relation)
                scene = Scene.from_record(_rounded(drawn.record()))
                seen = see(renderer, scene)
                if not doubts(scene, seen, SIZE):
                    break
            picture = base64.b64encode(small(renderer.picture(scene)).tobytes()).decode("ascii")
            about = {"task": task, "split": split, "concept": concept.key}
            measured = {"pixels": [round(one.pixels, 2) for one in seen], "small": picture}
            lines.append(json.dumps({**scene.record(), **about, **measured}, separators=(",", ":")))
        (FOLDER / f"{task}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return round(value, 3)
        case dict():
            return {key: _rounded(one) for key, one in value.items()}
        case list():
            return [_rounded(one) for one in value]
    return value


def main() -> int:
    with Renderer(SIZE, SAMPLES) as renderer:
        if "--write" in sys.argv:
            _write(renderer)
        wrong = 0
        for task in TASKS:
            for number, record in enumerate(records(task)):
                if found := rendered_alike(renderer, record):
                    sys.stdout.write(f"{task} {number}: {'; '.join(found)}\n")
                    wrong += 1
    sys.stdout.write(f"{wrong} of {PER_TASK * len(TASKS)} scenes render to another picture\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
