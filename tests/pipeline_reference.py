"""Errors of a pipeline as its family defines them: its own scheduler, encoder and call, and none of our formulas."""

from typing import Any

import torch
from torch import Tensor

from diffclass.denoisers.text_to_image.quiet import libraries_quiet

STEPS = 10
Calls = dict[str, Any]


def latent(pipe: Any, image: Tensor) -> Tensor:
    """Encode a picture in [0, 1] as the family trains on it."""
    vae, config = pipe.vae, pipe.vae.config
    found = vae.encode(2 * image - 1)
    x = found.latent if hasattr(found, "latent") else found.latent_dist.mean
    if getattr(config, "latents_mean", None) is not None:
        x = (x - torch.tensor(config.latents_mean)[:, None, None]) / torch.tensor(config.latents_std)[:, None, None]
    if getattr(config, "shift_factor", None) is not None:
        x = x - config.shift_factor
    return x * config.scaling_factor


def noised(pipe: Any, x: Tensor, noise: Tensor, step: int) -> tuple[Tensor, Tensor, float]:
    """Return what the network is given, its timestep, and sigma over alpha, at one step of the family's scheduler."""
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    kind = type(scheduler).__name__
    if kind == "FlowMatchEulerDiscreteScheduler":
        t = scheduler.timesteps[100 * step]
        sigma = float(scheduler.sigmas[100 * step])
        return scheduler.scale_noise(x, t[None], noise), t, sigma / (1 - sigma)
    if getattr(scheduler.config, "use_flow_sigmas", False):
        _set_timesteps(scheduler)
        sigma = float(scheduler.sigmas[step])
        t = torch.tensor(1000.0 * sigma)  # its table holds whole numbers
        return (1 - sigma) * x + sigma * noise, t, sigma / (1 - sigma)
    _set_timesteps(scheduler)
    t = scheduler.timesteps[step]
    abar = float(scheduler.alphas_cumprod.double()[int(t)])
    noisy = scheduler.add_noise(x, noise, t[None])
    if kind == "EulerDiscreteScheduler":
        noisy = scheduler.scale_model_input(noisy, t)
    return noisy, t, ((1 - abar) / abar) ** 0.5


def _set_timesteps(scheduler: Any) -> None:
    with libraries_quiet():
        scheduler.set_timesteps(STEPS)


def wanted(pipe: Any, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return what the network should predict."""
    from diffusers import DDPMScheduler

    if "Flow" in type(pipe.scheduler).__name__ or getattr(pipe.scheduler.config, "use_flow_sigmas", False):
        return noise - x
    if pipe.scheduler.config.prediction_type == "v_prediction":
        return DDPMScheduler.from_config(pipe.scheduler.config).get_velocity(x, noise, t[None].long())
    return noise


def predicted(pipe: Any, noisy: Tensor, t: Tensor, prompt: str) -> Tensor:
    """Call the network as the family's pipeline does."""
    return _CALLS[type(pipe).__name__](pipe, noisy, t, prompt)


def _stable_diffusion(pipe: Any, noisy: Tensor, t: Tensor, prompt: str) -> Tensor:
    states = pipe.encode_prompt(prompt, "cpu", 1, False)[0]
    return pipe.unet(noisy, t, encoder_hidden_states=states).sample


def _stable_diffusion_xl(pipe: Any, noisy: Tensor, t: Tensor, prompt: str) -> Tensor:
    states, _, pooled, _ = pipe.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
    side = noisy.shape[2] * pipe.vae_scale_factor
    width = pipe.text_encoder_2.config.projection_dim
    sizes = pipe._get_add_time_ids((side, side), (0, 0), (side, side), torch.float32, text_encoder_projection_dim=width)
    added = {"text_embeds": pooled, "time_ids": sizes}
    return pipe.unet(noisy, t, encoder_hidden_states=states, added_cond_kwargs=added).sample


def _stable_diffusion_3(pipe: Any, noisy: Tensor, t: Tensor, prompt: str) -> Tensor:
    states, _, pooled, _ = pipe.encode_prompt(
        prompt, prompt, prompt, device="cpu", do_classifier_free_guidance=False, max_sequence_length=256
    )
    return pipe.transformer(
        hidden_states=noisy, timestep=t[None], encoder_hidden_states=states, pooled_projections=pooled
    ).sample


def _flux(pipe: Any, noisy: Tensor, t: Tensor, prompt: str) -> Tensor:
    guided = pipe.transformer.config.guidance_embeds
    states, pooled, text_ids = pipe.encode_prompt(prompt, device="cpu", max_sequence_length=512 if guided else 256)
    _, channels, height, width = noisy.shape
    packed = pipe._pack_latents(noisy, 1, channels, height, width)
    output = pipe.transformer(
        hidden_states=packed, timestep=t[None] / 1000, guidance=torch.ones(1) if guided else None,
        pooled_projections=pooled, encoder_hidden_states=states, txt_ids=text_ids,
        img_ids=pipe._prepare_latent_image_ids(1, height // 2, width // 2, "cpu", torch.float32),
    ).sample  # fmt: skip
    factor = pipe.vae_scale_factor
    return pipe._unpack_latents(output, height * factor, width * factor, factor)


def _pixart(pipe: Any, noisy: Tensor, t: Tensor, prompt: str) -> Tensor:
    tokens = 300 if "Sigma" in type(pipe).__name__ else 120
    states, mask, _, _ = pipe.encode_prompt(prompt, False, device="cpu", max_sequence_length=tokens)
    sizes: Calls = {"resolution": None, "aspect_ratio": None}
    if pipe.transformer.use_additional_conditions:
        side = noisy.shape[2] * pipe.vae_scale_factor
        sizes = {"resolution": torch.tensor([[side, side]]).float(), "aspect_ratio": torch.ones(1, 1)}
    output = pipe.transformer(
        noisy, encoder_hidden_states=states, encoder_attention_mask=mask, timestep=t[None], added_cond_kwargs=sizes
    ).sample
    return output.chunk(2, dim=1)[0]


def _sana(pipe: Any, noisy: Tensor, t: Tensor, prompt: str) -> Tensor:
    import inspect

    instruction = inspect.signature(pipe.__call__).parameters["complex_human_instruction"].default
    states, mask, _, _ = pipe.encode_prompt(
        prompt, False, device="cpu", max_sequence_length=300, complex_human_instruction=instruction
    )
    time = t[None] * pipe.transformer.config.timestep_scale
    return pipe.transformer(noisy, encoder_hidden_states=states, encoder_attention_mask=mask, timestep=time).sample


def _dit(pipe: Any, noisy: Tensor, t: Tensor, prompt: str) -> Tensor:
    return pipe.transformer(noisy, timestep=t[None], class_labels=torch.tensor([int(prompt)])).sample[:, :4]


_CALLS: Calls = {
    "StableDiffusionPipeline": _stable_diffusion,
    "StableDiffusionXLPipeline": _stable_diffusion_xl,
    "StableDiffusion3Pipeline": _stable_diffusion_3,
    "FluxPipeline": _flux,
    "PixArtAlphaPipeline": _pixart,
    "PixArtSigmaPipeline": _pixart,
    "SanaPipeline": _sana,
    "DiTPipeline": _dit,
}
