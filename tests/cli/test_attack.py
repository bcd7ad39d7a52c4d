"""`diffclass attack`, with every option, on a mixture that is fitted in a moment."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from diffclass.bench.attacked import Attacked
from diffclass.cli import main, render
from diffclass.data.results import read_results
from tiny_mixture import save_mixture, save_picture

QUICK = ("--attack-draws", 8, "--steps", 3, "--queries", 4, "--threads", 1)
SET = ("digits", "--split", "test")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_mixture(tmp_path_factory.mktemp("models") / "tiny")


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["attack", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def read(*arguments: object) -> Any:
    return json.loads(call(*arguments).stdout)


def test_a_data_set_under_attack(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = read(*SET, "--limit", 3, "--model", model, "--threat", "linf:0.1", *QUICK, "--out", out, "--seed", 3)
    assert (summary["threat"], summary["n_images"], summary["n_failed"]) == ("linf:0.1", 3, 0)
    names = [one["attack"] for one in summary["attacks"]]
    assert names == ["apgd-ce", "apgd-t", "apgd-exact", "square", "random", "reroll"]
    clean, robust = summary["clean_accuracy"], summary["robust_accuracy"]
    assert (clean["method"], clean["n"]) == ("Wilson", 3)
    assert all(robust["value"] <= one["accuracy"]["value"] <= clean["value"] for one in summary["attacks"])
    assert set(summary["checks"]) == {"finite_difference_error", "agreement", "large_budget_fooled"}
    assert json.loads((out / "summary.json").read_text()) == summary
    config, rows = read_results(out / "results.jsonl")
    assert (config["attack"]["threat"], config["seed"], config["transfer_from"]) == ("linf:0.1", 3, None)
    assert [row["index"] for row in rows] == list(range(3))
    by_hand = sum(row["correct"] and not any(a["fooled"] for a in row["attacks"].values()) for row in rows)
    assert robust["value"] == by_hand / 3


def test_what_people_see(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "_on_terminal", lambda: True)
    options = ("--attacks", "apgd-dlr,random", "--race", "exhaustive", "--draws", 8, "--delta", 0.1, "--vote")
    result = call(*SET, "--limit", 3, "--model", model, "--threat", "l2:0.3", *QUICK, *options, "--dtype", "float32")
    for text in ("l2:0.3, 3 images", "apgd-dlr", "random", "none", "all", "off finite differences by"):
        assert text in result.stdout
    quiet = call(
        *SET, "--limit", 2, "--model", model, "--threat", "l2:0.3", *QUICK, "--attacks", "random", "--no-checks", "-q"
    )
    assert "checks" not in quiet.stdout
    assert not quiet.stderr


@pytest.mark.parametrize("noise", ["fixed", "fresh"])
def test_noise_purifier_and_transfer(model: Path, tmp_path: Path, noise: str) -> None:
    other = save_mixture(tmp_path / "other")
    options = ("--noise", noise, "--eot", 2, "--purify", "--purify-steps", 2, "--transfer-from", other, "--restarts", 2)
    names = ("--attacks", "apgd-ce, transfer", "--no-checks", "--device", "cpu", "--batch-size", 100, "--no-compile")
    arguments = (*SET, "--limit", 1, "--model", model, "--threat", "linf:8/255", *QUICK, *options, *names)
    summary = read(*arguments, "--json", "--out", tmp_path / "out")
    config = summary["config"]
    assert config["attack"]["access"] == {"noise": noise, "eot": 2, "n_draws": 8}
    assert config["purifier"]["n_steps"] == 2
    assert config["transfer_from"]["model"]["name"] == "other"
    assert [one["attack"] for one in summary["attacks"]] == ["apgd-ce", "transfer"]


def test_pictures_that_do_not_fit(model: Path, tmp_path: Path) -> None:
    for label in (1, 2):
        save_picture(tmp_path / "set" / str(label) / "0.png", label, size=(20, 16), mode="RGB")
    (tmp_path / "set" / "1" / "broken.png").write_bytes(b"nothing")
    arguments = (tmp_path / "set", "--model", model, "--threat", "l2:0.1", *QUICK, "--attacks", "random")
    result = call(*arguments, "--resize", "crop", "--convert", code=1)
    assert json.loads(result.stdout)["n_failed"] == 1
    assert result.stderr.splitlines()[-1] == "1 of 3 pictures failed."
    assert call(*arguments, code=2).stdout == ""


# Interruptions


LONG = (*SET, "--limit", "5", "--threat", "linf:0.1", "--attack-draws", "8", "--steps", "6", "--queries", "8",
        "--threads", "1", "--attacks", "apgd-ce,square,reroll", "--no-checks")  # fmt: skip


def stopped(model: Path, out: Path, how: signal.Signals) -> int:
    """Run the command, and send a signal when a few rows are on the disk."""
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    start = f"{listen}; from diffclass.cli import main; main()"
    command = [sys.executable, "-c", start, "attack", "--model", str(model), "--out", str(out), *LONG]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    rows, deadline = out / "results.jsonl", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if rows.is_file() and rows.read_bytes().count(b"\n") == 3:
            process.send_signal(how)
            break
        time.sleep(0.002)
    process.communicate(timeout=60)
    return process.returncode


@pytest.fixture(scope="module")
def unbroken(model: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    call("--model", model, "--out", out, *LONG)
    return (out / "results.jsonl").read_bytes()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_to_the_same_bytes(
    model: Path, tmp_path: Path, unbroken: bytes, how: signal.Signals
) -> None:
    assert stopped(model, tmp_path, how) == (-signal.SIGKILL if how is signal.SIGKILL else 130)
    rows = tmp_path / "results.jsonl"
    before = rows.read_bytes()
    assert 3 <= before.count(b"\n") < 6
    call("--model", model, "--out", tmp_path, *LONG)
    assert rows.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert rows.read_bytes() == unbroken
    other = call("--model", model, "--out", tmp_path, *LONG, "--steps", 7, code=1)
    assert other.stderr.endswith("It differs in: attack.steps (was 6, now 7). Use another --out.\n")


# Signs of weak attacks


def rows(attacks: dict[str, list[bool]], *, late: bool = False, checks: dict[str, Any] | None = None) -> list[Any]:
    """Rows of images, each fooled or not by each attack."""
    n = len(next(iter(attacks.values())))
    found = []
    for i in range(n):
        by_name = {
            name: {
                "fooled": fooled[i], "label": "1", "margin": 1.0 if fooled[i] else -1.0, "gradients": 40,
                "first_step": (39 if late else 3) if fooled[i] else None, "evaluations": 10,
            }
            for name, fooled in attacks.items()
        }  # fmt: skip
        robust = not any(one["fooled"] for one in by_name.values())
        good = {"finite_difference_error": 1e-3, "agreement": 0.9, "large_budget_fooled": True}
        found.append(
            {"id": str(i), "correct": True, "robust": robust, "attacks": by_name, "checks": {**good, **(checks or {})}}
        )
    return found


def signs(attacks: dict[str, list[bool]], **options: Any) -> tuple[str, ...]:
    config = {"attack": {"threat": "l2:1"}}
    return Attacked.from_rows(rows(attacks, **options), attacks=tuple(attacks), config=config).signs


def test_signs_of_attacks_that_are_too_weak() -> None:
    half, none = [True, True, False, False], [False] * 4
    assert signs({"apgd-ce": half, "random": none, "square": none}) == ()
    masked = "'{}' is stronger than attacks by gradients: these may be masked."
    assert signs({"apgd-ce": none, "apgd-t": none, "square": half}) == (masked.format("square"),)
    assert signs({"apgd-ce": none, "transfer": half, "random": half}) == (
        masked.format("random"), masked.format("transfer")
    )  # fmt: skip
    assert signs({"random": half}) == ()
    assert signs({"apgd-ce": half}, checks={"finite_difference_error": 0.4}) == (
        "Gradients differ from finite differences: 16 bits round them (try dtype float32), or they are wrong.",
    )
    assert signs({"apgd-ce": half}, checks={"agreement": 0.01}) == (
        "Gradients on two sets of draws hardly agree: try more draws or a larger eot.",
    )
    assert signs({"apgd-ce": half}, checks={"large_budget_fooled": False}) == (
        "A budget eight times as large does not fool nearly all images: the attack fails by itself.",
    )
    assert signs({"apgd-ce": half}, late=True) == (
        "Many images fell in the last quarter of the steps of apgd-ce: try more steps.",
    )


def test_signs_are_told(model: Path) -> None:
    """One step and few draws are not enough, and the command says so."""
    result = call(
        *SET, "--limit", 3, "--model", model, "--threat", "linf:0.001", "--attack-draws", 4, "--steps", 1,
        "--attacks", "apgd-ce", "--threads", 1,
    )  # fmt: skip
    assert "Take care: " in result.stderr
