"""Shards of a run add up to the run."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from diffclass.bench.shards import Shard
from diffclass.cli.attack import attack
from diffclass.cli.certify import certify
from diffclass.cli.evaluate import evaluate
from diffclass.data.results import errors_path, read_results
from diffclass.errors import ConfigError, ResultError
from rows import assert_alike, rows_of

MODEL = ["digits", "--split", "test", "--model", "digits-mixture", "--quiet", "--batch-size", "64"]
VERBS = {
    "evaluate": (evaluate, [*MODEL, "--limit", "12"]),
    "certify": (certify, [*MODEL, "--limit", "6", "--n", "100", "--n0", "10", "--alpha", "0.05"]),
    "attack": (attack, [*MODEL, "--limit", "4", "--threat", "linf:0.1", "--attacks", "random", "--queries", "5"]),
}


def test_a_shard_is_every_nth_image() -> None:
    parts = [list(Shard(i, 3).indices(8)) for i in (1, 2, 3)]
    assert parts == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert str(Shard.parse("2/3")) == "2/3"


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/3", "1/", "-1/3"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="i/N"):
        Shard.parse(text)


@pytest.mark.parametrize("verb", VERBS)
def test_shards_and_the_rest_are_the_rows_of_one_process(verb: str, tmp_path: Path) -> None:
    command, options = VERBS[verb]

    def run(*more: str) -> None:
        result = CliRunner().invoke(command, [*options, *more])
        assert result.exit_code == 0, result.output

    run("--out", str(tmp_path / "whole"))
    run("--out", str(tmp_path / "parts"), "--shard", "1/3")
    run("--out", str(tmp_path / "parts"), "--shard", "3/3")
    one = read_results(tmp_path / "parts" / "shards" / "3-of-3" / "results.jsonl")[1]
    run("--out", str(tmp_path / "parts"))  # takes over two thirds and does the second one itself
    whole, parts = rows_of(tmp_path / "whole"), rows_of(tmp_path / "parts")
    assert len(whole) > len(one) > 0
    assert_alike(parts, whole)


def test_shards_bring_the_errors_they_saved(tmp_path: Path) -> None:
    command, options = VERBS["evaluate"]
    for shard in (["--shard", "2/2"], []):
        done = CliRunner().invoke(command, [*options, "--save-errors", "--out", str(tmp_path), *shard])
        assert done.exit_code == 0, done.output
    for row in rows_of(tmp_path):
        with np.load(errors_path(tmp_path, row["id"])) as kept:
            assert str(kept["id"]) == row["id"]


def test_a_shard_of_another_configuration_is_refused(tmp_path: Path) -> None:
    command, options = VERBS["evaluate"]
    CliRunner().invoke(command, [*options, "--out", str(tmp_path), "--shard", "1/2"])
    result = CliRunner().invoke(command, [*options, "--seed", "1", "--out", str(tmp_path)])
    assert isinstance(result.exception, ResultError)
    assert "another configuration" in str(result.exception)
