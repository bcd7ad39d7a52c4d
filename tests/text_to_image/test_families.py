"""Every family, by a tiny model with random weights: it conforms, and its errors are those of its own scheduler."""

from pathlib import Path
from typing import Any

import pytest
import torch

from diffclass.denoisers import PipelineDenoiser, check_denoiser
from diffclass.denoisers.parametrisation import Flow, V
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


def test_learned_settings_follow_the_scheduler(pipelines: Path) -> None:
    # The weight of a schedule is what uniform times give its noise error; of a flow, its logit-normal around the shift.
    settings = loaded(pipelines / "sd1").metadata["classifier"]
    assert settings["weight"]["kind"] == "tabulated"
    flow = loaded(pipelines / "sd3").metadata["classifier"]["proposal"]
    peak = max(zip(flow["log_density"], flow["log_sigma"], strict=True))[1]
    step = flow["log_sigma"][1] - flow["log_sigma"][0]
    assert peak == pytest.approx(torch.tensor(3.0).log().item(), abs=step)
