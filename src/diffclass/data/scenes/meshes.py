"""The shapes of CLEVR as triangles: unit meshes inside [-1, 1]^3, with softened edges and their normals."""

import math
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

    The softened base of the cone stays 2% inside.

    Source:
        Johnson et al. 2017 (CLEVR), whose objects are unit meshes with softened edges. CLEVR has no cone, which Pearson
        et al. 2025 add; this one has the cylinder's base and height.
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


Profile = Float64[ndarray, "_ 4"]  # distance from the axis, height, and the two parts of the normal


def _arc(out: float, up: float, radius: float, start: float, end: float) -> Profile:
    """Points of a circle around a point, with their normals, between two angles [radians] from the horizontal."""
    angles = np.linspace(start, end, _ARC)
    normals = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.hstack([np.array([out, up]) + radius * normals, normals])


def _cylinder_profile(bevel: float) -> Profile:
    """From the middle of the base over both softened edges to the middle of the top."""
    inner, quarter = 1 - bevel, np.pi / 2
    lower, upper = _arc(inner, -inner, bevel, -quarter, 0.0), _arc(inner, inner, bevel, 0.0, quarter)
    return np.vstack([[0.0, -1.0, 0.0, -1.0], lower, upper, [0.0, 1.0, 0.0, 1.0]])


def _cone_profile(bevel: float) -> Profile:
    """From the middle of the base over its softened edge to a rounded tip; the side touches both circles."""
    slope = math.atan2(1, 2)  # angle of the side's normal above the horizontal: base radius 1, height 2
    tip = 1 - bevel / math.sin(slope)  # height of the centre of the tip's circle
    inset = bevel * math.tan((math.pi / 2 + slope) / 2)  # of the other circle's centre from the sharp edge
    edge, top = _arc(1 - inset, bevel - 1, bevel, -np.pi / 2, slope), _arc(0.0, tip, bevel, slope, np.pi / 2)
    profile = np.vstack([[0.0, -1.0, 0.0, -1.0], edge, top])
    profile[:, 1] = (profile[:, 1] + 1) * 2 / (1 + tip + bevel) - 1  # a rounded tip is lower: stretch it to height 2
    return profile


def _revolved(profile: Profile) -> Mesh:
    """Turn a profile around the vertical axis."""
    angles = np.linspace(0, 2 * np.pi, _TURNS, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles), np.zeros(_TURNS)], axis=1)
    axis = np.array([0.0, 0.0, 1.0])
    points = np.concatenate([ring * radius + axis * height for radius, height, _, _ in profile])
    normals = np.concatenate([ring * out + axis * up for _, _, out, up in profile])
    step = np.arange(_TURNS)
    following = (step + 1) % _TURNS
    faces = [
        triangle
        for row in range(len(profile) - 1)
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
