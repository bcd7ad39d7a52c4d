"""The verb that compares scorers of captions."""

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from click.testing import CliRunner, Result

from diffclass.cli import main, render
from tiny_matching import save_noise


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["compose", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("pairs")
    entries = {}
    for number in range(4):
        save_noise(home / "val2017" / f"{number}.png", number, size=(20, 16))
        captions = {"caption": f"a cat on mat {number}", "negative_caption": f"a mat on cat {number}"}
        entries[str(number)] = {"filename": f"{number}.png"} | captions
    (home / "swap_obj.json").write_text(json.dumps(entries))
    return home


def test_every_kind_of_scorer_in_one_table(
    pairs: Path, pipelines: Path, matching: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ("--benchmark", f"sugarcrepe:{pairs}", "--device", "cpu", "--dtype", "float32", "--draws", 16, "--seeds", 2)
    frozen, tuned, vilt = (matching / name for name in ("clip", "tuned", "vilt"))
    specs = (f"diffusion:{pipelines / 'sd1'}", f"frozen=clip:{frozen}", f"tuned=clip:{tuned}", f"vilt:{vilt}")
    for spec in (*specs, f"blind:clip:{frozen}", "chance"):
        told = (*told, "--scorer", spec)
    told = (*told, "--out", tmp_path / "out", "--others", 2, "--race", "exhaustive", "--analyse")
    found = run(*told)
    assert found.exit_code == 0, found.output
    summary: Any = json.loads(found.stdout)
    by_scorer = {result["scorer"]: result for result in summary["results"]}
    assert list(by_scorer) == ["diffusion-sd1", "frozen", "tuned", "vilt-vilt", "blind-clip-clip", "chance"]
    assert by_scorer["diffusion-sd1"]["seeds"] == [0, 1]
    assert by_scorer["diffusion-sd1"]["evaluations"]["value"] == 32
    assert by_scorer["chance"]["accuracy"]["value"] == 0.5
    assert len(summary["gains"]) == 5
    assert summary["analysis"]["embeddings"].keys() == {"frozen", "tuned"}
    assert summary["analysis"]["margins"]["diffusion-sd1"]["sugarcrepe.swap_obj"]["foil"][0]["wins"]["n"] == 4 * 2 * 2
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    for figure in ("comparison", "embeddings", "margins"):
        assert (tmp_path / "out" / f"{figure}.png").is_file()
    assert len(list((tmp_path / "out" / "diffusion-sd1" / "sugarcrepe.swap_obj" / "errors").glob("*.npz"))) == 8
    monkeypatch.setattr(render, "_on_terminal", lambda: True)
    again = run(*told)
    assert "accuracy; a tie counts one over the number tied" in again.output
    assert "figures as the benchmarks define them" in again.output
    assert "paired differences of accuracy" in again.output
    assert "embeddings: mean cosine, 95% interval" in again.output
    whole = run(*told, "--learn-weight")
    assert (whole.exit_code, whole.stderr.strip().splitlines()[-1]) == (
        2,
        "Error: learn_weight needs at least 20 labelled images. Got 4.",
    )


def test_shards_are_gathered_and_looked_behind(pairs: Path, pipelines: Path, matching: Path, tmp_path: Path) -> None:
    told: tuple[object, ...] = ("--benchmark", f"sugarcrepe:{pairs}", "--device", "cpu", "--dtype", "float32")
    for spec in (f"diffusion:{pipelines / 'sd1'}", f"clip:{matching / 'clip'}"):
        told = (*told, "--scorer", spec)
    told = (*told, "--draws", 8, "--race", "exhaustive", "--out")
    one = run(*told, tmp_path / "one", "--analyse")
    assert one.exit_code == 0, one.output
    for index, scorer in ((1, "diffusion-sd1"), (2, "clip-clip")):
        done = run(*told, tmp_path / "out", "--shard", f"{index}/2")
        part = {"scorer": scorer, "part": "sugarcrepe.swap_obj", "n_rows": 4, "n_failed": 0}
        assert json.loads(done.stdout) == {"format": 1, "shard": f"{index}/2", "rows": [part]}
    assert not (tmp_path / "out" / "summary.json").exists()
    together = run(*told, tmp_path / "out", "--analyse")
    assert together.exit_code == 0, together.output
    kept, found = (timeless(json.loads(result.stdout)) for result in (one, together))
    assert found == kept


def test_a_shard_with_a_broken_picture(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copytree(pairs, tmp_path / "pairs")
    (tmp_path / "pairs" / "val2017" / "2.png").write_bytes(b"no picture")
    monkeypatch.setattr(render, "_on_terminal", lambda: True)
    told = ("--benchmark", f"sugarcrepe:{tmp_path / 'pairs'}", "--scorer", "chance", "--out", tmp_path / "out")
    done = run(*told, "--shard", "1/1")
    assert done.exit_code == 1
    assert "rows of shard 1/1" in done.stdout
    assert done.stderr.splitlines()[-1] == "1 of 4 pictures failed."


def timeless(summary: dict[str, Any]) -> dict[str, Any]:
    """Without seconds and the place of figures."""
    summary["analysis"].pop("figures")
    return summary | {"results": [{k: v for k, v in one.items() if k != "seconds"} for one in summary["results"]]}


CASES: dict[str, tuple[str, int, str]] = {
    "nothing to compare on": (
        "--scorer chance",
        2,
        "Error: Give either a folder of scenes or --benchmark NAME:PATH.",
    ),
    "analysis of nothing kept": (
        "--benchmark sugarcrepe:{pairs} --scorer chance --analyse",
        2,
        "Error: Invalid value for '--analyse': needs a folder for errors and figures. Give --out.",
    ),
    "weights from nothing kept": (
        "--benchmark sugarcrepe:{pairs} --scorer chance --learn-weight",
        2,
        "Error: Invalid value for '--learn-weight': needs a folder for errors and figures. Give --out.",
    ),
    "analysis of a shard": (
        "--benchmark sugarcrepe:{pairs} --scorer chance --analyse --out {pairs}/out --shard 1/2",
        2,
        "Error: Invalid value for '--analyse': looks at a whole run. Give it to the command without --shard.",
    ),
    "weights from a shard": (
        "--benchmark sugarcrepe:{pairs} --scorer chance --learn-weight --out {pairs}/out --shard 1/2",
        2,
        "Error: Invalid value for '--learn-weight': looks at a whole run. Give it to the command without --shard.",
    ),
    "a shard that is not there": (
        "--benchmark sugarcrepe:{pairs} --scorer chance --out {pairs}/out --shard 3/2",
        2,
        "Error: A shard must be i/N with i from 1 to N. Got 3/2.",
    ),
    "an unknown scorer": (
        "--benchmark sugarcrepe:{pairs} --scorer blip:x",
        2,
        "Error: A scorer must be diffusion:MODEL, clip:MODEL, vilt:MODEL, blind:SCORER or chance. Got 'blip:x'.",
    ),
    "a scorer without a model": (
        "--benchmark sugarcrepe:{pairs} --scorer clip",
        2,
        "Error: A scorer must be diffusion:MODEL, clip:MODEL, vilt:MODEL, blind:SCORER or chance. Got 'clip'.",
    ),
    "two scorers of one name": (
        "--benchmark sugarcrepe:{pairs} --scorer chance --scorer chance",
        2,
        "Error: Scorers need names that differ. 'chance' is there twice. Try NAME=chance.",
    ),
    "blind chance": (
        "--benchmark sugarcrepe:{pairs} --scorer blind:chance",
        2,
        "Error: A blind scorer must be made of diffusion, clip or vilt. Got 'blind:chance'.",
    ),
    "a model without text": (
        "--benchmark sugarcrepe:{pairs} --scorer diffusion:digits --device cpu",
        2,
        "Error: A zero-shot classifier needs a model that reads text. This one knows its classes by number: use "
        "DiffusionClassifier.",
    ),
    "a clip that is a vilt": (
        "--benchmark sugarcrepe:{pairs} --scorer clip:{matching}/vilt --device cpu",
        2,
        "Error: The scorer clip takes a CLIP model. The config.json of '{matching}/vilt' says 'vilt'.",
    ),
    "fewer captions than are kept": (
        "--benchmark sugarcrepe:{pairs} --scorer diffusion:{pipelines}/sd1 --device cpu --dtype float32 "
        "--race published",
        2,
        "Error: The published schedule keeps 5 captions after its first stage, and '0' has 2. Try --keep 2 or "
        "--race paired.",
    ),
    "draws of the published schedule": (
        "--benchmark sugarcrepe:{pairs} --scorer diffusion:{pipelines}/sd1 --device cpu --race published --draws 9",
        2,
        "Error: The published schedule sets its own draws, 75 and 200. Leave out --draws.",
    ),
    "an unknown benchmark": (
        "--benchmark blink:{pairs} --scorer chance",
        2,
        "Error: A benchmark must be NAME:PATH, with one of aro, clevr, cobi, self-bench, sugarcrepe, valse, whatsup, "
        "winoground. Got 'blink:{pairs}'.",
    ),
    "a benchmark that is not there": (
        "--benchmark valse:{pairs}/none --scorer chance",
        2,
        "Error: The benchmark's folder '{pairs}/none' does not exist. Check the path.",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_comparisons_are_one_sentence(case: str, pairs: Path, pipelines: Path, matching: Path) -> None:
    arguments, code, sentence = CASES[case]
    places = {"pairs": pairs, "pipelines": pipelines, "matching": matching}
    found = run(*arguments.format(**places).split())
    assert (found.exit_code, found.stderr.strip().splitlines()[-1]) == (code, sentence.format(**places))
