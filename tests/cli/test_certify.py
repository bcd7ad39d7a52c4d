"""`diffclass certify`, with every option, on a mixture that is fitted in a moment."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from diffclass.cli import main, render
from diffclass.data.results import read_results
from tiny_mixture import save_mixture, save_picture

QUICK = ("--n", 40, "--n0", 10, "--alpha", 0.01)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_mixture(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command line believe that people read what it prints."""
    monkeypatch.setattr(render, "_on_terminal", lambda: True)


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["certify", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def read(*arguments: object, code: int = 0) -> Any:
    return json.loads(call(*arguments, code=code).stdout)


def test_pictures_get_a_certificate_each(model: Path, tmp_path: Path) -> None:
    for index in range(2):
        save_picture(tmp_path / "pictures" / f"{index}.png", index)
    rows = read(tmp_path / "pictures", "--model", model, "--sigma", 0.1, "--sigma", 0.2, *QUICK)
    assert [(Path(row["image"]).name, row["sigma"]) for row in rows] == [
        ("0.png", 0.1), ("0.png", 0.2), ("1.png", 0.1), ("1.png", 0.2)
    ]  # fmt: skip
    for row in rows:
        assert (row["n0"], row["n"], row["alpha"], row["truth"]) == (10, 40, 0.01, None)
        assert sum(row["votes"]["counts"]) + row["votes"]["undecided"] == 40
        assert row["evaluations"] == 50 * 10
        assert (row["label"] is None) == (row["radius"] == 0)


def test_a_data_set_gets_certified_accuracy(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("digits", "--split", "test", "--limit", 12, "--model", model, "--sigma", 0.1, *QUICK, "--out", out)
    summary = read(*arguments, "--figure", tmp_path / "f.png", "--seed", 3, "--threads", 1, "--device", "cpu")
    result = summary["results"][0]
    assert (summary["n_images"], result["n_images"], result["copies_per_image"]) == (12, 12, 50)
    values = [estimate["value"] for estimate in result["certified_accuracy"]]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.5
    assert all(estimate["n"] == 12 and estimate["method"] == "Wilson" for estimate in result["certified_accuracy"])
    assert json.loads((out / "summary.json").read_text()) == summary
    assert summary["config"]["smoothing"]["noised"] == "exact"
    assert not (out / "progress.json").exists()
    with Image.open(tmp_path / "f.png") as image:
        assert image.width > 500
    heading, *lines = (out / "cohen-0.1.tsv").read_text().splitlines()
    assert heading == "idx\tlabel\tpredict\tradius\tcorrect\ttime"
    rows = read_results(out / "results.jsonl")[1]
    for index, (line, row) in enumerate(zip(lines, rows, strict=True)):
        idx, label, predict, radius, correct, spent = line.split("\t")
        assert (int(idx), int(label)) == (index, int(row["truth"]))
        assert int(predict) == (-1 if row["label"] is None else int(row["label"]))
        assert float(radius) == pytest.approx(row["radius"], abs=1e-5)
        assert int(correct) == (row["label"] == row["truth"])
        assert spent.startswith("0:00:0")


def test_a_wanted_radius_stops_early(model: Path, terminal: None) -> None:
    options = ("--split", "test", "--limit", 6, "--sigma", 0.2, "--n", 2000, "--alpha", 0.01)
    shown = call("digits", "--model", model, *options, "--radius", 0.1).stdout
    assert "certified accuracy" in shown
    assert "average radius" in shown
    summary = read("digits", "--model", model, *options, "--radius", 0.1, "--json")
    assert summary["results"][0]["copies_per_image"] < 600
    assert summary["config"]["smoothing"] == {
        "sigmas": [0.2], "noised": "exact", "n0": 20, "n": 2000, "alpha": 0.01, "radius": 0.1
    }  # fmt: skip


@pytest.mark.parametrize("noised", ["epndc", "apndc", "apndc-class", "exact"])
def test_copies_can_be_raced(model: Path, tmp_path: Path, noised: str, terminal: None) -> None:
    picture = save_picture(tmp_path / "0.png", mode="RGB", size=(20, 16))
    options = ("--n", 12, "--n0", 4, "--alpha", 0.1, "--sigma", 0.3, "--race", "exhaustive", "--draws", 8)
    pictures = ("--resize", "crop", "--convert", "--batch-size", 32, "--no-compile", "--dtype", "float32")
    row = read(picture, "--model", model, *options, *pictures, "--noised", noised, "--vote", "--json")[0]
    assert row["evaluations"] == 16 * 10 * (1 if noised == "exact" else 8)
    shown = call(picture, "--model", model, *options, *pictures, "--noised", noised, "--quiet").stdout
    assert "p at least" in shown


def test_the_weight_can_be_the_published_one(model: Path, tmp_path: Path) -> None:
    picture = save_picture(tmp_path / "0.png")
    options = ("--n", 8, "--n0", 2, "--alpha", 0.3, "--noised", "epndc", "--draws", 8, "--delta", 0.2)
    call(picture, "--model", model, *options, "--weight", "edm_official", "--out", tmp_path / "out")
    config = read_results(tmp_path / "out" / "results.jsonl")[0]
    assert config["objective"]["weight"]["kind"] == "EDMOfficialWeight"


def test_a_broken_picture_among_several(model: Path, tmp_path: Path, terminal: None) -> None:
    broken, good = tmp_path / "broken.png", save_picture(tmp_path / "good.png")
    broken.write_bytes(b"nothing")
    result = call(broken, good, "--model", model, "--sigma", 0.1, "--sigma", 0.2, *QUICK, code=1)
    assert result.stderr == (
        f"Error: The picture '{broken}' is not in a format that Pillow opens. Try a PNG or JPEG file.\n"
        "1 of 2 pictures failed.\n"
    )
    assert "good.png" in "".join(result.stdout.split())


# Interruptions


LONG = ("--split", "test", "--limit", "3", "--n", "60000", "--n0", "100", "--sigma", "0.2", "--threads", "1")


def killed(model: Path, out: Path, how: signal.Signals) -> int:
    """Run the command, and send a signal as soon as the counts of a picture in progress are on the disk."""
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    hurry = "from diffclass.bench import certifying; certifying._KEEP_EVERY = 0.0"
    start = f"{listen}; {hurry}; from diffclass.cli import main; main()"
    command = [sys.executable, "-c", start, "certify", "digits", "--model", str(model), "--out", str(out), *LONG]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    state, rows, deadline = out / "progress.json", out / "results.jsonl", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if state.is_file() and rows.read_bytes().count(b"\n") == 2:
            kept = json.loads(state.read_text())
            if kept["id"] not in rows.read_text() and sum(kept["state"]["votes"]["counts"]) > 0:
                process.send_signal(how)
                break
        time.sleep(0.002)
    process.communicate(timeout=60)
    return process.returncode


@pytest.fixture(scope="module")
def unbroken(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    call("digits", "--model", model, "--out", out, *LONG)
    return out


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_killed_in_the_middle_of_a_picture_goes_on(
    model: Path, tmp_path: Path, unbroken: Path, how: signal.Signals
) -> None:
    assert killed(model, tmp_path, how) == (-signal.SIGKILL if how is signal.SIGKILL else 130)
    kept = json.loads((tmp_path / "progress.json").read_text())
    assert 0 < sum(kept["state"]["votes"]["counts"]) < 60_000
    call("digits", "--model", model, "--out", tmp_path, *LONG)
    assert (tmp_path / "results.jsonl").read_bytes() == (unbroken / "results.jsonl").read_bytes()
    tables = [(folder / "cohen-0.2.tsv").read_text().splitlines() for folder in (tmp_path, unbroken)]
    without_times = [[line.rpartition("\t")[0] for line in lines] for lines in tables]
    assert without_times[0] == without_times[1]
    assert len(without_times[0]) == 4


def test_what_was_counted_is_not_counted_again(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work after an interruption is what was left: copies labelled in both runs add up to those of one."""
    from diffclass.bench import certifying
    from diffclass.robust import NoisedLikelihood

    monkeypatch.setattr(certifying, "_KEEP_EVERY", 0.0)
    labelled, stop_at = [0], [3_000]
    real = NoisedLikelihood.labels

    def labels(self: NoisedLikelihood, copies: Any) -> Any:
        if labelled[0] > stop_at[0]:
            raise KeyboardInterrupt
        labelled[0] += len(copies)
        return real(self, copies)

    monkeypatch.setattr(NoisedLikelihood, "labels", labels)
    arguments = ("digits", "--split", "test", "--limit", 1, "--n", 6000, "--model", model, "--out", tmp_path)
    stopped = call(*arguments, code=130)
    assert stopped.stderr == f"Stopped. '{tmp_path}' keeps what is done, and the same command goes on from there.\n"
    stop_at[0] = 10**9
    call(*arguments)
    assert labelled[0] == 6_100


def test_another_configuration_is_refused(model: Path, tmp_path: Path) -> None:
    arguments = ("digits", "--split", "test", "--limit", 1, "--model", model, "--out", tmp_path, *QUICK)
    call(*arguments)
    result = call(*arguments, "--sigma", 0.5, code=1)
    assert result.stderr.endswith("It differs in: smoothing.sigmas (was [0.25], now [0.5]). Use another --out.\n")
