"""What a picture shows, as numbers: objects on CLEVR's ground under its lamps, seen by its camera."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from diffclass.errors import InputError

__all__ = ["COLOURS", "MATERIALS", "SHAPES", "SIZES", "Camera", "Scene", "Thing"]

COLOURS: Mapping[str, tuple[int, int, int]] = {  # divided by 255, they are linear reflectances
    "blue": (42, 75, 215),
    "brown": (129, 74, 25),
    "cyan": (41, 208, 208),
    "gray": (87, 87, 87),
    "green": (29, 105, 20),
    "purple": (129, 38, 192),
    "red": (173, 35, 35),
    "yellow": (255, 238, 51),
}
SHAPES = ("cone", "cube", "cylinder", "sphere")
MATERIALS = ("metal", "rubber")
SIZES: Mapping[str, float] = {"large": 0.7, "small": 0.35}  # radius; a cube's is smaller by the square root of 2

TANGENT = 0.75 * 16 / 35  # of half the field of view: the height of CLEVR's 4:3 frame (35 mm lens, 32 mm sensor)
CAMERA = (7.4811, -6.5076, 5.3437)
LAMPS: Mapping[str, tuple[float, float, float]] = {
    "key": (6.4467, -2.9052, 4.2584),
    "fill": (-4.6711, -4.0136, 3.0112),
    "back": (-1.1685, 2.6460, 5.8157),
}
_FORMAT = 1

Vector = Float64[ndarray, "3"]
Place = tuple[float, float, float]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One object, resting on the ground.

    Args:
        shape, colour, material, size: one of SHAPES, COLOURS, MATERIALS and SIZES.
        x, y: where it stands [CLEVR's units].
        yaw: turned by so much around the vertical [degrees].
    """

    shape: str
    colour: str
    material: str
    size: str
    x: float
    y: float
    yaw: float

    @property
    def radius(self) -> float:
        """Half of its height [CLEVR's units]."""
        return SIZES[self.size] / (math.sqrt(2) if self.shape == "cube" else 1.0)

    @property
    def centre(self) -> Vector:
        """Of its bounding box [CLEVR's units]."""
        return np.array([self.x, self.y, self.radius])

    @property
    def corners(self) -> Float64[ndarray, "8 3"]:
        """Of its bounding box, which holds all of it [CLEVR's units]."""
        signs = np.array([[a, b, c] for a in (-1.0, 1.0) for b in (-1.0, 1.0) for c in (-1.0, 1.0)])
        cos, sin = math.cos(math.radians(self.yaw)), math.sin(math.radians(self.yaw))
        return self.centre + self.radius * signs @ np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])

    @property
    def name(self) -> str:
        """Colour and shape, as "blue cube"."""
        return f"{self.colour} {self.shape}"


@final
@dataclass(frozen=True, slots=True)
class Camera:
    """A camera that looks at the origin, without roll.

    Args:
        position: [CLEVR's units].
    """

    position: Place

    @property
    def axes(self) -> tuple[Vector, Vector, Vector]:
        """To the right, upwards and forwards, as unit vectors."""
        forward = -np.array(self.position) / np.linalg.norm(self.position)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        return right, np.cross(right, forward), forward

    def direction(self, name: str) -> Vector:
        """Return a direction on the ground: left, right, front or behind, as the camera sees it.

        Source:
            Johnson et al. 2017 (CLEVR): the camera's axes, projected on the ground.
        """
        right, _, forward = self.axes
        axis = right if name in ("left", "right") else forward
        flat = np.array([axis[0], axis[1], 0.0])
        return flat / np.linalg.norm(flat) * (1.0 if name in ("right", "behind") else -1.0)

    def project(self, points: Float64[ndarray, "_ 3"]) -> Float64[ndarray, "_ 2"]:
        """Return where points are in the picture: from 0 to 1, from the left and from the top."""
        right, up, forward = self.axes
        seen = points - np.array(self.position)
        depth = (seen @ forward) * TANGENT * 2
        return np.stack([0.5 + (seen @ right) / depth, 0.5 - (seen @ up) / depth], axis=1)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything that a picture depends on, but for its number of pixels and of samples.

    Args:
        things: objects.
        camera: position [CLEVR's units].
        key, fill, back: positions of the lamps.
        seed: of the renderer's samples.
    """

    things: tuple[Thing, ...]
    camera: Place
    key: Place
    fill: Place
    back: Place
    seed: int

    @property
    def view(self) -> Camera:
        """The camera."""
        return Camera(self.camera)

    def is_related(self, first: int, relation: str, second: int, *, margin: float = 0.2) -> bool:
        """Say whether an object is left, right, in front or behind of another, by more than a margin.

        Source:
            Johnson et al. 2017 (CLEVR): displacement along the direction above 0.2.
        """
        apart = self.things[first].centre - self.things[second].centre
        return float(apart @ self.view.direction(relation)) > margin

    def record(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        objects = [{name: getattr(thing, name) for name in Thing.__slots__} for thing in self.things]
        lamps = {name: list(getattr(self, name)) for name in LAMPS}
        return {"format": _FORMAT, "objects": objects, "camera": list(self.camera), **lamps, "seed": self.seed}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Scene":
        """Read what `record` wrote; other keys are left alone.

        Raises:
            InputError: it is no record of a scene.
        """
        try:
            if record["format"] != _FORMAT:
                raise InputError(
                    f"The scene has format {record['format']!r}. This version of diffclass reads {_FORMAT}."
                )
            things = tuple(Thing(**{name: one[name] for name in Thing.__slots__}) for one in record["objects"])
            places = {name: tuple(map(float, record[name])) for name in ("camera", *LAMPS)}
            seed = int(record["seed"])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"The record of a scene is incomplete or damaged: {error!r}.") from error
        for thing in things:
            _check(thing)
        return cls(things=things, seed=seed, **places)  # type: ignore[arg-type]


def _check(thing: Thing) -> None:
    """Refuse words that no object has."""
    kinds = {"shape": SHAPES, "colour": tuple(COLOURS), "material": MATERIALS, "size": tuple(SIZES)}
    for kind, words in kinds.items():
        if (word := getattr(thing, kind)) not in words:
            raise InputError(f"The {kind} of an object must be one of {', '.join(words)}. Got {word!r}.")
