"""`diffclass reproduce` end to end: a tiny Stable Diffusion, and a tiny pair of EDM networks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import published_sets
import tiny_pipelines
from diffclass.bench.experiments import experiments
from diffclass.cli import main, render
from diffclass.data.results import read_results
from diffclass.robust import Smoothing
from published_layout import DDPMPP, save_edm

PLAIN = ("--device", "cpu", "--dtype", "float32", "--threads", 1)


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["reproduce", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result


def read(*arguments: object) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_pipelines, "TOKENS", 77)  # it spells, and the published prompts are sentences
        return tiny_pipelines.save("sd1", tmp_path_factory.mktemp("reproduced"))


@pytest.fixture(scope="module")
def edm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("edm")
    small = DDPMPP | {"img_resolution": 32, "channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": []}
    save_edm(home / "cond.pkl", small | {"label_dim": 10})
    save_edm(home / "uncond.pkl", small | {"label_dim": 0})
    for name, more in (("pair", ("--unconditional", home / "uncond.pkl")), ("alone", ())):
        told = ("convert", home / "cond.pkl", *more, "--classes", "cifar10", "--out", home / name)
        assert CliRunner().invoke(main, [*map(str, told)]).exit_code == 0
    return home


@pytest.fixture
def few_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three copies prove something only at a large alpha."""
    monkeypatch.setattr("diffclass.bench.preparing.Smoothing", lambda **given: Smoothing(**given | {"alpha": 0.2}))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "_on_terminal", lambda: True)


def test_every_experiment_is_listed(terminal: None) -> None:
    shown = run("--list").stdout
    assert all(name in shown for name in experiments())
    assert "70.7% at 0.5" in " ".join(shown.split())
    assert [row["name"] for row in read("--list")] == list(experiments())
    assert run().stdout == shown


def test_zero_shot_by_a_tiny_stable_diffusion(diffusion: Path, tmp_path: Path) -> None:
    data, out = published_sets.pets(tmp_path / "data"), tmp_path / "out"
    command = ("zeroshot-pets", "--data", data, "--model", diffusion, *PLAIN, "--draws", 20, "--out", out)
    found = read(*command)
    assert (found["comparable"], found["n_images"], found["n_failed"]) == (False, 3, 0)
    (row,) = found["comparisons"]
    assert row["published"]["value"] == pytest.approx(0.873, abs=1e-3)
    assert (row["published"]["n"], row["published"]["read"], row["here"]["n"]) == (3669, "read", 3)
    assert row["here"]["low"] <= row["here"]["value"] <= row["here"]["high"]
    assert "balanced_accuracy" in found["also"]
    told = " | ".join(found["differences"])
    for part in ("data: 3 images", "that of Stable Diffusion 2.0 base (512 pixels) 865,910,724", "it sees 16x16 pixels",
                 "settings: draws 20 in place of 250"):  # fmt: skip
        assert part in told
    config = found["measured"]["config"]
    assert config["objective"]["distance"] == "l1"
    assert config["race"]["stages"] == [[2, 5], [20, 1]]
    assert config["prompts"][0][1] == "a photo of a American Bulldog, a type of pet."
    assert json.loads((out / "reproduction.json").read_text()) == found


def test_an_interrupted_run_goes_on(diffusion: Path, tmp_path: Path) -> None:
    data, whole, part = published_sets.pets(tmp_path / "data"), tmp_path / "whole", tmp_path / "part"
    command = ("zeroshot-pets", "--data", data, "--model", diffusion, *PLAIN, "--draws", 20)
    read(*command, "--out", whole)
    read(*command, "--out", part)
    lines = (part / "results.jsonl").read_text().splitlines(keepends=True)
    (part / "results.jsonl").write_text("".join(lines[:2]))
    again = read(*command, "--out", part)
    answers = [{row["id"]: row["class_log_odds"] for row in read_results(one / "results.jsonl")[1]}
               for one in (whole, part)]  # fmt: skip
    assert answers[0] == answers[1]
    assert again["n_images"] == 3
    other = CliRunner().invoke(main, ["reproduce", *map(str, (*command, "--seed", 1, "--out", part))])
    assert other.exit_code == 1


def test_our_race_and_a_prompt_file(diffusion: Path, tmp_path: Path) -> None:
    rows = ("prompt,classname,classidx", "a cat,abyssinian,0", "a dog,american bulldog,1", "a cow,cow,2")
    prompts = published_sets.lines(tmp_path / "prompts.csv", *rows)
    data = published_sets.pets(tmp_path / "data")
    options = ("--fast", "--draws", 24, "--limit", 2, "--selection", "first", "--size", 8, "--prompts", prompts)
    found = read("zeroshot-pets", "--data", data, "--model", diffusion, *PLAIN, *options)
    config = found["measured"]["config"]
    assert config["race"]["kind"] == "PairedRace"
    assert config["classes"] == ["abyssinian", "american bulldog", "cow"]
    assert found["n_images"] == 2
    assert "settings: PairedRace (delta 0.01) in place of the published stopping rule" in found["differences"]


@pytest.mark.parametrize(("name", "make"), [
    ("clark-jaini-stl10", published_sets.stl10), ("zeroshot-imagenet", published_sets.imagenet_kaggle)
])  # fmt: skip
def test_other_settings_are_run(name: str, make: Any, diffusion: Path, tmp_path: Path) -> None:
    data = make(tmp_path / "data")
    found = read(name, "--data", data, "--model", diffusion, *PLAIN, "--draws", 4, "--limit", 2, "--batch-size", 32)
    config = found["measured"]["config"]
    assert config["race"]["kind"] == ("ClarkJaini" if "clark" in name else "SuccessiveHalving")
    assert config["objective"]["distance"] == "l2"
    assert ("prompts: classes are named by the data's own list" in " ".join(found["differences"])) == (
        "imagenet" in name
    )


def test_nothing_that_differs_is_comparable(
    diffusion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: None
) -> None:
    """With a published model of this size and a published set of three images, nothing differs."""
    data = published_sets.pets(tmp_path / "data")
    network = tiny_pipelines.unet()
    one = experiments()["zeroshot-pets"]
    model = replace(one.model, size=16, weights=sum(p.numel() for p in network.parameters()))
    small = replace(one, model=model, data=replace(one.data, images=3, classes=2), images=3)
    monkeypatch.setattr("diffclass.bench.experiments.find_experiment", lambda name: small)
    monkeypatch.setattr("diffclass.decide.published.PUBLISHED", {"pets": ((2, 2), (4, 1))})
    monkeypatch.setattr("diffclass.bench.experiments.PUBLISHED", {"pets": ((2, 2), (4, 1))})
    command = ("zeroshot-pets", "--data", data, "--model", diffusion, *PLAIN)
    assert read(*command)["comparable"]
    assert "comparable: nothing is known to differ" in run(*command).stdout
    assert not read(*command, "--fast")["comparable"]


def test_certificates_of_a_tiny_pair(edm: Path, tmp_path: Path, few_copies: None, terminal: None) -> None:
    data, out = published_sets.cifar(tmp_path / "data"), tmp_path / "out"
    copies = ("--n", 3, "--n0", 1, "--draws", 4, "--limit", 3, "--sigma", 0.25)
    command = ("certified-cifar10", "--data", data, "--model", edm / "pair", *PLAIN, *copies, "--out", out)
    found = read(*command)
    shown = run(*command).stdout
    config = found["measured"]["config"]
    assert config["smoothing"]["noised"] == "apndc"
    assert config["objective"]["weight"]["kind"] == "EDMOfficialWeight"
    assert config["objective"]["sigma_range"] == [0.002, 3.0]
    assert config["experiment"] == "certified-cifar10"
    assert [row["image"] for row in read_results(out / "results.jsonl")[1]] == ["test/0", "test/1", "test/2"]
    measures = {row["measure"]: row["here"] for row in found["comparisons"]}
    assert measures["certified at 0.5 (sigma 0.25)"]["n"] == 3
    assert measures["certified at 1 (sigma 0.5)"] is None
    assert "settings: n 3 in place of 10000" in found["differences"]
    said = " ".join(shown.split())
    assert "not comparable" in said
    assert "70.7% 66.6% – 74.5% 512" in said


def test_a_network_without_companion_denoises_with_the_class(edm: Path, tmp_path: Path, few_copies: None) -> None:
    data = published_sets.cifar(tmp_path / "data")
    copies = ("--n", 3, "--n0", 1, "--draws", 4, "--limit", 1, "--selection", "every", "--sigma", 0.25)
    found = read(
        "certified-cifar10", "--data", data, "--model", edm / "alone", *PLAIN, *copies, "--weight", "edm", "--fast"
    )
    config = found["measured"]["config"]
    assert config["smoothing"]["noised"] == "apndc-class"
    assert config["objective"]["weight"]["kind"] == "EDMWeight"
    assert config["race"]["kind"] == "PairedRace"
    assert any(text.startswith("copies: denoised with the class") for text in found["differences"])
    assert "settings: weight edm in place of edm_official" in found["differences"]


def test_a_scale_divides_noise_and_multiplies_radii(
    edm: Path, tmp_path: Path, few_copies: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ImageNet's settings on CIFAR-10's images and networks."""
    table = experiments()
    one = replace(table["certified-imagenet64"], data=table["certified-cifar10"].data)
    monkeypatch.setattr("diffclass.bench.experiments.find_experiment", lambda name: one)
    data = published_sets.cifar(tmp_path / "data")
    copies = ("--n", 3, "--n0", 1, "--draws", 4, "--limit", 1, "--sigma", 0.5)
    found = read("certified-imagenet64", "--data", data, "--model", edm / "pair", *PLAIN, *copies)
    config = found["measured"]["config"]
    assert config["smoothing"]["sigmas"] == [0.125]
    assert config["race"] == {"kind": "SiftAndRefine", "threshold": pytest.approx(153.6), "keep": 10, "n_sift": 4,
                              "n_draws": 4, "block": 1}  # fmt: skip
    assert {row["measure"] for row in found["comparisons"] if row["here"]} == {
        "certified at 0 (sigma 0.5)", "certified at 0.75 (sigma 0.5)",
        "certified at 1 (sigma 0.5)",
    }  # fmt: skip
