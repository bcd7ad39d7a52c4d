"""diffusers networks that are small enough to build in a test, with random weights."""

from typing import Any

import torch
from torch import nn

SIZE = 8
N_CLASSES = 3
CLASSES = ("ant", "bee", "cat")


def tiny_unet(**options: Any) -> nn.Module:
    """A UNet2DModel for 3 classes and a null class."""
    from diffusers import UNet2DModel

    torch.manual_seed(3)
    defaults = {
        "sample_size": SIZE,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (32,),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",),
        "norm_num_groups": 8,
        "num_class_embeds": N_CLASSES + 1,
    }
    return UNet2DModel(**{**defaults, **options}).eval()


def tiny_dit(**options: Any) -> nn.Module:
    """A DiTTransformer2DModel for 3 classes, which also returns variances."""
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(4)
    defaults = {
        "sample_size": SIZE,
        "in_channels": 1,
        "out_channels": 2,
        "num_layers": 1,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
        "patch_size": 2,
        "num_embeds_ada_norm": N_CLASSES,
    }
    return DiTTransformer2DModel(**{**defaults, **options}).eval()


METADATA: dict[str, Any] = {
    "format": 1,
    "name": "tiny",
    "classes": list(CLASSES),
    "null_class": N_CLASSES,
    "space": {
        "channels": 1,
        "height": 2 * SIZE,
        "width": 2 * SIZE,
        "scale": 2.0,
        "offset": -1.0,
        "patch": 2,
        "data_std": 0.5,
    },
    "parametrisation": {"kind": "edm", "sigma_data": 0.5, "time_scale": 250.0},
    "sigma_range": [0.02, 20.0],
    "licence": "CC0",
    "data": "none",
    "figures": {"accuracy": [0.3, 0.4]},
}
CARD = "---\nlicense: cc0-1.0\n---\n\n# tiny\n\nA network with\nrandom weights.\n\nNothing more.\n"
