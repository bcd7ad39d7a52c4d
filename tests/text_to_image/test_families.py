"""Every family, by a tiny model with random weights: it conforms, and its errors are those of its own scheduler."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm

from diffclass.denoisers import PipelineDenoiser, check_denoiser
from diffclass.denoisers.parametrisation import Flow, V
from diffclass.denoisers.text_to_image.family import shift_of
from diffclass.evidence import Objective
from pipeline_reference import latent, noised, predicted, wanted
from tiny_pipelines import PIPELINES, loaded, original

every_family = pytest.mark.parametrize("name", PIPELINES)
PROMPTS = ("a photo of a cat.", "a dog", "the number 7, in red")


def prompts_of(denoiser: Any) -> tuple[str, ...]:
    return denoiser.classes or PROMPTS


@every_family
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_family_conforms(pipelines: Path, name: str, dtype: str) -> None:
    denoiser = loaded(pipelines / name, dtype=dtype)
    assert isinstance(denoiser, PipelineDenoiser)
    report = check_denoiser(denoiser)
    assert report.passed, str(report)


@every_family
@pytest.mark.parametrize("step", [1, 5, 8])
def test_error_is_the_one_of_the_familys_own_scheduler(pipelines: Path, name: str, step: int) -> None:
    ours, theirs = loaded(pipelines / name), original(pipelines / name)
    random = torch.Generator().manual_seed(step)
    image = torch.rand(1, *ours.space.image_shape, generator=random)
    noise = torch.randn(1, *ours.space.shape, generator=random)
    with torch.no_grad():
        x = latent(theirs, image)
        assert torch.allclose(ours.encode(image), x, rtol=1e-5, atol=1e-5)
        noisy, t, sigma = noised(theirs, x, noise, step)
        for prompt in prompts_of(ours):
            error = (predicted(theirs, noisy, t, prompt) - wanted(theirs, x, noise, t)).double().square().sum()
            conditions = ours.condition_on(prompts_of(ours))[torch.tensor([prompts_of(ours).index(prompt)])]
            denoised = ours(x + sigma * noise, torch.tensor([sigma]), conditions)
            # |x error|^2 in the family's own units: Esser et al. for flows, Salimans and Ho 2022 for v.
            scale = {Flow: (1 + sigma) ** 2, V: 1 + sigma**2}.get(type(ours.parametrisation), 1.0) / sigma**2
            assert float((denoised - x).double().square().sum()) * scale == pytest.approx(float(error), rel=1e-4)


@every_family
def test_prompts_are_embedded_as_the_pipeline_does(pipelines: Path, name: str) -> None:
    ours, theirs = loaded(pipelines / name), original(pipelines / name)
    if ours.classes:
        pytest.skip("it is told numbers")
    n = 3 if name == "sana" else 34  # 34 are more than are embedded at once; Sana's instruction is long
    many = [f"{PROMPTS[i % 3]} {i}" for i in range(n)]
    conditions = ours.condition_on(many).tensors
    instruction = {}
    if name == "sana":
        import inspect

        default = inspect.signature(theirs.__call__).parameters["complex_human_instruction"].default
        instruction = {"complex_human_instruction": default}
    for i in (0, n - 1):
        with torch.no_grad():
            found = _encode(theirs, many[i], **instruction)
        for key, tensor in found.items():
            assert torch.allclose(conditions[key][i], tensor[0].to(conditions[key].dtype), atol=1e-6), key
    assert set(found) == set(conditions)


def _encode(pipe: Any, prompt: str, **options: Any) -> dict[str, Any]:
    """Encode one prompt with the pipeline as its __call__ does, without guidance."""
    kind = type(pipe).__name__
    states, mask = "encoder_hidden_states", "encoder_attention_mask"
    if kind == "StableDiffusionPipeline":
        return {states: pipe.encode_prompt(prompt, "cpu", 1, False)[0]}
    if kind == "StableDiffusionXLPipeline":
        found = pipe.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
        return {states: found[0], "text_embeds": found[2]}
    if kind == "StableDiffusion3Pipeline":
        found = pipe.encode_prompt(prompt, None, None, device="cpu", do_classifier_free_guidance=False)
        return {states: found[0], "pooled_projections": found[2]}
    if kind == "FluxPipeline":
        found = pipe.encode_prompt(prompt, device="cpu")
        return {states: found[0], "pooled_projections": found[1]}
    found = pipe.encode_prompt(prompt, False, device="cpu", **options)
    return {states: found[0], mask: found[1]}


def test_prompts_are_embedded_once(pipelines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = loaded(pipelines / "sd1")
    calls = []
    whole = type(denoiser.pipe).encode_prompt
    monkeypatch.setattr(type(denoiser.pipe), "encode_prompt", lambda *a, **k: calls.append(1) or whole(*a, **k))
    first = denoiser.condition_on(PROMPTS)
    n = len(calls)
    assert n
    assert denoiser.condition_on(list(PROMPTS)) is first
    assert len(calls) == n


def weighted(denoiser: Any, integrand: Any) -> float:
    """Integrate weight x integrand over the model's noise range, against d log(sigma)."""
    objective = Objective.from_settings(denoiser.metadata["classifier"], sigma_data=1.0)
    log_sigma = np.linspace(*np.log(denoiser.sigma_range), 20_001)
    sigma = np.exp(log_sigma)
    values = objective.weight(sigma) * integrand(sigma)
    return float(np.trapezoid(values, log_sigma))


def test_networks_of_a_schedule_are_asked_at_times_that_are_uniform(pipelines: Path) -> None:
    # |noise error|^2 = |x error|^2 / sigma^2, so that the weight times sigma^2 is the density of sigma.
    denoiser = loaded(pipelines / "sd1")
    sigma = denoiser.parametrisation.schedule.sigmas.numpy()
    for error in (lambda s: s / (1 + s), lambda s: np.exp(-s)):
        assert weighted(denoiser, lambda s, error=error: s**2 * error(s)) == pytest.approx(
            error(sigma).mean(), rel=0.01
        )


def test_flows_are_asked_at_the_times_of_their_training(pipelines: Path) -> None:
    # Esser et al. 2024: t is logit-normal, shifted to 3 t / (1 + 2 t); |velocity error|^2 = |x error|^2 / t^2.
    t = 1 / (1 + np.exp(-norm.ppf((np.arange(100_000) + 0.5) / 100_000)))
    t = 3 * t / (1 + 2 * t)
    denoiser = loaded(pipelines / "sd3")
    total = weighted(denoiser, lambda s: (s / (1 + s)) ** 2)
    for error in (lambda t: t, lambda t: np.exp(-3 * t)):
        found = weighted(denoiser, lambda s, error=error: (s / (1 + s)) ** 2 * error(s / (1 + s))) / total
        assert found == pytest.approx(error(t).mean(), rel=0.01)


def test_dynamic_shifts_grow_with_the_picture(pipelines: Path) -> None:
    # Of Flux: 256 tokens have the shift e^0.5 and 4,096 the shift e^1.15, linear in the exponent between.
    assert shift_of(original(pipelines / "flux-dev"), 256) == pytest.approx(np.exp(0.5))
    assert shift_of(original(pipelines / "flux-dev"), 2176) == pytest.approx(np.exp(0.825))
    proposal = loaded(pipelines / "flux-dev").metadata["classifier"]["proposal"]  # 8 x 8 cells, 16 tokens
    heights, log_sigma = np.array(proposal["log_density"]), np.array(proposal["log_sigma"])
    assert heights == pytest.approx(-0.5 * (log_sigma - (0.5 + 0.65 * (16 - 256) / (4096 - 256))) ** 2)
    assert shift_of(original(pipelines / "sana"), 64) == pytest.approx(3.0)
