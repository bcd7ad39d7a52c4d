"""The benchmark of many classes runs, at a size that takes a moment, and does not measure twice."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "classes.py"


def test_the_benchmark_of_many_classes(tmp_path: Path) -> None:
    if not SCRIPT.is_file():
        pytest.skip("benchmarks/ is not part of this installation")
    spec = importlib.util.spec_from_file_location("classes_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    small = "--classes 10,3,20 --images 20 --calibration 80 --draws 32 --dimension 16 --delta 0.1"
    first = CliRunner().invoke(benchmark.main, f"{small} --out {tmp_path}", catch_exceptions=False)
    assert first.exit_code == 0
    table = json.loads((tmp_path / "table.json").read_text())
    assert [row["classes"] for row in table["table"]] == [3, 10, 20]
    for row in table["table"]:
        assert row["full_evaluations"] == 32 * row["classes"]
        assert row["full_accuracy"]["value"] > 0.8  # 3% errors are wanted; of 20 images 5 fail once in 10,000 times
        for race in row["races"].values():
            assert row["classes"] <= race["mean"]["value"] <= row["full_evaluations"]
    fitted = table["exponents"]["PairedRace student"]
    spent = [row["races"]["PairedRace student"]["mean"]["value"] for row in table["table"][1:]]
    assert fitted["value"] == pytest.approx(np.log(spent[1] / spent[0]) / np.log(2))
    assert (tmp_path / "classes.png").stat().st_size > 5_000
    again = CliRunner().invoke(benchmark.main, f"{small} --out {tmp_path}", catch_exceptions=False)
    assert again.stdout == first.stdout
    assert "done" not in again.stderr
