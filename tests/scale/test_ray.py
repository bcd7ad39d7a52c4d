"""Rows from a Ray cluster are those of one process, whatever happens to its workers."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from diffclass.cli.evaluate import evaluate
from diffclass.errors import RangeError
from diffclass.scale import answer_on_ray
from rows import assert_alike, rows_of

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own
pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'diffclass[ray]'")


def _squares(marker: Path | None) -> Callable[[Sequence[int]], list[dict[str, Any]]]:
    """Open what answers images; the first worker dies in the middle of a task, once."""

    def answer(indices: Sequence[int]) -> list[dict[str, Any]]:
        if marker is not None and 5 in indices and not marker.exists():
            marker.touch()
            os._exit(1)
        return [{"id": str(i), "square": i * i} for i in indices]

    return answer


@pytest.fixture(scope="module")
def _cluster() -> Any:
    import ray
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests
    ray.init(num_cpus=2, log_to_driver=False, logging_level="error", include_dashboard=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("_cluster")
def test_a_worker_that_dies_loses_no_image(tmp_path: Path) -> None:
    marker = tmp_path / "died"
    rows = [row for rows in answer_on_ray(partial(_squares, marker), range(12), workers=2, chunk=3) for row in rows]
    assert marker.exists()
    assert sorted((int(row["id"]), row["square"]) for row in rows) == [(i, i * i) for i in range(12)]


@pytest.mark.usefixtures("_cluster")
def test_evaluate_on_ray_writes_the_rows_of_one_process(tmp_path: Path) -> None:
    command = [
        "digits",
        "--model",
        "digits-mixture",
        "--split",
        "test",
        "--limit",
        "40",
        "--batch-size",
        "64",
        "--quiet",
    ]
    for engine in ("local", "ray"):
        options = ["--engine", engine, *(["--workers", "2"] if engine == "ray" else [])]
        result = CliRunner().invoke(evaluate, [*command, *options, "--out", str(tmp_path / engine)])
        assert result.exit_code == 0, result.output
    local, ray = rows_of(tmp_path / "local"), rows_of(tmp_path / "ray")
    assert len(local) == 40
    assert_alike(ray, local)


def test_no_workers_are_refused() -> None:
    with pytest.raises(RangeError, match="at least 1"):
        next(answer_on_ray(partial(_squares, None), [0], workers=0))
