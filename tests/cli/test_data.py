"""`diffclass data`: what is made, and what is said about it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from diffclass.bench.compositional.rendered import METADATA, ConceptPictures
from diffclass.cli import main

pytest.importorskip("mitsuba", reason="rendering needs mitsuba: pip install 'diffclass[render]'")


def test_a_data_set_is_finished_and_described(tmp_path: Path) -> None:
    options = {"images_per_class": 1, "evaluation_images": 1, "samples": 12, "sizes": ("large",)}
    plan = ConceptPictures(task="relation", **options).plan(tmp_path / "relation")
    for job in plan[:-2]:  # as if an earlier run had been stopped before the last two
        job.path.parent.mkdir(parents=True, exist_ok=True)
        job.path.write_bytes(b"")
        job.record_path.write_text("{}")
    words = (
        "data concept-binding --task relation --images-per-class 1 --evaluation-images 1 --samples 12 --objects large"
    )
    result = CliRunner().invoke(main, [*words.split(), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.stderr
    assert result.stderr == f"saved: {tmp_path}\n"
    rows = json.loads(result.stdout)["splits"]
    assert [(row["task"], row["split"], row["pictures"]) for row in rows] == [
        *(("relation", "train", 11), ("relation", "id-validation", 11), ("relation", "id-test", 11)),
        *(("relation", "ood-validation", 5), ("relation", "ood-test", 8)),
    ]
    record = json.loads(plan[-1].record_path.read_text())
    assert record["concept"] == "cone_left_cube"
    assert {one["size"] for one in record["objects"]} == {"large"}
    assert record["image"]["samples"] == 12
    assert plan[-1].path.stat().st_size > 1000
    assert (tmp_path / "relation/OOD_test" / METADATA).is_file()


@pytest.mark.parametrize("words", ["data --help", "data concept-binding --help"])
def test_help(words: str) -> None:
    result = CliRunner().invoke(main, words.split())
    assert result.exit_code == 0
    assert "concept-binding" in result.stdout
