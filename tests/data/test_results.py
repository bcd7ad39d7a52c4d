"""Result files: nothing lost, nothing torn, nothing mixed."""

import errno
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffclass.data import results
from diffclass.data.results import ResultFile, read_results, versions, write_json_atomic
from diffclass.errors import InputError, ResultError

CONFIG = {"model": "toy", "seed": 0, "race": {"kind": "paired", "delta": 0.05}}
ROWS = [{"id": f"test/{i}", "label": "cat", "log_odds": i / 3, "survivors": ["cat", "dog"]} for i in range(5)]

texts = st.text().filter(lambda text: text not in ("NaN", "Infinity", "-Infinity"))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
tables = st.lists(
    st.tuples(texts, st.dictionaries(texts, values, max_size=3)), max_size=5, unique_by=lambda row: row[0]
)


def same(a: object, b: object) -> bool:
    """Compare with NaN equal to itself, and numbers of one type only."""
    return repr(a) == repr(b)


def filled(path: Path, rows: list[dict] = ROWS) -> bytes:
    with ResultFile(path, CONFIG) as file:
        file.append(rows)
    return path.read_bytes()


@contextmanager
def no_waiting() -> Iterator[None]:
    """Leave out the waiting for the disk where a test opens hundreds of files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", Mock())
        yield


# Round trips


@given(tables, st.dictionaries(texts, values, max_size=3), st.integers(0, 5))
@no_waiting()
def test_rows_come_back(tmp_path_factory, table: list, config: dict, cut: int) -> None:
    path = tmp_path_factory.mktemp("results") / "results.jsonl"
    rows = [{**row, "id": name} for name, row in table]
    with ResultFile(path, config) as file:
        file.append(rows[:cut])
    with ResultFile(path, config) as file:
        assert file.done == {row["id"] for row in rows[:cut]}
        file.append(rows[cut:])
        assert same(list(file.rows()), rows)
        assert len(file) == len(rows)
    read_config, read_rows = read_results(path)
    assert same(read_config, config)
    assert same(read_rows, rows)
    for line in path.read_bytes().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # strict JSON: any language reads it


def test_numpy_values_become_numbers_and_lists(tmp_path: Path) -> None:
    row = {"id": "a", "n": np.int64(3), "x": np.float32(0.5), "yes": np.bool_(True), "many": np.array([[1.0, np.nan]])}
    with ResultFile(tmp_path / "r.jsonl", {"sigma": np.array([0.1, np.inf])}) as file:
        file.append([row, {"id": "b", "pair": (1, 2)}])
        first, second = file.rows()
    assert same(first, {"id": "a", "n": 3, "x": 0.5, "yes": True, "many": [[1.0, math.nan]]})
    assert second == {"id": "b", "pair": [1, 2]}


def test_first_line_says_what_made_the_rows(tmp_path: Path) -> None:
    header = json.loads(filled(tmp_path / "r.jsonl").splitlines()[0])
    assert (header["config"], header["format"]) == (CONFIG, 1)
    assert len(header["config_hash"]) == 32


def test_a_batch_waits_for_the_disk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.jsonl"
    with ResultFile(path, CONFIG) as file:
        sizes: list[int] = []
        monkeypatch.setattr(os, "fsync", lambda _: sizes.append(path.stat().st_size))
        file.append(ROWS)
        assert sizes == [path.stat().st_size]  # after everything was written


# Torn and damaged files


@no_waiting()
def test_a_file_torn_at_any_byte_continues(tmp_path: Path) -> None:
    whole = filled(tmp_path / "whole.jsonl", ROWS[:2])
    path = tmp_path / "torn.jsonl"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        n_lines = whole[:length].count(b"\n")
        with ResultFile(path, CONFIG) as file:
            assert file.done == {row["id"] for row in ROWS[: max(n_lines - 1, 0)]}
            file.append(row for row in ROWS[:2] if row["id"] not in file.done)
        assert path.read_bytes() == whole


def test_readers_leave_out_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    whole = filled(path)
    path.write_bytes(whole[:-5])
    assert read_results(path) == (CONFIG, ROWS[:-1])
    assert path.read_bytes() == whole[:-5]


def test_damage_in_the_middle_is_not_repaired(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    lines = filled(path).split(b"\n")
    for damage in (b"{", b"\x00\x00", b"[]", b'{"label": 1}'):
        path.write_bytes(b"\n".join([*lines[:3], damage, *lines[4:]]))
        with pytest.raises(
            ResultError, match=r"^Line 4 of '.*r\.jsonl' is damaged. Delete the line, or use another --"
        ):
            ResultFile(path, CONFIG)


@pytest.mark.parametrize("content", [b"my thesis", b'{"config": {"other": "run"}', b"a,b\n1,2\n", b'{"a": 1}\n', b"\n"])
def test_other_files_are_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_bytes(content)
    with pytest.raises(ResultError, match=r"^'.*precious' is not a result file. Use another --out.$"):
        ResultFile(path, CONFIG)
    assert path.read_bytes() == content


# Other configurations


def test_order_of_keys_is_no_difference(tmp_path: Path) -> None:
    filled(tmp_path / "r.jsonl")
    with ResultFile(tmp_path / "r.jsonl", dict(reversed(CONFIG.items()))) as file:
        assert len(file) == 5


@given(st.dictionaries(texts, values, max_size=3), st.dictionaries(texts, values, max_size=3))
@no_waiting()
def test_any_other_configuration_is_refused(tmp_path_factory, first: dict, second: dict) -> None:
    path = tmp_path_factory.mktemp("results") / "r.jsonl"
    ResultFile(path, first).close()
    canonical = [json.dumps(config, sort_keys=True) for config in (first, second)]
    if canonical[0] == canonical[1]:
        ResultFile(path, second).close()
        return
    content = path.read_bytes()
    with pytest.raises(ResultError, match="holds results of another configuration"):
        ResultFile(path, second)
    assert path.read_bytes() == content


# Two writers


def test_second_writer_is_refused_and_first_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with ResultFile(path, CONFIG) as file:
        code = (
            "import sys; from diffclass.data.results import ResultFile, ResultError\n"
            "try: ResultFile(sys.argv[1], {'seed': 1})\n"
            "except ResultError as error: print(error)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
        sentence = f"The result file '{path}' is being written by another run. Wait for it, or use another --out.\n"
        assert done.stdout == sentence
        with pytest.raises(ResultError, match="is being written by another run"):
            ResultFile(path, CONFIG)
        file.append(ROWS)
    assert read_results(path) == (CONFIG, ROWS)
    ResultFile(path, CONFIG).close()  # the lock is gone


def test_a_killed_writer_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    code = (
        "import os, sys; from diffclass.data.results import ResultFile\n"
        "file = ResultFile(sys.argv[1], {'seed': 1}); file.append([{'id': 'a'}]); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    with ResultFile(path, {"seed": 1}) as file:
        assert file.done == {"a"}


def without_locks(*_: object) -> None:
    raise OSError(errno.ENOTSUP, "no locks here")


@pytest.mark.parametrize("platform", ["windows", "network drive"])
def test_lock_file_where_the_kernel_has_no_locks(
    platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if platform == "windows":
        monkeypatch.setattr(results, "fcntl", None)
    else:
        monkeypatch.setattr("fcntl.flock", without_locks)
    path, lock = tmp_path / "r.jsonl", tmp_path / "r.jsonl.lock"
    with ResultFile(path, CONFIG):
        assert lock.exists()
        with pytest.raises(
            ResultError, match=r"Wait for it, or use another --out. If no run is left, delete '.*\.lock'"
        ):
            ResultFile(path, CONFIG)
        assert lock.exists()  # the first run's
    assert not lock.exists()
    filled(path)


# Full disks


@pytest.mark.parametrize("written", [0, 1, 40, 90])
@pytest.mark.parametrize("undo", [True, False])
def test_full_disk(written: int, undo: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.jsonl"
    write, room = os.write, [written]

    def until_full(file: int, content: bytes) -> int:
        n = write(file, bytes(content[: room[0]]))
        room[0] -= n
        if n == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return n

    with ResultFile(path, CONFIG) as file:
        file.append(ROWS[:3])
        before = path.read_bytes()
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", until_full)
            if not undo:  # not even the torn end can be cut off: ftruncate fails after the write did
                patched.setattr(os, "ftruncate", Mock(side_effect=[None, OSError(errno.EIO, "gone")]))
            with pytest.raises(ResultError) as caught:
                file.append(ROWS[3:])
        assert str(caught.value) == (
            f"The result file '{path}' cannot grow: the disk is full. It keeps 3 finished rows. "
            "Make room and run the same command again."
        )
        assert len(path.read_bytes()) == len(before) + (0 if undo else written)
        assert len(file) == 3
        file.append(ROWS[3:])  # room again
    assert read_results(path) == (CONFIG, ROWS)


def test_real_size_limit(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    code = (
        "import resource, sys; from diffclass.data.results import ResultFile, ResultError\n"
        "file = ResultFile(sys.argv[1], {'seed': 1}); file.append([{'id': 'a'}])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: file.append([{'id': 'b', 'long': 'x' * 2000}])\n"
        "except ResultError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    reason = "cannot grow: File too large. It keeps 1 finished rows. Run the same command again to continue."
    assert done.stdout == f"The result file '{path}' {reason}\n"
    assert read_results(path) == ({"seed": 1}, [{"id": "a"}])


def test_bad_rows_write_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with ResultFile(path, CONFIG) as file:
        file.append(ROWS[:1])
        before = path.read_bytes()
        for bad in ({"label": 1}, {"id": 1}, ROWS[0], {"id": "z", "x": object()}, {"id": "z", "x": {1: 2}}):
            with pytest.raises(InputError):
                file.append([ROWS[1], bad])
        with pytest.raises(InputError, match=r"is in '.*' already"):
            file.append([ROWS[1], ROWS[1]])
        assert path.read_bytes() == before
        file.append([])
        assert file.done == {"test/0"}


# Tables and other files


def test_to_parquet(tmp_path: Path) -> None:
    rows = [*ROWS, {"id": "broken", "error": "no picture"}, {"id": "n", "log_odds": math.nan, "log_prior": -math.inf}]
    with ResultFile(tmp_path / "r.jsonl", CONFIG) as file:
        file.append(rows)
        file.to_parquet(tmp_path / "new" / "r.parquet")
    table = pq.read_table(tmp_path / "new" / "r.parquet")
    columns = dict.fromkeys(key for row in rows for key in row)
    assert same(table.to_pylist(), [{key: row.get(key) for key in columns} for row in rows])
    assert json.loads(table.schema.metadata[b"diffclass"])["config"] == CONFIG
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["r.parquet"]


def test_to_parquet_of_no_rows(tmp_path: Path) -> None:
    with ResultFile(tmp_path / "r.jsonl", CONFIG) as file:
        file.to_parquet(tmp_path / "r.parquet")
    assert pq.read_table(tmp_path / "r.parquet").column_names == ["id"]


def test_to_parquet_refuses_what_has_no_column_type(tmp_path: Path) -> None:
    for name, pair in {"kinds": (1, "text"), "sizes": (2**70, 1), "empty": ({}, {})}.items():
        with ResultFile(tmp_path / f"{name}.jsonl", CONFIG) as file:
            file.append([{"id": "a", "x": pair[0]}, {"id": "b", "x": pair[1]}])
            with pytest.raises(ResultError):
                file.to_parquet(tmp_path / "r.parquet")
    assert not list(tmp_path.glob("*.parquet")) + list(tmp_path.glob("*.tmp"))


def test_json_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "metrics.json"
    write_json_atomic(path, {"accuracy": 0.5, "se": math.inf, "name": "é"})
    first = path.read_text(encoding="utf-8")
    assert json.loads(first) == {"accuracy": 0.5, "se": "Infinity", "name": "é"}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultError, match=r"^The file '.*metrics\.json' cannot be written: No space left on device.$"):
        write_json_atomic(path, {"accuracy": 0.6})
    assert path.read_text(encoding="utf-8") == first
    assert [f.name for f in path.parent.iterdir()] == ["metrics.json"]


def test_versions_are_json_and_name_what_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = versions()
    assert {"diffclass", "python", "torch", "numpy", "platform", "cpus", "device"} <= set(found)
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions(device="cpu")["device"] == "cpu"
    write_json_atomic(tmp_path / "versions.json", found)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "A GPU")
    assert versions()["device"] == "cuda"
    assert versions(device="cuda:1")["gpu"] == "A GPU"
    assert "gpu" not in versions(device="cpu")


def test_versions_leave_out_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "diffusers":
            raise results.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(results.metadata, "version", version)
    found = versions()
    assert found["torch"] == "1.0"
    assert "diffusers" not in found


def test_readers_refuse_damage_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    lines = filled(path).split(b"\n")
    path.write_bytes(b"\n".join([*lines[:3], b"{", *lines[4:]]))
    with pytest.raises(ResultError, match=r"^Line 4 of '.*r\.jsonl' is damaged. Delete the line.$"):
        read_results(path)
