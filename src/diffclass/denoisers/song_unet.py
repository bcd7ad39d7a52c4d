"""The DDPM++ and NCSN++ networks, of EDM's CIFAR-10 checkpoints."""

import math
from collections.abc import Sequence
from typing import final, no_type_check

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn.functional import one_hot, silu

from diffclass.denoisers.blocks import BlockStyle, Resample, attention_levels, build_decoder, build_encoder, waves

__all__ = ["DownsampledInput", "SongUNet"]

_HALF = math.sqrt(0.5)  # keeps the variance of a sum of two


@final
class DownsampledInput(nn.Module):
    """A convolution, then every second pixel of its low-passed answer: how NCSN++ shows the image to smaller sizes."""

    def __init__(self, in_channels: int, out_channels: int, taps: Sequence[int]) -> None:
        super().__init__()
        # The convolution sees as many zeros around the image as it and the filter need, so the filter needs none.
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1 + (len(taps) - 1) // 2)
        self.resample = Resample("down", taps, padded=False)

    @no_type_check
    def forward(self, x: Tensor) -> Tensor:
        """Return features of half the size."""
        return self.resample(self.conv(x))


@final
class SongUNet(ModelMixin, ConfigMixin):
    """A U-Net to whose features the noise level and the class are added: DDPM++, or NCSN++ with two options.

    Class id `num_classes` is the null class: a vector of zeros in place of a one-hot one. With no class at all the
    network is unconditional, and takes any id.

    Args:
        sample_size: [pixels] height and width of an image.
        in_channels: of the noisy image.
        out_channels: of the answer.
        num_classes: the null class not included; 0 for an unconditional network.
        base_channels: width of the first convolution.
        channel_mult: width at every size, in base_channels.
        embedding_mult: width of the embedding, in base_channels.
        noise_mult: width of the embedded time, in base_channels.
        blocks_per_level: at every size.
        attention_sizes: [pixels] heights of features that get attention.
        fourier: whether time is embedded by random frequencies, which are weights (NCSN++), or by fixed ones.
        residual_input: whether the encoder sees the image again at every size (NCSN++).
        taps: of the resampling filter: (1, 1) in DDPM++, (1, 3, 3, 1) in NCSN++.

    Source:
        Song et al. 2021, section 4.4 and Appendix H (arXiv:2011.13456); Ho et al. 2020 (arXiv:2006.11239);
        Karras et al. 2022, Appendix F.1 (arXiv:2206.00364).
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int,
        in_channels: int,
        out_channels: int,
        num_classes: int,
        base_channels: int = 128,
        channel_mult: Sequence[int] = (2, 2, 2),
        embedding_mult: int = 4,
        noise_mult: int = 1,
        blocks_per_level: int = 4,
        attention_sizes: Sequence[int] = (16,),
        fourier: bool = False,
        residual_input: bool = False,
        taps: Sequence[int] = (1, 1),
    ) -> None:
        super().__init__()
        width, noise = embedding_mult * base_channels, noise_mult * base_channels
        style = BlockStyle(
            embedding_width=width, adaptive=False, eps=1e-6, gain=_HALF, taps=tuple(taps), projects=True, heads=1
        )
        widths = [mult * base_channels for mult in channel_mult]
        attends = attention_levels(sample_size, attention_sizes, len(widths))
        if fourier:
            # The bits of float32 numbers: what is not a floating-point tensor keeps them when a network is cast.
            bits = (16 * torch.randn(noise // 2)).view(torch.int32)
            self.register_buffer("frequency_bits", bits)
        self.time_in = nn.Linear(noise, width)
        self.time_out = nn.Linear(width, width)
        self.label = nn.Linear(num_classes, noise) if num_classes else None
        self.conv_in = nn.Conv2d(in_channels, base_channels, kernel_size=3, padding=1)
        self.encoder, skips = build_encoder(base_channels, widths, blocks_per_level, attends, style)
        entering = [in_channels, *widths[:-1]] if residual_input else []
        # An image enters before the blocks of every size but the first: at the width of the size above it.
        self.inputs = nn.ModuleList(
            DownsampledInput(entering[level], widths[level], taps) for level in range(len(entering) - 1)
        )
        last = [[False] * blocks_per_level + [attended] for attended in attends]
        self.decoder = build_decoder(skips, widths, blocks_per_level, last, style)
        self.norm_out = style.group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_channels, kernel_size=3, padding=1)

    @no_type_check
    def _embed(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        """Return what blocks are told of the noise level and the class."""
        half = self.time_in.in_features // 2
        if self.config.fourier:
            frequencies = 2 * math.pi * self.frequency_bits.view(torch.float32)
        else:
            steps = torch.arange(half, dtype=torch.float32, device=sample.device)
            frequencies = (-math.log(10_000.0) / (half - 1) * steps).exp()
        time = waves(timestep, frequencies).roll(half, dims=1).to(sample.dtype)  # sines first
        if self.label is not None:
            known = self.label.in_features
            told = one_hot(class_labels, known + 1)[:, :known].to(sample.dtype)
            time = time + self.label(told * math.sqrt(known))
        return silu(self.time_out(silu(self.time_in(time))))

    @no_type_check  # the wrapper of a checker would cut a compiled network into pieces
    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> UNet2DOutput:
        """Return the answer for one class an element."""
        embedding = self._embed(sample, timestep, class_labels)
        x, image = self.conv_in(sample), sample
        skips, inputs = [x], list(self.inputs)
        for index, block in enumerate(self.encoder):
            x = block(x, embedding)
            if inputs and (index + 1) % (self.config.blocks_per_level + 1) == 0:  # a block that halved the size
                x = image = (x + inputs.pop(0)(image)) * _HALF
            skips.append(x)
        for block in self.decoder:
            x = block(torch.cat([x, skips.pop()], dim=1) if block.takes_skip else x, embedding)
        return UNet2DOutput(sample=self.conv_out(silu(self.norm_out(x))))
