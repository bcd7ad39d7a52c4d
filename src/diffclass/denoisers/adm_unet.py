"""The ADM network, of guided-diffusion's and EDM's ImageNet checkpoints."""

import math
from collections.abc import Sequence
from typing import final, no_type_check

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn.functional import one_hot, silu

from diffclass.denoisers.blocks import BlockStyle, attention_levels, build_decoder, build_encoder, waves

__all__ = ["ADMUNet"]


@final
class ADMUNet(ModelMixin, ConfigMixin):
    """A U-Net whose blocks are scaled and shifted by the noise level and the class, with attention in heads.

    Class id `num_classes` is the null class, of which the network is told nothing. With no class at all the network is
    unconditional, and takes any id.

    Args:
        sample_size: [pixels] height and width of an image.
        in_channels: of the noisy image.
        out_channels: of the answer; twice those of the image with learned variances.
        num_classes: the null class not included; 0 for an unconditional network.
        base_channels: width of the first blocks, before `channel_mult`.
        channel_mult: width at every size, in base_channels.
        blocks_per_level: at every size.
        attention_sizes: [pixels] heights of features that get attention.
        heads: of attention; None where they have a fixed width.
        head_width: channels of a head where `heads` is None.
        group_width: least channels of a group of the group norms (4 in EDM, 1 in guided-diffusion).

    Source:
        Dhariwal and Nichol 2021, section 3 (arXiv:2105.05233); Karras et al. 2022, Appendix F.1 (arXiv:2206.00364).
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int,
        in_channels: int,
        out_channels: int,
        num_classes: int,
        base_channels: int = 192,
        channel_mult: Sequence[int | float] = (1, 2, 3, 4),
        blocks_per_level: int = 3,
        attention_sizes: Sequence[int] = (32, 16, 8),
        heads: int | None = None,
        head_width: int = 64,
        group_width: int = 4,
    ) -> None:
        super().__init__()
        width = 4 * base_channels
        style = BlockStyle(
            embedding_width=width, adaptive=True, eps=1e-5, heads=heads, head_width=head_width, group_width=group_width
        )
        widths = [int(mult * base_channels) for mult in channel_mult]
        attends = attention_levels(sample_size, attention_sizes, len(widths))
        self.time_in = nn.Linear(base_channels, width)
        self.time_out = nn.Linear(width, width)
        self.label = nn.Linear(num_classes, width, bias=False) if num_classes else None
        self.conv_in = nn.Conv2d(in_channels, widths[0], kernel_size=3, padding=1)
        self.encoder, skips = build_encoder(widths[0], widths, blocks_per_level, attends, style)
        both = [[attended] * (blocks_per_level + 1) for attended in attends]
        self.decoder = build_decoder(skips, widths, blocks_per_level, both, style)
        self.norm_out = style.group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_channels, kernel_size=3, padding=1)

    @no_type_check  # the wrapper of a checker would cut a compiled network into pieces
    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> UNet2DOutput:
        """Return the answer for one class an element."""
        half = self.time_in.in_features // 2
        steps = torch.arange(half, dtype=torch.float32, device=sample.device)
        time = waves(timestep, (-math.log(10_000.0) / half * steps).exp()).to(sample.dtype)
        told = self.time_out(silu(self.time_in(time)))
        if self.label is not None:
            known = self.label.in_features
            told = told + self.label(one_hot(class_labels, known + 1)[:, :known].to(sample.dtype))
        embedding = silu(told)
        x = self.conv_in(sample)
        skips = [x]
        for block in self.encoder:
            x = block(x, embedding)
            skips.append(x)
        for block in self.decoder:
            x = block(torch.cat([x, skips.pop()], dim=1) if block.takes_skip else x, embedding)
        return UNet2DOutput(sample=self.conv_out(silu(self.norm_out(x))))
