"""What makes the network fast decides nothing but near ties: batch size, half precision and compiling."""

import shutil

import numpy as np
import pytest
import torch
import torch._dynamo.utils

from diffclass.data import open_dataset
from diffclass.decide import Decision, DiffusionClassifier
from diffclass.denoisers.compiled import is_compiled

N = 40
NEAR_TIE = 3.0  # [standard errors of the log-odds]


def decisions(dtype: str, batch_size: int, *, compile: bool = False) -> list[Decision]:
    classifier = DiffusionClassifier.from_pretrained(
        "digits", device="cpu", dtype=dtype, batch_size=batch_size, compile=compile
    )
    assert is_compiled(classifier.denoiser) == compile
    images, _ = open_dataset("digits", split="test").array((1, 8, 8), range(N))
    return classifier.classify(images)


@pytest.fixture(scope="module")
def reference() -> list[Decision]:
    return decisions("float32", 256)


def check(found: list[Decision], reference: list[Decision], *, within: float) -> None:
    """Compare decisions; `within` [standard errors] is how much the log-odds of the same pair of classes may move."""
    near = 0
    for index, (one, other) in enumerate(zip(found, reference, strict=True)):
        if any(abs(d.log_odds) < NEAR_TIE * d.log_odds_se for d in (one, other)):
            near += 1
            continue
        assert one.label == other.label, f"image {index}: {one.log_odds} ± {one.log_odds_se}, {other.log_odds}"
        if (one.runner_up, one.n_draws) == (other.runner_up, other.n_draws):
            assert abs(one.log_odds - other.log_odds) <= within * other.log_odds_se, f"image {index}"
    assert near <= N // 5, "too many near ties to tell anything"


@pytest.mark.parametrize("batch_size", [37, 64])
def test_the_batch_size_decides_nothing(reference: list[Decision], batch_size: int) -> None:
    found = decisions("float32", batch_size)
    check(found, reference, within=1e-3)
    for one, other in zip(found, reference, strict=True):
        np.testing.assert_allclose(one.evidence.errors, other.evidence.errors, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [64, 256])
def test_half_precision_decides_near_ties_alone(reference: list[Decision], batch_size: int) -> None:
    check(decisions("bfloat16", batch_size), reference, within=1.0)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="there is no C++ compiler")
def test_compiling_decides_near_ties_alone(
    reference: list[Decision], pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a minute, or seconds with what the last test run has left in pytest's cache."""
    cache = pytestconfig.cache
    if cache is not None:
        monkeypatch.setenv("DIFFCLASS_CACHE", str(cache.mkdir("compiled")))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    check(decisions("bfloat16", 256, compile=True), reference, within=1.0)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
