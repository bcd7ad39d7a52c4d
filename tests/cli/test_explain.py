"""`diffclass explain`, with every option, on a mixture that is fitted in a moment."""

import json
import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from diffclass.cli import main, render
from diffclass.data import load_image
from tiny_mixture import save_mixture, save_picture


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    save_mixture(folder / "tiny")
    save_picture(folder / "digit.png", 3)
    save_picture(folder / "<b>&.png", 4, size=(16, 12))
    return folder


def call(home: Path, *arguments: object, picture: str = "digit.png", code: int = 0) -> Result:
    options = ("--model", home / "tiny", "--threads", 1, "--steps", 4)
    result = CliRunner().invoke(main, ["explain", str(home / picture), *map(str, (*options, *arguments))])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def read(home: Path, *arguments: object, **options: Any) -> Any:
    return json.loads(call(home, *arguments, **options).stdout)


def test_the_arrays_are_those_of_the_answer(home: Path, tmp_path: Path) -> None:
    row = read(home, "--strength", 0.8, "--out", tmp_path / "new" / "maps.npz")
    with np.load(tmp_path / "new" / "maps.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert np.array_equal(arrays["image"], load_image(home / "digit.png", (1, 8, 8)).numpy())
    assert np.allclose(arrays["difference"], arrays["counterfactual"] - arrays["factual"])
    assert arrays["classes"].tolist() == [row["source"], row["to"]]
    assert arrays["evidence"].shape == arrays["p_values"].shape == arrays["significant"].shape == (8, 8)
    assert arrays["evidence"].sum() + row["map"]["log_prior"] == pytest.approx(row["map"]["log_odds"], rel=1e-5)
    assert row["map"]["significant"] == arrays["significant"].mean()
    assert row["changed"]["l1"] == pytest.approx(np.abs(arrays["counterfactual"] - arrays["image"]).mean(), abs=1e-6)
    assert [v["picture"] for v in row["verdicts"]] == ["picture", "factual", "counterfactual"]
    assert row["flipped"] == (row["verdicts"][2]["label"] == row["to"])
    assert row["decision"]["label"] == row["source"]


def test_options_reach_the_edit(home: Path) -> None:
    options = ("--to", 0, "--method", "partial", "--strength", 0.7, "--guidance", 2, "--steps", 3, "--seed", 5)
    options = (*options, "--solver", "euler", "--map-draws", 16, "--fdr", 0.2, "--race", "exhaustive", "--draws", 16)
    row = read(home, *options, "--dtype", "float32", "--batch-size", 32)
    assert row["to"] == "0"
    wanted = {"method": "partial", "strength": 0.7, "guidance": 2.0, "n_steps": 3, "solver": "euler", "seed": 5}
    assert wanted.items() <= row["edit"].items()
    assert row["edit"]["tried"] == [0.7]
    assert (row["map"]["n_draws"], row["map"]["fdr"], row["decision"]["n_draws"]) == (16, 0.2, 16)
    assert row["evaluations"]["edits"] == 2 * 4 * 2


def test_a_page_stands_alone(home: Path, tmp_path: Path) -> None:
    page = tmp_path / "card.html"
    result = call(home, "--strength", 0.8, "--out", page, picture="<b>&.png")
    assert "centre-cropped 16x12 to 12x12; resized 12x12 to 8x8" in result.stderr
    assert f"written: {page}" in result.stderr
    row, text = json.loads(result.stdout), page.read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', text)
    assert len(sources) == 7  # five pictures, two with colours laid over them
    for source in sources:
        kind, data = source.split(",")
        assert kind == "data:image/png;base64"
        picture = Image.open(BytesIO(b64decode(data)))
        picture.load()
        assert picture.size == (224, 224)
    for foreign in ("http:", "https:", "url(", "@import", "<script", "<link"):
        assert foreign not in text
    assert "prefers-color-scheme: dark" in text
    assert "&lt;b&gt;&amp;.png" in text
    assert "<b>&.png" not in text
    for verdict in row["verdicts"]:
        cell = f"{verdict['log_odds']:.1f} ± {verdict['log_odds_se']:.1f}"
        assert f"<td>{verdict['picture']}</td><td>{verdict['label']}</td><td>{cell}</td>" in text
        assert f"<td>{verdict['probability']:.1%}</td>" in text


def test_a_picture_of_the_pictures(home: Path, tmp_path: Path) -> None:
    call(home, "--strength", 0.8, "--out", tmp_path / "map.png", "--out", tmp_path / "card.html")
    with Image.open(tmp_path / "map.png") as picture:
        picture.load()
        assert picture.width > 3 * picture.height > 900
    assert (tmp_path / "card.html").is_file()


def test_what_people_see(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "_on_terminal", lambda: True)
    result = call(home, "--strength", 0.8, "--quiet")
    for text in ("picture", "factual", "counterfactual", "inversion: strength 0.8, guidance 1"):
        assert text in result.output
    assert json.loads(call(home, "--strength", 0.8, "--json").stdout)["to"] is not None


def test_words_about_a_counterfactual_that_failed(home: Path, tmp_path: Path) -> None:
    row = read(home, "--strength", 0.2, "--out", tmp_path / "card.html")
    assert not row["flipped"]
    assert f"The counterfactual is not answered {row['to']}." in (tmp_path / "card.html").read_text(encoding="utf-8")


def test_without_calibration_there_is_no_probability(home: Path, tmp_path: Path) -> None:
    save_mixture(home / "raw", temperature=None)
    options = ["--model", str(home / "raw"), "--threads", "1", "--steps", "2", "--strength", "0.5"]
    done = CliRunner().invoke(main, ["explain", str(home / "digit.png"), *options, "--out", str(tmp_path / "c.html")])
    assert done.exit_code == 0
    assert [v["probability"] for v in json.loads(done.stdout)["verdicts"]] == [None] * 3
    assert (tmp_path / "c.html").read_text(encoding="utf-8").count("<td>—</td>") == 6
