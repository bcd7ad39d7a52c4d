"""Counter-based random numbers: pure functions of (seed, image, draw)."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

__all__ = ["derived_key", "epsilon", "epsilons", "image_key", "placement", "smoothing"]

_EPSILON, _UNIFORM, _SMOOTHING = 0, 1, 2  # separate streams of one key


def image_key(image: Tensor) -> int:
    """Hash the content of an image, so that its noise follows it into any order, batch or run."""
    pixels = image.detach().to("cpu", torch.float32).contiguous().numpy()
    return int.from_bytes(blake2b(pixels.tobytes(), digest_size=8).digest(), "little")


def derived_key(key: int, *numbers: int) -> int:
    """Return another key for what needs noise of its own: a function of a key and some numbers, such as a step's."""
    content = np.array([key % 2**64, *(number % 2**64 for number in numbers)], dtype=np.uint64)
    return int.from_bytes(blake2b(content.tobytes(), digest_size=8).digest(), "little")


def _generator(seed: int, key: int, stream: int, position: int) -> np.random.Generator:
    """Open the Philox stream of one key at one counter; positions are 2^64 blocks apart."""
    keys = np.array([seed % 2**64, key % 2**64], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=keys, counter=np.array([0, position, stream, 0], dtype=np.uint64)))


def epsilon(seed: int, key: int, draws: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Return the unit Gaussian noise of some draws of one image, float32 of shape [len(draws), *shape].

    Source:
        Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox).
    """
    return epsilons(seed, [key] * len(draws), draws, shape)


def smoothing(seed: int, key: int, copies: range, shape: tuple[int, ...]) -> Tensor:
    """Return the unit Gaussian noise of some noisy copies of one image, a stream apart from that of its draws."""
    return epsilons(seed, [key] * len(copies), copies, shape, stream=_SMOOTHING)


def epsilons(
    seed: int, keys: Sequence[int], draws: Sequence[int], shape: tuple[int, ...], *, stream: int = _EPSILON
) -> Tensor:
    """Return the unit Gaussian noise of draws of several images, float32 of shape [len(draws), *shape].

    It is made on the host whatever the device: the Gaussians are numpy's, by the ziggurat method, which rejects some
    random words, so that where a value's words begin is known only after the value before it. A GPU that draws the
    values of a row in parallel cannot make the same bits.

    Args:
        seed: of all of it.
        keys: of the image of each row.
        draws: of each row, within its image.
        shape: of a row.
        stream: which of the separate streams of a key.
    """
    noise = np.empty((len(draws), *shape), dtype=np.float32)
    philox = np.random.Philox(key=0)
    gaussian = np.random.Generator(philox).standard_normal
    state = philox.state  # nothing buffered; a new generator for every row would seed itself from the system first
    counter, words = state["state"]["counter"], state["state"]["key"]
    words[0], counter[2] = seed % 2**64, stream
    for row, key, draw in zip(noise, keys, draws, strict=True):
        words[1], counter[1] = key % 2**64, draw
        philox.state = state
        gaussian(dtype=np.float32, out=row)
    return torch.from_numpy(noise)


def placement(seed: int, key: int, n: int) -> np.random.Generator:
    """Open the stream that places the draws of one image (strata, jitter, order)."""
    return _generator(seed, key, _UNIFORM, n)
