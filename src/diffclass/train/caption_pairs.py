"""How often a model prefers a picture's own caption to one of another picture: a figure for any model's card."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from diffclass.data.captions import CaptionedSet
from diffclass.data.datasets import Item
from diffclass.errors import InputError
from diffclass.stats.metric import accuracy
from diffclass.train.loop import random_at

__all__ = ["caption_figures", "caption_pairs"]

_MEASURED = 300  # pictures


def caption_pairs(data: CaptionedSet, seed: int) -> Iterator[tuple[Item, tuple[str, str]]]:
    """Pair up to 300 pictures with one of their own captions and one of another picture, in this order.

    The other caption is drawn, by seed, among those of pictures that share no caption with this one.

    Raises:
        InputError: there is no picture, or no other caption.
    """
    if not len(data.images):
        raise InputError("There are no held-out images.")
    images = data.images if len(data.images) <= _MEASURED else data.images.sample(_MEASURED, seed=seed)
    for index, item in enumerate(images):
        assert item.label is not None
        own = data.captions[item.label]
        others = sorted({text for group in data.captions if set(group).isdisjoint(own) for text in group})
        if not others:
            raise InputError("All captions are true of one of the held-out images.")
        random = random_at(seed, 5, index)
        yield item, (own[_below(len(own), random)], others[_below(len(others), random)])


def caption_figures(
    data: CaptionedSet, seed: int, prefers: Callable[[Item, tuple[str, str]], bool]
) -> dict[str, dict[str, Any]]:
    """Measure on held-out pictures how often the own caption is preferred, which by chance is half of the time.

    Args:
        data: pictures with captions.
        seed: of the pairs.
        prefers: tells whether a model prefers the first of two captions of a picture.

    Raises:
        InputError: there is no picture, or no other caption.
    """
    right = np.array([prefers(item, texts) for item, texts in caption_pairs(data, seed)])
    estimate = accuracy(np.ones(len(right), dtype=np.int64), right.astype(np.int64))
    return {"accuracy_against_another_caption": asdict(estimate)}


def _below(n: int, random: torch.Generator) -> int:
    return int(torch.randint(n, (1,), generator=random))
