"""Build a network for a recipe and a data set."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from diffclass.denoisers.protocol import Space
from diffclass.errors import ConfigError
from diffclass.train.recipe import NetworkPart

__all__ = ["build_network"]


def build_network(part: NetworkPart, space: Space, n_classes: int, captions: Sequence[str] = ()) -> nn.Module:
    """Build the network with random weights; the condition after the last class or caption is none at all.

    Args:
        part: of the recipe.
        space: how images enter it.
        n_classes: told by number.
        captions: told by text instead.

    Raises:
        ConfigError: the kind is unknown, or diffusers refuses the options.
    """
    import diffusers

    from diffclass.denoisers.late import LateUNet2DModel

    channels, height, width = space.shape
    if height != width:
        raise ConfigError(f"diffusers' {part.kind} takes square images. Got {height}x{width}.")
    if (part.kind == "UNet2DConditionModel") != bool(captions):
        raise ConfigError("A UNet2DConditionModel needs captions in [data], and other networks take none.")
    options: dict[str, Any] = {"sample_size": height, "in_channels": channels, "out_channels": channels}
    if captions:
        from diffclass.train.captioned import build_captioned

        network = build_captioned(part, options, captions)
        _zero_output(network.unet)
        return network
    kinds = {
        "UNet2DModel": (diffusers.UNet2DModel, {"num_class_embeds": n_classes + 1}),
        "DiTTransformer2DModel": (
            diffusers.DiTTransformer2DModel, {"num_embeds_ada_norm": n_classes, "norm_type": "ada_norm_zero"},
        ),
        "LateUNet2DModel": (LateUNet2DModel, {"num_class_embeds": n_classes + 1}),
    }  # fmt: skip
    if part.kind not in kinds:
        raise ConfigError(f"The network kind must be one of {', '.join(kinds)}. Got {part.kind!r}.")
    kind, conditioning = kinds[part.kind]
    try:
        network = kind(**options, **conditioning, **part.options)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ConfigError(f"diffusers cannot build {part.kind} from these options: {error}.") from error
    return _zero_output(network)


def _zero_output(network: nn.Module) -> nn.Module:
    """Start the last layer at zero, so that the first denoiser is EDM's skip connection."""
    last = getattr(network, "conv_out", None) or getattr(network, "proj_out_2", None)
    if last is not None:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return network
