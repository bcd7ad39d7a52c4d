"""One answer for the images of a group: pooled by hand, on real pictures, and through the command line."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from diffclass.bench import evaluate
from diffclass.bench.groups import pool_evidence, pool_votes
from diffclass.cli import main
from diffclass.data import open_dataset
from diffclass.decide import DiffusionClassifier, Exhaustive, MajorityVote
from tiny_mixture import digits, save_mixture, save_picture, tiny_mixture


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 30 digits of three classes, two or three of a class to a patient, the last without one."""
    home = tmp_path_factory.mktemp("scans")
    data = digits()
    rows, count = [], 0
    for label in (0, 1, 7):
        chosen = np.flatnonzero(data.labels == label)[:10].tolist()
        for place, index in enumerate(chosen):
            save_picture(home / f"{count}.png", index)
            patient = "" if count == 29 else f"{label}-{place // 3}"
            rows.append({"path": f"{count}.png", "label": data.classes[label], "patient": patient, "age": 40 + count})
            count += 1
    with (home / "scans.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["path", "label", "patient", "age"])
        writer.writeheader()
        writer.writerows(rows)
    return home / "scans.csv"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_mixture(tmp_path_factory.mktemp("models") / "tiny")


def test_evidence_of_independent_views_adds_and_the_prior_counts_once() -> None:
    log_prior = np.log([0.7, 0.2, 0.1])
    likelihood = np.random.default_rng(0).normal(size=(4, 3))
    joint = likelihood + log_prior
    odds = joint - joint[:, :1]  # over any class of each view
    exact = likelihood.sum(axis=0) + log_prior
    np.testing.assert_allclose(pool_evidence(odds, log_prior), exact - exact.max())
    np.testing.assert_allclose(pool_evidence(odds[:1], log_prior), joint[0] - joint[0].max())


def test_pooled_evidence_is_the_exact_likelihood_of_several_images() -> None:
    # Of a mixture the likelihood is known: three views of one class are as likely as the product says.
    data = digits()
    images, labels = data.array((1, 8, 8), np.flatnonzero(data.labels == 3)[:3])
    likelihood = tiny_mixture().log_likelihood(images, tau=0.2).numpy().astype(np.float64)
    odds = likelihood - likelihood.max(axis=1, keepdims=True)
    pooled = pool_evidence(odds, np.full(10, -np.log(10.0)))
    assert pooled.argmax() == int(labels[0])
    np.testing.assert_allclose(pooled, likelihood.sum(axis=0) - likelihood.sum(axis=0).max(), rtol=1e-6)


def test_every_view_has_one_vote() -> None:
    assert pool_votes(np.array([[1.0, 0.0], [0.4, 0.6], [0.5, 0.5]])).tolist() == [1.9, 1.1]


@pytest.mark.parametrize("voting", [False, True])
def test_groups_are_answered_beside_the_images(scans: Path, tmp_path: Path, voting: bool) -> None:
    options = {"aggregate": MajorityVote()} if voting else {}
    classifier = DiffusionClassifier(
        denoiser=tiny_mixture(), race=Exhaustive(n_draws=8, block=4), classes=("0", "1", "7"), **options
    )
    data = open_dataset(scans)
    measured = evaluate(classifier, data, out=tmp_path, group_by="patient")
    found = json.loads((tmp_path / "groups.json").read_text())
    groups = found["groups"]
    assert found["group_by"] == "patient"
    assert len(groups) == 12  # three patients of three images a class, two of one, and an image of nobody
    assert sum(g["n_images"] for g in groups) == 30
    right = np.mean([g["label"] == g["truth"] for g in groups])
    assert measured.metrics["group_accuracy"] is not None
    made = measured.metrics["group_accuracy"]
    assert (made.value, made.n) == (pytest.approx(right), 12)
    assert measured.metrics["group_auc"] is not None
    rows = {row["id"]: row for row in map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines()[1:])}
    members = [rows[i] for i, p in zip(data.ids, data.column("patient"), strict=True) if p == "7-1"]
    key = "vote_shares" if voting else "class_log_odds"
    sums = {c: sum(row[key][c] for row in members) for c in ("0", "1", "7")}
    scores = next(g["scores"] for g in groups if g["group"] == "7-1")
    assert scores["7"] - scores["1"] == pytest.approx(sums["7"] - sums["1"], rel=1e-6)


def test_the_same_run_goes_on_with_or_without_groups(scans: Path, tmp_path: Path) -> None:
    classifier = DiffusionClassifier(denoiser=tiny_mixture(), race=Exhaustive(n_draws=4), classes=("0", "1", "7"))
    evaluate(classifier, open_dataset(scans), out=tmp_path)
    before = (tmp_path / "results.jsonl").read_bytes()
    evaluate(classifier, open_dataset(scans), out=tmp_path, group_by="patient")
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_the_verb_groups_and_refuses_bad_columns(scans: Path, model: Path) -> None:
    line = ["evaluate", str(scans), "--model", str(model), "--labels", "0,1,7", "--draws", "4", "--race", "exhaustive"]
    result = CliRunner().invoke(main, [*line, "--group-by", "patient"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["metrics"]["group_accuracy"]["n"] == 12
    result = CliRunner().invoke(main, [*line, "--group-by", "lesion"])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        "Error: The data set 'scans' has no column 'lesion'. It has: age, patient."
    )
    wrong = scans.with_name("wrong.csv")
    wrong.write_text(scans.read_text().replace("1-0", "0-0"))
    result = CliRunner().invoke(main, ["evaluate", str(wrong), *line[2:], "--group-by", "patient"])
    assert result.stderr.splitlines()[-1] == (
        "Error: A group must be of one class. Got '0-0' of column 'patient' with images of '0' and '1'. Choose another "
        "column, or leave the groups out."
    )


def test_columns_of_every_format(tmp_path: Path, scans: Path) -> None:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    picture = (scans.parent / "0.png").read_bytes()
    table = {
        "image": [{"bytes": picture, "path": f"ISIC_{i}.png"} for i in range(4)],
        "label": [0, 1, 0, 1], "patient": ["a", "a", "b", None], "tags": [["x"]] * 4,
    }  # fmt: skip
    write_table(pa.table(table), tmp_path / "set.parquet")
    found = open_dataset(tmp_path / "set.parquet").subset([3, 0])
    assert found.column("patient") == [None, "a"]
    assert found.column("path") == ["ISIC_3.png", "ISIC_0.png"]
    assert set(found.columns()) == {"patient", "path"}
    for name in ("cat/p1/a.png", "cat/p2/b.png", "dog/c.png"):
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(picture)
    assert open_dataset(tmp_path / "folder").column("folder") == ["p1", "p2", "dog"]
    assert digits().columns() == {}
    assert open_dataset(scans).sample(3).column("age") == [
        str(40 + int(i[:-4])) for i in open_dataset(scans).sample(3).ids
    ]
    assert torch.equal(found[1].load((1, 8, 8)), open_dataset(scans)[0].load((1, 8, 8)))
