"""Within a certified radius no attack changes the smoothed label: the benchmark, with 40 tries."""

import importlib.util
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "attacks.py"


def test_within_a_certified_radius_no_attack_changes_the_smoothed_label(tmp_path: Path) -> None:
    """Each certificate is false with probability below 1e-6."""
    if not SCRIPT.is_file():
        pytest.skip("benchmarks/ is not part of this installation")
    spec = importlib.util.spec_from_file_location("attacks_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    done = CliRunner().invoke(benchmark.main, f"--tries 40 --out {tmp_path}", catch_exceptions=False)
    assert done.exit_code == 0
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["changed"] == 0
    assert table["certified"] > 35  # or nothing was tried
    assert 0.3 < table["share_of_distance"] < 1
    assert table["changed_beyond"] == 40  # what would have been seen
