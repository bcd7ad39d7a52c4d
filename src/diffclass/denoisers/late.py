"""A network that sees the class late, so that all classes of a draw share its larger part."""

from typing import Any, final, no_type_check

from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

__all__ = ["LateUNet2DModel"]


@final
class LateUNet2DModel(ModelMixin, ConfigMixin):
    """A UNet2DModel that is told no class (the trunk), then residual blocks that are told it (the head).

    What the trunk returns depends on the noisy image and its noise level alone. A classifier that compares K classes on
    one draw calls the trunk once and the head K times. It saves and loads as every diffusers model does.

    Args:
        sample_size: [pixels of the network's own grid] height and width of an image.
        in_channels: of the noisy image.
        out_channels: of the answer.
        num_class_embeds: number of classes, the null class included.
        head_layers: residual blocks in the head.
        norm_num_groups: of every group norm.
        trunk_options: more constructor arguments of the trunk's UNet2DModel.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int,
        in_channels: int,
        out_channels: int,
        num_class_embeds: int,
        head_layers: int = 1,
        norm_num_groups: int = 16,
        trunk_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        options = {"norm_num_groups": norm_num_groups, **(trunk_options or {})}
        self.trunk = UNet2DModel(sample_size=sample_size, in_channels=in_channels, out_channels=in_channels, **options)
        channels = int(self.trunk.conv_out.in_channels)
        width = int(self.trunk.time_embedding.linear_2.out_features)
        # The head goes on where the trunk's last layers would turn features into an image.
        for name in ("conv_norm_out", "conv_act", "conv_out"):
            setattr(self.trunk, name, nn.Identity())
        self.class_embedding = nn.Embedding(num_class_embeds, width)
        self.head = nn.ModuleList(
            ResnetBlock2D(
                in_channels=channels, out_channels=channels, temb_channels=width, groups=norm_num_groups,
                time_embedding_norm="scale_shift",
            )
            for _ in range(head_layers)
        )  # fmt: skip
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, channels)
        self.conv_out = nn.Conv2d(channels, out_channels, kernel_size=3, padding=1)

    @no_type_check  # the wrapper of a checker would cut a compiled network into pieces
    def shared(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Return the trunk's features, which all classes share: [image, channel, height, width]."""
        return self.trunk(sample, timestep).sample

    @no_type_check
    def conditioned(self, features: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        """Return the answer for one class an element, from the features of its draw."""
        time = self.trunk.time_embedding(self.trunk.time_proj(timestep).to(features.dtype))
        embedding = time + self.class_embedding(class_labels).to(features.dtype)
        for block in self.head:
            features = block(features, embedding)
        return self.conv_out(nn.functional.silu(self.conv_norm_out(features)))

    @no_type_check
    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> UNet2DOutput:
        """Return the answer for one class an element."""
        return UNet2DOutput(sample=self.conditioned(self.shared(sample, timestep), timestep, class_labels))
