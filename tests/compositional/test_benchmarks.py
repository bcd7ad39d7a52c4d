"""Benchmarks of others: tiny files in every foreign format, scored to values worked out by hand, ties included."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffclass.bench.compositional.benchmarks.reading import read_benchmark
from diffclass.bench.compositional.benchmarks.several import candidate_prompts
from diffclass.bench.compositional.comparing import compare
from diffclass.bench.compositional.diffusion import DiffusionScorer
from diffclass.bench.compositional.part import Part
from diffclass.bench.compositional.report import summarise
from diffclass.bench.compositional.scorer import Scored, Scorer, best
from diffclass.decide.zero_shot import ZeroShotClassifier
from tiny_matching import BrightnessReader, save_grey


@dataclass(kw_only=True, eq=False)
class Told(Scorer):
    """Says what it is told for the items in their order, and keeps what it was shown."""

    scores: list[tuple[float, ...]]
    name: str = "told"
    seeded: bool = False
    n_others: int = 0
    shown: list[Any] = field(default_factory=list)

    def configuration(self) -> dict[str, Any]:
        return {"kind": "told"}

    def answer(
        self, asked: Any, *, seed: int, whole: bool = False, comparable: bool = False
    ) -> Iterator[tuple[int, Scored]]:
        self.shown += [one.picture for one in asked]
        for index, one in enumerate(asked):
            scores = self.scores.pop(0)
            assert len(scores) == len(one.captions)
            yield index, Scored(scores=scores, chosen=best(scores), evaluations=0)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def counted(part: Part, scores: list[tuple[float, ...]]) -> dict[str, Any]:
    """Score one part by what is told, and return its own figures."""
    (result,) = summarise([part], compare([part], [Told(scores=scores)]))["results"]
    return result


def figures(result: dict[str, Any]) -> dict[str, float]:
    return {name: one["value"] for name, one in result["published"].items()}


def winoground(home: Path, *, lines: bool = False, n: int = 4) -> Path:
    entries = []
    for i in range(n):
        entry = {"id": i, "caption_0": "a thing of 0.2", "caption_1": "a thing of 0.8"}
        entries.append(entry | {"collapsed_tag": "Object" if i < 2 else "Relation", "tag": "Noun"})
        for side, value in enumerate((0.2, 0.8)):
            save_grey(home / "images" / f"ex_{i}_img_{side}.png", value)
    if lines:
        named = [e | {"image_0": f"ex_{e['id']}_img_0", "image_1": f"ex_{e['id']}_img_1"} for e in entries]
        (home / "data").mkdir()
        (home / "data" / "examples.jsonl").write_text("\n".join(map(json.dumps, named)))
    else:
        write(home / "data.json", entries)
    return home


@pytest.mark.parametrize("lines", [False, True], ids=["data.json", "examples.jsonl"])
def test_winoground(tmp_path: Path, lines: bool) -> None:
    (part,) = read_benchmark(f"winoground:{winoground(tmp_path, lines=lines)}")
    # (score of caption 0, of caption 1) for picture 0 and picture 1 of each of four examples
    scores = [
        (2.0, 1.0), (1.0, 2.0),  # all comparisons won
        (5.0, 4.0), (6.0, 7.0),  # text only: caption 0 prefers picture 1
        (3.0, 0.0), (1.0, 1.0),  # a tie in text and none in images: image only
        (1.0, 2.0), (2.0, 1.0),  # nothing
    ]  # fmt: skip
    result = counted(part, scores)
    assert figures(result) == {"text": 2 / 4, "image": 2 / 4, "group": 1 / 4}
    assert {task: one["text"]["value"] for task, one in result["by_task"].items()} == {"Object": 1.0, "Relation": 0.0}
    assert result["n_tied"] == 1
    assert (result["n_items"], result["published"]["text"]["n"]) == (8, 4)


def test_winoground_by_a_diffusion_model_compares_pictures(tmp_path: Path) -> None:
    (part,) = read_benchmark(f"winoground:{winoground(tmp_path, n=2)}")
    scorer = DiffusionScorer(name="reader", model=ZeroShotClassifier(denoiser=BrightnessReader()))
    (result,) = summarise([part], compare([part], [scorer]))["results"]
    assert figures(result) == {"text": 1.0, "image": 1.0, "group": 1.0}
    assert result["evaluations"]["value"] == 3 * 32  # both captions and none, on every draw


def sugarcrepe(home: Path) -> Path:
    entries = {}
    for number, name in enumerate(("a.png", "b.png", "b.png")):
        save_grey(home / "val2017" / name, 0.5)
        entries[str(3 * number)] = {"filename": name, "caption": f"true {number}", "negative_caption": f"foil {number}"}
    write(home / "data" / "swap_obj.json", entries)
    write(home / "data" / "add_att.json", {"7": entries["0"]})
    return home


def test_sugarcrepe(tmp_path: Path) -> None:
    parts = read_benchmark(f"sugarcrepe:{sugarcrepe(tmp_path)}")
    assert [part.name for part in parts] == ["sugarcrepe.add_att", "sugarcrepe.swap_obj"]
    result = counted(parts[1], [(2.0, 1.0), (1.0, 1.0), (0.0, 1.0)])
    assert figures(result) == {"accuracy": 1 / 3}  # a tie is wrong
    assert result["accuracy"]["value"] == (1 + 0.5) / 3  # and shared in the common table
    assert result["n_clusters"] == 2
    assert result["preferred"] == pytest.approx({"target": 0.5, "foil": 0.5})


def test_valse_counts_valid_items(tmp_path: Path) -> None:
    save_grey(tmp_path / "images" / "x.png", 0.5)
    save_grey(tmp_path / "images" / "VG" / "y.png", 0.5)
    entry = {"caption": "there is a dog", "foil": "there is no dog"}
    write(
        tmp_path / "existence.json",
        {
            "one": entry | {"image_file": "x.png", "dataset": "V7W", "mturk": {"caption": 3, "foil": 0, "other": 0}},
            "two": entry | {"image_file": "y.png", "dataset": "VG", "mturk": {"caption": 2, "foil": 1, "other": 0}},
            "bad": entry | {"image_file": "z.png", "dataset": "VG", "mturk": {"caption": 1, "foil": 2, "other": 0}},
        },
    )
    (part,) = read_benchmark(f"valse:{tmp_path}")
    assert (part.note, [one.key for one in part.items]) == ("2 valid items of 3", ["one", "two"])
    assert figures(counted(part, [(1.0, 0.0), (1.0, 1.0)])) == {"accuracy": 1 / 2}


def test_clevr_pairs(tmp_path: Path) -> None:
    save_grey(tmp_path / "images" / "c.png", 0.5)
    write(tmp_path / "captions" / "recognition_color.json", {"c.png": [["true", "false"], ["right", "wrong"]]})
    write(tmp_path / "captions" / "spatial.json", {"c.png": [["false", "true"]]})
    recognition, spatial = read_benchmark(f"clevr:{tmp_path}")
    assert figures(counted(recognition, [(1.0, 0.0), (0.0, 1.0)])) == {"accuracy": 0.5}
    assert counted(recognition, [(1.0, 0.0), (0.0, 1.0)])["n_clusters"] == 1
    assert figures(counted(spatial, [(0.0, 1.0)])) == {"accuracy": 1.0}  # the second caption is the true one
    assert [c.tag for c in spatial.items[0].candidates] == ["foil", "target"]


def aro(home: Path) -> Path:
    pixels = np.zeros((6, 10, 3), dtype=np.uint8)
    pixels[1:3, 4:8] = 200
    (home / "images").mkdir(parents=True)
    Image.fromarray(pixels).save(home / "images" / "v.png")
    box = {"image_path": "v.png", "bbox_x": 4, "bbox_y": 1, "bbox_w": 4, "bbox_h": 2}
    entry = box | {"true_caption": "the dog is on the grass", "false_caption": "the grass is on the dog"}
    relations = ["on", "on", "on", "next to", "riding"]
    write(home / "visual_genome_relation.json", [entry | {"relation_name": name} for name in relations])
    pairs = [["red", "big"]] * 25 + [["old", "wet"]] * 24
    write(home / "visual_genome_attribution.json", [entry | {"attributes": pair} for pair in pairs])
    return home


def test_aro_averages_over_relations_and_crops_to_boxes(tmp_path: Path) -> None:
    relation, attribution = read_benchmark(f"aro:{aro(tmp_path)}")
    assert "all relations are scored" in relation.note
    told = Told(scores=[(0.0, 1.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
    (result,) = summarise([relation], compare([relation], [told]))["results"]
    assert figures(result)["macro"] == pytest.approx((2 / 3 + 0 + 1) / 3)  # the false caption comes first: a tie fails
    assert {np.asarray(picture).min() for picture in told.shown} == {200}  # the box alone, its centred square
    assert {picture.size for picture in told.shown} == {(2, 2)}
    answers = [(0.0, 1.0)] * 20 + [(1.0, 0.0)] * 5 + [(1.0, 0.0)] * 24
    assert figures(counted(attribution, answers))["macro"] == pytest.approx(20 / 25)  # 24 items are too few


def test_aro_leaves_symmetric_relations_out_where_they_are_named(tmp_path: Path) -> None:
    aro(tmp_path)
    (tmp_path / "symmetric_relations.txt").write_text("next to\n\n")
    relation, _ = read_benchmark(f"aro:{tmp_path}")
    assert len(relation.items) == 4
    assert relation.note == "1 relations of symmetric_relations.txt are left out"


def whatsup(home: Path) -> Path:
    options = ["A mug on a desk", "A mug under a desk", "A mug to the left of a desk", "A mug to the right of a desk"]
    entries = []
    for objects in (("mug", "desk"), ("cap", "chair")):
        for place in ("on", "under", "left_of", "right_of"):
            name = f"{objects[0]}_{place}_{objects[1]}.png"
            save_grey(home / "controlled_images" / name, 0.5)
            entries.append({"image_path": f"data/controlled_images/{name}", "caption_options": options})
    write(home / "controlled_images_dataset.json", entries)
    save_grey(home / "val2017" / "000000000042.jpg", 0.5)
    write(home / "coco_qa_one_obj.json", [[42, "a dog on the left", "a dog on the right"]] * 2)
    return home


def test_whatsup_counts_pairs_and_sets(tmp_path: Path) -> None:
    controlled, two_way = read_benchmark(f"whatsup:{whatsup(tmp_path)}")
    right, wrong, tied = (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 1.0)
    result = counted(controlled, [right, right, right, right, right, right, right, tied])
    assert figures(result) == {"individual": 7 / 8, "pair": 3 / 4, "set": 1 / 2}
    result = counted(controlled, [right, wrong, right, wrong, right, wrong, wrong, right])
    assert figures(result) == {"individual": 1 / 2, "pair": 0.0, "set": 0.0}
    assert (two_way.name, figures(counted(two_way, [(1.0, 0.0), (1.0, 1.0)]))) == (
        "whatsup.coco-one",
        {"accuracy": 0.5},
    )


def self_bench(home: Path) -> Path:
    prompts = {
        "colors": "a photo of a red bench", "counting": "a photo of two cows",
        "position": "a photo of a dog right of a tie", "color_attr": "a photo of a red cup and a blue dog",
        "single_object": "a photo of a cat", "two_object": "a photo of a cat and a dog",
    }  # fmt: skip
    for number, (tag, prompt) in enumerate(prompts.items()):
        folder = home / "cfg9" / "SD" / f"{number:05d}"
        write(folder / "metadata.jsonl", {"tag": tag, "prompt": prompt, "include": []})
        for j in range(2):
            save_grey(folder / "samples" / f"{j:05d}.png", 0.5)
    other = home / "cfg9" / "SD" / "00006"
    write(other / "metadata.jsonl", {"tag": "single_object", "prompt": "a photo of a dog"})
    save_grey(other / "samples" / "00000.png", 0.5)
    (home / "cfg9" / "SD" / "00007").mkdir()
    write(
        home / "cfg9" / "SD" / "00007" / "metadata.jsonl", {"tag": "two_object", "prompt": "a photo of a pen and a cap"}
    )
    save_grey(home / "cfg9" / "SD" / "00007" / "samples" / "00000.png", 0.5)
    return home


def test_self_bench_compares_a_prompt_with_its_variants(tmp_path: Path) -> None:
    parts = {part.items[0].task: part for part in read_benchmark(f"self-bench:{self_bench(tmp_path)}")}
    numbers = {tag: (len(part.items), len(part.items[0].candidates)) for tag, part in parts.items()}
    assert numbers == {
        "color_attr": (2, 100), "colors": (2, 10), "counting": (2, 4), "position": (2, 4), "single_object": (3, 2),
        "two_object": (3, 2),
    }  # fmt: skip
    position = parts["position"].items[0]
    assert [c.caption for c in position.candidates] == [
        f"a photo of a dog {relation} a tie" for relation in ("left of", "right of", "above", "below")
    ]
    assert position.target == 1
    assert figures(counted(parts["position"], [(0.0, 2.0, 1.0, 1.0), (0.0, 1.0, 1.0, 1.0)])) == {"accuracy": 0.5}
    write(tmp_path / "correct.json", ["cfg9/SD/00000/samples/00001.png"])
    (kept,) = read_benchmark(f"self-bench:{tmp_path}")
    assert ([one.key for one in kept.items], kept.note) == (
        ["cfg9/SD/00000/samples/00001.png"],
        "the 1 pictures of correct.json",
    )


def test_pairs_of_colours_are_replaced_together() -> None:
    made = candidate_prompts("color_attr", "a photo of a red cup and a blue orange", [])
    assert len(set(made)) == 100
    assert "a photo of a pink cup and a pink orange" in made


def cobi(home: Path) -> Path:
    for order, target in (("red_cube_blue_sphere", "red cube"), ("blue_sphere_red_cube", "blue sphere")):
        save_grey(home / order / target / "0.png", 0.5)
    names = {
        "red_cube_blue_sphere": ["red cube", "blue cube", "red sphere", "gray cone", "yellow cylinder"],
        "blue_sphere_red_cube": ["blue sphere", "red sphere", "blue cube", "gray cone", "yellow cylinder"],
    }
    for pair, rows in names.items():
        lines = [f"{i},a photo of a {name},{name},{i}" for i, name in enumerate(rows)]
        (home / f"{pair}.csv").write_text("\n".join(["index,prompt,class_name,classidx", *lines]))
    return home


def test_released_candidate_files(tmp_path: Path) -> None:
    (part,) = read_benchmark(f"cobi:{cobi(tmp_path)}")
    first, second = part.items
    assert first.cluster == second.cluster  # one picture, in both orders
    assert [c.tag for c in first.candidates] == ["target", "colour swap", "shape swap", "random", "random"]
    result = counted(part, [(0.0, 1.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0)])
    assert result["preferred"] == {"target": 0.25, "colour swap": 0.5, "random": 0.25}
    assert result["accuracy"]["value"] == 0.25


def test_released_relations_are_tagged(tmp_path: Path) -> None:
    save_grey(tmp_path / "cube_left_cone" / "cube left cone" / "0.png", 0.5)
    rows = ["cube left cone", "cube right cone", "cone left cube", "sphere left cone"]
    lines = [f"{i},a photo of {name},{name},{i}" for i, name in enumerate(rows)]
    (tmp_path / "cube_left_cone.csv").write_text("\n".join(["index,prompt,class_name,classidx", *lines]))
    (part,) = read_benchmark(f"cobi:{tmp_path}")
    assert [c.tag for c in part.items[0].candidates] == ["target", "relation flip", "object swap", "random"]


def test_released_relations_are_one_cluster_from_both_views(tmp_path: Path) -> None:
    for first, relation, second in (("cube", "left", "cone"), ("cone", "right", "cube"), ("cone", "left", "cube")):
        name = f"{first} {relation} {second}"
        folder = tmp_path / name.replace(" ", "_")
        save_grey(folder / name / "0.png", 0.5)
        rows = [f"0,a photo of {name},{name},0", "1,a photo of a tree,tree,1"]
        folder.with_suffix(".csv").write_text("\n".join(["index,prompt,class_name,classidx", *rows]))
    (part,) = read_benchmark(f"cobi:{tmp_path}")
    clusters = {item.key.partition("/")[0]: item.cluster for item in part.items}
    assert clusters["cube_left_cone"] == clusters["cone_right_cube"] != clusters["cone_left_cube"]
