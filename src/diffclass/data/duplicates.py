"""Pictures that are there twice: byte for byte, or the same to the eye."""

import os
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Float32, Int64
from numpy import ndarray

from diffclass.data.images import Prepared, Source, prepare_image

__all__ = ["Seen", "exact_pairs", "look", "near_pairs", "perceptual_hash"]

SIDE = 32  # [pixels] of the thumbnails that are compared
MOST_BITS = 8  # of 64 that near duplicates may differ in
LEAST_CORRELATION = 0.98  # of their thumbnails
_CHUNK = 1024

Pairs = Int64[ndarray, "_ 2"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """What is kept of one picture to compare it with others.

    Args:
        content: hash of its bytes as they are kept.
        thumbnail: [image units] 32 x 32 in colour.
        deep: whether it has more than 8 bits a pixel.
    """

    content: bytes
    thumbnail: Float32[ndarray, "3 height width"]
    deep: bool

    @property
    def grey(self) -> Float32[ndarray, "height width"]:
        """The thumbnail without colour."""
        return self.thumbnail.mean(axis=0)


def look(source: Source, name: str) -> Seen:
    """Open a picture once, and keep what duplicates are found by.

    Raises:
        InputError: it cannot be opened.
    """
    made: Prepared = prepare_image(source, (3, SIDE, SIDE), resize="stretch", convert=True, name=name)
    return Seen(content=_content(source), thumbnail=made.image.numpy(), deep=made.pixels.dtype != np.uint8)


def _content(source: Source) -> bytes:
    if isinstance(source, ndarray):
        return blake2b(f"{source.dtype} {source.shape}".encode() + source.tobytes(), digest_size=16).digest()
    if isinstance(source, str | os.PathLike):
        source = Path(source).read_bytes()
    content = source if isinstance(source, bytes) else source.tobytes()
    return blake2b(content, digest_size=16).digest()


def perceptual_hash(grey: Float32[ndarray, "height width"]) -> int:
    """Return 64 bits that hardly change with size, compression or brightness: signs of low frequencies.

    Which of the 8 x 8 lowest cosines of the picture, the mean left out, are above their median.

    Source:
        Zauner 2010, section 3.2.1 (pHash).
    """
    from scipy.fft import dctn

    low = np.asarray(dctn(grey, norm="ortho"))[:8, :8].reshape(-1)
    bits = low > np.median(low[1:])
    bits[0] = False
    return int(np.packbits(bits).view(">u8")[0])


def exact_pairs(seen: list[Seen]) -> Pairs:
    """Return pairs of pictures with the same bytes: each copy with the first of its kind."""
    first: dict[bytes, int] = {}
    pairs = [(first.setdefault(one.content, i), i) for i, one in enumerate(seen)]
    return _array([pair for pair in pairs if pair[0] != pair[1]])


def near_pairs(seen: list[Seen], *, bits: int = MOST_BITS, correlation: float = LEAST_CORRELATION) -> Pairs:
    """Return pairs of pictures that look the same and are not the same bytes.

    Their hashes differ in a few bits and their thumbnails correlate. Crops, flips and turns are not found, and
    series of one object under one light may be: look at the pairs.

    Args:
        seen: pictures.
        bits: that hashes may differ in, of 64.
        correlation: of the grey thumbnails, at least.
    """
    hashes = np.array([perceptual_hash(one.grey) for one in seen], dtype=np.uint64)
    flat = np.stack([one.grey.reshape(-1) for one in seen]) if seen else np.empty((0, SIDE * SIDE), dtype=np.float32)
    flat = flat - flat.mean(axis=1, keepdims=True)
    size = np.linalg.norm(flat, axis=1)
    pairs = []
    for start in range(0, len(seen), _CHUNK):
        rows = hashes[start : start + _CHUNK]
        differing = np.bitwise_count(rows[:, None] ^ hashes[None, start:])
        for a, b in np.argwhere(differing <= bits):
            i, j = start + int(a), start + int(b)
            if i >= j or seen[i].content == seen[j].content:
                continue
            scale = size[i] * size[j]
            plain = scale < 1e-6  # pictures of one colour are alike where that is the same
            alike = abs(seen[i].grey.mean() - seen[j].grey.mean()) < 1 / 255 if plain else flat[i] @ flat[j] / scale
            if alike >= correlation:
                pairs.append((i, j))
    return _array(pairs)


def _array(pairs: list[tuple[int, int]]) -> Pairs:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)
