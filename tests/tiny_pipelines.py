"""Text-to-image pipelines that are small enough to build in a test, with random weights."""

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffclass.denoisers import load
from diffclass.denoisers.text_to_image.quiet import libraries_quiet

CELLS = 8  # height and width of a latent
WIDTH = 16  # of text embeddings
TOKENS = 24  # that the CLIP tokenizers read
_LETTERS = string.ascii_letters + string.digits + ".,:;'\"-()?!\n"


def clip_tokenizer() -> Any:
    """A CLIP tokenizer that spells."""
    from transformers import CLIPTokenizer

    names = ["<|startoftext|>", "<|endoftext|>", *_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)]
    vocab = {name: i for i, name in enumerate(names)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=TOKENS)


def clip(kind: str, **options: Any) -> Any:
    """A CLIP text encoder, "CLIPTextModel" or "CLIPTextModelWithProjection"."""
    import transformers

    defaults = {
        "vocab_size": 2 + 2 * len(_LETTERS),
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": TOKENS,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        "projection_dim": WIDTH,
    }
    return getattr(transformers, kind)(transformers.CLIPTextConfig(**{**defaults, **options})).eval()


def t5() -> tuple[Any, Any]:
    """A T5 encoder and a tokenizer that spells."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *_LETTERS]
    tokenizer = T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return T5EncoderModel(config).eval(), tokenizer


def gemma() -> tuple[Any, Any]:
    """A Gemma 2 and a tokenizer that spells."""
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", *_LETTERS]
    tokenizer = GemmaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    return Gemma2Model(config).eval(), tokenizer


def kl(channels: int = 4, **options: Any) -> Any:
    """A KL autoencoder that halves the image once."""
    from diffusers import AutoencoderKL

    blocks = {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 4,
        "latent_channels": channels,
    }
    return AutoencoderKL(**{**blocks, **options}).eval()


def unet(**options: Any) -> Any:
    """A UNet that reads text."""
    from diffusers import UNet2DConditionModel

    defaults = {
        "sample_size": CELLS,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    return UNet2DConditionModel(**{**defaults, **options}).eval()


_SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def stable_diffusion(prediction: str = "epsilon", unet_options: dict[str, Any] | None = None) -> Any:
    """Stable Diffusion 1 (epsilon) or 2 (v)."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=kl(scaling_factor=0.18215), text_encoder=clip("CLIPTextModel"), tokenizer=clip_tokenizer(),
        unet=unet(**(unet_options or {})), scheduler=DDIMScheduler(prediction_type=prediction, **_SCALED),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def stable_diffusion_xl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    network = unet(
        cross_attention_dim=2 * WIDTH, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=kl(scaling_factor=0.13025, latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.0, 2.0, 0.5, 1.5]),
        text_encoder=clip("CLIPTextModel"), text_encoder_2=clip("CLIPTextModelWithProjection"),
        tokenizer=clip_tokenizer(), tokenizer_2=clip_tokenizer(), unet=network,
        scheduler=EulerDiscreteScheduler(timestep_spacing="leading", **_SCALED),
    )  # fmt: skip


def stable_diffusion_3(with_t5: bool = True) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    encoder, tokenizer = t5() if with_t5 else (None, None)
    network = SD3Transformer2DModel(
        sample_size=CELLS, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=2 * WIDTH, caption_projection_dim=16, pooled_projection_dim=2 * WIDTH, out_channels=4,
    )  # fmt: skip
    if encoder is not None:
        encoder = _wide_t5()
    return StableDiffusion3Pipeline(
        transformer=network.eval(), vae=kl(scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=clip("CLIPTextModelWithProjection"), text_encoder_2=clip("CLIPTextModelWithProjection"),
        text_encoder_3=encoder, tokenizer=clip_tokenizer(), tokenizer_2=clip_tokenizer(), tokenizer_3=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip


def _wide_t5() -> Any:
    """A T5 as wide as two CLIPs side by side."""
    from transformers import T5EncoderModel

    config = t5()[0].config
    config.d_model = 2 * WIDTH
    return T5EncoderModel(config).eval()


def flux(guidance: bool = True) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    encoder, tokenizer = t5()
    network = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(4, 4, 8), guidance_embeds=guidance,
    )  # fmt: skip
    return FluxPipeline(
        transformer=network.eval(), vae=kl(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=clip("CLIPTextModel"), tokenizer=clip_tokenizer(), text_encoder_2=encoder, tokenizer_2=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
    )  # fmt: skip


def pixart(kind: str = "Alpha", extra: bool = True) -> Any:
    """PixArt; alpha is also told the size of the picture."""
    import diffusers

    encoder, tokenizer = t5()
    network = diffusers.PixArtTransformer2DModel(
        sample_size=CELLS, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=3,
        caption_channels=WIDTH, in_channels=4, out_channels=8, cross_attention_dim=24,
        use_additional_conditions=extra,
    )  # fmt: skip
    return getattr(diffusers, f"PixArt{kind}Pipeline")(
        transformer=network.eval(), vae=kl(scaling_factor=0.13025), text_encoder=encoder, tokenizer=tokenizer,
        scheduler=diffusers.DPMSolverMultistepScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02),
    )  # fmt: skip


def sana() -> Any:
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

    encoder, tokenizer = gemma()
    network = SanaTransformer2DModel(
        sample_size=CELLS, patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2,
        attention_head_dim=8, num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16,
        caption_channels=WIDTH,
    )  # fmt: skip
    vae = AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), downsample_block_type="conv",
        upsample_block_type="interpolate", scaling_factor=0.41407, decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return SanaPipeline(
        transformer=network.eval(), vae=vae.eval(), text_encoder=encoder, tokenizer=tokenizer, scheduler=scheduler
    )


def dit() -> Any:
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    network = DiTTransformer2DModel(
        sample_size=CELLS, patch_size=2, in_channels=4, out_channels=8, num_layers=1, num_attention_heads=2,
        attention_head_dim=8, norm_num_groups=8, num_embeds_ada_norm=3,
    )  # fmt: skip
    return DiTPipeline(transformer=network.eval(), vae=kl(scaling_factor=0.18215), scheduler=DDIMScheduler())


PIPELINES: dict[str, Callable[[], Any]] = {
    "sd1": stable_diffusion,
    "sd2-v": lambda: stable_diffusion("v_prediction"),
    "sdxl": stable_diffusion_xl,
    "sd3": stable_diffusion_3,
    "sd3-no-t5": lambda: stable_diffusion_3(with_t5=False),
    "flux-dev": flux,
    "pixart-alpha": pixart,
    "pixart-sigma": lambda: pixart("Sigma", extra=False),
    "sana": sana,
    "dit": dit,
}


def save(name: str, directory: Path, build: Callable[[], Any] | None = None) -> Path:
    """Build a pipeline and save it."""
    with torch.random.fork_rng(devices=[]), libraries_quiet():
        torch.manual_seed(7)
        (build or PIPELINES[name])().save_pretrained(directory / name)
    return directory / name


def loaded(directory: Path, **options: Any) -> Any:
    """Load a tiny pipeline, on the CPU, in float32 where nothing else is asked for."""
    options = {"device": "cpu", "dtype": "float32"} | options
    if "flux" in directory.name:
        options = {"size": 2 * CELLS} | options  # its configuration does not say for which size it is
    if directory.name == "flux-dev":
        with pytest.warns(match="This Flux is guidance-distilled"):
            return load(directory, **options)
    return load(directory, **options)


def original(directory: Path) -> Any:
    """Open a tiny pipeline with diffusers alone."""
    import diffusers

    index = json.loads((directory / "model_index.json").read_text())
    none = {key: None for key, value in index.items() if isinstance(value, list) and value[0] is None}
    with libraries_quiet():
        return getattr(diffusers, index["_class_name"]).from_pretrained(directory, **none)


def save_encoders(home: Path) -> Path:
    """Save a tiny CLIP and a tiny SigLIP with random weights."""
    import transformers

    text = {
        "vocab_size": len(clip_tokenizer()), "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": TOKENS, "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    vision = {
        "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 8, "patch_size": 4,
    }  # fmt: skip
    torch.manual_seed(2)
    with libraries_quiet():
        clip = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)
        )
        siglip = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
        for name, model in {"clip": clip, "siglip": siglip}.items():
            model.save_pretrained(home / name)
            clip_tokenizer().save_pretrained(home / name)
            (home / name / "preprocessor_config.json").write_text(
                '{"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}'
            )
    return home
