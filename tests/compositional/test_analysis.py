"""What lies behind the answers: cosines and probes of known vectors, margins in closed form, weights that help."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffclass.bench.compositional.analysis import analyse, weigh_noise_levels
from diffclass.bench.compositional.comparing import compare
from diffclass.bench.compositional.diffusion import DiffusionScorer
from diffclass.bench.compositional.embedding import Embedded, parse_relation, probe_relation, similarities
from diffclass.bench.compositional.encoders import ClipScorer
from diffclass.bench.compositional.noise_levels import Kept, learned_weighting, margins
from diffclass.bench.compositional.part import Part
from diffclass.bench.compositional.protocol import protocol_parts
from diffclass.decide.zero_shot import ZeroShotClassifier
from diffclass.evidence import Objective
from tiny_matching import STD, BrightnessReader, item, save_grey, save_noise

LEFT, RIGHT = "a photo of a cone to the left of a cube", "a photo of a cone to the right of a cube"
SWAPPED, OTHER = "a photo of a cube to the left of a cone", "a photo of a sphere to the left of a cylinder"
TAGS = ("target", "relation flip", "object swap", "random")


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        (LEFT, ("cone", "left", "cube")),
        ("a photo of a red cube to the right of a blue sphere.", ("red cube", "right", "blue sphere")),
        ("A cube in front of a cone", ("A cube", "front", "cone")),
        ("a photo of a cube behind a cone", ("cube", "behind", "cone")),
        ("a photo of a red cube", None),
    ],
)
def test_relations_are_read_off_captions(caption: str, found: Any) -> None:
    assert parse_relation(caption) == (found if caption[0] == "a" else None)


def test_cosines_of_texts_and_of_centroids() -> None:
    texts = {LEFT: [1.0, 0.0], RIGHT: [0.6, 0.8], SWAPPED: [0.0, 1.0], OTHER: [-1.0, 0.0]}
    pictures = {"l0": [1.0, 0.0], "l1": [0.0, 1.0], "r0": [1.0, 0.0], "r1": [1.0, 0.0]}
    captions = (LEFT, RIGHT, SWAPPED, OTHER)
    items = [item(f"l{i}", Path(f"l{i}"), captions, tags=TAGS) for i in range(2)]
    mirrored = ("relation flip", "target", "random", "random")
    items += [item(f"r{i}", Path(f"r{i}"), captions, target=1, tags=mirrored) for i in range(2)]
    embedded = Embedded(
        scorer="clip", texts={k: np.array(v) for k, v in texts.items()},
        pictures={k: np.array(v) for k, v in pictures.items()},
    )  # fmt: skip
    found = similarities(embedded, items)
    assert found["relation flip"]["text"]["value"] == pytest.approx(0.6)
    assert found["relation flip"]["text"]["n"] == 2  # each direction once, however many items
    assert found["relation flip"]["image"]["value"] == pytest.approx(np.sqrt(0.5))
    assert found["object swap"]["text"]["value"] == pytest.approx(0.0)
    assert found["object swap"]["image"] is None  # no picture of it
    assert found["random"]["text"]["value"] == pytest.approx((-1.0 + 0.8 - 0.6) / 3)


def test_a_probe_finds_the_relation_where_it_is() -> None:
    random = np.random.default_rng(0)
    items, with_relation, without = [], {}, {}
    for number in range(40):
        # a picture of the cone on the left is one of the cube on the right, too: both captions say one side
        left = number % 2 == 0
        caption = (LEFT, "a photo of a cube to the right of a cone")[number % 4 // 2] if left else RIGHT
        file = Path(f"{number}.png")
        items.append(item(str(number), file, [caption, OTHER]))
        with_relation[file.as_posix()] = np.array([2.0 * left - 1, *random.normal(size=4)])
        without[file.as_posix()] = random.normal(size=5)
    found = probe_relation(Embedded(scorer="a", texts={}, pictures=with_relation), items)
    blind = probe_relation(Embedded(scorer="b", texts={}, pictures=without), items)
    assert found is not None
    assert blind is not None
    assert found["accuracy"]["value"] > 0.9
    assert found["pairs"].keys() == {"cone+cube"}
    assert found["chance"] == 0.5
    assert blind["accuracy"]["value"] < 0.75  # 30 of 40 by luck: 1 in 1,000, for a fixed seed
    others = [item(str(i), Path("x"), ["a red cube", "a blue cube"]) for i in range(4)]
    assert probe_relation(Embedded(scorer="a", texts={}, pictures=with_relation), others) is None


def test_margins_follow_the_closed_form(tmp_path: Path) -> None:
    # (error' - error) / sigma^2 has the mean (sigma / (s^2 + sigma^2))^2 (|x - mean'|^2 - |x - mean|^2) and the
    # standard deviation 2 s^2 sigma / (s^2 + sigma^2)^2 |mean' - mean| over the noise [model units]
    captions = ["a thing of 0.4", "a thing of 0.6"]
    values = np.linspace(0.36, 0.46, 12).round(2)
    tags = ("target", "colour swap")
    items = tuple(
        item(str(n), save_grey(tmp_path / f"{n}.png", value), captions, tags=tags) for n, value in enumerate(values)
    )
    part = Part(name="p", items=items, setting="zsl")
    scorer = DiffusionScorer(name="r", model=ZeroShotClassifier(denoiser=BrightnessReader()), draws=64)
    rows = compare([part], [scorer], seeds=2, whole=True, out=tmp_path / "out")
    found = analyse([part], [scorer], rows, tmp_path / "out")
    bins = found["margins"]["r"]["p"]["colour swap"]
    assert len(bins) == 8
    grey = np.round(255 * values) / 255
    gap = float((16 * ((grey - 0.6) ** 2 - (grey - 0.4) ** 2)).mean())  # of four pixels, in model units
    variance, distance = (2 * STD) ** 2, 2 * 2 * 0.2
    edges = np.geomspace(0.02, 20.0, 9)
    for number, one in enumerate(bins):
        sigma = np.geomspace(edges[number], edges[number + 1], 999)
        exact = float((sigma**2 / (variance + sigma**2) ** 2 * gap).mean())
        spread = float((2 * variance * sigma / (variance + sigma**2) ** 2 * distance).max())
        assert abs(one["margin"]["value"] - exact) < 4 * spread / np.sqrt(12 * 2 * 8) + 0.1 * exact
        assert one["wins"]["low"] <= one["wins"]["value"] <= one["wins"]["high"]
    wins = [one["wins"]["value"] for one in bins]
    assert wins[0] < 0.75 < wins[3] <= wins[-1] == 1.0  # small noise hides the mean, large noise shows it alone
    assert (tmp_path / "out" / "margins.png").stat().st_size > 10_000


def kept(n: int, *, races: bool = False) -> list[Kept]:
    """Items of which small noise knows the answer and large noise, which is louder, favours another."""
    random = np.random.default_rng(1)
    made = []
    for number in range(n):
        sigmas = np.geomspace(0.1, 10.0, 32)
        errors = random.normal(0, 0.3, (32, 3)).astype(np.float32)
        errors[:16, 0] -= 0.4
        errors[16:, 1] -= 0.8
        if races:
            errors[20:, 2] = np.nan
        row = {
            "id": str(number), "cluster": str(number), "target": 0, "tags": ["target", "colour swap", "random"],
            "chosen": [1],
        }  # fmt: skip
        made.append(Kept(row=row, errors=errors, sigmas=sigmas, weights=np.ones(32)))
    return made


def test_a_learned_weight_helps_on_pictures_it_has_not_seen() -> None:
    found = learned_weighting(kept(60), objective=Objective(), sigma_range=(0.1, 10.0))
    assert (found["n_learned"], found["n_held_out"], found["n_left_out"]) == (30, 30, 0)
    assert found["own"]["value"] < 0.1
    assert found["learned"]["value"] > 0.9
    assert found["gain"]["low"] > 0.5
    assert found["log_ratio"][0] > found["log_ratio"][-1]
    assert "it is used" in found["told"]


def test_margins_of_a_race_use_the_draws_that_all_saw() -> None:
    whole, raced = margins(kept(4), bins=2), margins(kept(4, races=True), bins=2)
    assert [one["wins"]["n"] for one in whole["random"]] == [4 * 16, 4 * 16]
    assert [one["wins"]["n"] for one in raced["random"]] == [4 * 10, 4 * 10]


def test_frozen_and_tuned_side_by_side(matching: Path, tmp_path: Path) -> None:
    scorers = [ClipScorer.from_pretrained(matching / name, name=name) for name in ("clip", "tuned")]
    captions = ["a cone to the left of a cube", "a cone to the right of a cube", "a pen to the left of a cup"]
    items = tuple(
        item(str(n), save_noise(tmp_path / f"{n}.png", n), captions, target=n % 2,
             tags=[("target", "relation flip", "random")[(i - n) % 2 if i < 2 else 2] for i in range(3)])
        for n in range(8)
    )  # fmt: skip
    part = Part(name="relation.ood-test.gzsl", items=items, setting="gzsl")
    found = analyse([part], scorers, compare([part], scorers), tmp_path)
    assert found["embeddings"].keys() == {"clip", "tuned"}
    flips = [one["similarities"]["relation flip"]["text"]["value"] for one in found["embeddings"].values()]
    assert flips[0] != flips[1]
    assert found["figures"] == [str(tmp_path / "embeddings.png")]


def test_a_picture_that_failed_is_left_out_of_what_is_looked_behind(matching: Path, tmp_path: Path) -> None:
    scorer = ClipScorer.from_pretrained(matching / "clip", name="clip")
    captions = ["a cone to the left of a cube", "a cone to the right of a cube"]
    items = tuple(item(str(n), save_noise(tmp_path / f"{n}.png", n), captions, target=n % 2) for n in range(6))
    (tmp_path / "3.png").write_bytes(b"no picture")
    part = Part(name="p", items=items, setting="zsl")
    found = analyse([part], [scorer], compare([part], [scorer]), tmp_path)
    (rest,) = [replace(part, items=tuple(one for one in items if one.key != "3"))]
    alone = analyse([rest], [scorer], compare([rest], [scorer]), tmp_path)
    assert found["embeddings"] == alone["embeddings"]


def test_weights_are_learned_from_a_run(tmp_path: Path) -> None:
    values = np.linspace(0.1, 0.9, 44).round(2)
    items = tuple(
        item(str(n), save_grey(tmp_path / f"{n}.png", value), [f"a thing of {value}", f"a thing of {1.01 - value:.2f}"])
        for n, value in enumerate(values)
    )
    part = Part(name="p", items=items, setting="zsl")
    scorer = DiffusionScorer(name="r", model=ZeroShotClassifier(denoiser=BrightnessReader()), race="exhaustive")
    rows = compare([part], [scorer], out=tmp_path / "out")
    (found,) = weigh_noise_levels([part], [scorer], rows, tmp_path / "out")
    assert (found["scorer"], found["part"], found["n_held_out"]) == ("r", "p", 22)
    assert 0.5 < found["own"]["value"] <= 1.0


def test_parts_of_the_protocol_are_tasks_times_splits_times_settings(tmp_path: Path) -> None:
    for split, pair in (("ID_test", "red_sphere_gray_cube"), ("OOD_test", "red_cube_blue_cylinder")):
        save_grey(tmp_path / split / pair / " ".join(pair.split("_")[:2]) / "0.png", 0.5)
    parts = protocol_parts(tmp_path, tasks=["pair"], splits=["id-test", "ood-test"], settings=["zsl", "gzsl"], seed=3)
    assert [part.name for part in parts] == [f"pair.{s}.{g}" for s in ("id-test", "ood-test") for g in ("zsl", "gzsl")]
    assert [part.setting for part in parts] == ["zsl", "gzsl"] * 2
    assert [len(part.items[0].candidates) for part in parts] == [3, 5] * 2
    assert {(item.task, item.split) for item in parts[-1].items} == {("pair", "ood-test")}
    other = protocol_parts(tmp_path, tasks=["pair"], splits=["id-test", "ood-test"], settings=["zsl", "gzsl"], seed=4)
    assert [part.fingerprint for part in parts] != [part.fingerprint for part in other]
