"""What scenes and their data sets refuse: calls and commands, with the exact sentence."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from diffclass.bench.compositional.candidates import candidates_of
from diffclass.bench.compositional.concepts import concepts
from diffclass.bench.compositional.items import read_items
from diffclass.bench.compositional.rendered import METADATA, RUN_FILE, ConceptPictures
from diffclass.cli import main
from diffclass.data.scenes.making import draw_visible_scene, make_pictures
from diffclass.data.scenes.placing import Wanted, draw_scene
from diffclass.data.scenes.rendering import Renderer
from diffclass.data.scenes.scene import Scene
from diffclass.errors import InputError, MissingExtra, RangeError, ResultError

needs_mitsuba = pytest.mark.usefixtures("mitsuba")


@pytest.fixture
def mitsuba() -> None:
    pytest.importorskip("mitsuba", reason="rendering needs mitsuba: pip install 'diffclass[render]'")


def record(**changes: Any) -> dict[str, Any]:
    return {**draw_scene(Random("bad"), (Wanted("cube", "red"),)).record(), **changes}


def thing(**changes: Any) -> dict[str, Any]:
    return {**record()["objects"][0], **changes}


def of_pairs(setting: Any) -> object:
    return candidates_of(concepts("pair", "train")[0], task="pair", split="train", setting=setting)


CALLS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "more objects than fit": (
        lambda: draw_scene(Random("full"), [Wanted()] * 20),
        RangeError,
        "20 objects do not fit beside each other in the frame. Ask for fewer.",
    ),
    "a scene of another format": (
        lambda: Scene.from_record(record(format=7)),
        InputError,
        "The scene has format 7. This version of diffclass reads 1.",
    ),
    "a scene without a camera": (
        lambda: Scene.from_record({"format": 1, "objects": []}),
        InputError,
        "The record of a scene is incomplete or damaged: KeyError('camera').",
    ),
    "an unknown shape": (
        lambda: Scene.from_record(record(objects=[thing(shape="torus")])),
        InputError,
        "The shape of an object must be one of cone, cube, cylinder, sphere. Got 'torus'.",
    ),
    "an unknown colour": (
        lambda: Scene.from_record(record(objects=[thing(colour="pink")])),
        InputError,
        "The colour of an object must be one of blue, brown, cyan, gray, green, purple, red, yellow. Got 'pink'.",
    ),
    "an unknown task": (
        lambda: concepts("count", "train"),
        InputError,
        "The task must be one of single, pair, relation, depth. Got 'count'.",
    ),
    "an unknown split": (
        lambda: concepts("pair", "validation"),
        InputError,
        "The split must be one of train, id-validation, id-test, ood-validation, ood-test. Got 'validation'.",
    ),
    "an unknown setting": (lambda: of_pairs("fsl"), InputError, "The setting must be one of zsl, gzsl. Got 'fsl'."),
    "no images of a class": (
        lambda: ConceptPictures(task="pair", images_per_class=0),
        RangeError,
        "The images of a class must be at least 1. Got 0.",
    ),
    "no workers": (
        lambda: next(make_pictures([], size=64, samples=12, workers=0)),
        RangeError,
        "The number of workers must be at least 1. Got 0.",
    ),
}
RENDERER: dict[str, tuple[Callable[[], object], str]] = {
    "a small picture": (lambda: Renderer(63, 12), "Pictures must have 64 to 256 pixels a side. Got 63."),
    "a large picture": (lambda: Renderer(257, 12), "Pictures must have 64 to 256 pixels a side. Got 257."),
    "odd samples": (lambda: Renderer(64, 32), "The samples of a pixel must be a positive multiple of 12. Got 32."),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    call, kind, sentence = CALLS[name]
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == sentence


@pytest.mark.parametrize("name", RENDERER)
def test_pictures_of_no_use(name: str) -> None:
    call, sentence = RENDERER[name]
    with pytest.raises(RangeError) as caught:
        call()
    assert str(caught.value) == sentence


@needs_mitsuba
def test_more_objects_than_can_be_told_apart() -> None:
    crowd = draw_scene(Random("crowd"), [Wanted()] * 4, sizes=("small",))
    with Renderer(64, 12) as renderer, pytest.raises(RangeError) as caught:
        renderer.coverage(crowd)
    assert str(caught.value) == "A picture shows 1 to 3 objects. Got a scene with 4."


@needs_mitsuba
def test_objects_that_always_hide_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffclass.data.scenes.making.doubts", lambda *_: ["something"])
    monkeypatch.setattr("diffclass.data.scenes.making.see", lambda *_: ())
    with Renderer(64, 12) as renderer, pytest.raises(RangeError) as caught:
        draw_visible_scene(renderer, Random("hidden"), (Wanted(), Wanted()))
    assert str(caught.value) == "2 objects hide each other in 200 scenes. Ask for fewer."


# Folders


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def refused(folder: Path, error: type[Exception] = InputError) -> str:
    with pytest.raises(error) as caught:
        read_items(folder, task="single", split="train", setting="zsl")
    return str(caught.value)


def test_folders_without_what_is_asked_for(tmp_path: Path) -> None:
    gone = tmp_path / "none"
    assert refused(gone) == f"The data set '{gone}' does not exist. Make it with diffclass data concept-binding."
    (tmp_path / "ID_val").mkdir()
    assert refused(tmp_path) == f"The folder '{tmp_path}' has no split train. It has: ID_val."
    (tmp_path / "train").mkdir()
    assert refused(tmp_path) == f"The folder '{tmp_path / 'train'}' has no pictures."
    (tmp_path / RUN_FILE).write_text("")
    remedy = "Run the command that makes it again, to go on."
    assert refused(tmp_path) == f"The data set '{tmp_path}' is unfinished. {remedy}"


def test_folders_with_what_is_no_concept(tmp_path: Path) -> None:
    picture(tmp_path / "train/pink cube/0.png")
    assert refused(tmp_path) == (
        f"The folder '{tmp_path / 'train'}' holds pictures of 'pink_cube', which is not in single, train. It has: "
        "blue_cube, blue_sphere, brown_cone, brown_cube, cyan_cylinder and 12 more."
    )
    picture(tmp_path / "train/0.png")
    assert refused(tmp_path) == f"The picture '{tmp_path / 'train/0.png'}' must be in the folder of its class."


def test_a_damaged_list(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    path = tmp_path / "train" / METADATA
    path.write_text(json.dumps({"file_name": "a.png", "concept": "red_sphere"}) + "\n{")
    wanted = f"Line 2 of '{path}' is damaged. Run the command that made it again."
    assert refused(tmp_path, ResultError) == wanted


# The command


def said(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["data", "concept-binding", *arguments])
    assert result.stdout == ""
    return result.exit_code, result.stderr.removesuffix("\n")


def test_sizes_out_of_range(tmp_path: Path) -> None:
    out = tmp_path / "new"
    assert said("--size", "32", "--out", str(out)) == (2, "Error: Pictures must have 64 to 256 pixels a side. Got 32.")
    assert not out.exists()


def test_mitsuba_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mitsuba", None)
    sentence = "Rendering scenes needs mitsuba. Install it with: pip install 'diffclass[render]'."
    assert said("--out", str(tmp_path / "new")) == (3, f"Error: {sentence}")
    with pytest.raises(MissingExtra, match="Rendering scenes needs mitsuba"):
        Renderer(64, 12)


@needs_mitsuba
def test_a_folder_of_another_configuration(tmp_path: Path) -> None:
    run = ConceptPictures(task="single", seed=1).render(tmp_path)
    assert next(run) == (0, 17 * 100 + 17 * 18 * 2 + 4 * 75 + 11 * 28)
    run.close()
    assert said("--task", "single", "--out", str(tmp_path)) == (
        1,
        f"Error: '{tmp_path / 'single' / RUN_FILE}' holds results of another configuration. It differs in: "
        "seed (was 1, now 0). Use another --out.",
    )


@needs_mitsuba
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "single").write_text("a file")
    code, sentence = said("--task", "single", "--out", str(tmp_path))
    assert (code, sentence.startswith("Error: The result file")) == (1, True)
