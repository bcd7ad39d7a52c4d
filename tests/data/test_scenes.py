"""Scenes: geometry by plain formulas, rules by many draws, and pictures by what they show."""

import math
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from diffclass.data.scenes.making import Job, draw_visible_scene, make_pictures
from diffclass.data.scenes.meshes import unit_mesh
from diffclass.data.scenes.placing import Wanted, draw_scene, is_in_frame
from diffclass.data.scenes.scene import COLOURS, SHAPES, SIZES, Camera, Scene, Thing
from scene_records import SAMPLES, SIZE, records, rendered_alike

pytest.importorskip("mitsuba", reason="rendering needs mitsuba: pip install 'diffclass[render]'")

from diffclass.data.scenes.rendering import Renderer
from diffclass.data.scenes.seeing import doubts, see

HOME = (7.4811, -6.5076, 5.3437)


def thing(shape: str = "sphere", x: float = 0.0, y: float = 0.0, **other: object) -> Thing:
    kind = {"colour": "red", "material": "rubber", "size": "large", "yaw": 20.0, **other}
    return Thing(shape=shape, x=x, y=y, **kind)  # type: ignore[arg-type]


def scene(*things: Thing) -> Scene:
    lamps = {"key": (6.4467, -2.9052, 4.2584), "fill": (-4.6711, -4.0136, 3.0112), "back": (-1.1685, 2.646, 5.8157)}
    return Scene(things=things, camera=HOME, seed=5, **lamps)


@pytest.fixture(scope="module")
def renderer():
    with Renderer(SIZE, SAMPLES) as renderer:
        yield renderer


# Geometry


def test_the_camera_is_that_of_clevr() -> None:
    right, up, forward = Camera(HOME).axes
    assert right == pytest.approx((0.6563, 0.7545, 0), abs=1e-4)
    assert up == pytest.approx((-0.3579, 0.3114, 0.8803), abs=1e-4)
    assert forward == pytest.approx((-0.6642, 0.5778, -0.4744), abs=1e-4)
    assert Camera(HOME).direction("left") == pytest.approx((-0.6563, -0.7545, 0), abs=1e-4)
    assert Camera(HOME).direction("behind") == pytest.approx((-0.7545, 0.6563, 0), abs=1e-4)


def test_the_field_of_view_is_the_height_of_clevrs_frame() -> None:
    _, up, forward = Camera(HOME).axes
    half = math.radians(37.85 / 2)
    edge = np.array(HOME) + 10 * (math.cos(half) * forward + math.sin(half) * up)
    assert Camera(HOME).project(edge[None])[0] == pytest.approx((0.5, 0.0), abs=1e-4)


@pytest.mark.parametrize(
    ("shape", "volume", "loss"), [("cube", 8, 0.01), ("cylinder", 2 * np.pi, 0.01), ("cone", 2 * np.pi / 3, 0.03)]
)
def test_meshes_are_closed_unit_shapes(shape: str, volume: float, loss: float) -> None:
    mesh = unit_mesh(shape)
    softened = 0.02 if shape == "cone" else 1e-9  # its base ends before the edge that a sharp cone would have
    assert mesh.points.min(axis=0) == pytest.approx(-np.ones(3), abs=softened)
    assert mesh.points.max(axis=0) == pytest.approx(np.ones(3), abs=softened)
    a, b, c = (mesh.points[mesh.faces[:, i]] for i in range(3))
    # positive: faces are seen from outside
    assert (np.cross(a, b) * c).sum() / 6 == pytest.approx(volume, rel=loss)
    assert np.linalg.norm(mesh.normals, axis=1) == pytest.approx(np.ones(len(mesh.points)))
    flat = np.cross(b - a, c - a)
    assert all((np.einsum("ij,ij->i", flat, mesh.normals[mesh.faces[:, i]]) > 0).all() for i in range(3))


def test_boxes_hold_their_objects() -> None:
    one = thing("cube", 0.5, -1.0, size="small", yaw=30.0)
    points = unit_mesh("cube").points
    cos, sin = math.cos(math.radians(30)), math.sin(math.radians(30))
    placed = one.centre + one.radius * points @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    assert np.abs(one.corners.max(axis=0) - placed.max(axis=0)).max() < 0.04  # softened edges
    assert one.radius == pytest.approx(0.35 / math.sqrt(2))
    assert one.corners[:, 2].min() == pytest.approx(0.0)


def test_records_hold_all_of_a_scene() -> None:
    drawn = draw_scene(Random("record"), (Wanted(), Wanted()))
    assert Scene.from_record(drawn.record()) == drawn


# Placement


@pytest.mark.parametrize("relation", [None, "left", "right", "front", "behind"])
def test_objects_are_placed_by_the_rules(relation: str | None) -> None:
    for number in range(25):
        drawn = draw_scene(Random(f"{relation}{number}"), (Wanted("cube", "red"), Wanted("cone")), relation=relation)
        first, second = drawn.things
        assert (first.name, second.shape) == ("red cube", "cone")
        assert all(is_in_frame(one, drawn.view) and max(abs(one.x), abs(one.y)) <= 3 for one in drawn.things)
        between = (first.centre - second.centre)[:2]
        assert np.linalg.norm(between) >= SIZES[first.size] + SIZES[second.size] + 0.25
        assert all(abs(between @ drawn.view.direction(name)[:2]) >= 0.4 for name in ("left", "behind"))
        assert np.abs(np.array(drawn.camera) - HOME).max() <= 0.5
        if relation is not None:
            assert drawn.is_related(0, relation, 1)
            assert not drawn.is_related(1, relation, 0)


def test_a_seed_gives_the_same_scene_on_every_machine() -> None:
    drawn = draw_scene(Random("golden"), (Wanted("sphere"), Wanted("cube")), relation="left")
    assert drawn == draw_scene(Random("golden"), (Wanted("sphere"), Wanted("cube")), relation="left")
    assert [one.name for one in drawn.things] == ["blue sphere", "yellow cube"]
    assert [round(one.x, 6) for one in drawn.things] == [-2.435889, -1.064026]


# Pictures


@pytest.mark.parametrize("task", ["single", "pair", "relation", "depth"])
def test_recorded_scenes_render_to_the_same_picture(renderer: Renderer, task: str) -> None:
    # all 200: python tests/scene_records.py
    kept = records(task)
    assert len(kept) == 50
    for number in (3, 29):
        assert not rendered_alike(renderer, kept[number])


def test_every_recorded_label_is_what_the_scene_shows() -> None:
    for task in ("relation", "depth"):
        for record in records(task):
            first, relation, second = record["concept"].split("_")
            one = Scene.from_record(record)
            assert [other.shape for other in one.things] == [first, second]
            assert one.is_related(0, relation, 1, margin=0.39)


def test_a_mirrored_scene_is_the_mirrored_picture(renderer: Renderer) -> None:
    original = replace(
        scene(thing("cube", -1.2, -0.9, colour="blue"), thing("cone", 1.0, 1.3, material="metal")), seed=2
    )
    right, _, forward = original.view.axes
    turn = 2 * math.degrees(math.atan2(forward[1], forward[0]))

    def across(place: tuple[float, float, float]) -> tuple[float, float, float]:
        x, y, z = np.array(place) - 2 * (np.array(place) @ right) * right
        return float(x), float(y), float(z)

    mirrored = replace(
        original,
        **{name: across(getattr(original, name)) for name in ("camera", "key", "fill", "back")},
        things=tuple(
            replace(one, x=across((one.x, one.y, 0))[0], y=across((one.x, one.y, 0))[1], yaw=turn - one.yaw)
            for one in original.things
        ),
    )
    flipped = renderer.picture(original)[:, ::-1].astype(float)
    assert np.abs(renderer.picture(mirrored) - flipped).mean() < 1.5
    assert np.abs(renderer.picture(original) - flipped).mean() > 5
    assert original.is_related(0, "left", 1)
    assert mirrored.is_related(0, "right", 1)
    assert not doubts(mirrored, see(renderer, mirrored), SIZE)


def test_pixels_are_counted_as_geometry_says(renderer: Renderer) -> None:
    ball = scene(thing("sphere"))
    (seen,) = see(renderer, ball)
    away = np.array(HOME) - ball.things[0].centre
    # the cone of rays that touch a ball, cut by the picture's plane, nearly a circle at its middle
    radius = 0.7 / math.sqrt(away @ away - 0.49) * 64 / 2 / math.tan(math.radians(37.85 / 2))
    assert seen.pixels == pytest.approx(math.pi * radius**2, rel=0.02)
    assert (seen.x, seen.y) == pytest.approx(tuple(ball.view.project(ball.things[0].centre[None])[0]), abs=0.005)


def test_a_hidden_object_is_doubted(renderer: Renderer) -> None:
    towards = Camera(HOME).direction("front")
    near = thing("cylinder", 1.3 * towards[0], 1.3 * towards[1])
    hidden = scene(thing("cone", -0.3 * towards[0], -0.3 * towards[1], size="small"), near)
    assert any("hidden" in one or "pixels" in one for one in doubts(hidden, see(renderer, hidden), SIZE))
    apart = scene(thing("cone", -1.5, -1.5), thing("cylinder", 1.5, 1.5))
    assert not doubts(apart, see(renderer, apart), SIZE)


def test_an_object_across_the_edge_is_doubted(renderer: Renderer) -> None:
    aside = scene(thing("cube", 2.2, 2.9))
    assert "object 0 (red cube) is not all in the frame" in doubts(aside, see(renderer, aside), SIZE)


@pytest.mark.parametrize("colour", COLOURS)
def test_objects_have_their_colour(renderer: Renderer, colour: str) -> None:
    one = scene(thing(SHAPES[len(colour) % 4], colour=colour))
    shown = renderer.picture(one)[renderer.coverage(one)[0] > 0.99] / 255
    linear = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4).mean(axis=0)
    hues = {name: np.array(rgb) / sum(rgb) for name, rgb in COLOURS.items()}
    nearest = min(hues, key=lambda name: float(np.abs(hues[name] - linear / linear.sum()).sum()))
    assert nearest == colour


def test_threads_change_nothing(renderer: Renderer) -> None:
    one = scene(thing("cube"))
    first = renderer.picture(one)
    with Renderer(SIZE, SAMPLES, threads=2) as other:
        assert (other.picture(one) == first).all()


# Files


def jobs(folder: Path) -> list[Job]:
    return [Job(path=folder / f"a/{i}.png", seed=str(i), wanted=(Wanted("cube"), Wanted("cone"))) for i in range(5)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_stopped_run_goes_on_with_the_same_pictures(tmp_path: Path) -> None:
    whole, broken = jobs(tmp_path / "whole"), jobs(tmp_path / "broken")
    assert list(make_pictures(whole, size=64, samples=12, workers=2)) == whole
    run = make_pictures(broken, size=64, samples=12)
    assert [next(run), next(run)] == broken[:2]
    run.close()
    assert not broken[2].is_done
    broken[1].path.unlink()  # as if killed between the record and the picture
    assert list(make_pictures(broken, size=64, samples=12)) == broken
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "whole")) == 10
    with Image.open(whole[0].path) as picture:
        assert (picture.mode, picture.size) == ("RGB", (64, 64))


def test_drawn_scenes_are_without_doubt(renderer: Renderer) -> None:
    drawn, seen = draw_visible_scene(renderer, Random("visible"), (Wanted("cone"), Wanted("sphere")), relation="left")
    assert not doubts(drawn, seen, SIZE)
    assert seen[0].x < seen[1].x
