"""What a published checkpoint holds, in the words of this library, whatever format it came in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

from torch import Tensor

from diffclass.errors import UnsupportedModel

__all__ = ["ForeignModel", "sorted_heads"]

Layout = Literal["head, channel, part", "head, part, channel"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ForeignModel:
    """A network of another library, read and renamed.

    Args:
        network: the class of ours that it fits.
        config: of that class.
        weights: under our names.
        parametrisation: as diffclass.json holds it.
        sigma_range: [model units] where it can be trusted.
        data_std: [model units] of its training images.
        null_class: whether it was trained without a class now and then; an unconditional network always was.
        licence: of the weights that are published in this format.
        description: what it is, in a sentence.
        left_out: weights that play no part in denoising.
    """

    network: str
    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    parametrisation: Mapping[str, Any]
    sigma_range: tuple[float, float]
    data_std: float
    null_class: bool
    licence: str
    description: str
    left_out: tuple[str, ...] = ()


def sorted_heads(tensor: Tensor, heads: int, layout: Layout) -> Tensor:
    """Sort the rows of an attention's projection: queries of every head, then keys, then values.

    Args:
        tensor: weights or biases; their rows are counted by head, by channel of a head, and by part (query, key,
            value) in an order that differs between libraries.
        heads: how many there are.
        layout: that order, from slowest to fastest.

    Raises:
        UnsupportedModel: so many heads cannot share these rows.
    """
    rows_of = len(tensor) if tensor.ndim else 0
    if heads < 1 or not rows_of or rows_of % (3 * heads):
        raise UnsupportedModel(
            f"The heads of attention must share its {rows_of} rows of queries, keys and values. Got {heads} heads."
        )
    width = rows_of // (3 * heads)
    if layout == "head, channel, part":
        rows = tensor.reshape(heads, width, 3, *tensor.shape[1:]).movedim(2, 0)
    else:
        rows = tensor.reshape(heads, 3, width, *tensor.shape[1:]).movedim(1, 0)
    return rows.reshape(tensor.shape).contiguous()
