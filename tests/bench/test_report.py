"""The page of a run: what it says, what it holds, and what it does without pictures or calibration."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from diffclass.bench import evaluate
from diffclass.bench.page import render_page
from diffclass.bench.report import Report, make_report
from diffclass.bench.run import Run
from diffclass.cli import main
from diffclass.data import open_dataset
from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.stats import wilson
from tiny_mixture import digits, save_mixture

N = 80


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on test digits, and one of the same classifier on validation digits."""
    home = tmp_path_factory.mktemp("runs")
    model = save_mixture(home / "tiny", temperature=None)
    classifier = DiffusionClassifier.from_pretrained(model, race=Exhaustive(n_draws=4, block=2), batch_size=64)
    evaluate(classifier, digits(), out=home / "test", limit=N)
    evaluate(classifier, open_dataset("digits", split="validation"), out=home / "validation")
    return home


@pytest.fixture(scope="module")
def report(runs: Path) -> Report:
    return make_report(Run.load(runs / "test"), n_resamples=50)


class Reader(HTMLParser):
    """Collects tags and their attributes, and checks that elements close."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_the_page_is_whole_and_refers_to_nothing_outside(report: Report) -> None:
    page, missing = render_page(report)
    assert missing == []
    reader = read(page)
    assert "http" not in page
    for tag, attributes in reader.tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    figures = [tag for tag, _ in reader.tags if tag == "svg"]
    pictures = [tag for tag, _ in reader.tags if tag == "img"]
    assert len(figures) == 4
    assert len(pictures) == len(report.examples) >= 9
    wrong = int(report.wrong.sum())
    assert f"{N} images, and {wrong} answers that are not right, on which every figure here rests" in page
    assert page.count(f"{N} images") >= 4  # the lead and the captions of figures
    assert page.count("AURC 0.") == sum("AURC 0." in line and " to 0." in line for line in page.splitlines()) > 0
    recall = wilson(int(report.confusion[0, 0]), int(report.confusion[0].sum()))
    assert f"{recall.value:.1%} <span class='muted'>({recall.low:.1%} to {recall.high:.1%})</span>" in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert not re.search(r"#101112|#d0d1d2", page)  # colours of figures come from the page


def test_figures_agree_with_the_rows(report: Report) -> None:
    run = report.run
    right = np.array([row["label"] == row["truth"] for row in run.answered])
    assert (report.wrong == ~right).all()
    assert report.confusion.sum() == N
    assert np.trace(report.confusion[:, :10]) == right.sum()
    doubt = report.uncertainties["vote_share"]
    assert doubt.tolist() == [1 - row["uncertainty"]["vote_share"] for row in run.answered]
    for found in report.selective.values():
        assert all(e is not None and e.low <= e.value <= e.high for e in found.values())
    made = report.filtering["margin"][0]
    assert (made.value, made.n) == (pytest.approx(right.mean()), N)
    kinds = {example.kind for example in report.examples}
    assert kinds == {"wrong and sure", "right and unsure", "right and sure"}
    for example in report.examples:
        assert (example.row["label"] == example.row["truth"]) == example.kind.startswith("right")
    assert len({example.row["id"] for example in report.examples}) == len(report.examples)


def test_validation_calibrates_and_its_sets_hold_the_label(runs: Path) -> None:
    report = make_report(Run.load(runs / "test"), validation=Run.load(runs / "validation"), alpha=0.2, n_resamples=10)
    found = report.validated
    assert found is not None
    assert found.notes == ()
    assert found.n == 200
    assert report.primary == "probability"
    assert len(report.measured_on) == N  # nothing was fitted on the run itself
    assert found.coverage is not None
    assert found.coverage.high >= 0.8
    assert found.set_size is not None
    assert 0.5 < found.set_size.value < 5
    page, _ = render_page(report)
    assert "Conformal sets that promise to hold the right class of 80% of images" in page
    assert f"of {N} sets do. A set has" in page
    assert f"Fitted on 200 validation images, measured on {N} others" in page
    assert "isotonic" in page
    read(page)


def test_without_the_pictures_the_page_says_so(runs: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("results.jsonl", "run.json"):
        (moved / name).write_bytes((runs / "test" / name).read_bytes())
    about = json.loads((moved / "run.json").read_text())
    about["source"]["path"] = "nowhere/digits"
    (moved / "run.json").write_text(json.dumps(about))
    page, missing = render_page(make_report(Run.load(moved), n_resamples=10))
    assert missing == [
        "The pictures are no longer at 'nowhere/digits': The data set 'nowhere/digits' does not exist. Give a file, a "
        "folder, or 'digits'."
    ]
    assert "no longer at" in page
    assert not [tag for tag, _ in read(page).tags if tag == "img"]
    (moved / "run.json").unlink()
    assert "does not say where its pictures were" in render_page(make_report(Run.load(moved), n_resamples=10))[1][0]


def test_names_of_classes_and_files_are_escaped(runs: Path) -> None:
    run = Run.load(runs / "test")
    rows = tuple(dict(row) | {"truth": "<i>7</i>"} for row in run.answered)
    object.__setattr__(run, "answered", rows)
    page, _ = render_page(make_report(run, n_resamples=10))
    assert "<i>7</i>" not in page
    assert "&lt;i&gt;7" in page


def test_the_verb_writes_the_page_and_json(runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    line = [
        "report",
        str(runs / "test"),
        "--validation",
        str(runs / "validation"),
        "--alpha",
        "0.2",
        "--out",
        str(page),
    ]
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["page"] == str(page)
    assert found["missing"] == []
    assert set(found["selective"]) >= {"margin", "vote_share", "probability"}
    assert found["validation"]["n"] == 200
    read(page.read_text(encoding="utf-8"))


def test_a_run_of_right_answers_alone_has_a_page(runs: Path) -> None:
    run = Run.load(runs / "test")
    object.__setattr__(run.scores, "predictions", run.scores.labels.copy())
    report = make_report(run, n_resamples=10)
    assert all(found["failure_auc"] is None for found in report.selective.values())
    page, _ = render_page(report)
    assert "No answer was wrong." in page
