"""What comparisons of captions refuse: a table of calls, exceptions and the exact sentences."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffclass.bench.compositional.baseline import Blind
from diffclass.bench.compositional.benchmarks.reading import read_benchmark
from diffclass.bench.compositional.benchmarks.several import candidate_prompts
from diffclass.bench.compositional.comparing import compare
from diffclass.bench.compositional.comparison_figure import draw_comparison, save_figure
from diffclass.bench.compositional.diffusion import DiffusionScorer, published_objective
from diffclass.bench.compositional.encoders import ClipScorer
from diffclass.bench.compositional.noise_levels import Kept, learned_weighting, read_kept
from diffclass.bench.compositional.opening import open_scorers
from diffclass.bench.compositional.part import Part
from diffclass.bench.compositional.picture import open_picture
from diffclass.bench.compositional.protocol import protocol_parts
from diffclass.decide.zero_shot import ZeroShotClassifier
from diffclass.errors import (
    ConditionError,
    DiffclassError,
    InputError,
    RangeError,
    ResultError,
    UnsupportedModel,
    WeightsMissing,
)
from diffclass.evidence import LikelihoodWeight, Objective
from diffclass.stats.interval import clustered_mean, clustered_proportion
from tiny_matching import BrightnessReader, item, save_grey


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def one(home: Path, captions: tuple[str, ...] = ("a thing of 0.2", "a thing of 0.7"), **options: Any) -> Any:
    return item("x", save_grey(home / "x.png", 0.2), captions, **options)


def part(home: Path, **options: Any) -> Part:
    return Part(name="p", items=(one(home),), setting="zsl", **options)


def reader(**options: Any) -> DiffusionScorer:
    model = ZeroShotClassifier(denoiser=BrightnessReader(with_null=options.pop("with_null", True)))
    return DiffusionScorer(name="reader", model=model, **options)


def pair(home: Path, **changes: Any) -> str:
    """A copy of SugarCrepe with one entry, changed."""
    entry = {"filename": "a.png", "caption": "a cat", "negative_caption": "a dog"} | changes
    write(home / "swap_obj.json", {"7": {k: v for k, v in entry.items() if v is not None}})
    return f"sugarcrepe:{home}"


def released(home: Path, rows: list[str], columns: str = "index,prompt,class_name,classidx") -> str:
    """A candidate file as it was released, beside a folder of pictures of a red cube."""
    save_grey(home / "red_cube_blue_sphere" / "red cube" / "0.png", 0.5)
    lines = [f"{i},a photo of a {name},{name},{i}" for i, name in enumerate(rows)]
    write(home / "red_cube_blue_sphere.csv", "\n".join([columns, *lines]))
    return f"cobi:{home}"


def kept(errors: Any) -> list[Kept]:
    row = {"id": "x", "cluster": "x", "target": 0, "tags": ["target", "random"]}
    return [Kept(row=row, errors=np.array(errors, dtype=np.float32), sigmas=np.ones(2), weights=np.ones(2))]


def aro(home: Path, **changes: Any) -> str:
    save_grey(home / "images" / "v.png", 0.5)
    entry = {"image_path": "v.png", "true_caption": "a", "false_caption": "b", "relation_name": "on"} | changes
    write(home / "visual_genome_relation.json", [entry])
    return f"aro:{home}"


Case = tuple[Callable[[Path], Any], type[DiffclassError], str]
TABLE: dict[str, Case] = {
    # benchmarks
    "missing picture": (
        lambda home: read_benchmark(pair(home)),
        InputError,
        "The picture of '7' is missing: there is no '{home}/val2017/a.png' or '{home}/images/a.png'. Copy the "
        "benchmark's pictures there.",
    ),
    "missing caption": (
        lambda home: read_benchmark(pair(home, negative_caption=None)),
        InputError,
        "The entry '7' of '{home}/swap_obj.json' must have a text 'negative_caption'. Got None.",
    ),
    "no JSON": (
        lambda home: (write(home / "swap_obj.json", "{"), read_benchmark(f"sugarcrepe:{home}")),
        InputError,
        "The file '{home}/swap_obj.json' is damaged: it is no JSON.",
    ),
    "another JSON": (
        lambda home: (write(home / "swap_obj.json", []), read_benchmark(f"sugarcrepe:{home}")),
        InputError,
        "The file '{home}/swap_obj.json' must hold a JSON dict. Got a list.",
    ),
    "no entries": (
        lambda home: (write(home / "swap_obj.json", {}), read_benchmark(f"sugarcrepe:{home}")),
        InputError,
        "'sugarcrepe.swap_obj' has no items. Check the path, the task and the split.",
    ),
    "none of SugarCrepe's files": (
        lambda home: read_benchmark(f"sugarcrepe:{home}"),
        InputError,
        "'{home}' holds none of the files add_att.json, add_obj.json, replace_att.json, replace_obj.json, "
        "replace_rel.json, swap_att.json, swap_obj.json.",
    ),
    "none of ARO's files": (
        lambda home: read_benchmark(f"aro:{home}"),
        InputError,
        "'{home}' holds no visual_genome_relation.json and no visual_genome_attribution.json.",
    ),
    "no box": (
        lambda home: read_benchmark(aro(home, bbox_x=1)),
        InputError,
        "The entry 0 of '{home}/visual_genome_relation.json' must have whole numbers bbox_x, _y, _w, _h.",
    ),
    "none of Winoground's files": (
        lambda home: read_benchmark(f"winoground:{home}"),
        InputError,
        "'{home}' holds neither examples.jsonl nor data.json.",
    ),
    "a damaged line": (
        lambda home: (write(home / "examples.jsonl", "\n{"), read_benchmark(f"winoground:{home}")),
        InputError,
        "Line 2 of '{home}/examples.jsonl' is damaged: it is no JSON.",
    ),
    "none of What'sUp's files": (
        lambda home: read_benchmark(f"whatsup:{home}"),
        InputError,
        "'{home}' holds none of the files controlled_images_dataset.json, controlled_clevr_dataset.json, "
        "coco_qa_one_obj.json, coco_qa_two_obj.json, vg_qa_one_obj.json, vg_qa_two_obj.json.",
    ),
    "three options": (
        lambda home: (
            write(home / "controlled_images_dataset.json", [{"image_path": "x", "caption_options": ["a", "b", "c"]}]),
            read_benchmark(f"whatsup:{home}"),
        ),
        InputError,
        "The entry 0 of '{home}/controlled_images_dataset.json' must have four caption_options. Got ['a', 'b', 'c'].",
    ),
    "a pair without a foil": (
        lambda home: (write(home / "coco_qa_one_obj.json", [[1, "a"]]), read_benchmark(f"whatsup:{home}")),
        InputError,
        "The entry 0 of '{home}/coco_qa_one_obj.json' must be [picture, true, false]. Got [1, 'a'].",
    ),
    "no pair of CLEVR": (
        lambda home: (
            save_grey(home / "images" / "c.png", 0.5),
            write(home / "captions" / "spatial.json", {"c.png": [["a"]]}),
            read_benchmark(f"clevr:{home}"),
        ),
        InputError,
        "The entry 'c.png' of '{home}/captions/spatial.json' must hold pairs of captions. Got ['a'].",
    ),
    "no generated pictures": (
        lambda home: read_benchmark(f"self-bench:{home}"),
        InputError,
        "'{home}' holds no metadata.jsonl beside a folder samples with pictures that are kept.",
    ),
    "a prompt without a number": (
        lambda home: candidate_prompts("counting", "a photo of cows", []),
        InputError,
        "The prompt 'a photo of cows' of Self-Bench's counting must name 1 of one, two, three, four.",
    ),
    "row 0 is not the target": (
        lambda home: read_benchmark(released(home, ["blue cube", "red cube"])),
        InputError,
        "Row 0 of '{home}/red_cube_blue_sphere.csv' must be the true caption, that of the folder of pictures: it names "
        "'blue cube', and the folders are 'red cube'.",
    ),
    "other columns": (
        lambda home: read_benchmark(released(home, ["red cube"], columns="a,b,c,d")),
        InputError,
        "The file '{home}/red_cube_blue_sphere.csv' must have the columns prompt and class_name. Got a, b, c, d.",
    ),
    "one candidate": (
        lambda home: read_benchmark(released(home, ["red cube"])),
        InputError,
        "The item 'red_cube_blue_sphere/red cube/0.png' must have at least 2 captions to choose from. Got 1.",
    ),
    "no released files": (
        lambda home: read_benchmark(f"cobi:{home}"),
        InputError,
        "'{home}' holds no PAIR.csv with a folder PAIR beside it.",
    ),
    # items and pictures
    "a caption twice": (
        lambda home: Part(name="p", items=(one(home, ("a", "a")),), setting="zsl"),
        InputError,
        "The captions of 'x' must differ. Got 'a' twice.",
    ),
    "an item twice": (
        lambda home: Part(name="p", items=(one(home),) * 2, setting="zsl"),
        InputError,
        "The item 'x' of 'p' is there twice.",
    ),
    "no such target": (
        lambda home: Part(name="p", items=(replace(one(home), target=2),), setting="zsl"),
        InputError,
        "The target of 'x' must be from 0 to 1, an index into its captions. Got 2.",
    ),
    "a box outside": (
        lambda home: open_picture(save_grey(home / "x.png", 0.5), box=(9, 0, 2, 2)),
        InputError,
        "The box (9, 0, 2, 2) lies outside '{home}/x.png', which is 4x4 pixels.",
    ),
    "a picture that is gone": (
        lambda home: open_picture(home / "none.png"),
        InputError,
        "The picture '{home}/none.png' does not exist. Check the path.",
    ),
    "an unknown setting": (
        lambda home: protocol_parts(home, tasks=["pair"], splits=["ood-test"], settings=["fsl"]),
        InputError,
        "The 'setting' must be zsl or gzsl. Got 'fsl'.",
    ),
    "no task": (
        lambda home: protocol_parts(home, tasks=[], splits=["ood-test"]),
        InputError,
        "There must be at least one task. Got none.",
    ),
    # scorers
    "no scorer": (
        lambda home: open_scorers([]),
        InputError,
        "There must be at least one scorer. Name some of diffusion, clip, vilt, blind, chance.",
    ),
    "no such model": (
        lambda home: ClipScorer.from_pretrained("owner/clip"),
        WeightsMissing,
        "The model 'owner/clip' is neither a directory here nor to be had from the Hugging Face hub "
        "(LocalEntryNotFoundError). Check the name and the connection, or download it first and give its directory.",
    ),
    "a directory of another kind": (
        lambda home: (write(home / "config.json", {"model_type": "bert"}), ClipScorer.from_pretrained(home)),
        UnsupportedModel,
        "The scorer clip takes a CLIP model. The config.json of '{home}' says 'bert'.",
    ),
    "a clip without weights": (
        lambda home: (write(home / "config.json", {"model_type": "clip"}), ClipScorer.from_pretrained(home)),
        WeightsMissing,
        "The model '{home}' cannot be opened: Error no file named model.safetensors, or pytorch_model.bin, found in "
        "directory {home}.",
    ),
    "an unknown race": (
        lambda home: reader(race="fast"),
        InputError,
        "The 'race' parameter of DiffusionScorer must be one of ('paired', 'exhaustive', 'published'). Got 'fast'.",
    ),
    "fewer captions than are kept": (
        lambda home: compare([part(home)], [reader(race="published")]),
        InputError,
        "The published schedule keeps 5 captions after its first stage, and 'x' has 2. Try keep=2 or race='paired'.",
    ),
    "draws of the published schedule": (
        lambda home: reader(race="published", draws=50),
        InputError,
        "The published schedule sets its own draws, 75 and 200. Leave out 'draws'.",
    ),
    "no times to be uniform over": (
        lambda home: published_objective(Objective(weight=LikelihoodWeight()), None),
        InputError,
        "The published schedule compares predicted noise uniformly over a model's own times, and this model has none. "
        "Try race='paired'.",
    ),
    "pictures that cannot be compared": (
        lambda home: next(iter(compare_pictures(home))),
        ConditionError,
        "Comparing pictures needs the model's error without a caption, and this model was trained with captions only. "
        "Leave out benchmarks that compare pictures, as winoground.",
    ),
    "nothing else to look at": (
        lambda home: compare([part(home)], [Blind(base=reader())]),
        InputError,
        "A blind scorer needs pictures of other clusters than an item's own, and 'p' has one only.",
    ),
    "blind to nothing": (
        lambda home: Blind(base=reader(), n_others=0),
        RangeError,
        "The 'n_others' parameter of Blind must be at least 1. Got 0.",
    ),
    "two parts of one name": (
        lambda home: compare([part(home), part(home)], [reader()]),
        InputError,
        "Parts need names that differ, as their answers are kept by name. Got 'p' twice.",
    ),
    "two scorers of one name": (
        lambda home: compare([part(home)], [reader(), reader()]),
        InputError,
        "Scorers need names that differ, as their answers are kept by name. Got 'reader' twice.",
    ),
    "no seeds": (
        lambda home: compare([part(home)], [reader()], seeds=0),
        RangeError,
        "The 'seeds' parameter of compare must be at least 1. Got 0.",
    ),
    # what is done with answers
    "a caption that left the race": (
        lambda home: learned_weighting(kept([[1, 2], [1, np.nan]]), objective=Objective(), sigma_range=(0.1, 1.0)),
        InputError,
        "Learning a weight needs the error of every caption on every draw. Run with race='exhaustive'.",
    ),
    "nothing to learn from": (
        lambda home: learned_weighting([], objective=Objective(), sigma_range=(0.1, 1.0)),
        InputError,
        "Learning a weight needs answered items. Got none.",
    ),
    "errors that are gone": (
        lambda home: read_kept(home, [{"id": "x"}]),
        ResultError,
        "The errors of 'x' cannot be read from '{home}/errors/4adf4367f96e584f.npz'. Use another --out.",
    ),
    "nothing to draw": (
        lambda home: draw_comparison({"results": []}, home / "figure.png"),
        InputError,
        "A figure of a comparison needs answers. Got none.",
    ),
    "no values": (
        lambda home: clustered_mean(np.array([1.0, np.nan]), np.arange(2)),
        InputError,
        "A clustered interval needs finite values and a cluster for each. Got 1 finite ones of 2 and 2 clusters.",
    ),
    "too much credit": (
        lambda home: clustered_proportion(np.array([1.0, 2.0]), np.arange(2)),
        RangeError,
        "The credit of items must lie in [0, 1]. Got 1.0 to 2.0.",
    ),
}


def compare_pictures(home: Path) -> Any:
    scorer = reader(with_null=False)
    from diffclass.bench.compositional.scorer import Asked

    asked = Asked(item=one(home), picture=open_picture(home / "x.png"))
    return scorer.answer([asked], seed=0, comparable=True)


@pytest.mark.parametrize("name", TABLE)
def test_one_clear_sentence(name: str, tmp_path: Path) -> None:
    call, error, sentence = TABLE[name]
    with pytest.raises(error) as caught:
        call(tmp_path)
    assert str(caught.value) == sentence.format(home=tmp_path)


def test_figures_that_cannot_be_written(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    write(tmp_path / "file", "")
    with pytest.raises(ResultError) as caught:
        save_figure(Figure(), tmp_path / "file" / "figure.png")
    assert str(caught.value) == f"The figure '{tmp_path}/file/figure.png' cannot be written: File exists."
