"""The shapes of CLEVR as triangles: unit meshes inside [-1, 1]^3, with softened edges and their normals."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

__all__ = ["Mesh", "unit_mesh", "write_ply"]

_TURNS = 64  # vertices around a solid of revolution
_ARC = 5  # points of a quarter circle, where an edge is softened
_BEVEL = {"cube": 0.09, "cylinder": 0.06, "cone": 0.03}  # radius of the softened edges


@final
@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """Triangles with a normal at each vertex.

    Args:
        points: vertices.
        normals: of unit length, outwards.
        faces: three vertices each, counter-clockwise from outside.
    """

    points: Float64[ndarray, "_ 3"]
    normals: Float64[ndarray, "_ 3"]
    faces: Int64[ndarray, "_ 3"]


def unit_mesh(shape: str) -> Mesh:
    """Return a shape that touches every side of [-1, 1]^3: cube, cylinder or cone (a sphere is no mesh).

    Source:
        Johnson et al. 2017 (CLEVR), whose objects are unit meshes with softened edges. CLEVR has no cone; this one has the
        cylinder's base and height, as Pearson et al. 2025 need one.
    """
    if shape == "cube":
        return _rounded_cube(_BEVEL[shape])
    return _revolved(_cylinder_profile(_BEVEL[shape]) if shape == "cylinder" else _cone_profile(_BEVEL[shape]))


def write_ply(path: Path, mesh: Mesh) -> None:
    """Write a mesh as a binary PLY file."""
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(mesh.points)}\n"
        + "".join(f"property float {name}\n" for name in ("x", "y", "z", "nx", "ny", "nz"))
        + f"element face {len(mesh.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    faces = np.empty(len(mesh.faces), dtype=[("n", "u1"), ("vertices", "<i4", 3)])
    faces["n"], faces["vertices"] = 3, mesh.faces
    vertices = np.hstack([mesh.points, mesh.normals]).astype("<f4")
    path.write_bytes(header.encode("ascii") + vertices.tobytes() + faces.tobytes())


Profile = Sequence[tuple[float, float, float, float]]  # distance from the axis, height, and the normal's two parts


def _arc(
    centre: tuple[float, float], radius: float, start: float, end: float
) -> list[tuple[float, float, float, float]]:
    """Points of a circle with their normals, between two angles [radians] from the horizontal."""
    angles = np.linspace(start, end, _ARC)
    return [
        (
            centre[0] + radius * float(np.cos(a)),
            centre[1] + radius * float(np.sin(a)),
            float(np.cos(a)),
            float(np.sin(a)),
        )
        for a in angles
    ]


def _cylinder_profile(bevel: float) -> Profile:
    """From the middle of the base over both softened edges to the middle of the top."""
    inner, quarter = 1 - bevel, np.pi / 2
    lower = _arc((inner, -inner), bevel, -quarter, 0)
    upper = _arc((inner, inner), bevel, 0, quarter)
    return [(0, -1, 0, -1), *lower, *upper, (0, 1, 0, 1)]


def _cone_profile(bevel: float) -> Profile:
    """From the middle of the base over its softened edge to a rounded tip; the slope touches both circles."""
    slope = np.arctan2(1, 2)  # angle of the side's normal above the horizontal: base radius 1, height 2
    tip = 1 - bevel / np.sin(slope)  # height of the centre of the tip's circle, which touches the side
    inset = bevel * np.tan((np.pi / 2 + slope) / 2)  # from the sharp edge to the circle in it
    top = [(max(x, 0.0), z, nx, nz) for x, z, nx, nz in _arc((0, tip), bevel, slope, np.pi / 2)]
    lift = 1 - (tip + bevel)  # the rounded tip is lower than the sharp one: stretch to height 2
    stretched = [(x, z, nx, nz) for x, z, nx, nz in [*_arc((1 - inset, -1 + bevel), bevel, -np.pi / 2, slope), *top]]
    scale = 2 / (2 - lift)
    return [(0, -1, 0, -1), *((x, (z + 1) * scale - 1, nx, nz) for x, z, nx, nz in stretched)]


def _revolved(profile: Profile) -> Mesh:
    """Turn a profile around the vertical axis."""
    angles = np.linspace(0, 2 * np.pi, _TURNS, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles), np.zeros(_TURNS)], axis=1)
    axis = np.array([0.0, 0.0, 1.0])
    lines = np.array(profile, dtype=np.float64)
    points = np.concatenate([ring * radius + axis * height for radius, height, _, _ in lines])
    normals = np.concatenate([ring * out + axis * up for _, _, out, up in lines])
    step = np.arange(_TURNS)
    following = (step + 1) % _TURNS
    faces = [
        triangle
        for row in range(len(lines) - 1)
        for triangle in (
            np.stack([step, following, following + _TURNS], axis=1) + row * _TURNS,
            np.stack([step, following + _TURNS, step + _TURNS], axis=1) + row * _TURNS,
        )
    ]
    return Mesh(points=points, normals=normals, faces=_with_area(points, np.concatenate(faces)))


def _rounded_cube(bevel: float) -> Mesh:
    """A cube whose edges and corners are those of a smaller cube, grown by a ball."""
    inner = 1 - bevel
    angles = np.linspace(0, np.pi / 4, _ARC)
    side = np.concatenate([-inner - bevel * np.tan(angles[::-1]), inner + bevel * np.tan(angles)])
    first, second = np.meshgrid(side, side, indexing="ij")
    count = len(side)
    grid = np.arange(count * count).reshape(count, count)
    corners = [grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]]
    a, b, c, d = (corner.reshape(-1) for corner in corners)
    square = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    points, faces = [], []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            cell = np.empty((count * count, 3))
            cell[:, axis] = sign
            cell[:, (axis + 1) % 3], cell[:, (axis + 2) % 3] = first.reshape(-1), second.reshape(-1)
            faces.append((square if sign > 0 else square[:, ::-1]) + len(points) * count * count)
            points.append(cell)
    box = np.concatenate(points)
    core = box.clip(-inner, inner)
    normals = (box - core) / np.linalg.norm(box - core, axis=1, keepdims=True)
    return Mesh(points=core + bevel * normals, normals=normals, faces=np.concatenate(faces))


def _with_area(points: Float64[ndarray, "_ 3"], faces: Int64[ndarray, "_ 3"]) -> Int64[ndarray, "_ 3"]:
    """Drop triangles that have no area, as those at the axis of a solid of revolution."""
    a, b, c = (points[faces[:, i]] for i in range(3))
    return faces[np.linalg.norm(np.cross(b - a, c - a), axis=1) > 1e-12]
