"""How many evaluations a second a model reaches on this machine, and the batch size that suits it."""

import json
import time
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import torch
from torch import nn

from diffclass.data.results import write_json_atomic
from diffclass.denoisers.compiled import cache_directory
from diffclass.denoisers.protocol import Denoiser, SharesDraws

__all__ = ["BATCH_SIZES", "best_batch_size", "evaluations_per_second"]

BATCH_SIZES = (32, 64, 128, 256, 512, 1024)
_ANY_TEXT = ("a photo of a cat", "a photo of a dog")
_ENOUGH = 0.95  # of the best throughput: a smaller batch leaves less of the last ones empty
_HOPELESS = 0.7  # of the best throughput: larger batches will not be faster again


@torch.inference_mode()
def evaluations_per_second(denoiser: Denoiser, batch_size: int, *, seconds: float = 0.3) -> float:
    """Measure the throughput of a model at one batch size: the best of at least three calls.

    Args:
        denoiser: called as the engine calls it when all classes are in the race, on noise.
        batch_size: of every call.
        seconds: to spend, after a first call that is not counted.
    """
    device = denoiser.device
    generator = torch.Generator().manual_seed(0)
    names, cells = denoiser.classes or _ANY_TEXT, torch.arange(batch_size, device=device)
    rows = cells // len(names)
    noisy = torch.randn((int(rows[-1]) + 1, *denoiser.space.shape), generator=generator).to(device)
    sigma = torch.full((len(noisy),), (denoiser.sigma_range[0] * denoiser.sigma_range[1]) ** 0.5, device=device)
    conditions = denoiser.condition_on(names)[cells % len(names)]
    times: list[float] = []
    while len(times) < 4 or sum(times) < seconds:
        _wait(device)
        started = time.perf_counter()
        if isinstance(denoiser, SharesDraws):
            denoiser.denoise_each(noisy, sigma, conditions, rows)
        else:
            denoiser(noisy[rows], sigma[rows], conditions)
        _wait(device)
        times.append(time.perf_counter() - started)
    return batch_size / min(times[1:])


def best_batch_size(denoiser: Denoiser) -> int:
    """Return the smallest batch size whose throughput is within 5% of the best, from 32 to 1024.

    It is measured once, uncompiled, for each kind of model, device, number format and number of threads, and then
    remembered in "throughput.json" in the cache directory, so that the next run takes the same.
    """
    path, key = cache_directory() / "throughput.json", _key(denoiser)
    known = _read(path)
    if known.get(key) in BATCH_SIZES:
        return known[key]
    rates: dict[int, float] = {}
    for batch_size in BATCH_SIZES:
        try:
            rates[batch_size] = evaluations_per_second(denoiser, batch_size)
        except torch.cuda.OutOfMemoryError:
            break
        if rates[batch_size] < _HOPELESS * max(rates.values()):
            break
    best = max(rates.values(), default=0.0)
    chosen = next((size for size, rate in rates.items() if rate >= _ENOUGH * best), BATCH_SIZES[0])
    with suppress(OSError):  # a cache that cannot be written costs a second measurement
        write_json_atomic(path, _read(path) | {key: chosen})
    return chosen


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _read(path: Path) -> dict[str, int]:
    """Read what was measured before; nothing where that is damaged."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _key(denoiser: Denoiser) -> str:
    """Name everything that throughput depends on; weights of the same shapes are equally fast."""
    network = getattr(denoiser, "network", None)
    tensors = network.state_dict() if isinstance(network, nn.Module) else {}
    shapes = sorted((name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors.items())
    name = getattr(denoiser, "metadata", {}).get("name", "")
    model = (type(denoiser).__name__, name, denoiser.space, len(denoiser.classes), shapes)
    device = denoiser.device
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    digest = blake2b(repr(model).encode(), digest_size=6).hexdigest()
    return f"{digest}, {place}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _processor() -> str:
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.6 does not tell
    return f"cpu {capabilities.get('cpu_name', '')}".strip()
