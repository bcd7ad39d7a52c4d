"""Runs: the same for all scorers, kept as they go, continued after a kill."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffclass.bench.compositional import asking
from diffclass.bench.compositional.baseline import Chance
from diffclass.bench.compositional.comparing import compare
from diffclass.bench.compositional.comparison_figure import draw_comparison
from diffclass.bench.compositional.diffusion import DiffusionScorer
from diffclass.bench.compositional.part import Part
from diffclass.bench.compositional.report import summarise
from diffclass.bench.compositional.scorer import Scored, Scorer, best
from diffclass.data.results import errors_path
from diffclass.decide.zero_shot import ZeroShotClassifier
from tiny_matching import BrightnessReader, grey_items, item, save_grey

VALUES = (0.1, 0.3, 0.5, 0.7, 0.9, 0.3, 0.6)


@dataclass(kw_only=True, eq=False)
class Oracle(Scorer):
    """Knows the target, and dies when it is told to."""

    name: str = "oracle"
    seeded: bool = True
    n_others: int = 0
    calls: int = 0
    dies_at: int | None = None

    def configuration(self) -> dict[str, Any]:
        return {"kind": "oracle"}

    def answer(
        self, asked: Any, *, seed: int, whole: bool = False, comparable: bool = False
    ) -> Iterator[tuple[int, Scored]]:
        for index, one in enumerate(asked):
            self.calls += 1
            if self.calls == self.dies_at:
                raise KeyboardInterrupt
            scores = [float(i == one.item.target) for i in range(len(one.captions))]
            yield index, Scored(scores=tuple(scores), chosen=best(scores), evaluations=seed + 1)


def part(folder: Path, **options: Any) -> Part:
    return Part(name="p", items=tuple(grey_items(folder, VALUES)), setting="zsl", **options)


@pytest.fixture
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_ITEMS", 2)


@pytest.mark.usefixtures("short_windows")
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    asked = part(tmp_path)
    unbroken = compare([asked], [Oracle()], seeds=2, out=tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        compare([asked], [Oracle(dies_at=8)], seeds=2, out=tmp_path / "b")
    rest = Oracle()
    resumed = compare([asked], [rest], seeds=2, out=tmp_path / "b")
    assert rest.calls == 14 - 6  # three windows of two were on the disk

    def timeless(rows: Any) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in rows["oracle", "p"]]

    assert timeless(resumed) == timeless(unbroken)
    more = Oracle()
    assert len(compare([asked], [more], seeds=3, out=tmp_path / "b")["oracle", "p"]) == 21
    assert more.calls == 7  # the new seed alone


@pytest.mark.usefixtures("short_windows")
def test_noise_does_not_depend_on_the_company(tmp_path: Path) -> None:
    scorer = DiffusionScorer(name="reader", model=ZeroShotClassifier(denoiser=BrightnessReader()))
    asked = part(tmp_path)
    both = compare([asked], [scorer], out=tmp_path / "out", seeds=2)["reader", "p"]
    alone = compare([replace(asked, items=asked.items[3:4])], [scorer], seed=1)["reader", "p"]
    (same,) = [row for row in both if row["id"] == alone[0]["id"]]
    assert same["scores"] == pytest.approx(alone[0]["scores"], rel=1e-4)
    first = next(row for row in both if (row["key"], row["seed"]) == (same["key"], 0))
    assert first["scores"] != same["scores"]
    with np.load(errors_path(tmp_path / "out" / "reader" / "p", same["id"])) as kept:
        assert str(kept["id"]) == same["id"]
        assert kept["errors"].shape == (32, 3)
        n = np.isfinite(kept["errors"]).sum(axis=0)
        assert (int(n.sum()), int(n.max())) == (same["evaluations"], same["draws"])


def test_scorers_without_noise_are_asked_once(tmp_path: Path) -> None:
    rows = compare([part(tmp_path)], [Chance()], seeds=3)
    assert len(rows["chance", "p"]) == len(VALUES)


def test_what_fails_becomes_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    items = grey_items(tmp_path, VALUES)
    (tmp_path / "0.png").write_bytes(b"no picture")
    unreadable = item("odd", save_grey(tmp_path / "odd.png", 0.2), ["a thing of 0.2", "no number"])
    scorer = DiffusionScorer(name="reader", model=ZeroShotClassifier(denoiser=BrightnessReader()))
    asked = Part(name="p", items=(*items, unreadable), setting="zsl")
    rows = compare([asked], [scorer])
    summary = summarise([asked], rows)
    assert summary["failures"] == [
        {
            "scorer": "reader",
            "id": "item 0#0",
            "error": f"The picture '{tmp_path}/0.png' is not in a format that Pillow opens. Try a PNG or JPEG file.",
        },
        {"scorer": "reader", "id": "odd#0", "error": "'odd': A caption must end in a number."},
    ]
    (result,) = summary["results"]
    assert (result["n_failed"], result["accuracy"]["value"], result["accuracy"]["n"]) == (2, 1.0, 6)


def test_limits_take_whole_clusters(tmp_path: Path) -> None:
    whole = part(tmp_path)
    some = whole.first(3, seed=1)
    clusters = {one.cluster for one in some.items}
    assert 3 <= len(some.items) < len(VALUES)
    assert some.items == tuple(one for one in whole.items if one.cluster in clusters)
    assert whole.first(99) is whole


def test_seen_and_unseen_targets_meet_in_one_harmonic_mean(tmp_path: Path) -> None:
    parts = []
    for split, seen in (("id", True), ("ood", False)):
        items = [
            replace(one, split=split, candidates=tuple(replace(c, seen=seen) for c in one.candidates))
            for one in grey_items(tmp_path / split, VALUES)
        ]
        parts.append(Part(name=f"two-object.{split}.gzsl", items=tuple(items), setting="gzsl"))
    summary = summarise(parts, compare(parts, [Oracle(), Chance()]))
    by_scorer = {one["scorer"]: one for one in summary["generalised"]}
    assert by_scorer["oracle"]["harmonic"]["value"] == 1.0
    assert by_scorer["chance"]["harmonic"]["value"] == pytest.approx(1 / 3)
    assert [(g["scorer"], g["over"]) for g in summary["gains"]] == [("chance", "oracle")] * 2
    assert summary["gains"][0]["gain"]["value"] == pytest.approx(-2 / 3)
    json.dumps(summary)
    assert draw_comparison(summary, tmp_path / "figure.png").stat().st_size > 10_000


def test_other_captions_are_another_run(tmp_path: Path) -> None:
    asked = part(tmp_path)
    compare([asked], [Oracle()], out=tmp_path / "out")
    changed = replace(asked.items[0], target=1)
    with pytest.raises(OSError, match=r"holds results of another configuration\. It differs in: items"):
        compare([replace(asked, items=(changed, *asked.items[1:]))], [Oracle()], out=tmp_path / "out")
