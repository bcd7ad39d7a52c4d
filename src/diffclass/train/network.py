"""Build a network for a recipe and a data set."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from torch import nn

from diffclass.denoisers.protocol import Space
from diffclass.errors import ConfigError
from diffclass.train.recipe import NetworkPart

__all__ = ["build_network", "fitted_options"]

_ATTEND = 16  # side from which down a fitted UNet attends
_SMALLEST = 4  # side of its last level
_TOKENS = 256  # most tokens of a fitted transformer


def build_network(part: NetworkPart, space: Space, n_classes: int, captions: Sequence[str] = ()) -> nn.Module:
    """Build the network with random weights; the condition after the last class or caption is none at all.

    Args:
        part: of the recipe.
        space: how images enter it.
        n_classes: told by number.
        captions: told by text instead.

    Raises:
        ConfigError: the kind is unknown, images do not divide into patches, or diffusers refuses the options.
    """
    import diffusers

    from diffclass.denoisers.late import LateUNet2DModel

    channels, height, width = space.shape
    if height != width:
        raise ConfigError(f"diffusers' {part.kind} takes square images. Got {height}x{width}.")
    side = part.patch * (2 if part.haar else 1)
    if space.height % side:
        raise ConfigError(
            f"Images must divide into blocks of {side}x{side} pixels (patch and haar of [network]). "
            f"Got {space.height}x{space.width}."
        )
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
        network = kind(**options, **conditioning, **fitted_options(part, height))
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ConfigError(f"diffusers cannot build {part.kind} from these options: {error}.") from error
    return _zero_output(_without_dropout_of_its_own(network))


def fitted_options(part: NetworkPart, side: int) -> dict[str, Any]:
    """Return the constructor's arguments of a network, with those that "fit" derives from the side of its input.

    Args:
        part: of the recipe.
        side: [cells] of what enters the network, after the Haar transform and the patches.

    Raises:
        ConfigError: the kind cannot be fitted, or has no levels to choose from.
    """
    options = dict(part.options)
    if not part.fit:
        return options
    if part.kind == "DiTTransformer2DModel":
        patches = [size for size in (2, 4, 8, 16, 32) if side % size == 0]
        small = [size for size in patches if (side // size) ** 2 <= _TOKENS]
        return options | {"patch_size": small[0] if small else (patches or [1])[-1]}
    channels = tuple(options.get("block_out_channels", ()))
    if part.kind != "UNet2DModel" or not channels:
        raise ConfigError("'fit' needs a DiTTransformer2DModel, or a UNet2DModel with block_out_channels.")
    divides = takewhile(lambda level: side % 2**level == 0, range(len(channels)))
    sides = [side // 2**level for level in divides if side // 2**level >= _SMALLEST or not level]
    attend = [one <= _ATTEND for one in sides]
    return options | {
        "block_out_channels": channels[: len(sides)],
        "down_block_types": tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attend),
        "up_block_types": tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attend)),
    }


def _without_dropout_of_its_own(network: nn.Module) -> nn.Module:
    """Let the training loop alone drop labels: diffusers' DiT drops another tenth, in every block anew, unseeded."""
    from diffusers.models.embeddings import LabelEmbedding

    for module in network.modules():
        if isinstance(module, LabelEmbedding):
            module.dropout_prob = 0.0
    return network


def _zero_output(network: nn.Module) -> nn.Module:
    """Start the last layer at zero, so that the first denoiser is EDM's skip connection."""
    last = getattr(network, "conv_out", None) or getattr(network, "proj_out_2", None)
    if last is not None:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return network
