"""Scenes as pictures, by Mitsuba's path tracer: CLEVR's ground, lamps, camera and materials in a square frame."""

import shutil
import weakref
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, final

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from diffclass.data.scenes.meshes import unit_mesh, write_ply
from diffclass.data.scenes.scene import COLOURS, SHAPES, TANGENT, Scene, Thing
from diffclass.errors import MissingExtra, RangeError

__all__ = ["MAX_SIZE", "MIN_SIZE", "Renderer"]

MIN_SIZE, MAX_SIZE = 64, 256  # [pixels] of a side

_AREA_LAMPS = {  # side [CLEVR's units], radiance
    "key": (0.5, (205.0, 197.0, 182.0)),
    "fill": (0.5, (60.0, 64.0, 69.0)),
    "back": (1.0, (19.0, 19.0, 19.0)),
}
_SKY = 0.13  # radiance
_GROUND = 0.75  # reflectance
_COVERAGE_SAMPLES = 16
_LIGHTS = len(_AREA_LAMPS)  # that share the samples
_GLINT = 1.04  # times the median of its neighbours that a pixel of the ground may be
_BOUNCES = 4  # edges of a path of light
_GRAIN = 12  # samples come in so many, or the passes are badly stratified


@final
class Renderer:
    """Renders scenes of one size; hold it in a `with` statement.

    Args:
        size: height and width [pixels].
        samples: of light a pixel, a multiple of 12.
        threads: of the CPU.

    Raises:
        RangeError: the size or the samples are out of range.
        MissingExtra: mitsuba is not installed.
    """

    def __init__(self, size: int, samples: int, *, threads: int = 1) -> None:
        if not MIN_SIZE <= size <= MAX_SIZE:
            raise RangeError(f"Pictures must have {MIN_SIZE} to {MAX_SIZE} pixels a side. Got {size}.")
        if samples < _GRAIN or samples % _GRAIN:
            raise RangeError(f"The samples of a pixel must be a positive multiple of {_GRAIN}. Got {samples}.")
        self.size, self.samples = size, samples
        self._mi = _mitsuba(threads)
        self.version = str(self._mi.__version__)
        folder = Path(mkdtemp(prefix="diffclass-shapes-"))
        self._close = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._files = {shape: folder / f"{shape}.ply" for shape in SHAPES if shape != "sphere"}
        for shape, path in self._files.items():
            write_ply(path, unit_mesh(shape))
        self._transform = self._mi.ScalarTransform4f
        self._covered: tuple[Scene, Float32[ndarray, "_ height width"]] | None = None  # of the last scene

    def __enter__(self) -> "Renderer":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def picture(self, scene: Scene) -> UInt8[ndarray, "height width 3"]:
        """Render the picture, in sRGB.

        Single bright pixels of the ground are cut: light that a metal throws there is found by few samples, and would
        be white dots.
        """
        solid = {f"thing{i}": self._shape(thing, "bsdf", _material(thing)) for i, thing in enumerate(scene.things)}
        solid["ground"] = self._ground()
        shared = {name: self._mi.load_dict(one) for name, one in solid.items()}
        linear = np.zeros((self.size, self.size, 3), dtype=np.float32)
        for index, light in enumerate(self._lights(scene)):
            world = {**self._world(scene, self.samples // _LIGHTS, depth=_BOUNCES), **shared, **light}
            seed = scene.seed * _LIGHTS + index
            linear += np.asarray(self._mi.render(self._mi.load_dict(world), seed=seed), dtype=np.float32)
        ground = self.coverage(scene).max(axis=0) == 0
        linear = np.where(ground[..., None], np.minimum(linear, _smoothed(linear) * _GLINT), linear)
        return (_srgb(linear) * 255 + 0.5).astype(np.uint8)

    def coverage(self, scene: Scene) -> Float32[ndarray, "_ height width"]:
        """Return the share of each pixel that shows each object.

        As CLEVR counts visible pixels: every object shines in a flat colour of its own, nothing else does.

        Raises:
            RangeError: there are not 1 to 3 objects, as many as there are primary colours.
        """
        if not 1 <= len(scene.things) <= 3:
            raise RangeError(f"A picture shows 1 to 3 objects. Got a scene with {len(scene.things)}.")
        if self._covered is not None and self._covered[0] == scene:
            return self._covered[1]
        things = {}
        for i, thing in enumerate(scene.things):
            light = {"type": "area", "radiance": _rgb([float(i == channel) for channel in range(3)])}
            things[f"thing{i}"] = self._shape(thing, "emitter", light)
        world = {**self._world(scene, _COVERAGE_SAMPLES, depth=1), **things}
        world["integrator"]["hide_emitters"] = False
        flat = np.asarray(self._mi.render(self._mi.load_dict(world), seed=scene.seed), dtype=np.float32)
        self._covered = (scene, np.ascontiguousarray(flat.transpose(2, 0, 1)[: len(scene.things)]))
        return self._covered[1]

    def _world(self, scene: Scene, samples: int, *, depth: int) -> dict[str, Any]:
        """The camera, and how light is followed."""
        film = {
            "type": "hdrfilm", "width": self.size, "height": self.size, "pixel_format": "rgb",
            "component_format": "float32", "rfilter": {"type": "box"},
        }  # fmt: skip
        sensor = {
            "type": "perspective", "fov": float(np.degrees(2 * np.arctan(TANGENT))), "fov_axis": "x",
            "to_world": self._aimed(scene.camera), "film": film,
            "sampler": {"type": "multijitter", "sample_count": samples},
        }  # fmt: skip
        return {
            "type": "scene",
            "integrator": {"type": "path", "max_depth": depth, "hide_emitters": True},
            "sensor": sensor,
        }

    def _lights(self, scene: Scene) -> list[dict[str, Any]]:
        """The lamps: light adds up, and one at a time each needs few samples. The last comes with the sky."""
        lights: list[dict[str, Any]] = []
        for name, (side, radiance) in _AREA_LAMPS.items():
            place = self._aimed(getattr(scene, name)) @ self._transform().scale([side / 2, side / 2, 1])
            light = {"type": "area", "radiance": _rgb(radiance)}
            lights.append({name: {"type": "rectangle", "to_world": place, "emitter": light}})
        # What is reflected finds the sky by itself.
        lights[-1]["sky"] = {"type": "constant", "radiance": _rgb([_SKY] * 3), "sampling_weight": 0.0}
        return lights

    def _ground(self) -> dict[str, Any]:
        """A plane without end, for this camera."""
        surface = {"type": "diffuse", "reflectance": _rgb([_GROUND] * 3)}
        return {"type": "rectangle", "to_world": self._transform().scale([60, 60, 1]), "bsdf": surface}

    def _aimed(self, place: tuple[float, float, float]) -> Any:
        """Turn something towards the origin."""
        return self._transform().look_at(origin=list(place), target=[0, 0, 0], up=[0, 0, 1])

    def _shape(self, thing: Thing, part: str, value: dict[str, Any]) -> dict[str, Any]:
        """An object with its surface or its light."""
        place = self._transform().translate(thing.centre.tolist())
        place = place @ self._transform().rotate([0, 0, 1], thing.yaw) @ self._transform().scale(thing.radius)
        if thing.shape == "sphere":
            return {"type": "sphere", "to_world": place, part: value}
        return {"type": "ply", "filename": str(self._files[thing.shape]), "to_world": place, part: value}


def _mitsuba(threads: int) -> Any:
    """Import mitsuba and choose its variant, which holds for the whole process."""
    try:
        import drjit
        import mitsuba
    except ImportError as error:
        raise MissingExtra(
            "Rendering scenes needs mitsuba. Install it with: pip install 'diffclass[render]'."
        ) from error
    if mitsuba.variant() != "scalar_rgb":
        mitsuba.set_variant("scalar_rgb")
    drjit.set_thread_count(threads)
    return mitsuba


def _material(thing: Thing) -> dict[str, Any]:
    """CLEVR's rubber and metal."""
    colour = _rgb([value / 255 for value in COLOURS[thing.colour]])
    if thing.material == "rubber":
        return {"type": "principled", "base_color": colour, "roughness": 0.6, "specular": 0.4}
    metal = {"type": "principled", "base_color": colour, "roughness": 0.22, "metallic": 1.0}
    return {"type": "blendbsdf", "weight": 0.25, "first": metal, "second": {"type": "diffuse", "reflectance": colour}}


def _smoothed(linear: Float32[ndarray, "height width 3"]) -> Float32[ndarray, "height width 3"]:
    """Return the median of every pixel and its eight neighbours; the edges are repeated."""
    height, width, _ = linear.shape
    padded = np.pad(linear, ((1, 1), (1, 1), (0, 0)), mode="edge")
    shifted = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.median(np.stack(shifted), axis=0).astype(np.float32)


def _rgb(values: Any) -> dict[str, Any]:
    return {"type": "rgb", "value": [float(value) for value in values]}


def _srgb(linear: Float32[ndarray, "height width 3"]) -> Float32[ndarray, "height width 3"]:
    """Encode linear light for a screen (IEC 61966-2-1), cut at white."""
    cut = linear.clip(0.0, 1.0)
    return np.where(cut <= 0.0031308, 12.92 * cut, 1.055 * cut ** (1 / 2.4) - 0.055).astype(np.float32)
