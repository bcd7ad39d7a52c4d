"""Rows from a Ray cluster are those of one process, whatever happens to its workers."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from diffclass.cli.compose import compose
from diffclass.cli.evaluate import evaluate
from diffclass.errors import NonFiniteError, RangeError, WeightsMissing
from diffclass.scale import answer_on_ray
from rows import assert_alike, rows_of
from tiny_matching import save_noise

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


@pytest.fixture
def _threads() -> Iterator[None]:
    """Give the number of threads back as it was."""
    import torch

    n = torch.get_num_threads()
    yield
    torch.set_num_threads(n)


@pytest.mark.usefixtures("_cluster", "_threads")
def test_compose_on_ray_writes_the_rows_and_errors_of_one_process(
    pipelines: Path, matching: Path, tmp_path: Path
) -> None:
    entries = {}
    for number in range(40):  # two windows of each part
        save_noise(tmp_path / "val2017" / f"{number}.png", number)
        entries[str(number)] = {"filename": f"{number}.png", "caption": "a cat", "negative_caption": "a dog"}
    (tmp_path / "swap_obj.json").write_text(json.dumps(entries))
    (tmp_path / "val2017" / "7.png").write_bytes(b"no picture")
    command = ["--benchmark", f"sugarcrepe:{tmp_path}", "--device", "cpu", "--dtype", "float32", "--draws", "4"]
    command += ["--scorer", f"diffusion:{pipelines / 'sd1'}", "--scorer", f"clip:{matching / 'clip'}", "--quiet"]
    for engine in ("local", "ray"):
        options = ["--engine", engine, *(["--workers", "1"] if engine == "ray" else ["--threads", "2"])]
        result = CliRunner().invoke(compose, [*command, *options, "--out", str(tmp_path / engine)])
        assert result.exit_code == 1, result.output
        assert "1.png" not in result.stderr
        assert "2 of 80 pictures failed." in result.stderr
    for scorer in ("diffusion-sd1", "clip-clip"):
        local, ray = (tmp_path / engine / scorer / "sugarcrepe.swap_obj" for engine in ("local", "ray"))
        assert rows_of(ray) == rows_of(local)
        assert len(rows_of(ray)) == 40
        kept = {path.name: path.read_bytes() for path in local.glob("errors/*.npz")}
        assert {path.name: path.read_bytes() for path in ray.glob("errors/*.npz")} == kept
        assert len(kept) == (39 if scorer == "diffusion-sd1" else 0)


def _cannot(when: str) -> Callable[[Sequence[int]], list[dict[str, Any]]]:
    """Fail to open, or to answer."""

    def answer(indices: Sequence[int]) -> list[dict[str, Any]]:
        raise NonFiniteError("The network returned NaN.")

    if when == "opening":
        raise WeightsMissing("The model is not on this node.")
    return answer


@pytest.mark.usefixtures("_cluster")
@pytest.mark.parametrize(
    ("when", "error", "sentence"),
    [
        ("opening", WeightsMissing, "The model is not on this node."),
        ("answering", NonFiniteError, "The network returned NaN."),
    ],
)
def test_what_fails_in_a_worker_is_one_sentence_here(when: str, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as caught:
        list(answer_on_ray(partial(_cannot, when), range(4), workers=1, chunk=2))
    assert str(caught.value) == sentence


def test_no_workers_are_refused() -> None:
    with pytest.raises(RangeError, match="at least 1"):
        next(answer_on_ray(partial(_squares, None), [0], workers=0))
