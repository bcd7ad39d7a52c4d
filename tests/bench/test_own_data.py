"""The walk-through of docs/own-data.md, at tiny size: a folder of pictures, a model of it, its figures and its page."""

import json
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from diffclass.cli import main
from tiny_mixture import digits, save_picture


def run(*arguments: object) -> dict:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_folder_of_pictures_in_three_commands(tmp_path: Path) -> None:
    data = digits()
    for label, name in ((0, "round"), (1, "straight")):
        for place, index in enumerate(np.flatnonzero(data.labels == label)[:40].tolist()):
            split = ("train", "train", "validation", "test")[place % 4]
            save_picture(tmp_path / "scans" / split / name / f"{index}.png", index)
    scans, out = tmp_path / "scans", tmp_path / "out"
    looked = run("audit", scans)
    assert looked["counts"]["train"] == {"round": 20, "straight": 20}
    made = run("fit", scans, "--out", out / "model", "--components", 1, "--rank", 2)
    measured = run("evaluate", scans, "--split", "test", "--model", made["model"], "--out", out / "test")
    assert measured["metrics"]["accuracy"]["n"] == 20
    assert measured["metrics"]["accuracy"]["value"] > 0.8
    shown = run("report", out / "test")
    page = (out / "test" / "report.html").read_text(encoding="utf-8")
    assert shown["missing"] == []
    assert shown["page"] == str(out / "test" / "report.html")
    assert page.count("data:image/png;base64,") >= 8
    assert "straight" in page
