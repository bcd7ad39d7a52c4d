"""Evaluations: what is measured, what reaches the disk, and what a stop in the middle costs."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

from diffclass.bench import Evaluation, evaluate
from diffclass.bench.recording import configuration, fingerprint
from diffclass.bench.scores import Scores
from diffclass.data.datasets import Dataset, open_dataset
from diffclass.data.results import read_results
from diffclass.decide import DiffusionClassifier, Exhaustive, probabilities
from diffclass.errors import ConditionError, RangeError, ResultError
from diffclass.stats.interval import Estimate
from tiny_mixture import SETTINGS, digits, save_mixture, save_picture, tiny_mixture

N = 90  # more than the 64 rows that are written together
RACE = Exhaustive(n_draws=16, block=4)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> DiffusionClassifier:
    directory = save_mixture(tmp_path_factory.mktemp("models") / "tiny")
    return DiffusionClassifier.from_pretrained(directory, race=RACE, batch_size=64).calibrated(2.0)


@pytest.fixture(scope="module")
def unbroken(classifier: DiffusionClassifier, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return evaluate(classifier, digits(), out=tmp_path_factory.mktemp("runs") / "unbroken", limit=N)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return read_results(out / "results.jsonl")[1]


def answers_of(out: Path) -> dict[str, dict[str, Any]]:
    """Rows by id, without the one field that no two runs share."""
    rows = rows_of(out)
    assert len({row["id"] for row in rows}) == len(rows), "an image was done twice"
    return {row["id"]: {key: value for key, value in row.items() if key != "seconds"} for row in rows}


def value_of(measured: Evaluation, name: str) -> float:
    estimate = measured.metrics[name]
    assert isinstance(estimate, Estimate), measured.notes.get(name)
    assert estimate.low <= estimate.value <= estimate.high
    return estimate.value


# What is measured


def test_metrics_agree_with_scikit_learn(classifier: DiffusionClassifier, unbroken: Evaluation) -> None:
    assert unbroken.out is not None
    rows, names = rows_of(unbroken.out), classifier.classes_
    truth = np.array([names.index(row["truth"]) for row in rows])
    label = np.array([names.index(row["label"]) for row in rows])
    odds = np.array([[row["class_log_odds"][name] for name in names] for row in rows])
    posterior = np.array([[row["probabilities"][name] for name in names] for row in rows])
    assert len(rows) == N
    assert value_of(unbroken, "accuracy") == pytest.approx((truth == label).mean())
    assert value_of(unbroken, "accuracy") > 0.8
    assert value_of(unbroken, "balanced_accuracy") == pytest.approx(balanced_accuracy_score(truth, label))
    rest = np.stack([np.logaddexp.reduce(np.delete(odds, c, axis=1), axis=1) for c in range(len(names))], axis=1)
    areas = [roc_auc_score(truth == c, (odds - rest)[:, c]) for c in range(len(names))]
    assert value_of(unbroken, "auc") == pytest.approx(np.mean(areas), abs=1e-6)
    assert value_of(unbroken, "nll") == pytest.approx(log_loss(truth, posterior), rel=1e-5)
    assert value_of(unbroken, "evaluations_per_image") == 16 * 10
    assert value_of(unbroken, "abstentions") == 0
    assert 0 <= value_of(unbroken, "ece") <= 1
    assert unbroken.temperature == 2.0
    assert unbroken.notes == {}


def test_rows_are_the_classifiers_answers(classifier: DiffusionClassifier, unbroken: Evaluation) -> None:
    assert unbroken.out is not None
    data = digits()
    images, _ = data.array((1, 8, 8))
    rows = answers_of(unbroken.out)
    chosen = [i for i, name in enumerate(data.ids) if name in rows][:10]
    for index, decision in zip(chosen, classifier.classify(images[chosen]), strict=True):
        row = rows[data.ids[index]]
        assert row["truth"] == data.classes[data.labels[index]]
        assert row["label"] == decision.label
        # Rounding alone: another composition of the batch may change the last bits of an error.
        assert_allclose(row["log_odds"], decision.log_odds, rtol=1e-4, atol=1e-3)
        assert_allclose(row["class_log_odds"][decision.runner_up], -decision.log_odds, rtol=1e-4, atol=1e-3)


def test_seconds_add_up_to_the_run(unbroken: Evaluation) -> None:
    assert unbroken.out is not None
    seconds = [row["seconds"] for row in rows_of(unbroken.out)]
    assert min(seconds) > 0
    assert unbroken.seconds == pytest.approx(sum(seconds))
    assert unbroken.images_per_second == pytest.approx(N / sum(seconds))


def test_without_a_temperature_half_of_the_run_calibrates_the_other(
    classifier: DiffusionClassifier, tmp_path: Path
) -> None:
    raw = DiffusionClassifier(denoiser=classifier.denoiser, race=RACE, batch_size=64)
    measured = evaluate(raw, digits(), out=tmp_path, limit=200)
    assert "nll" not in measured.metrics
    estimate = measured.metrics["nll_on_half"]
    assert estimate is not None
    assert estimate.n == 100
    assert "100 others" in measured.notes["nll_on_half"]
    assert measured.temperature is not None
    rows = rows_of(tmp_path)
    assert all(row["probability"] is None for row in rows)
    # By construction the half that was measured is one half of the images, whichever: its NLL is that of some half.
    names = raw.classes_
    odds = np.array([[row["class_log_odds"][name] for name in names] for row in rows])
    truth = np.array([names.index(row["truth"]) for row in rows])
    surprise = -np.log(probabilities(odds, measured.temperature)[np.arange(200), truth])
    ordered = np.sort(surprise)
    assert ordered[:100].mean() < estimate.value < ordered[100:].mean()


def test_too_few_images_leave_a_reason(classifier: DiffusionClassifier) -> None:
    raw = DiffusionClassifier(denoiser=classifier.denoiser, race=RACE, batch_size=64)
    measured = evaluate(raw, digits(), limit=12)
    assert measured.metrics["nll"] is None
    assert measured.notes["nll"] == "fit_temperature needs at least 20 labelled images."
    assert json.loads(json.dumps(measured.summary()))["metrics"]["nll"] is None


def test_abstentions_count_as_wrong() -> None:
    row = {"evaluations": 4, "n_draws": 2, "seconds": 0.1, "class_log_odds": {"a": 0.0, "b": -1.0}}
    rows = [
        {"id": "1", "truth": "a", "label": "a", **row},
        {"id": "2", "truth": "a", "label": None, **row},
        {"id": "3", "truth": "b", "label": "a", **row},
        {"id": "4", "truth": None, "label": "a", **row},
        {"id": "5", "truth": "b", "error": "It is damaged."},
    ]
    scores = Scores.from_rows(rows, ("a", "b"))
    metrics, _, _ = scores.metrics(1.0)
    accuracy, abstentions = metrics["accuracy"], metrics["abstentions"]
    assert accuracy is not None
    assert abstentions is not None
    assert (accuracy.value, accuracy.n) == (1 / 3, 3)
    assert (abstentions.value, abstentions.n) == (1 / 3, 3)
    assert (scores.n_images, scores.n_failed, scores.failures) == (5, 1, (("5", "It is damaged."),))


def test_saved_errors_can_be_replayed(classifier: DiffusionClassifier, tmp_path: Path) -> None:
    evaluate(classifier, digits().subset(range(5)), out=tmp_path, save_errors=True)
    rows, files = answers_of(tmp_path), sorted((tmp_path / "errors").glob("*.npz"))
    assert len(files) == 5
    for file in files:
        with np.load(file) as saved:
            log_joint = saved["log_prior"] - (saved["weights"][:, None] * saved["errors"]).mean(axis=0)
            assert saved["classes"][log_joint.argmax()] == rows[str(saved["id"])]["label"]


# What reaches the disk


def test_out_holds_what_produced_it(unbroken: Evaluation) -> None:
    assert unbroken.out is not None
    run = json.loads((unbroken.out / "run.json").read_text())
    summary = json.loads((unbroken.out / "summary.json").read_text())
    config, _ = read_results(unbroken.out / "results.jsonl")
    assert run["config"] == config == summary["config"]
    assert config["model"]["name"] == "tiny"
    assert config["race"] == {"kind": "Exhaustive", "n_draws": 16, "block": 4}
    assert config["objective"]["sigma_range"] == SETTINGS["sigma_range"]
    assert config["dataset"]["n"] == N
    assert set(run["versions"]) >= {"python", "torch", "diffclass", "platform", "device"}
    assert summary["metrics"]["accuracy"]["value"] == value_of(unbroken, "accuracy")


def test_fingerprint_follows_the_weights(classifier: DiffusionClassifier, tmp_path: Path) -> None:
    again = DiffusionClassifier.from_pretrained(save_mixture(tmp_path / "other"))
    assert fingerprint(again.denoiser) == fingerprint(classifier.denoiser)
    denoiser: Any = again.denoiser
    denoiser.means[0, 0, 0, 0] += 0.1
    assert fingerprint(denoiser) != fingerprint(classifier.denoiser)
    assert fingerprint(torch.nn.Linear(2, 2)) != fingerprint(torch.nn.Linear(2, 2))


def test_configuration_is_plain(classifier: DiffusionClassifier) -> None:
    config = configuration(classifier)
    assert json.loads(json.dumps(config)) == config


def test_another_configuration_is_refused(classifier: DiffusionClassifier, tmp_path: Path) -> None:
    few = digits().subset(range(3))
    evaluate(classifier, few, out=tmp_path)
    before = (tmp_path / "run.json").read_bytes()
    other = classifier.calibrated(3.0)
    with pytest.raises(ResultError) as caught:
        evaluate(other, few, out=tmp_path)
    assert str(caught.value) == (
        f"'{tmp_path / 'results.jsonl'}' holds results of another configuration. "
        "It differs in: temperature (was 2.0, now 3.0). Use another --out."
    )
    assert (tmp_path / "run.json").read_bytes() == before


# A stop in the middle


class Stopped(Exception):
    """Stands for whatever ends a run."""


def stop_after(n: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done >= n:
            raise Stopped

    return progress


def test_a_stopped_run_goes_on(classifier: DiffusionClassifier, unbroken: Evaluation, tmp_path: Path) -> None:
    assert unbroken.out is not None
    with pytest.raises(Stopped):
        evaluate(classifier, digits(), out=tmp_path, limit=N, progress=stop_after(1))
    kept = answers_of(tmp_path)
    assert 0 < len(kept) < N
    seen: list[tuple[int, int]] = []
    resumed = evaluate(classifier, digits(), out=tmp_path, limit=N, progress=lambda *now: seen.append(now))
    assert seen[0] == (len(kept), N)
    assert seen[-1] == (N, N)
    assert_same(answers_of(tmp_path), answers_of(unbroken.out))
    assert {name: answers_of(tmp_path)[name] for name in kept} == kept
    for name, estimate in resumed.metrics.items():
        assert estimate is not None
        assert estimate.value == pytest.approx(value_of(unbroken, name), rel=1e-4)


def assert_same(a: dict[str, dict[str, Any]], b: dict[str, dict[str, Any]]) -> None:
    """Compare answers; numbers up to the rounding that another composition of the batches brings."""
    assert a.keys() == b.keys()
    for name, row in a.items():
        other = b[name]
        assert row.keys() == other.keys()
        for key in ("truth", "label", "runner_up", "evaluations", "n_draws", "survivors", "reason", "vote_shares"):
            assert row[key] == other[key], (name, key)
        odds = [[r["log_odds"], r["log_odds_se"], *r["class_log_odds"].values()] for r in (row, other)]
        assert_allclose(*odds, rtol=1e-4, atol=1e-3)


def test_a_full_disk_keeps_what_was_written(
    classifier: DiffusionClassifier, unbroken: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unbroken.out is not None
    path, real = tmp_path / "results.jsonl", os.write

    def write(file: int, content: Any) -> int:
        if os.fstat(file).st_ino == path.stat().st_ino and os.fstat(file).st_size > 10_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, bytes(content)[:7_000])  # a disk may also take a part

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", write)
        with pytest.raises(ResultError) as caught:
            evaluate(classifier, digits(), out=tmp_path, limit=N)
    n = len(answers_of(tmp_path))
    assert str(caught.value) == (
        f"The result file '{path}' cannot grow: the disk is full. It keeps {n} finished rows. "
        "Make room and run the same command again."
    )
    assert not (tmp_path / "summary.json").exists()
    evaluate(classifier, digits(), out=tmp_path, limit=N)
    assert_same(answers_of(tmp_path), answers_of(unbroken.out))


def test_errors_that_cannot_be_saved_end_the_run(classifier: DiffusionClassifier, tmp_path: Path) -> None:
    (tmp_path / "errors").write_text("a file stands in the way")
    with pytest.raises(ResultError, match="errors' cannot be written"):
        evaluate(classifier, digits().subset(range(2)), out=tmp_path, save_errors=True)


# Pictures that fail, and sets that do not fit


def folder(root: Path) -> Dataset:
    """Six digits, one of which is damaged."""
    for index in range(6):
        data = digits()
        save_picture(root / data.classes[data.labels[index]] / f"{index}.png", index)
    next(root.glob("*/3.png")).write_bytes(b"no picture")
    return open_dataset(root, classes=data.classes)


def test_a_broken_picture_is_a_row(classifier: DiffusionClassifier, tmp_path: Path) -> None:
    data = folder(tmp_path / "data")
    measured = evaluate(classifier, data, out=tmp_path / "out")
    rows = {row["id"]: row for row in rows_of(tmp_path / "out")}
    (bad,) = [name for name in data.ids if name.endswith("3.png")]
    assert set(rows) == set(data.ids)
    reason = f"The picture '{tmp_path / 'data' / bad}' is not in a format that Pillow opens. Try a PNG or JPEG file."
    assert rows[bad]["error"] in (reason, reason.replace(str(tmp_path / "data" / bad), bad))
    assert (measured.n_images, measured.n_failed) == (6, 1)
    assert measured.failures == ((bad, rows[bad]["error"]),)
    accuracy = measured.metrics["accuracy"]
    assert accuracy is not None
    assert accuracy.n == 5
    good = [index for index, name in enumerate(data.ids) if name != bad]
    alone = classifier.classify(data.array((1, 8, 8), good)[0])
    assert [rows[data.ids[index]]["label"] for index in good] == [decision.label for decision in alone]


def test_only_broken_pictures_leave_no_metric(classifier: DiffusionClassifier, tmp_path: Path) -> None:
    data = folder(tmp_path / "data")
    bad = [index for index, name in enumerate(data.ids) if name.endswith("3.png")]
    measured = evaluate(classifier, data.subset(bad))
    assert set(measured.metrics.values()) == {None}
    assert set(measured.notes) == set(measured.metrics)
    assert measured.images_per_second is None


def refused(call: Callable[[], object], kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def test_sets_that_do_not_fit_are_refused(classifier: DiffusionClassifier, tmp_path: Path) -> None:
    few = digits().subset(range(3))
    known = DiffusionClassifier(denoiser=tiny_mixture(), classes=("3", "5"), race=RACE)
    assert refused(lambda: evaluate(known, few), ConditionError) == (
        "The classes of 'digits' must be among the classifier's (3, 5). Got '0'."
    )
    assert refused(lambda: evaluate(classifier, few, limit=0), RangeError) == (
        "The 'limit' parameter of evaluate must be at least 1. Got 0."
    )
    assert refused(lambda: evaluate(classifier, few, save_errors=True), RangeError) == (
        "The 'save_errors' parameter of evaluate needs a folder to save in. Give 'out'."
    )
    (tmp_path / "set.csv").write_text("path,label\na.png,\nb.png,\n")
    unlabelled = open_dataset(tmp_path / "set.csv", classes=classifier.classes_)
    assert refused(lambda: evaluate(classifier, unlabelled), ConditionError) == (
        "The data set 'set' must have labels to be measured on. Got none."
    )
