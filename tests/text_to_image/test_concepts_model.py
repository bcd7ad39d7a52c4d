"""The bundled model of rendered scenes tells colours, and often shapes."""

from random import Random

import pytest
import torch

from diffclass import Exhaustive, ZeroShotClassifier
from diffclass.bench.compositional.concepts import CLASSES, SEEN
from diffclass.data.scenes.making import draw_visible_scene
from diffclass.data.scenes.placing import Wanted
from diffclass.data.scenes.rendering import Renderer

pytest.importorskip("mitsuba", reason="rendering needs mitsuba: pip install 'diffclass[render]'")


@pytest.fixture(scope="module")
def scenes() -> tuple[torch.Tensor, list[str]]:
    """New pictures of eight trained classes."""
    random, pictures, names = Random("new"), [], list(SEEN[::2][:8])
    with Renderer(64, 24) as renderer:
        for name in names:
            colour, shape = name.split()
            scene, _ = draw_visible_scene(renderer, random, [Wanted(shape, colour)], sizes=("large",))
            pictures.append(torch.from_numpy(renderer.picture(scene).copy()).permute(2, 0, 1) / 255)
    return torch.stack(pictures), names


def test_single_objects_among_all_classes(scenes: tuple[torch.Tensor, list[str]]) -> None:
    pictures, names = scenes
    model = ZeroShotClassifier.from_pretrained("concepts", device="cpu").configured(race=Exhaustive(n_draws=8))
    found = [str(decision.label) for decision in model.classify(pictures, CLASSES, "a photo of a {}")]
    pairs = list(zip(found, names, strict=True))
    assert sum(label.split()[0] == name.split()[0] for label, name in pairs) >= 7  # colours, of eight
    assert sum(label == name for label, name in pairs) >= 3  # guessing reaches that with a chance of 1 in 600
