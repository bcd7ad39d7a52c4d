"""Runs that cannot be compared, recipes and medical folders that cannot be used: the exact sentence of each."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from diffclass.bench.comparing import compare
from diffclass.cli import main
from diffclass.data.datasets import open_dataset
from diffclass.data.results import ResultFile
from diffclass.denoisers import Space
from diffclass.errors import ConfigError, DiffclassError, InputError, ResultError
from diffclass.stats import mcnemar
from diffclass.train import load_recipe, run_recipe
from diffclass.train.network import build_network, fitted_options
from diffclass.train.recipe import NetworkPart, NoisePart
from tiny_mixture import save_picture

CONFIG = {"classes": ["a", "b"], "temperature": 1.0, "model": {"name": "m"}}


def run(folder: Path, truths: dict[str, str | None], config: dict[str, Any] | None = None, **row: Any) -> Path:
    """Write what an evaluation leaves."""
    answer = {"label": "a", "class_log_odds": {"a": 0.0, "b": -1.0}, "evaluations": 1, "n_draws": 1, "seconds": 0.0}
    with ResultFile(folder / "results.jsonl", CONFIG if config is None else config) as file:
        file.append([{"id": name, "truth": truth, **(row or answer)} for name, truth in truths.items()])
    return folder


def pictures(folder: Path, size: tuple[int, int]) -> Path:
    for label in ("x", "y"):
        save_picture(folder / label / "a.png", size=size)
    return folder


def table(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "train.csv").write_text(text)
    return folder


UNET, DIGITS, CONCEPTS = (load_recipe(name) for name in ("medical-unet", "digits", "concepts"))
CHEXPERT = "Path,Frontal/Lateral,No Finding,Pleural Effusion\n"
TABLE: dict[str, tuple[Callable[[Path], object], type[DiffclassError], str]] = {
    "other images": (
        lambda h: compare(run(h / "a", {"1": "a", "2": "b"}), run(h / "b", {"1": "a", "3": "b"})),
        InputError,
        "The runs must be of the same images. '{h}/a' has 1 that '{h}/b' lacks, as '2'. Finish both, on one data set, "
        "split and --limit.",
    ),
    "other truths": (
        lambda h: compare(run(h / "a", {"1": "a"}), run(h / "b", {"1": "b"})),
        InputError,
        "The runs must agree on what the images show. '1' is 'a' in '{h}/a' and 'b' in '{h}/b'.",
    ),
    "other classes": (
        lambda h: compare(run(h / "a", {"1": "a"}), run(h / "b", {"1": "a"}, CONFIG | {"classes": ["a", "c"]})),
        InputError,
        "The runs must choose among the same classes. '{h}/a' has a, b and '{h}/b' has a, c.",
    ),
    "no image in common": (
        lambda h: compare(run(h / "a", {"1": None}), run(h / "b", {"1": None})),
        InputError,
        "The runs have no image that both answered and whose class is known.",
    ),
    "results of another command": (
        lambda h: compare(run(h / "a", {"1": "a"}, radius=0.5), run(h / "b", {"1": "a"})),
        InputError,
        "The folder '{h}/a' must hold the answers of `diffclass evaluate`. It holds other results.",
    ),
    "no results": (
        lambda h: compare(h, h),
        ResultError,
        "The result file '{h}/results.jsonl' cannot be read: No such file or directory.",
    ),
    "no answers": (
        lambda h: mcnemar(np.zeros(0, dtype=bool), np.zeros(0, dtype=bool)),
        InputError,
        "A comparison needs the answers of both classifiers to every image. Got lengths [0, 0].",
    ),
    "unknown schedule": (
        lambda h: NoisePart(schedule="linear"),
        ConfigError,
        "The 'schedule' of [noise] must be one of log-normal, shifted-cosine. Got 'linear'.",
    ),
    "noise that descends": (
        lambda h: NoisePart(log_snr=(15.0, -15.0)),
        ConfigError,
        "[noise] needs a gamma and a base_side above 0, and a log_snr of two ascending numbers. "
        "Got 5.0, 64 and [15.0, -15.0].",
    ),
    "pictures too small": (
        lambda h: run_recipe(UNET, data=pictures(h / "set", (16, 20)), out=h / "out"),
        ConfigError,
        "This recipe is for pictures of at least 28 pixels a side. The first of 'set' is 16x20. Say with --size what "
        "they are to be enlarged to.",
    ),
    "a size that the recipe has": (
        lambda h: run_recipe(DIGITS, out=h / "out", size=16),
        ConfigError,
        "The recipe 'digits' has images of 8 pixels. Omit the size.",
    ),
    "captions of no shape": (
        lambda h: run_recipe(replace(CONCEPTS, data=replace(CONCEPTS.data, shape=None)), data=h, out=h / "out"),
        ConfigError,
        "The recipe 'concepts' learns from captions and must give a shape in [data].",
    ),
    "a size that does not halve": (
        lambda h: build_network(UNET.network, Space(channels=1, height=29, width=29, haar=True), 2),
        ConfigError,
        "Images must divide into blocks of 2x2 pixels (patch and haar of [network]). Got 29x29.",
    ),
    "a network that cannot be fitted": (
        lambda h: fitted_options(NetworkPart(kind="LateUNet2DModel", fit=True), 16),
        ConfigError,
        "'fit' needs a DiTTransformer2DModel, or a UNet2DModel with block_out_channels.",
    ),
    "CheXpert without effusion": (
        lambda h: open_dataset(table(h / "set", CHEXPERT + "C/train/p1/study1/v.jpg,Frontal,1.0,\n"), split="train"),
        InputError,
        "The tables in '{h}/set' must list images of both classes. There is none of 'pleural effusion'.",
    ),
    "ISIC without melanoma": (
        lambda h: open_dataset(table(h / "set", "image_name,target\nISIC_0100000,0\n"), split="train"),
        InputError,
        "The tables in '{h}/set' must list images of both classes. There is none of 'melanoma'.",
    ),
    "ISIC with a damaged table": (
        lambda h: open_dataset(table(h / "set", "image_name,target\nISIC_0100000,yes\n"), split="train"),
        InputError,
        "The file '{h}/set' cannot be read: could not convert string to float: 'yes'.",
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_the_sentence(case: str, tmp_path: Path) -> None:
    call, kind, wanted = TABLE[case]
    with pytest.raises(kind) as caught:
        call(tmp_path)
    assert str(caught.value) == wanted.format(h=tmp_path)


def test_the_sentence_on_the_command_line(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a", {"1": "a"}), run(tmp_path / "b", {})
    result = CliRunner().invoke(main, ["compare", str(first), str(second)])
    assert result.exit_code == 2
    assert result.stderr.startswith(
        f"Error: The runs must be of the same images. '{first}' has 1 that '{second}' lacks"
    )


def test_an_infinite_nll_is_a_note(tmp_path: Path) -> None:
    sure = {"label": "a", "class_log_odds": {"a": 0.0, "b": -5000.0}, "evaluations": 1, "n_draws": 1, "seconds": 0.0}
    truths = {"1": "b", "2": "a", "3": "a", "4": "b"}
    found = compare(run(tmp_path / "a", truths, **sure), run(tmp_path / "b", truths), n_resamples=100)
    assert found.differences["nll"] is None
    assert found.notes["nll"] == "NLL is infinite: 2 of 4 images had probability 0."
    assert replace(found, notes={}).summary()["differences"]["accuracy"]["value"] == 0
