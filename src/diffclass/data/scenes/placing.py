"""Where objects stand: CLEVR's rules, and the frame that all of them must be in."""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import numpy as np

from diffclass.data.scenes.scene import CAMERA, COLOURS, LAMPS, MATERIALS, SHAPES, SIZES, Camera, Place, Scene, Thing
from diffclass.errors import RangeError

__all__ = ["Wanted", "draw_scene", "is_in_frame"]

_CAMERA_JITTER, _LAMP_JITTER = 0.5, 1.0  # [CLEVR's units] on each axis
_FIELD = 3.0  # positions are in [-3, 3]
_GAP = 0.25  # [CLEVR's units] between objects
_APART = 0.4  # [CLEVR's units] to the side and in depth, so that no relation is doubtful
_TRIES, _RESTARTS = 50, 20
_FRAME = 0.03  # share of the side that stays free around objects


class Wanted(NamedTuple):
    """An object that a picture must show; what is None is drawn."""

    shape: str | None = None
    colour: str | None = None


def draw_scene(
    random: Random, wanted: Sequence[Wanted], *, relation: str | None = None, sizes: Sequence[str] = tuple(SIZES)
) -> Scene:
    """Place objects at random, all of them in the frame, and jitter the camera and the lamps.

    Args:
        random: only its `random` method is used, whose numbers are the same in every version of Python.
        wanted: the objects.
        relation: left, right, front or behind: where the first one is, as the camera sees the second.
        sizes: to draw from.

    Raises:
        RangeError: there is no room for them.

    Source:
        Johnson et al. 2017 (CLEVR): ranges, gap, margin, number of tries and jitter. Relations are told by the camera
        that takes the picture. The frame is the square in the middle of CLEVR's, and objects outside it are drawn anew.
    """
    for _ in range(_RESTARTS):
        camera = _jittered(random, CAMERA, _CAMERA_JITTER)
        lamps = {name: _jittered(random, place, _LAMP_JITTER) for name, place in LAMPS.items()}
        things: list[Thing] = []
        for index, one in enumerate(wanted):
            placed = _placed(random, one, things, Camera(camera), relation if index == 1 else None, sizes)
            if placed is None:
                break
            things.append(placed)
        seed = int(random.random() * 2**28)
        if len(things) == len(wanted):
            return Scene(things=tuple(things), camera=camera, seed=seed, **lamps)
    raise RangeError(f"{len(wanted)} objects do not fit beside each other in the frame. Ask for fewer.")


def is_in_frame(thing: Thing, camera: Camera, *, margin: float = _FRAME) -> bool:
    """Say whether the box around an object is in the picture, at a margin [share of the side] from its edges."""
    corners = camera.project(thing.corners)
    return bool((corners >= margin).all() and (corners <= 1 - margin).all())


def _placed(
    random: Random, wanted: Wanted, others: Sequence[Thing], camera: Camera, relation: str | None, sizes: Sequence[str]
) -> Thing | None:
    """Draw an object and try places for it."""
    kind = {
        "size": _choice(random, sizes),
        "material": _choice(random, MATERIALS),
        "colour": wanted.colour or _choice(random, tuple(COLOURS)),
        "shape": wanted.shape or _choice(random, SHAPES),
        "yaw": 360 * random.random(),
    }
    for _ in range(_TRIES):
        x, y = (_FIELD * (2 * random.random() - 1) for _ in range(2))
        thing = Thing(**kind, x=x, y=y)
        if is_in_frame(thing, camera) and all(_fits(thing, other, camera) for other in others):
            apart = None if relation is None else (others[0].centre - thing.centre) @ camera.direction(relation)
            if apart is None or apart > 0:
                return thing
    return None


def _fits(thing: Thing, other: Thing, camera: Camera) -> bool:
    """Say whether two objects are apart, to the side and in depth."""
    between = (thing.centre - other.centre)[:2]
    if np.linalg.norm(between) - SIZES[thing.size] - SIZES[other.size] < _GAP:
        return False
    return all(abs(between @ camera.direction(name)[:2]) >= _APART for name in ("right", "behind"))


def _jittered(random: Random, place: Place, most: float) -> Place:
    """Move a place by up to so much on each axis."""
    x, y, z = (value + most * (2 * random.random() - 1) for value in place)
    return x, y, z


def _choice(random: Random, words: Sequence[str]) -> str:
    return words[int(random.random() * len(words))]
