"""Runs that are killed, and the same command again."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from diffclass.cli import main
from diffclass.data.results import read_results
from tiny_mixture import save_mixture

N = 130  # rows are written 64 at a time


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_mixture(tmp_path_factory.mktemp("models") / "tiny")


def arguments(model: Path, out: Path) -> list[str]:
    options = ["--split", "test", "--limit", str(N), "--race", "exhaustive", "--threads", "1"]
    return ["evaluate", "digits", "--model", str(model), "--out", str(out), *options]


def answers(out: Path) -> dict[str, dict[str, Any]]:
    rows = read_results(out / "results.jsonl")[1]
    assert len({row["id"] for row in rows}) == len(rows), "an image was done twice"
    return {row["id"]: {key: value for key, value in row.items() if key != "seconds"} for row in rows}


def stop_midway(model: Path, out: Path, how: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Run the command, and send a signal as soon as the first rows are on the disk."""
    # a test run in the background ignores SIGINT, and its children would too
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    start = f"{listen}; from diffclass.cli import main; main()"
    command = [sys.executable, "-c", start, *arguments(model, out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    path, deadline = out / "results.jsonl", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if path.is_file() and path.read_bytes().count(b"\n") > 1:
            process.send_signal(how)
            break
        time.sleep(0.002)
    stdout, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


@pytest.fixture(scope="module")
def unbroken(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    result = CliRunner().invoke(main, arguments(model, out))
    assert result.exit_code == 0, result.output
    return answers(out)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on(
    model: Path, tmp_path: Path, unbroken: dict[str, dict[str, Any]], how: signal.Signals
) -> None:
    stopped = stop_midway(model, tmp_path, how)
    assert stopped.returncode == (-signal.SIGKILL if how is signal.SIGKILL else 130), stopped.stderr
    assert stopped.stdout == ""
    if how is signal.SIGINT:
        wanted = f"Stopped. '{tmp_path}' keeps what is done, and the same command goes on from there.\n"
        assert stopped.stderr == wanted
    kept = answers(tmp_path)
    assert 0 < len(kept) < N
    assert not (tmp_path / "summary.json").exists()
    result = CliRunner().invoke(main, arguments(model, tmp_path))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["n_images"] == N
    done = answers(tmp_path)
    assert done.keys() == unbroken.keys()
    for name, row in done.items():
        other = unbroken[name]
        assert row["label"] == other["label"]
        assert row["evaluations"] == other["evaluations"]
        # What was pending when the run was stopped meets other company in its batches: the last bits may differ.
        assert row["log_odds"] == pytest.approx(other["log_odds"], rel=1e-4, abs=1e-3)
    assert {name: done[name] for name in kept} == kept


def test_two_runs_cannot_share_a_folder(model: Path, tmp_path: Path) -> None:
    from diffclass.data.results import ResultFile

    with ResultFile(tmp_path / "results.jsonl", {"any": 1}):
        result = CliRunner().invoke(main, arguments(model, tmp_path))
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: The result file '{tmp_path / 'results.jsonl'}' is being written by another run. "
        "Wait for it, or use another --out.\n"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this system")
def test_output_on_a_full_disk(model: Path, tmp_path: Path) -> None:
    """Standard output on a full disk ends without a traceback too."""
    command = [sys.executable, "-m", "diffclass", "models", str(model), "--json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: The output cannot be written: No space left on device.\n"
