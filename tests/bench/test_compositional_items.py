"""Data sets of concepts on the disk: what is planned, listed for training, and read back with candidates."""

import json
from pathlib import Path

import pytest
from PIL import Image

from diffclass.bench.compositional.concepts import FOLDERS, SPLITS, concepts
from diffclass.bench.compositional.items import read_items
from diffclass.bench.compositional.rendered import METADATA, ConceptPictures, summary

pytest.importorskip("mitsuba", reason="rendering needs mitsuba: pip install 'diffclass[render]'")

COUNTS = {"images_per_class": 2, "evaluation_images": 12}


def finished(out: Path, task: str) -> ConceptPictures:
    """Put pictures where a run would make them, and let it list them."""
    pictures = ConceptPictures(task=task, **COUNTS)
    for job in pictures.plan(out / task):
        job.path.parent.mkdir(parents=True, exist_ok=True)
        job.path.write_bytes(b"")
        job.record_path.write_text("{}")
    assert len(set(pictures.render(out))) == 1  # nothing was left to be made
    return pictures


@pytest.mark.parametrize(
    ("task", "train", "others"),
    [
        ("single", 34, [17, 17, 12, 22]),
        ("pair", 186, [93, 93, 12, 37]),
        ("relation", 22, [22, 22, 15, 16]),
        ("depth", 22, [22, 22, 15, 16]),
    ],
)
def test_splits_have_the_numbers_asked_for(tmp_path: Path, task: str, train: int, others: list[int]) -> None:
    finished(tmp_path, task)
    counted = {row["split"]: row for row in summary(tmp_path, task)}
    assert [counted[split]["pictures"] for split in SPLITS] == [train, *others]
    assert all(counted[split]["captions"] == len(concepts(task, split)) for split in SPLITS)
    for split in SPLITS:
        items = read_items(tmp_path, task=task, split=split, setting="gzsl")
        assert len(items) == counted[split]["items"]
        seen_twice = split == "train" and task in ("relation", "depth")  # all but the cylinder beside the sphere
        assert len(items) == (42 if seen_twice else counted[split]["pictures"] * (2 if task == "pair" else 1))
        assert len({item.key for item in items}) == len(items)
        assert len({item.cluster for item in items}) == counted[split]["pictures"]
        assert all(item.image.is_file() for item in items)


def test_more_pictures_are_added_to_fewer() -> None:
    few, many = (
        {job.path: job.seed for job in ConceptPictures(task="single", images_per_class=n).plan(Path("x"))}
        for n in (2, 3)
    )
    assert few.items() < many.items()
    assert len(set(many.values())) == len(many)


def test_lines_for_training_say_what_is_shown(tmp_path: Path) -> None:
    finished(tmp_path, "pair")
    lines = [json.loads(line) for line in (tmp_path / "pair/OOD_val" / METADATA).read_text().splitlines()]
    asked = [line for line in lines if line["file_name"] == "brown_sphere_gray_cylinder/brown sphere/000000.png"]
    assert [line["text"] for line in asked] == ["a photo of a brown sphere", "a photo of a gray cylinder"]
    assert asked[1] == {
        "file_name": "brown_sphere_gray_cylinder/brown sphere/000000.png", "text": "a photo of a gray cylinder",
        "concept": "gray_cylinder_brown_sphere", "colour": "gray", "shape": "cylinder", "other_colour": "brown",
        "other_shape": "sphere",
    }  # fmt: skip


def test_a_relation_is_listed_for_training_from_both_views(tmp_path: Path) -> None:
    finished(tmp_path, "relation")
    told = {
        split: [(line["file_name"], line["text"]) for line in map(json.loads, path.read_text().splitlines())]
        for split in SPLITS
        for path in [tmp_path / "relation" / FOLDERS[split] / METADATA]
    }
    name = "cylinder_left_cone/cylinder left cone/000000.png"
    texts = ["a photo of a cylinder to the left of a cone", "a photo of a cone to the right of a cylinder"]
    assert [text for file, text in told["train"] if file == name] == texts
    assert [text for file, text in told["id-test"] if file == name] == texts[:1]  # one item, as published
    alone = [text for file, text in told["train"] if file.startswith("cylinder_left_sphere")]
    assert set(alone) == {"a photo of a cylinder to the left of a sphere"}  # the other view is kept for validation


def test_items_of_one_picture_share_its_cluster(tmp_path: Path) -> None:
    finished(tmp_path, "pair")
    items = read_items(tmp_path, task="pair", split="ood-test", setting="zsl")
    first = items[0]
    (other,) = [item for item in items[1:] if item.image == first.image]
    assert other.cluster == first.cluster
    assert first.candidates[first.target].caption != other.candidates[other.target].caption
    again = read_items(tmp_path / "pair", task="pair", split="ood-test", setting="gzsl")
    assert [item.key for item in again] == [item.key for item in items]


# The authors' layout


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def test_single_objects_in_the_authors_layout(tmp_path: Path) -> None:
    picture(tmp_path / "OOD_val/brown sphere/CLEVR_new_large_brown_metal_sphere000001.png")
    picture(tmp_path / "OOD_val/cyan cone/CLEVR_cyan_cone_000002.png")
    items = read_items(tmp_path, task="single", split="ood-validation", setting="zsl")
    assert [item.candidates[item.target].caption for item in items] == [
        "a photo of a brown sphere",
        "a photo of a cyan cone",
    ]


def test_pairs_in_the_authors_layout_are_one_cluster_in_both_orders(tmp_path: Path) -> None:
    picture(tmp_path / "ood_val/brown_sphere_gray_cylinder/brown sphere/1.png")
    picture(tmp_path / "ood_val/gray_cylinder_brown_sphere/gray cylinder/1.png")
    picture(tmp_path / "ood_val/gray_cylinder_brown_sphere/gray cylinder/2.png")
    items = read_items(tmp_path, task="pair", split="ood-validation", setting="gzsl")
    assert len({item.key for item in items}) == 3
    assert [item.cluster for item in items].count("brown_sphere_gray_cylinder/1.png") == 2


def test_relations_in_the_authors_layout_are_one_cluster_from_both_views(tmp_path: Path) -> None:
    for folder in ("cube left sphere", "sphere right cube", "sphere left cube"):
        picture(tmp_path / "train" / folder.replace(" ", "_") / folder / "0.png")
    items = read_items(tmp_path, task="relation", split="train", setting="zsl")
    assert {item.key.rpartition(":")[2]: item.cluster for item in items} == {
        "cube_left_sphere": "cube_left_sphere/0.png",
        "sphere_right_cube": "cube_left_sphere/0.png",
        "sphere_left_cube": "cube_right_sphere/0.png",
    }


@pytest.mark.parametrize("folder", ["cube left sphere", "cube_left_sphere/cube left sphere"])
def test_relations_in_the_authors_layout(tmp_path: Path, folder: str) -> None:
    picture(tmp_path / "train" / folder / "0.png")
    (item,) = read_items(tmp_path, task="relation", split="train", setting="gzsl")
    assert item.candidates[item.target].caption == "a photo of a cube to the left of a sphere"
    assert item.candidates[item.target].seen


def test_folders_are_named_as_the_authors_name_them() -> None:
    assert list(FOLDERS.values()) == ["train", "ID_val", "ID_test", "OOD_val", "OOD_test"]
