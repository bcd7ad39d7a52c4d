"""Pictures named one by one or by their folder, and figures of their answers."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffclass.bench import Answer
from diffclass.bench.figure import draw_answers, running
from diffclass.bench.pictures import classify_pictures, picture_items
from diffclass.decide import DiffusionClassifier, PairedRace
from diffclass.errors import InputError, ResultError
from diffclass.evidence import EDMWeight, Objective
from tiny_mixture import save_picture, tiny_mixture


@pytest.fixture(scope="module")
def classifier() -> DiffusionClassifier:
    race = PairedRace(n_draws=48, block=4)
    return DiffusionClassifier(denoiser=tiny_mixture(), race=race, batch_size=64, temperature=2.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three digits, one of another size, and two files that are no pictures of the folder's own."""
    root = tmp_path_factory.mktemp("pictures")
    for index in range(2):
        save_picture(root / f"{index}.png", index)
    save_picture(root / "wide.PNG", 2, size=(20, 16))
    (root / "notes.txt").write_text("not a picture")
    (root / ".hidden.png").write_bytes(b"nor this")
    return root


@pytest.fixture(scope="module")
def answers(classifier: DiffusionClassifier, folder: Path) -> list[Answer]:
    return classify_pictures(classifier, picture_items([folder]), most_kept=9)[1]


def test_a_folder_stands_for_its_pictures(folder: Path) -> None:
    items = picture_items([folder, folder / "notes.txt"])
    assert [Path(item.id).name for item in items] == ["0.png", "1.png", "wide.PNG", "notes.txt"]


def test_rows_come_in_the_order_of_the_pictures(classifier: DiffusionClassifier, folder: Path) -> None:
    (folder / "damaged.gif").write_bytes(b"GIF89a")
    try:
        paths = [folder / "wide.PNG", folder / "damaged.gif", folder / "0.png"]
        rows, answers = classify_pictures(classifier, picture_items(paths), most_kept=1)
    finally:
        (folder / "damaged.gif").unlink()
    assert [row["id"] for row in rows] == [str(path) for path in paths]
    assert rows[0]["changes"] == ["centre-cropped 20x16 to 16x16", "resized 16x16 to 8x8"]
    assert "damaged.gif" in rows[1]["error"]
    assert "label" not in rows[1]
    assert rows[2]["changes"] == []
    assert len(answers) == 1
    assert answers[0].image is not None
    assert answers[0].image.shape == (1, 8, 8)


def test_a_second_call_goes_on(classifier: DiffusionClassifier, folder: Path, tmp_path: Path) -> None:
    first, _ = classify_pictures(classifier, picture_items([folder / "1.png"]), out=tmp_path)
    rows, answers = classify_pictures(classifier, picture_items([folder]), out=tmp_path, most_kept=9)
    assert first == [row for row in rows if row["id"] == str(folder / "1.png")]
    assert [Path(answer.id).name for answer in answers] == ["0.png", "wide.PNG"]


def test_pictures_that_cannot_be_listed_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        picture_items([tmp_path])
    assert str(caught.value) == f"The folder '{tmp_path}' has no pictures in it. Give pictures, or a folder of them."
    with pytest.raises(InputError) as caught:
        picture_items([folder, folder / "0.png"])
    assert str(caught.value) == f"Every picture must be named once. '{folder / '0.png'}' is there more than once."
    with pytest.raises(InputError, match=r"There must be at least one picture\. Got none\."):
        picture_items([])


# Figures


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_figure_has_a_row_an_answer(answers: list[Answer], tmp_path: Path, ending: str) -> None:
    heights = []
    for n in (1, 3):
        path = draw_answers(answers[:n], tmp_path / "new" / f"{n}.{ending}", title="digits")
        assert path.stat().st_size > 5_000
        if ending == "png":
            with Image.open(path) as image:
                assert len(image.convert("RGB").getcolors(1 << 20)) > 50
                heights.append(image.height)
    if ending == "png":
        assert heights[1] - heights[0] == 2 * round(2.3 * 160)


def test_many_classes_and_a_single_draw_can_be_drawn(folder: Path, tmp_path: Path) -> None:
    # One draw has no standard error, and no race.
    classifier = DiffusionClassifier(denoiser=tiny_mixture(), race=PairedRace(n_draws=1, block=1), batch_size=64)
    rows, answers = classify_pictures(classifier, picture_items([folder / "0.png"]), most_kept=1)
    assert rows[0]["log_odds_se"] is None
    assert draw_answers(answers, tmp_path / "one.png").is_file()


@pytest.mark.parametrize(
    ("objective", "unit"),
    [
        (Objective(), "nats"),
        (Objective(weight=EDMWeight()), "weighted error, not nats"),
        (Objective(distance="l1"), "weighted error, not nats"),
    ],
)
def test_only_the_likelihood_weight_is_drawn_in_nats(
    folder: Path, tmp_path: Path, objective: Objective, unit: str
) -> None:
    race = PairedRace(n_draws=8, block=4)
    classifier = DiffusionClassifier(denoiser=tiny_mixture(), objective=objective, race=race, batch_size=64)
    _, answers = classify_pictures(classifier, picture_items([folder / "0.png"]), most_kept=1)
    drawn = draw_answers(answers, tmp_path / "one.svg").read_text()
    assert f"<!-- [{unit}] -->" in drawn
    assert drawn.count("nats") == unit.count("nats")


def test_the_race_ends_at_the_log_odds(answers: list[Answer]) -> None:
    for answer in answers:
        assert answer.decision is not None
        evidence = answer.decision.evidence
        leader = evidence.classes.index(answer.decision.leader)
        for c in range(10):
            spent, mean = running(evidence, c, leader)
            assert mean[-1] == pytest.approx(evidence.difference(c, leader).mean)
            assert len(spent) == len(mean)
            assert (np.diff(spent) > 0).all()
            assert spent[0] == 10 * 4
            assert spent[-1] <= answer.decision.evaluations


def test_figures_that_cannot_be_drawn_are_refused(answers: list[Answer], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"The figure '.*txt' must end in \.png, \.svg or \.pdf\."):
        draw_answers(answers, tmp_path / "figure.txt")
    failed = [replace(answer, decision=None, error="It is damaged.") for answer in answers]
    with pytest.raises(InputError, match=r"A figure needs at least one picture that was classified\. Got none\."):
        draw_answers(failed, tmp_path / "figure.png")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResultError, match="cannot be written"):
        draw_answers(answers, tmp_path / "file" / "figure.png")


def test_a_figure_that_is_cut_off_is_removed(
    answers: list[Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    def full(self: Figure, path: os.PathLike[str]) -> None:
        Path(path).write_bytes(b"half a figure")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(ResultError, match="No space left on device"):
        draw_answers(answers, tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())
