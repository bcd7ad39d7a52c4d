"""Compiled networks: one graph for one batch size, the same answers, and a warning where it fails."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from diffclass.bench.recording import fingerprint
from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.denoisers import EDM, PixelDenoiser, Space, load
from diffclass.denoisers.compiled import CompiledNetwork, cache_directory, compile_denoiser, is_compiled
from diffclass.errors import DiffclassWarning
from tiny_mixture import tiny_mixture

CLASSES = ("ant", "bee", "cat")


@dataclass
class Output:
    """What networks of diffusers return."""

    sample: torch.Tensor


class Tiny(nn.Module):
    """A network that is compiled in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
        self.embedding = nn.Embedding(3, 8)

    def forward(self, sample: torch.Tensor, time: torch.Tensor, class_labels: torch.Tensor) -> Output:
        shift = self.embedding(class_labels) + time[:, None].to(sample.dtype) / 10
        return Output(self.last(nn.functional.silu(self.first(sample) + shift[:, :, None, None])))


@pytest.fixture
def denoiser() -> PixelDenoiser:
    space = Space(channels=1, height=8, width=8, data_std=0.5)
    return PixelDenoiser(
        network=Tiny(), parametrisation=EDM(), space=space, sigma_range=(0.05, 10.0), classes=CLASSES
    )  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with nothing in it."""
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("DIFFCLASS_CACHE", str(tmp_path / "cache"))
    torch._dynamo.reset()
    return tmp_path / "cache"


@torch.inference_mode()
def denoised(model: Any, n: int) -> torch.Tensor:
    noisy = torch.randn((n, 1, 8, 8), generator=torch.Generator().manual_seed(5))
    return model(noisy, torch.linspace(0.1, 5.0, n), model.condition_on(CLASSES)[torch.arange(n) % 3])


class Counting:
    """A backend of torch.compile that counts graphs, and how often they run."""

    def __init__(self) -> None:
        self.graphs, self.calls = 0, 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        self.graphs += 1

        def run(*arguments: Any) -> Any:
            self.calls += 1
            return graph(*arguments)

        return run


def test_one_graph_for_one_batch_size(denoiser: PixelDenoiser, cache: Path) -> None:
    backend = Counting()
    fast = compile_denoiser(denoiser, batch_size=6, backend=backend)
    assert is_compiled(fast)
    assert not is_compiled(denoiser)
    assert (backend.graphs, backend.calls) == (1, 1)  # at once, and not when the first image comes
    for n, calls in [(6, 2), (6, 3), (5, 3), (1, 3), (7, 3)]:
        torch.testing.assert_close(denoised(fast, n), denoised(denoiser, n))
        assert (backend.graphs, backend.calls) == (1, calls)
    noisy = torch.zeros(6, 1, 8, 8, requires_grad=True)
    fast(noisy, torch.ones(6), fast.condition_on(CLASSES)[torch.arange(6) % 3]).sum().backward()
    assert noisy.grad is not None
    assert backend.calls == 3


def test_the_engine_runs_compiled(denoiser: PixelDenoiser, cache: Path) -> None:
    backend = Counting()
    options: dict[str, Any] = {"race": Exhaustive(n_draws=8, block=4), "batch_size": 10}
    fast = compile_denoiser(denoiser, batch_size=10, backend=backend)
    images = torch.rand(2, 1, 8, 8)
    got = DiffusionClassifier(denoiser=fast, **options).classify(images)
    wanted = DiffusionClassifier(denoiser=denoiser, **options).classify(images)
    assert (backend.graphs, backend.calls) == (1, 1 + 5)  # 2 images x 8 draws x 3 classes in batches of 10
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one.evidence.errors, other.evidence.errors, rtol=1e-5)


def test_compiling_again_replaces_the_batch_size(denoiser: PixelDenoiser, cache: Path) -> None:
    first = compile_denoiser(denoiser, batch_size=6, backend=Counting())
    assert compile_denoiser(first, batch_size=6) is first
    second = compile_denoiser(first, batch_size=4, backend=Counting())
    assert isinstance(second, PixelDenoiser)
    assert isinstance(second.network, CompiledNetwork)
    assert second.network.network is denoiser.network
    assert second.network.batch_size == 4


def test_compiling_renames_no_weight(denoiser: PixelDenoiser, cache: Path) -> None:
    fast = compile_denoiser(denoiser, batch_size=6, backend=Counting())
    assert fingerprint(fast) == fingerprint(denoiser)
    assert fast.device == denoiser.device
    assert isinstance(fast, PixelDenoiser)
    assert fast.dtype == denoiser.dtype


def test_a_failing_compiler_is_a_warning(denoiser: PixelDenoiser, cache: Path) -> None:
    def failing(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        raise NotImplementedError("no such thing.\nDetails follow.")

    with pytest.warns(DiffclassWarning) as caught:
        slow = compile_denoiser(denoiser, batch_size=6, backend=failing)
    (warning,) = caught
    assert str(warning.message) == (
        "The network could not be compiled (NotImplementedError: no such thing) and runs uncompiled, which is slower. "
        "Install a C++ compiler, or leave compiling out."
    )
    assert not is_compiled(slow)
    assert torch.equal(denoised(slow, 6), denoised(denoiser, 6))


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_without_a_compiler_networks_run_as_they_are(denoiser: PixelDenoiser, cache: Path) -> None:
    from torch._inductor import config

    nothing = config.patch({"cpp.cxx": (None, str(cache / "no-compiler"))})
    with nothing, pytest.warns(DiffclassWarning, match=r"could not be compiled \(InvalidCxxCompiler"):
        slow = compile_denoiser(denoiser, batch_size=6)
    assert not is_compiled(slow)
    assert torch.equal(denoised(slow, 6), denoised(denoiser, 6))


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="there is no C++ compiler")
def test_what_is_compiled_is_kept(denoiser: PixelDenoiser, cache: Path) -> None:
    fast = compile_denoiser(denoiser, batch_size=6)
    assert is_compiled(fast)
    torch.testing.assert_close(denoised(fast, 6), denoised(denoiser, 6), rtol=1e-4, atol=1e-5)
    assert any((cache / "compiled").rglob("*.so"))


def test_models_without_a_network_are_not_compiled() -> None:
    mixture = tiny_mixture()
    assert compile_denoiser(mixture, batch_size=6) is mixture
    assert load(mixture, compile=True) is mixture


@pytest.mark.parametrize("compiles", [True, False])
def test_load_and_from_pretrained_compile(monkeypatch: pytest.MonkeyPatch, compiles: bool) -> None:
    from diffclass.denoisers import compiled

    asked = []

    def compile_nothing(denoiser: PixelDenoiser, *, batch_size: int) -> PixelDenoiser:
        asked.append(batch_size)
        return denoiser

    monkeypatch.setattr(compiled, "compile_denoiser", compile_nothing)
    load("digits", device="cpu", compile=compiles, batch_size=7)
    DiffusionClassifier.from_pretrained("digits", device="cpu", compile=compiles, batch_size=9)
    DiffusionClassifier.from_pretrained("digits", device="cpu", compile=compiles)
    assert asked == ([7, 9, 256] if compiles else [])


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.delenv("DIFFCLASS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_directory() == Path("/somewhere/.cache/diffclass")
    monkeypatch.setenv("XDG_CACHE_HOME", "/other")
    assert cache_directory() == Path("/other/diffclass")
    monkeypatch.setenv("DIFFCLASS_CACHE", "~/third")
    assert cache_directory() == Path("/somewhere/third")


def test_a_broken_cache_is_made_anew(denoiser: PixelDenoiser, cache: Path) -> None:
    half = cache / "compiled/aa/main.so"  # a process was killed while it wrote this
    half.parent.mkdir(parents=True)
    half.write_bytes(b"")
    working = Counting()

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        if half.exists():
            raise ImportError("main.so: file too short")
        return working(graph, inputs)

    fast = compile_denoiser(denoiser, batch_size=6, backend=backend)
    assert is_compiled(fast)
    torch.testing.assert_close(denoised(fast, 6), denoised(denoiser, 6))
    assert working.calls == 2  # to try it, and here


def test_a_cache_that_the_user_chose_is_left(
    denoiser: PixelDenoiser, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = cache / "compiled/kept"
    kept.mkdir(parents=True)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "chosen"))

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        raise ImportError("main.so: file too short")

    with pytest.warns(DiffclassWarning, match="file too short"):
        assert not is_compiled(compile_denoiser(denoiser, batch_size=6, backend=backend))
    assert kept.is_dir()
