"""Comparisons shared among processes: the rows and errors of one, to the last bit, whoever answered what."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffclass.bench.compositional import asking
from diffclass.bench.compositional.analysis import analyse
from diffclass.bench.compositional.asking import windows_of
from diffclass.bench.compositional.baseline import Blind, Chance
from diffclass.bench.compositional.comparing import answer_windows, compare
from diffclass.bench.compositional.diffusion import DiffusionScorer
from diffclass.bench.compositional.part import Part
from diffclass.bench.compositional.scorer import Scorer
from diffclass.bench.shards import Shard
from diffclass.data.results import errors_path
from diffclass.decide.zero_shot import ZeroShotClassifier
from diffclass.errors import ResultError
from tiny_matching import BrightnessReader, grey_items, item, save_grey

VALUES = ((0.1, 0.3, 0.5, 0.7, 0.9, 0.3, 0.6), (0.2, 0.4, 0.8))
SEEDS = 2


def parts(home: Path) -> list[Part]:
    """Seven items and three, of which one has no picture and one a caption that cannot be read."""
    made = [grey_items(home / f"p{n}", values) for n, values in enumerate(VALUES)]
    (home / "p0" / "2.png").write_bytes(b"no picture")
    made[1].append(item("odd", save_grey(home / "p1" / "odd.png", 0.2), ["a thing of 0.2", "no number"]))
    return [Part(name=f"p{n}", items=tuple(items), setting="zsl") for n, items in enumerate(made)]


def scorers() -> list[Scorer]:
    reader = DiffusionScorer(name="reader", model=ZeroShotClassifier(denoiser=BrightnessReader()))
    return [reader, Blind(base=reader, n_others=2), Chance()]


@pytest.fixture(scope="module", autouse=True)
def _short_windows() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "_ITEMS", 2)
        yield


def lines(folder: Path) -> dict[str, list[str]]:
    """The rows on the disk of every scorer and part, in order and without the time they took."""
    found = {}
    for path in sorted(folder.glob("*/*/results.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
        kept = [json.dumps({k: v for k, v in row.items() if k != "seconds"}) for row in rows]
        found[path.parent.relative_to(folder).as_posix()] = sorted(kept)
    return found


def errors(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("*/*/errors/*.npz")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, with its pictures beside it."""
    home = tmp_path_factory.mktemp("whole")
    compare(parts(home), scorers(), seeds=SEEDS, out=home / "whole")
    return home / "whole"


def test_shards_and_the_rest_are_the_run_of_one_process(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for index in (1, 3):
        compare(parts(whole.parent), scorers(), seeds=SEEDS, out=out, shard=Shard(index, 3))
    shards = [lines(out / "shards" / f"{index}-of-3") for index in (1, 3)]
    assert all(shard.keys() == lines(whole).keys() for shard in shards)
    n = [sum(len(rows) for rows in shard.values()) for shard in shards]
    asked = windows_of(parts(whole.parent), scorers(), seeds=SEEDS)
    assert n == [sum(len(window.items) for window in asked[index::3]) for index in (0, 2)]
    rows = compare(parts(whole.parent), scorers(), seeds=SEEDS, out=out)  # takes over two, and does the second itself
    assert lines(out) == lines(whole)
    assert errors(out) == errors(whole) != {}
    assert rows["reader", "p0"][-1]["id"] == "item 6#1"
    failed = {place: [row["id"] for row in found if "error" in row] for place, found in rows.items()}
    assert failed["reader", "p0"] == ["item 2#0", "item 2#1"]
    assert failed["reader", "p1"] == ["odd#0", "odd#1"]
    assert failed["blind-reader", "p0"] == failed["reader", "p0"]  # the picture is of no other item
    found = analyse(parts(whole.parent), scorers(), rows, out)
    assert found["margins"] == analyse(parts(whole.parent), scorers(), rows, whole)["margins"]


def test_a_shard_that_was_killed_goes_on(whole: Path, tmp_path: Path) -> None:
    shard, stopped = Shard(1, 2), tmp_path / "stopped"

    def kill(stage: str, done: int, total: int) -> None:
        if stage == "reader, p1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(parts(whole.parent), scorers(), seeds=SEEDS, out=stopped, shard=shard, progress=kill)
    kept = errors(stopped / "shards" / "1-of-2")
    told: list[tuple[str, int, int]] = []
    rows = compare(
        parts(whole.parent), scorers(), seeds=SEEDS, out=stopped, shard=shard, progress=lambda *one: told.append(one)
    )
    assert kept.items() <= errors(stopped / "shards" / "1-of-2").items()
    assert ("reader, p0", 8, 8) not in told  # they were there
    assert told[-1] == ("chance, p1", 2, 2)
    assert {len(found) for place, found in rows.items() if place[0] == "reader"} == {7, 4}
    assert all(set(found) <= set(lines(whole)[name]) for name, found in lines(stopped / "shards" / "1-of-2").items())


def far_away(made: Callable[[Sequence[int]], list[dict[str, Any]]], asked: list[int]) -> Any:
    """Answer windows as another process does: as JSON, and in another order."""

    def answered(indices: Sequence[int]) -> Iterator[list[dict[str, Any]]]:
        asked.extend(indices)
        for index in reversed(indices):
            yield json.loads(json.dumps(made([index])))

    return answered


def test_other_processes_send_the_same_rows_and_errors(whole: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    asked: list[int] = []
    elsewhere = far_away(answer_windows(parts(whole.parent), scorers(), seeds=SEEDS), asked)
    for _ in range(2):  # there is nothing left to ask for the second time
        compare(
            parts(whole.parent), scorers(), seeds=SEEDS, out=tmp_path / "out", elsewhere=elsewhere,
            progress=lambda *one: told.append(one),
        )  # fmt: skip
        assert lines(tmp_path / "out") == lines(whole)
    assert errors(tmp_path / "out") == errors(whole)
    assert len(asked) == len(windows_of(parts(whole.parent), scorers(), seeds=SEEDS))
    assert (told[0], told[-1]) == (("all scorers", 0, 55), ("all scorers", 55, 55))  # 11 items: twice 2 seeds, once 1


def test_a_run_that_keeps_nothing_is_sent_no_errors(tmp_path: Path) -> None:
    (answered,) = answer_windows(parts(tmp_path), scorers(), keep=False)([0])
    assert answered["errors"] == {}
    assert [row["id"] for row in answered["rows"]] == ["item 0#0", "item 1#0"]
    rows = compare(parts(tmp_path), scorers(), elsewhere=far_away(answer_windows(parts(tmp_path), scorers()), []))
    assert len(rows["reader", "p0"]) == 7


def test_processes_that_see_other_data_are_refused(tmp_path: Path) -> None:
    other = answer_windows(parts(tmp_path)[::-1], scorers())
    with pytest.raises(ResultError) as caught:
        compare(parts(tmp_path), scorers(), elsewhere=far_away(other, []))
    assert str(caught.value) == (
        "Another process was asked for items of 'p1' and answered others. Let all of them see the same data."
    )


def test_a_shard_of_another_configuration_is_refused(tmp_path: Path) -> None:
    compare(parts(tmp_path), scorers(), out=tmp_path / "out", crop="stretch", shard=Shard(1, 2))
    with pytest.raises(ResultError) as caught:
        compare(parts(tmp_path), scorers(), out=tmp_path / "out")
    assert str(caught.value) == (
        f"'{tmp_path}/out/shards/1-of-2/reader/p0/results.jsonl' holds a shard of another configuration. Use the "
        "options that it was made with, or another --out."
    )


def test_errors_that_cannot_be_kept_are_one_sentence(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "reader" / "p0").mkdir(parents=True)
    (out / "reader" / "p0" / "errors").write_text("in the way")
    with pytest.raises(ResultError) as caught:
        compare(parts(tmp_path), scorers(), out=out)
    path = errors_path(out / "reader" / "p0", "item 0#0")
    assert str(caught.value) == f"The file '{path}' cannot be written: File exists."
    compare(parts(tmp_path), scorers(), out=out, shard=Shard(1, 2))
    with pytest.raises(ResultError) as caught:
        compare(parts(tmp_path), scorers(), out=out)
    assert str(caught.value) == f"The file '{path}' cannot be written: File exists."


def test_a_blind_scorer_with_nothing_to_open(tmp_path: Path) -> None:
    one, other = (item(name, save_grey(tmp_path / f"{name}.png", 0.2), ["a thing of 0.2", "a 0.7"]) for name in "xy")
    (tmp_path / "y.png").write_bytes(b"no picture")
    rows = compare([Part(name="p", items=(one, other), setting="zsl")], [scorers()[1]])["blind-reader", "p"]
    sentence = f"The picture '{tmp_path}/y.png' is not in a format that Pillow opens. Try a PNG or JPEG file."
    assert [row["error"] for row in rows] == [sentence, sentence]


def test_windows_are_scorers_by_parts_by_items_by_seeds(tmp_path: Path) -> None:
    found = windows_of(parts(tmp_path), scorers(), seeds=2, seed=5)
    assert [window.place for window in found[:12]] == [("reader", "p0")] * 8 + [("reader", "p1")] * 4
    assert [window.ids for window in found[6:9]] == [("item 6#5",), ("item 6#6",), ("item 0#5", "item 1#5")]
    assert [window.seed for window in found[-6:]] == [5] * 6
    with np.load(errors_path(*_kept(tmp_path, found[0].ids[0]))) as file:
        assert str(file["id"]) == "item 0#5"


def _kept(home: Path, id: str) -> tuple[Path, str]:
    compare(parts(home), scorers()[:1], seed=5, out=home / "kept")
    return home / "kept" / "reader" / "p0", id
