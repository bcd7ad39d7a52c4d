"""Networks compiled for one batch size, with a cache on the disk, and eagerly where that fails."""

import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from diffclass.denoisers.pixel import LateNetwork, PixelDenoiser
from diffclass.denoisers.protocol import Denoiser
from diffclass.errors import DiffclassWarning

__all__ = ["CompiledLateNetwork", "CompiledNetwork", "cache_directory", "compile_denoiser", "is_compiled"]

_LOG = logging.getLogger("diffclass")
_INDUCTOR_CACHE = "TORCHINDUCTOR_CACHE_DIR"


def cache_directory() -> Path:
    """Return where diffclass keeps what it can make again: DIFFCLASS_CACHE, or diffclass in the user's cache."""
    if "DIFFCLASS_CACHE" in os.environ:
        return Path(os.environ["DIFFCLASS_CACHE"]).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path("~/.cache").expanduser()) / "diffclass"


@final
class CompiledNetwork(nn.Module):
    """A network that is compiled for one batch size; batches of another size, and gradients, go through it eagerly.

    One size means one graph, and no compilation while images are being classified.

    Args:
        network: in its place and number format.
        batch_size: of the calls that run compiled.
        backend: of torch.compile.
    """

    def __init__(self, network: nn.Module, batch_size: int, *, backend: str | Callable[..., Any] = "inductor") -> None:
        super().__init__()
        self.network, self.batch_size = network, batch_size
        self._on_gpu = next(network.parameters()).device.type == "cuda"
        # On a GPU a CUDA graph replays the whole call at once: the kernels of a small network take less time than
        # starting them one by one.
        mode = "reduce-overhead" if self._on_gpu and backend == "inductor" else None
        self._compiled = torch.compile(network, dynamic=False, backend=backend, mode=mode)

    def forward(self, sample: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        """Call the network."""
        if len(sample) != self.batch_size or torch.is_grad_enabled():
            return self.network(sample, *arguments, **options)
        if not self._on_gpu:
            return self._compiled(sample, *arguments, **options)
        torch.compiler.cudagraph_mark_step_begin()
        output = self._compiled(sample, *arguments, **options)
        output.sample = output.sample.clone()  # its own memory is the next replay's
        return output

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Return the network's own, so that compiling does not rename the weights."""
        return self.network.state_dict(*arguments, **options)


@final
class CompiledLateNetwork(nn.Module):
    """A late network in two compiled parts: the head for one batch size, and the shared part for any.

    Args:
        network: a `LateNetwork`, in its place and number format.
        batch_size: of the calls whose head runs compiled.
        backend: of torch.compile.
    """

    def __init__(self, network: nn.Module, batch_size: int, *, backend: str | Callable[..., Any] = "inductor") -> None:
        super().__init__()
        assert isinstance(network, LateNetwork)
        self.network, self.batch_size = network, batch_size
        self._on_gpu = next(network.parameters()).device.type == "cuda"
        self._shared = torch.compile(network.shared, dynamic=True, backend=backend)
        mode = "reduce-overhead" if self._on_gpu and backend == "inductor" else None
        self._conditioned = torch.compile(network.conditioned, dynamic=False, backend=backend, mode=mode)

    def forward(self, sample: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        """Call the network, eagerly: the engine calls its parts."""
        return self.network(sample, *arguments, **options)

    def shared(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """Return what all classes of a noisy image share."""
        if len(sample) < 2 or torch.is_grad_enabled():  # a size of 1 would be a graph of its own
            return self.network.shared(sample, timestep)
        return self._shared(sample, timestep)

    def conditioned(self, features: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        """Return the answer for one class an element."""
        if len(features) != self.batch_size or torch.is_grad_enabled():
            return self.network.conditioned(features, timestep, class_labels)
        if not self._on_gpu:
            return self._conditioned(features, timestep, class_labels)
        torch.compiler.cudagraph_mark_step_begin()
        return self._conditioned(features, timestep, class_labels).clone()  # its own memory is the next replay's

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Return the network's own, so that compiling does not rename the weights."""
        return self.network.state_dict(*arguments, **options)


def compile_denoiser(
    denoiser: Denoiser, *, batch_size: int, backend: str | Callable[..., Any] = "inductor"
) -> Denoiser:
    """Compile a denoiser's network for one batch size; a denoiser without a network is returned as it is.

    The first time takes half a minute, or several on a GPU; what was compiled is kept in TORCHINDUCTOR_CACHE_DIR, by
    default "compiled" in the cache directory of diffclass, and is ready in seconds the next time. Errors differ from
    the eager network's by rounding. Where compiling fails, what was kept is thrown away and it is tried once more, as a
    killed process may leave half a file; if it fails again, for want of a C++ compiler, say, a warning says so and the
    denoiser is returned as it is.

    Args:
        denoiser: returned as it is if it is compiled for this batch size already.
        batch_size: of the calls that run compiled; others run eagerly.
        backend: of torch.compile.
    """
    if not isinstance(denoiser, PixelDenoiser) or not isinstance(denoiser.network, nn.Module):
        return denoiser
    network: nn.Module = denoiser.network
    if isinstance(network, CompiledNetwork | CompiledLateNetwork):
        if network.batch_size == batch_size:
            return denoiser
        network = network.network
    kind = CompiledLateNetwork if isinstance(network, LateNetwork) else CompiledNetwork

    def compiled() -> PixelDenoiser:
        with _cached():
            fast = replace(denoiser, network=kind(network, batch_size, backend=backend))
            _call(fast, batch_size)
            return fast

    try:
        try:
            return compiled()
        except Exception:  # whatever a compiler or its tools come up with
            if not _forget():
                raise
            return compiled()
    except Exception as error:
        _LOG.info("The network could not be compiled.", exc_info=True)
        warnings.warn(
            f"The network could not be compiled ({_reason(error)}) and runs uncompiled, which is slower. "
            "Install a C++ compiler, or leave compiling out.",
            DiffclassWarning,
            stacklevel=2,
        )
        return replace(denoiser, network=network)


def is_compiled(denoiser: Denoiser) -> bool:
    """Tell whether a denoiser's network runs compiled."""
    return isinstance(denoiser, PixelDenoiser) and isinstance(denoiser.network, CompiledNetwork | CompiledLateNetwork)


@torch.inference_mode()
def _call(denoiser: PixelDenoiser, batch_size: int) -> None:
    """Call a denoiser as the engine does; on a GPU often enough that its graph is recorded."""
    shape, device = denoiser.space.shape, denoiser.device
    cells, n_classes = torch.arange(batch_size, device=device), len(denoiser.classes)
    conditions, rows = denoiser.condition_on(denoiser.classes)[cells % n_classes], cells // n_classes
    noisy = torch.zeros(int(rows[-1]) + 1, *shape, device=device)
    sigma = torch.full((len(noisy),), (denoiser.sigma_range[0] * denoiser.sigma_range[1]) ** 0.5, device=device)
    for _ in range(3 if device.type == "cuda" else 1):
        denoiser.denoise_each(noisy, sigma, conditions, rows)


@contextmanager
def _cached() -> Iterator[None]:
    """Keep what is compiled in the user's cache, and what compilers warn about from the user."""
    before = os.environ.get(_INDUCTOR_CACHE)
    if _is_ours(before):
        os.environ[_INDUCTOR_CACHE] = str(cache_directory() / "compiled")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            os.environ.pop(_INDUCTOR_CACHE, None)
        else:
            os.environ[_INDUCTOR_CACHE] = before


def _is_ours(chosen: str | None) -> bool:
    """Say whether nobody chose a cache: torch writes its default, a folder of temporary files, into the variable."""
    return chosen is None or Path(chosen).name.startswith("torchinductor_")


def _forget() -> bool:
    """Remove what was compiled, on the disk and in this process; False if there is nothing of ours."""
    folder = cache_directory() / "compiled"
    if not _is_ours(os.environ.get(_INDUCTOR_CACHE)) or not folder.is_dir():
        return False
    shutil.rmtree(folder, ignore_errors=True)
    torch.compiler.reset()
    return True


def _reason(error: Exception) -> str:
    """Return the kind and the first line of an error, or of the one that a backend raised."""
    cause = getattr(error, "inner_exception", error)
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0][:120].rstrip('.')}" if lines else type(cause).__name__
