"""What the U-Nets of published checkpoints are made of: residual blocks, attention, resampling, time embeddings.

One block with options serves both families; the options are the rows of Karras et al. 2022, Table 7.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final, no_type_check

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "BlockStyle",
    "Resample",
    "ResidualBlock",
    "SelfAttention",
    "attention_levels",
    "build_decoder",
    "build_encoder",
    "waves",
]

Direction = Literal["up", "down"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BlockStyle:
    """In what the residual blocks of one network differ from those of another.

    Args:
        embedding_width: of the vector that tells blocks the noise level and the class.
        adaptive: whether that vector scales and shifts the normalised features, or is added to them.
        eps: of every group norm.
        gain: every sum of a residual block is multiplied by this.
        taps: of the resampling filter in one direction; (1, 1) averages and repeats.
        projects: whether the shortcut of a resampling block has weights.
        heads: of attention; None where they have a fixed width.
        head_width: channels of a head of attention where `heads` is None.
        group_width: least channels of a group of the group norms, of which there are 32 at most.
    """

    embedding_width: int
    adaptive: bool
    eps: float
    gain: float = 1.0
    taps: tuple[int, ...] = (1, 1)
    projects: bool = False
    heads: int | None = None
    head_width: int = 64
    group_width: int = 4

    def group_norm(self, channels: int) -> nn.GroupNorm:
        """Build a norm of so many channels."""
        return nn.GroupNorm(min(32, channels // self.group_width), channels, eps=self.eps)

    def n_heads(self, channels: int) -> int:
        """Return how many heads attention between so many channels has.

        Raises:
            ValueError: they do not share the channels equally.
        """
        heads = self.heads if self.heads is not None else channels // max(1, self.head_width)
        if heads < 1 or channels % heads or (self.heads is None and heads * self.head_width != channels):
            wanted = f"{self.heads} heads" if self.heads is not None else f"heads of {self.head_width}"
            raise ValueError(f"attention between {channels} channels cannot have {wanted}")
        return heads


def attention_levels(size: int, attention_sizes: Sequence[int], n_levels: int) -> list[bool]:
    """Say at which levels of a network there is attention, the largest size first.

    Args:
        size: [pixels] of an image.
        attention_sizes: [pixels] of features that get attention.
        n_levels: every one halves the size of the one before.

    Raises:
        ValueError: the size cannot be halved so often.
    """
    if n_levels < 1 or size < 1 or size % 2 ** (n_levels - 1):
        raise ValueError(f"{n_levels} sizes of features do not fit images of {size} pixels")
    return [size >> level in attention_sizes for level in range(n_levels)]


def waves(time: Tensor, frequencies: Tensor) -> Tensor:
    """Return cosines, then sines: [image, 2 x frequency]."""
    angles = time.float()[:, None] * frequencies[None, :]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


@final
class Resample(nn.Module):
    """Halve or double height and width, with a separable filter.

    Args:
        direction: "up" or "down".
        taps: of the filter in one direction; their number is even.
        padded: whether the filter sees zeros around the image, so that the size is exactly half.
    """

    def __init__(self, direction: Direction, taps: Sequence[int], *, padded: bool = True) -> None:
        super().__init__()
        self.direction, self.plain = direction, tuple(taps) == (1, 1)
        self.padding = (len(taps) - 1) // 2 if padded else 0
        line = torch.tensor(taps, dtype=torch.float32)
        window = torch.outer(line, line) / line.sum() ** 2 * (4 if direction == "up" else 1)
        self.register_buffer("window", window[None, None], persistent=False)

    @no_type_check
    def forward(self, x: Tensor) -> Tensor:
        """Resample every channel."""
        if self.plain and self.direction == "down":
            return functional.avg_pool2d(x, 2)
        if self.plain:
            return functional.interpolate(x, scale_factor=2.0, mode="nearest")
        channels = x.shape[1]
        window = self.window.to(x.dtype).expand(channels, -1, -1, -1)
        resample = functional.conv2d if self.direction == "down" else functional.conv_transpose2d
        return resample(x, window, stride=2, padding=self.padding, groups=channels)


@final
class SelfAttention(nn.Module):
    """Attention between all pixels of an image, added to it.

    The rows of `qkv` are the queries of every head, then the keys, then the values.
    """

    def __init__(self, channels: int, style: BlockStyle) -> None:
        super().__init__()
        self.heads = style.n_heads(channels)
        self.gain = style.gain
        self.norm = style.group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, kernel_size=1)
        self.out = nn.Conv2d(channels, channels, kernel_size=1)

    @no_type_check
    def forward(self, x: Tensor) -> Tensor:
        """Return x and what its pixels have to say to each other."""
        n, channels, height, width = x.shape
        rows = self.qkv(self.norm(x)).reshape(n, 3, self.heads, channels // self.heads, height * width)
        query, key, value = rows.transpose(-1, -2).unbind(1)
        found = functional.scaled_dot_product_attention(query, key, value)
        return (x + self.out(found.transpose(-1, -2).reshape(n, channels, height, width))) * self.gain


@final
class ResidualBlock(nn.Module):
    """Two convolutions that are told the noise level and the class, with attention after them or not.

    Source:
        Karras et al. 2022, Appendix F (arXiv:2206.00364); Dhariwal and Nichol 2021, section 3 (arXiv:2105.05233).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        style: BlockStyle,
        *,
        direction: Direction | None = None,
        attends: bool = False,
        takes_skip: bool = False,
    ) -> None:
        super().__init__()
        self.adaptive, self.gain, self.takes_skip = style.adaptive, style.gain, takes_skip
        self.resample = nn.Identity() if direction is None else Resample(direction, style.taps)
        self.norm_in = style.group_norm(in_channels)
        self.conv_in = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.modulation = nn.Linear(style.embedding_width, out_channels * (2 if style.adaptive else 1))
        self.norm_out = style.group_norm(out_channels)
        self.conv_out = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        weighted = in_channels != out_channels or (style.projects and direction is not None)
        self.shortcut = nn.Conv2d(in_channels, out_channels, kernel_size=1) if weighted else nn.Identity()
        self.attention = SelfAttention(out_channels, style) if attends else nn.Identity()

    @no_type_check
    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return the block's features; the embedding has passed its last non-linearity."""
        h = self.conv_in(self.resample(functional.silu(self.norm_in(x))))
        told = self.modulation(embedding)[:, :, None, None]
        if self.adaptive:
            scale, shift = told.chunk(2, dim=1)
            h = self.norm_out(h) * (1 + scale) + shift
        else:
            h = self.norm_out(h + told)
        h = self.conv_out(functional.silu(h))
        return self.attention((self.shortcut(self.resample(x)) + h) * self.gain)


def build_encoder(
    first: int, widths: Sequence[int], n_blocks: int, attends: Sequence[bool], style: BlockStyle
) -> tuple[nn.ModuleList, list[int]]:
    """Build the blocks on the way down: n_blocks at every size, after one that halves it.

    Args:
        first: channels of the features that come in.
        widths: channels at every size, the largest size first.
        n_blocks: at every size.
        attends: whether the blocks of a size have attention.
        style: of the blocks.

    Returns:
        The blocks, and the channels of what the decoder is handed over: the features that come in, then every block's.
    """
    blocks, channels, skips = nn.ModuleList(), first, [first]
    for level, width in enumerate(widths):
        if level:
            blocks.append(ResidualBlock(channels, channels, style, direction="down"))
            skips.append(channels)
        for _ in range(n_blocks):
            blocks.append(ResidualBlock(channels, width, style, attends=attends[level]))
            channels = width
            skips.append(width)
    return blocks, skips


def build_decoder(
    skips: Sequence[int], widths: Sequence[int], n_blocks: int, attends: Sequence[Sequence[bool]], style: BlockStyle
) -> nn.ModuleList:
    """Build two blocks at the smallest size, and those on the way up: n_blocks + 1 at every size, each with a skip.

    Args:
        skips: channels of what the encoder hands over, in the order in which it makes them.
        widths: channels at every size, the largest size first.
        n_blocks: of the encoder at every size.
        attends: whether a block has attention, for every size and each of its blocks.
        style: of the blocks.
    """
    left, channels = list(skips), widths[-1]
    blocks = nn.ModuleList([
        ResidualBlock(channels, channels, style, attends=True),
        ResidualBlock(channels, channels, style),
    ])  # fmt: skip
    for level in reversed(range(len(widths))):
        if level < len(widths) - 1:
            blocks.append(ResidualBlock(channels, channels, style, direction="up"))
        for index in range(n_blocks + 1):
            joined, width = channels + left.pop(), widths[level]
            blocks.append(ResidualBlock(joined, width, style, attends=attends[level][index], takes_skip=True))
            channels = width
    return blocks
