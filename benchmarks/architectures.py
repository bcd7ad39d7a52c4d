"""Published architectures at their full size, with random weights: nothing is downloaded.

Configurations are those of the models' config.json files; the number of weights that each gives is compared with the
published one in the tests. What a text encoder would say is random numbers of the right shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from diffclass.denoisers import PipelineDenoiser, Space
from diffclass.denoisers.text_to_image.dit import DIT
from diffclass.denoisers.text_to_image.family import Family
from diffclass.denoisers.text_to_image.flux import FLUX
from diffclass.denoisers.text_to_image.pixart import PIXART
from diffclass.denoisers.text_to_image.stable_diffusion import STABLE_DIFFUSION
from diffclass.denoisers.text_to_image.stable_diffusion_3 import STABLE_DIFFUSION_3
from diffclass.denoisers.text_to_image.stable_diffusion_xl import STABLE_DIFFUSION_XL

_SCALED = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
_FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
_RANDOM = 1 << 20  # random numbers that are repeated as weights: their values do not change the time


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A network and how it is called.

    Args:
        title: for people.
        family: whose call it is.
        network: its class in diffusers.
        config: its arguments.
        scheduler: scheduler_config.json.
        told: shape of what the network is told for one prompt, by its own argument names.
        cells: height and width of a latent; the configuration's own if None.
        pixels: of an image that a cell stands for, along a side.
        weights: that the published network has.
        ids: classes, where the network is told a number.
    """

    title: str
    family: Family
    network: str
    config: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    told: Mapping[str, tuple[int, ...]]
    cells: int | None = None
    pixels: int = 8
    weights: int
    ids: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""
        cells = self.cells or self.config["sample_size"]
        return self.config.get("in_channels", 4) // self.family.packs**2, cells, cells

    def empty(self) -> nn.Module:
        """Build the network with buffers and without weights."""
        import diffusers

        with init_empty_weights(include_buffers=False), torch.random.fork_rng(devices=[]):
            return getattr(diffusers, self.network)(**self.config).eval().requires_grad_(False)

    def fill(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """Build the network with random weights in their place: no copy in another format is ever made."""
        network = self.empty()
        numbers = torch.randn(_RANDOM, generator=torch.Generator().manual_seed(0)).to(device, dtype)
        for module in network.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                values = torch.empty(parameter.shape, device=device, dtype=dtype)
                _randomise(values, numbers, name)
                setattr(module, name, nn.Parameter(values, requires_grad=False))
        nn.Module.to(network, device=device)  # buffers
        return network

    def embed(self, n: int, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return what the network is told for n prompts."""
        generator = torch.Generator().manual_seed(n)
        if self.ids:
            return {"class_labels": torch.arange(n, device=device) % self.ids}
        told = {}
        for name, shape in self.told.items():
            mask = name.endswith("mask")
            values = torch.ones(n, *shape) if mask else torch.randn(n, *shape, generator=generator)
            told[name] = values.to(device, dtype)
        return told

    def denoiser(self, network: nn.Module, device: torch.device) -> PipelineDenoiser:
        """Put the adapter of the family around the network; images are latents in [0, 1], and prompts any words."""
        channels, height, width = self.shape
        pixels = (height * self.pixels, width * self.pixels)
        call = self.family.call
        dtype = next(network.parameters()).dtype
        family = replace(
            self.family,
            embed=lambda pipe, prompts, place: self.embed(len(prompts), place, dtype),
            call=lambda network, sample, time, given, size: call(network, sample, time, given, pixels),
            limits=lambda pipe: {}, null=None, classes=lambda pipe: (),
        )  # fmt: skip
        pipe = SimpleNamespace(components={}, scheduler=SimpleNamespace(config=self.scheduler))
        parametrisation, sigma_range = family.parametrisation(pipe, False)
        return PipelineDenoiser(
            family=family, pipe=pipe, network=network, vae=None, parametrisation=parametrisation,
            space=Space(channels=channels, height=height, width=width, data_std=1.0), sigma_range=sigma_range,
            device=device, metadata={"name": self.title},
        )  # fmt: skip

    def flops(self) -> float:
        """Count the floating-point operations of one evaluation's matrix products and convolutions, on no device."""
        from torch.utils.flop_counter import FlopCounterMode

        network = nn.Module.to(self.empty(), device="meta")
        sample = torch.zeros(1, *self.shape, device="meta")
        time = torch.zeros(1, device="meta")
        told = {name: tensor.to("meta") for name, tensor in self.embed(1, torch.device("cpu"), torch.float32).items()}
        size = (self.shape[1] * self.pixels, self.shape[2] * self.pixels)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            self.family.call(network, sample, time, told, size)
        return float(counter.get_total_flops())


def _randomise(values: Tensor, numbers: Tensor, name: str) -> None:
    """Fill a weight: variance 1 / inputs where it mixes, ones where it scales, zeros where it shifts."""
    if values.ndim < 2:
        values.fill_(1.0 if name == "weight" else 0.0)
        return
    flat, scale = values.view(-1), values[0].numel() ** -0.5
    for start in range(0, len(flat), len(numbers)):
        part = flat[start : start + len(numbers)]
        part.copy_(numbers[: len(part)]).mul_(scale)


def _unet(**options: Any) -> dict[str, Any]:
    return {"in_channels": 4, "out_channels": 4, "layers_per_block": 2, "norm_num_groups": 32, **options}


ARCHITECTURES: dict[str, Architecture] = {
    "sd1.5": Architecture(
        title="Stable Diffusion 1.5", family=STABLE_DIFFUSION, network="UNet2DConditionModel", scheduler=_SCALED,
        config=_unet(sample_size=64, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768,
                     attention_head_dim=8),
        told={"encoder_hidden_states": (77, 768)}, weights=859_520_964,
    ),
    "sd2.1": Architecture(
        title="Stable Diffusion 2.1", family=STABLE_DIFFUSION, network="UNet2DConditionModel",
        scheduler=_SCALED | {"prediction_type": "v_prediction"},
        config=_unet(sample_size=96, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=1024,
                     attention_head_dim=(5, 10, 20, 20), use_linear_projection=True),
        told={"encoder_hidden_states": (77, 1024)}, weights=865_910_724,
    ),
    "sdxl": Architecture(
        title="Stable Diffusion XL", family=STABLE_DIFFUSION_XL, network="UNet2DConditionModel", scheduler=_SCALED,
        config=_unet(sample_size=128, block_out_channels=(320, 640, 1280), cross_attention_dim=2048,
                     attention_head_dim=(5, 10, 20), use_linear_projection=True,
                     transformer_layers_per_block=(1, 2, 10), addition_embed_type="text_time",
                     addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
                     down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                     up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")),
        told={"encoder_hidden_states": (77, 2048), "text_embeds": (1280,)}, weights=2_567_463_684,
    ),
    "sd3-medium": Architecture(
        title="Stable Diffusion 3 medium", family=STABLE_DIFFUSION_3, network="SD3Transformer2DModel", scheduler=_FLOW,
        config={"sample_size": 128, "patch_size": 2, "in_channels": 16, "num_layers": 24, "attention_head_dim": 64,
                "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
                "pooled_projection_dim": 2048, "out_channels": 16, "pos_embed_max_size": 192},
        told={"encoder_hidden_states": (333, 4096), "pooled_projections": (2048,)}, weights=2_028_328_000,
    ),
    "pixart-alpha": Architecture(
        title="PixArt alpha, 1024 pixels", family=PIXART, network="PixArtTransformer2DModel",
        scheduler={"_class_name": "DPMSolverMultistepScheduler", "beta_schedule": "linear", "beta_start": 1e-4,
                   "beta_end": 0.02},
        config={"sample_size": 128, "patch_size": 2, "in_channels": 4, "out_channels": 8, "num_layers": 28,
                "num_attention_heads": 16, "attention_head_dim": 72, "cross_attention_dim": 1152,
                "caption_channels": 4096},
        told={"encoder_hidden_states": (120, 4096), "encoder_attention_mask": (120,)},
        weights=610_856_096 + 493_056,  # the second number is told the size of the picture, at 1024 pixels alone
    ),
    "dit-xl-2": Architecture(
        title="DiT-XL/2, 256 pixels", family=DIT, network="DiTTransformer2DModel",
        scheduler={"_class_name": "DDIMScheduler", "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
        config={"sample_size": 32, "patch_size": 2, "in_channels": 4, "out_channels": 8, "num_layers": 28,
                "num_attention_heads": 16, "attention_head_dim": 72, "num_embeds_ada_norm": 1000},
        told={}, ids=1000,
        weights=675_129_632 - 256 * 1152 + 27 * 2_777_472,  # positions are no weights, and every block embeds anew
    ),
    "flux-dev": Architecture(
        title="Flux.1 dev", family=FLUX, network="FluxTransformer2DModel", scheduler=_FLOW, cells=128,
        config={"patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38,
                "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 4096,
                "pooled_projection_dim": 768, "guidance_embeds": True, "axes_dims_rope": (16, 56, 56)},
        told={"encoder_hidden_states": (512, 4096), "pooled_projections": (768,)}, weights=11_901_408_320,
    ),
}  # fmt: skip
