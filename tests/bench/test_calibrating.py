"""Calibration from end to end: measured once, resumed, learned on one half, and used by the classifier."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffclass.bench import calibrating
from diffclass.bench.calibrating import Calibration, calibrate
from diffclass.bench.model_card import write_calibrated
from diffclass.decide import DiffusionClassifier, Exhaustive, MajorityVote, PairedRace
from diffclass.decide.measure import measure
from diffclass.decide.replay import replay
from diffclass.errors import ConditionError, InputError, RangeError, ResultError
from diffclass.evidence import ErrorMatrices, Objective, TabulatedProposal
from tiny_mixture import digits, save_mixture

N, DELTA = 200, 0.1  # 22 images are enough to test 0.1 at confidence 0.9: a fold of 50 has 25


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Calibration]:
    """A model, the folder of its calibration, and what was found."""
    root = tmp_path_factory.mktemp("calibrating")
    model = save_mixture(root / "tiny")
    classifier = DiffusionClassifier.from_pretrained(model)
    return model, root / "out", calibrate(classifier, digits(), out=root / "out", limit=N, delta=DELTA)


def test_what_is_found(made: tuple[Path, Path, Calibration]) -> None:
    _, out, found = made
    assert found.n_images == N
    assert found.stopping is not None
    assert (found.stopping.n, found.stopping.delta, found.stopping.n_draws) == (3 * N // 8, DELTA, 32)
    assert found.temperature is not None
    assert found.temperature > 0
    before, after = found.before, found.after
    assert list(before) == list(after)
    for figures in (before, after):
        assert all(estimate is not None and estimate.n == N // 2 for estimate in figures.values())
    spent_before, spent_after = (figures["evaluations_per_image"] for figures in (before, after))
    assert spent_before is not None
    assert spent_after is not None
    assert spent_after.high < spent_before.low  # that is what it is for
    agreement = after["agreement_with_full_budget"]
    assert agreement is not None
    assert agreement.high > 1 - DELTA
    summary = json.loads((out / "summary.json").read_text())
    assert summary["after"]["accuracy"]["value"] == after["accuracy"].value  # pyright: ignore[reportOptionalMemberAccess]
    assert len(summary["notes"]) == len(found.notes) >= 4


def test_evaluations_are_counted(made: tuple[Path, Path, Calibration]) -> None:
    _, out, found = made
    sizes = [len(ErrorMatrices.load(path)) for path in (out / "errors").glob("*.npz")]
    assert found.evaluations == sum(sizes) * 32 * 10
    assert sum(sizes) == N + 50 + N // 2  # once, the pilot, and the held-out half under the new draws


def test_nothing_is_measured_twice(made: tuple[Path, Path, Calibration], tmp_path: Path) -> None:
    model, out, found = made
    shutil.copytree(out, tmp_path / "out")
    classifier = DiffusionClassifier.from_pretrained(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrating, "measure", lambda *_, **__: pytest.fail("measured twice"))
        again = calibrate(classifier, digits(), out=tmp_path / "out", limit=N, delta=DELTA)
        assert again.summary() == found.summary()
        other = calibrate(classifier, digits(), out=tmp_path / "out", limit=N, delta=0.2)
    assert other.stopping is not None
    assert other.stopping.delta == 0.2


def test_an_interrupted_run_ends_as_an_unbroken_one(made: tuple[Path, Path, Calibration], tmp_path: Path) -> None:
    model, _, found = made
    classifier = DiffusionClassifier.from_pretrained(model)
    chunks: list[int] = []

    def counted(*arguments: Any, **options: Any) -> ErrorMatrices:
        if len(chunks) == 5:
            chunks.append(0)
            raise KeyboardInterrupt
        chunks.append(len(arguments[1]))
        return measure(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrating, "measure", counted)
        with pytest.raises(KeyboardInterrupt):
            calibrate(classifier, digits(), out=tmp_path, limit=N, delta=DELTA)
        again = calibrate(classifier, digits(), out=tmp_path, limit=N, delta=DELTA)
    assert sum(chunks) == N + 50 + N // 2
    assert again.summary() == found.summary()
    with pytest.raises(ResultError, match="holds results of another configuration"):
        calibrate(classifier, digits(), out=tmp_path, limit=N - 20, delta=DELTA)


def test_the_model_is_the_same_with_other_settings(made: tuple[Path, Path, Calibration], tmp_path: Path) -> None:
    model, _, found = made
    path = write_calibrated(model, tmp_path / "model", found)
    assert (path / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    metadata = json.loads((path / "diffclass.json").read_text())
    settings = metadata["classifier"]
    assert settings["stopping"] == json.loads(json.dumps(found.stopping.as_dict()))  # pyright: ignore[reportOptionalMemberAccess]
    assert settings["sigma_range"] == [0.2, 3.0]
    accuracy = found.after["accuracy"]
    assert accuracy is not None
    assert metadata["figures"]["test, calibrated"]["accuracy"]["value"] == accuracy.value
    card = (path / "README.md").read_text()
    assert card.count("## Calibration\n") == 1
    write_calibrated(path, path, found)
    assert (path / "README.md").read_text() == card  # a second time replaces, and adds nothing
    assert json.loads((path / "diffclass.json").read_text())["figures"] == metadata["figures"]


def test_the_classifier_races_as_it_was_replayed(made: tuple[Path, Path, Calibration], tmp_path: Path) -> None:
    model, _, found = made
    path = write_calibrated(model, tmp_path / "model", found)
    classifier = DiffusionClassifier.from_pretrained(path)
    assert classifier.race == PairedRace.calibrated(found.stopping)  # pyright: ignore[reportArgumentType]
    assert classifier.temperature == found.temperature
    assert classifier.objective is not None
    assert classifier.objective == found.objective
    assert isinstance(classifier.objective.proposal, TabulatedProposal)
    assert classifier.objective.antithetic
    images, labels = digits().array((1, 8, 8), range(20))
    matrices = measure(classifier, images, labels.numpy(), n_draws=32)
    replayed = replay(classifier.race, matrices)  # pyright: ignore[reportArgumentType]
    decisions = classifier.classify(images)
    assert [d.evaluations for d in decisions] == replayed.evaluations.tolist()
    assert [None if a < 0 else classifier.classes_[a] for a in replayed.answers] == [d.label for d in decisions]


@pytest.mark.parametrize(
    ("options", "race", "temperature"),
    [
        ({}, True, True),
        ({"seed": 3}, True, True),
        ({"prior": [0.1] * 10}, False, True),
        ({"race": PairedRace(n_draws=32, block=4)}, False, True),
        ({"race": Exhaustive(n_draws=64, block=4)}, False, False),
        ({"objective": Objective()}, False, False),
        ({"aggregate": MajorityVote()}, False, False),
        ({"classes": ("1", "2")}, False, False),
        ({"temperature": 3.0}, True, False),
    ],
)
def test_what_was_learned_is_used_for_what_it_was_learned_for(
    made: tuple[Path, Path, Calibration], tmp_path: Path, options: dict[str, Any], race: bool, temperature: bool
) -> None:
    model, _, found = made
    path = write_calibrated(model, tmp_path / "model", found)
    classifier = DiffusionClassifier.from_pretrained(path, **options)
    assert (getattr(classifier.race, "stopping", None) is not None) == race
    assert (classifier.temperature == found.temperature) == temperature


def test_a_rule_for_too_few_images_is_left_out(tmp_path: Path) -> None:
    classifier = DiffusionClassifier.from_pretrained(save_mixture(tmp_path / "tiny"))
    found = calibrate(classifier, digits(), out=tmp_path / "out", limit=80)
    assert found.stopping is None
    assert any("no stopping rule was learned: learn_stopping needs at least " in n for n in found.notes)
    path = write_calibrated(tmp_path / "tiny", tmp_path / "model", found)
    assert DiffusionClassifier.from_pretrained(path).race == PairedRace(n_draws=32, block=4)


def test_refusals(tmp_path: Path) -> None:
    model = save_mixture(tmp_path / "tiny")
    classifier = DiffusionClassifier.from_pretrained(model)
    with pytest.raises(InputError, match=r"calibrate needs at least 40 labelled images\. Got 30\."):
        calibrate(classifier, digits(), out=tmp_path / "out", limit=30)
    with pytest.raises(RangeError, match=r"must be two or more whole blocks of 4 draws\. Got 10\."):
        calibrate(classifier, digits(), out=tmp_path / "out", n_draws=10)
    with pytest.raises(RangeError, match=r"must be a float in \(0, 1\)\. Got 0\."):
        calibrate(classifier, digits(), out=tmp_path / "out", delta=0.0)
    two = DiffusionClassifier.from_pretrained(model, classes=("1", "2"))
    with pytest.raises(ConditionError, match="must be opened in the classes of the classifier: 1, 2"):
        calibrate(two, digits(), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_not_replaced(made: tuple[Path, Path, Calibration], tmp_path: Path) -> None:
    model, _, found = made
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(InputError, match="must be new or hold a model"):
        write_calibrated(model, tmp_path / "notes", found)
    assert np.array_equal([path.name for path in (tmp_path / "notes").iterdir()], ["a.txt"])
