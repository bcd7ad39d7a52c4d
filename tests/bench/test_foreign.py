"""Pictures from outside: opened, made, judged by a score that never saw the test pictures, and gone on with."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from diffclass.bench.foreign import Foreign, Sets, measure_foreign
from diffclass.bench.foreign_figure import draw_foreign
from diffclass.bench.foreign_sets import MADE, open_outside, with_split
from diffclass.cli import main, ood, render
from diffclass.data.results import read_results
from diffclass.data.unlabelled import made_pictures, open_pictures
from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.decide.measure import measure
from diffclass.decide.outside import fit_outside_score
from diffclass.errors import InputError
from diffclass.stats import fpr_at_tpr, ood_auc
from tiny_mixture import digits, save_mixture, save_picture, tiny_mixture

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def classifier() -> DiffusionClassifier:
    return DiffusionClassifier(denoiser=tiny_mixture(), race=Exhaustive(n_draws=16, block=4), batch_size=512)


def own() -> Sets:
    """Sixty validation digits, forty test digits, and noise and upside-down digits."""
    inside = open_pictures("digits").subset(range(40))
    fit = open_pictures("digits", default="validation").subset(range(60))
    return Sets(fit=fit, inside=inside, outside=open_outside(["noise", "upside-down"], inside, SHAPE, n=30))


@pytest.fixture(scope="module")
def found(classifier: DiffusionClassifier, tmp_path_factory: pytest.TempPathFactory) -> tuple[Foreign, Path]:
    out = tmp_path_factory.mktemp("run")
    return measure_foreign(classifier, own(), n_draws=16, out=out), out


def test_the_figures_are_those_of_the_score_fitted_on_validation_pictures_alone(
    classifier: DiffusionClassifier, found: tuple[Foreign, Path]
) -> None:
    made, sets = found[0], own()
    errors = [
        measure(classifier, part.array(SHAPE)[0], np.zeros(len(part), dtype=np.int64), n_draws=16)
        for part in (sets.fit, sets.inside, sets.outside["upside-down"])
    ]
    score = fit_outside_score(errors[0])
    assert made.score.n == 60
    np.testing.assert_allclose(made.score.mean, score.mean, rtol=1e-4)
    inside, outside = score(errors[1]), score(errors[2])
    np.testing.assert_allclose(made.inside, inside, rtol=1e-3)
    one = made.sets["upside-down"]
    assert one is not None
    assert one.auroc.value == pytest.approx(ood_auc(inside, outside).value, abs=2e-3)
    assert (one.fpr95.n, one.auroc.n) == (40, 80)
    assert one.fpr95.value == pytest.approx(fpr_at_tpr(inside, outside).value, abs=0.03)
    noise = made.sets["noise"]
    assert noise is not None
    assert (noise.auroc.low > 0.8, noise.fpr95.value, noise.fpr95.n) == (True, 0, 30)


def test_a_run_goes_on_and_judges_the_other_score_without_the_network(
    classifier: DiffusionClassifier, found: tuple[Foreign, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, out = found
    lines = (out / "results.jsonl").read_text().splitlines()
    (out / "results.jsonl").write_text("\n".join(lines[: 1 + 60 + 40 + 7]) + "\n")  # broken off in the noise
    asked: list[int] = []

    def counted(classifier: DiffusionClassifier, images, labels, **options):
        asked.append(len(images))
        return measure(classifier, images, labels, **options)

    monkeypatch.setattr("diffclass.bench.foreign.measure", counted)
    again = measure_foreign(classifier, own(), n_draws=16, out=out)
    assert sum(asked) == 23 + 40
    assert json.loads((out / "summary.json").read_text())["sets"] == again.summary()["sets"]
    for name, one in made.sets.items():
        other = again.sets[name]
        assert one is not None and other is not None  # noqa: PT018
        np.testing.assert_allclose(np.sort(one.scores), np.sort(other.scores), rtol=1e-4)
    asked.clear()
    measure_foreign(classifier, own(), n_draws=16, both_sides=False, out=out)
    assert asked == []
    row = read_results(out / "results.jsonl")[1][-1]
    assert row["score"] == pytest.approx(np.abs(row["z"]).mean())
    assert row["score_one_sided"] == pytest.approx(np.mean(row["z"]))


def test_pictures_that_the_score_was_fitted_on_are_left_out(classifier: DiffusionClassifier) -> None:
    sets = own()
    twice = made_pictures("twice", [f"copy/{i}" for i in range(40)], lambda row: sets.fit[row].read())
    places = [(sets.fit if row < 9 or row >= 40 else sets.inside, row) for row in range(50)]
    mixed = made_pictures("mixed", [f"m/{i}" for i in range(50)], lambda row: places[row][0][row].read())
    made = measure_foreign(classifier, replace(sets, inside=mixed), n_draws=16)
    assert (made.n_shared, len(made.inside)) == (19, 31)
    with pytest.raises(InputError) as caught:
        measure_foreign(classifier, replace(sets, inside=twice), n_draws=16)
    assert str(caught.value) == (
        "No picture of 'twice' is left to be judged. 40 of 40 could be opened, and each of them is among those that "
        "the score was fitted on."
    )


def test_folders_in_no_order_and_single_classes_are_pictures(tmp_path: Path) -> None:
    save_picture(tmp_path / "flat" / "b.png", 1)
    save_picture(tmp_path / "flat" / "deep" / "a.png", 0)
    (tmp_path / "flat" / "notes.txt").write_text("no picture")
    flat = open_pictures(tmp_path / "flat")
    assert (flat.name, flat.ids, flat.classes, flat.labels.tolist()) == ("flat", ("b.png", "deep/a.png"), (), [-1, -1])
    save_picture(tmp_path / "one" / "class" / "a.png", 0)
    assert open_pictures(tmp_path / "one").ids == ("class/a.png",)
    images = np.zeros((3, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", **{f"{p}_{w}": images if w == "images" else np.zeros((3, 1), dtype=np.int64)
                                      for p in ("train", "val", "test") for w in ("images", "labels")})  # fmt: skip
    opened = open_outside([f"{tmp_path}/set.npz:train", f"{tmp_path}/set.npz", "constant"], digits(), SHAPE, n=2)
    assert {name: len(part) for name, part in opened.items()} == {"set (train)": 3, "set (test)": 3, "constant": 2}
    assert with_split("a:b") == ("a:b", None)


def test_what_is_made_is_what_it_says() -> None:
    inside = open_pictures("digits").subset([0, 1])
    sets = {name: part.array(SHAPE)[0].numpy() for name, part in open_outside([*MADE], inside, SHAPE, n=2).items()}
    plain = inside.array(SHAPE)[0].numpy()
    np.testing.assert_allclose(sets["inverted"], 1 - plain)
    np.testing.assert_array_equal(sets["upside-down"], plain[:, :, ::-1])
    assert np.ptp(sets["constant"], axis=(1, 2, 3)).max() == 0
    assert sets["noise"].std() > 0.2
    assert not np.array_equal(sets["noise"][0], sets["noise"][1])
    assert tuple(MADE) == ood._MADE


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["ood", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_mixture(tmp_path / "tiny")


def test_the_command_line(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        save_picture(tmp_path / "others" / f"{i}.png", i)
    (tmp_path / "others" / "x.png").write_text("no picture")
    names = [part for name in ("noise", "inverted", tmp_path / "others") for part in ("--outside", name)]
    options = ("digits", "--model", tiny, "--limit", 30, "--draws", 16, *names, "--out", tmp_path / "out")
    result = call(*options, code=1)
    summary = json.loads(result.stdout)
    assert list(summary["sets"]) == ["noise", "inverted", "others"]
    assert (summary["n_fit"], summary["n_inside"], summary["sets"]["others"]["n"]) == (30, 30, 3)
    assert result.stderr.splitlines()[-1] == "1 of 124 pictures failed."
    assert (tmp_path / "out" / "ood.png").stat().st_size > 10_000
    monkeypatch.setattr(render, "_on_terminal", lambda: True)
    shown = " ".join(call(*options, "--one-sided", code=1).stdout.split())
    assert "tiny: 30 pictures inside, score fitted on 30 others" in shown
    assert "FPR95" in shown


def test_a_fit_on_training_pictures_is_spoken_of(tiny: Path) -> None:
    options = ("digits", "--model", tiny, "--limit", 20, "--draws", 4, "--outside", "noise", "--fit-on", "digits:train")
    assert call(*options).stderr.startswith("The score is fitted on a training split: if the model was trained on it")


def test_a_figure_of_scores_below_zero(found: tuple[Foreign, Path], tmp_path: Path) -> None:
    made = replace(found[0], inside=found[0].inside - 3, sets={**found[0].sets, "none": None})
    assert draw_foreign(made, tmp_path / "made.png").stat().st_size > 10_000
