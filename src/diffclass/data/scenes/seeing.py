"""What can be seen of each object of a picture, and whether that is enough to believe its label."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from diffclass.data.scenes.placing import is_in_frame
from diffclass.data.scenes.rendering import Renderer
from diffclass.data.scenes.scene import Scene, Thing

__all__ = ["Seen", "doubts", "see"]

_LEAST_PIXELS = 200 / 240**2  # of the frame: CLEVR's rule, in the square of its frame's height
_LEAST_SHARE = 0.5  # of an object, not hidden by another
_RELATIONS = ("left", "right")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One object in a picture.

    Args:
        pixels: that show it, parts of pixels counted as such.
        share: of what would be seen if it were alone.
        x, y: middle of these pixels, from 0 to 1 from the left and from the top.
    """

    pixels: float
    share: float
    x: float
    y: float


def see(renderer: Renderer, scene: Scene) -> tuple[Seen, ...]:
    """Measure how much of each object can be seen, and where."""
    coverage = renderer.coverage(scene).astype(np.float64)
    middle = (np.arange(renderer.size) + 0.5) / renderer.size
    seen = []
    for thing, visible in zip(scene.things, coverage, strict=True):
        pixels = float(visible.sum())
        x, y = (float((visible.sum(axis=axis) @ middle) / max(pixels, 1e-9)) for axis in (0, 1))
        share = 1.0
        if _may_be_hidden(thing, scene):
            alone = float(renderer.coverage(replace(scene, things=(thing,))).sum())
            share = min(1.0, pixels / max(alone, 1e-9))
        seen.append(Seen(pixels=pixels, share=share, x=x, y=y))
    return tuple(seen)


def doubts(scene: Scene, seen: Sequence[Seen], size: int) -> list[str]:
    """Say what is wrong with a picture; nothing where all of its objects can be seen as its label says.

    Every object is in the frame, has as many pixels as CLEVR asks for, is at least half visible, and is where its
    centre is projected. Of two objects, the pixels of the one that stands left are to the left.

    Args:
        seen: what `see` measured.
        size: of the picture [pixels].
    """
    found = []
    for number, (thing, one) in enumerate(zip(scene.things, seen, strict=True)):
        name = f"object {number} ({thing.name})"
        if not is_in_frame(thing, scene.view):
            found.append(f"{name} is not all in the frame")
        if one.pixels < _LEAST_PIXELS * size**2:
            found.append(f"{name} has {one.pixels:.0f} pixels")
        if one.share < _LEAST_SHARE:
            found.append(f"{name} is {1 - one.share:.0%} hidden")
        elif np.hypot(*(scene.view.project(thing.centre[None])[0] - (one.x, one.y))) > _extent(thing, scene) / 2:
            found.append(f"{name} is not where its centre is projected")
    if len(scene.things) == 2:
        first, second = seen
        for relation, ahead in zip(_RELATIONS, (first.x < second.x, second.x < first.x), strict=True):
            if scene.is_related(0, relation, 1) and not ahead:
                found.append(f"object 0 is not {relation} of object 1 in the picture")
    return found


def _box(thing: Thing, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Left top and right bottom of an object's box in the picture, from 0 to 1."""
    corners = scene.view.project(thing.corners)
    return corners.min(axis=0), corners.max(axis=0)


def _extent(thing: Thing, scene: Scene) -> float:
    low, high = _box(thing, scene)
    return float((high - low).max())


def _may_be_hidden(thing: Thing, scene: Scene) -> bool:
    """Say whether the box of another object overlaps in the picture."""
    low, high = _box(thing, scene)
    boxes = [_box(other, scene) for other in scene.things if other is not thing]
    return any(bool((low < other_high).all() and (other_low < high).all()) for other_low, other_high in boxes)
