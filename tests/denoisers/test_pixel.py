"""Networks on pixels: tiny random ones, saved by diffusers with every kind of scheduler, or by us."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diffclass.denoisers import EDM, PixelDenoiser, Space, V, check_denoiser, load_pixel, save_model
from diffclass.errors import ConditionError, RangeError, ResultError
from tiny_networks import CARD, CLASSES, METADATA, SIZE, tiny_dit, tiny_unet

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "epsilon": ("DDPMScheduler", {"variance_type": "learned_range"}),
    "v": ("DDIMScheduler", {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"}),
    "v-zero-snr": ("DDIMScheduler", {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
    "x0": ("DDPMScheduler", {"prediction_type": "sample"}),
    "edm": ("EDMEulerScheduler", {}),
    "edm-v": ("EDMDPMSolverMultistepScheduler", {"prediction_type": "v_prediction", "sigma_data": 1.0}),
    "flow": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "flow-solver": ("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction", "use_flow_sigmas": True}),
}
NETWORKS = {"unet": tiny_unet, "transformer": tiny_dit}


def scheduler_of(kind: str) -> Any:
    import diffusers

    name, options = SCHEDULERS[kind]
    return getattr(diffusers, name)(**options)


def save_pipeline(directory: Path, kind: str, part: str, **options: Any) -> Path:
    """Write a pipeline directory as diffusers does, but for the index, which needs a pipeline class."""
    NETWORKS[part](**options).save_pretrained(directory / part)
    scheduler_of(kind).save_pretrained(directory / "scheduler")
    labels = {str(i): name for i, name in enumerate(CLASSES)}
    (directory / "model_index.json").write_text(json.dumps({"_class_name": "Pipeline", "id2label": labels}))
    return directory


@pytest.mark.parametrize("part", NETWORKS)
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_pipelines_conform(tmp_path: Path, kind: str, part: str) -> None:
    denoiser = load_pixel(save_pipeline(tmp_path, kind, part))
    report = check_denoiser(denoiser)
    # A network that predicts the image must learn that an image without noise is its own mean; this one is untrained.
    assert report.failed == (("small-sigma",) if kind == "x0" else ()), str(report)
    assert denoiser.classes == CLASSES
    assert denoiser.null_class == 3
    assert denoiser.space == Space(channels=1, height=SIZE, width=SIZE)


def reference(kind: str, scheduler: Any, x: Tensor, epsilon: Tensor, step: int) -> tuple[Tensor, ...]:
    """The network's input, its time, its target, sigma, and |D - x|^2 / |F - target|^2, by the scheduler alone."""
    n = len(x)
    if kind.startswith("edm"):
        sigma = scheduler.sigmas[step]
        noisy = x + sigma * epsilon
        c_out = scheduler.precondition_outputs(torch.zeros_like(x), torch.ones_like(x), sigma)
        target = (x - scheduler.precondition_outputs(noisy, torch.zeros_like(x), sigma)) / c_out
        time = scheduler.precondition_noise(sigma)
        return scheduler.precondition_inputs(noisy, sigma), time.expand(n), target, sigma, (c_out**2).mean()
    if kind.startswith("flow"):
        t = (step + 1) / torch.tensor(1000.0)
        return (1 - t) * x + t * epsilon, 1000 * t.expand(n), epsilon - x, t / (1 - t), t**2
    times = torch.full((n,), step)
    abar = scheduler.alphas_cumprod[step]
    sigma = ((1 - abar) / abar).sqrt()
    noisy = scheduler.add_noise(x, epsilon, times)
    if kind == "epsilon":
        return noisy, times, epsilon, sigma, sigma**2
    if kind == "x0":
        return noisy, times, x, sigma, torch.ones(())
    return noisy, times, scheduler.get_velocity(x, epsilon, times), sigma, 1 - abar


@pytest.mark.parametrize("part", NETWORKS)
@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("step", [100, 700])
def test_errors_are_those_of_the_scheduler(tmp_path: Path, kind: str, part: str, step: int) -> None:
    """The network sees what it was trained on, and its error is the one it was trained with, up to a known factor."""
    denoiser = load_pixel(save_pipeline(tmp_path, kind, part))
    x = denoiser.encode(torch.rand(3, 1, SIZE, SIZE))
    epsilon, labels = torch.randn_like(x), torch.tensor([2, 0, 1])
    sample, time, target, sigma, factor = reference(kind, scheduler_of(kind), x, epsilon, step)
    conditions = denoiser.condition_on(CLASSES)[labels]
    with torch.inference_mode():
        output = NETWORKS[part]()(sample, time, class_labels=labels).sample[:, :1]
        denoised = denoiser(x + sigma * epsilon, sigma.expand(3).float(), conditions)
    ours = (denoised - x).square().sum(dim=(1, 2, 3))
    theirs = factor * (output - target).square().sum(dim=(1, 2, 3))
    torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=0)


def test_a_pipeline_that_diffusers_saved(tmp_path: Path) -> None:
    from diffusers import DDPMPipeline

    DDPMPipeline(unet=tiny_unet(), scheduler=scheduler_of("v")).save_pretrained(tmp_path)
    denoiser = load_pixel(tmp_path, classes=CLASSES)
    assert check_denoiser(denoiser).passed
    assert isinstance(denoiser.parametrisation, V)


@pytest.mark.parametrize("where", [".", "scheduler", ".."])
def test_a_bare_model_with_its_scheduler(tmp_path: Path, where: str) -> None:
    home = tmp_path / "unet"
    tiny_unet().save_pretrained(home)
    scheduler_of("edm").save_pretrained(home / where if where != ".." else tmp_path / "scheduler")
    denoiser = load_pixel(home)
    assert isinstance(denoiser.parametrisation, EDM)
    assert denoiser.sigma_range == (0.002, 80.0)
    assert denoiser.classes == ("0", "1", "2", "3")
    assert denoiser.null_class is None
    assert denoiser.condition_on(["1", "2"]).null is None


def test_pickled_weights_that_are_only_tensors_are_read(tmp_path: Path) -> None:
    tiny_unet().save_pretrained(tmp_path, safe_serialization=False)
    scheduler_of("edm").save_pretrained(tmp_path)
    assert torch.equal(load_pixel(tmp_path).network.conv_in.weight, tiny_unet().conv_in.weight)


@pytest.mark.parametrize(("classes", "null"), [(CLASSES, 3), ((*CLASSES, "dog"), None)])
def test_the_number_of_names_tells_the_null_class(tmp_path: Path, classes: tuple[str, ...], null: int | None) -> None:
    save_pipeline(tmp_path, "edm", "unet")
    denoiser = load_pixel(tmp_path, classes=classes)
    assert (denoiser.classes, denoiser.null_class) == (classes, null)


@pytest.mark.parametrize(
    ("part", "classes", "wanted"),
    [
        ("unet", ("a", "b"), "4, or 3 and a null class"),
        ("transformer", ("a", "b"), "3"),
        ("transformer", ("a", "b", "c", "d"), "3"),
    ],
)
def test_the_number_of_names_must_fit(tmp_path: Path, part: str, classes: tuple[str, ...], wanted: str) -> None:
    save_pipeline(tmp_path, "edm", part)
    sentence = f"The 'classes' must be as many as the network has ({wanted}). Got {len(classes)}."
    with pytest.raises(ConditionError) as caught:
        load_pixel(tmp_path, classes=classes)
    assert str(caught.value) == sentence


# Number formats


@pytest.mark.parametrize("part", NETWORKS)
def test_bfloat16_is_inside_the_network_only(tmp_path: Path, part: str) -> None:
    """Rounding is 2^-8 a layer; the answer's own part, c_skip x, keeps 24 bits, so the bound is 0.05 c_out."""
    save_pipeline(tmp_path, "edm", part)
    fine, coarse = load_pixel(tmp_path), load_pixel(tmp_path, dtype=torch.bfloat16)
    assert coarse.dtype == torch.bfloat16
    assert coarse.network.dtype == torch.bfloat16
    noisy, sigma = torch.randn(4, 1, SIZE, SIZE), torch.tensor([0.002, 0.1, 1.0, 10.0])
    conditions = fine.condition_on(CLASSES)[torch.tensor([0, 1, 2, 0])]
    with torch.inference_mode():
        off = (coarse(noisy, sigma, conditions) - fine(noisy, sigma, conditions)).abs().amax(dim=(1, 2, 3))
    c_out = sigma * 0.5 / (sigma**2 + 0.25).sqrt()
    assert bool((off > 0).all())
    assert bool((off < 0.05 * c_out).all())
    assert check_denoiser(coarse).passed, str(check_denoiser(coarse))


def test_convolutions_in_bfloat16_are_channels_last(tmp_path: Path) -> None:
    seen = []
    denoiser = load_pixel(save_pipeline(tmp_path, "edm", "unet"), dtype=torch.bfloat16)
    layer = denoiser.network.down_blocks[0].resnets[0].conv1
    layer.register_forward_hook(lambda module, inputs, output: seen.extend([*inputs, output, module.weight]))
    denoiser(torch.randn(2, 1, SIZE, SIZE), torch.ones(2), denoiser.condition_on(CLASSES)[torch.tensor([0, 1])])
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in seen)


def test_doubles_stay_doubles(tmp_path: Path) -> None:
    denoiser = load_pixel(save_pipeline(tmp_path, "flow", "unet"), dtype=torch.float64)
    conditions = denoiser.condition_on(CLASSES)[torch.tensor([0, 1])]
    noisy = torch.randn(2, 1, SIZE, SIZE, dtype=torch.float64)
    assert denoiser(noisy, torch.ones(2), conditions).dtype == torch.float64
    assert denoiser(noisy.half(), torch.ones(2), conditions).dtype == torch.float32


def test_variances_do_not_matter(tmp_path: Path) -> None:
    save_pipeline(tmp_path, "epsilon", "unet", out_channels=2)
    denoiser = load_pixel(tmp_path)
    noisy, conditions = torch.randn(1, 1, SIZE, SIZE), denoiser.condition_on(CLASSES)[torch.tensor([0])]
    before = denoiser(noisy, torch.ones(1), conditions)
    with torch.no_grad():
        denoiser.network.conv_out.bias[1] += 100
        assert torch.equal(before, denoiser(noisy, torch.ones(1), conditions))
        denoiser.network.conv_out.bias[0] += 1
        torch.testing.assert_close(before - 1, denoiser(noisy, torch.ones(1), conditions))


# Any callable


class Shift(nn.Module):
    """A network by the same signature: it answers with the class number."""

    def forward(self, sample: Tensor, time: Tensor, class_labels: Tensor) -> Any:
        return SimpleNamespace(sample=torch.zeros_like(sample) + class_labels[:, None, None, None])


def denoiser_of(**options: Any) -> PixelDenoiser:
    defaults = {
        "network": Shift(),
        "parametrisation": EDM(),
        "space": Space(channels=1, height=2, width=2),
        "sigma_range": (0.01, 10.0),
        "classes": CLASSES,
    }
    return PixelDenoiser(**{**defaults, **options})


def test_anything_called_alike_is_a_network() -> None:
    noisy, sigma = torch.zeros(3, 1, 2, 2), torch.ones(3)
    for network in (Shift(), Shift().forward):
        denoiser = denoiser_of(network=network)
        got = denoiser(noisy, sigma, denoiser.condition_on(["cat", "ant"])[torch.tensor([0, 1, 0])])
        torch.testing.assert_close(got[:, 0, 0, 0], torch.tensor([2.0, 0.0, 2.0]) * 0.5 / 1.25**0.5)
        assert denoiser.device == torch.device("cpu")
        assert denoiser.dtype is None


def test_clipping_keeps_answers_within_images() -> None:
    noisy, sigma = torch.tensor([-9.0, 0.1, 9.0]).reshape(3, 1, 1, 1).expand(3, 1, 2, 2), torch.full((3,), 0.01)
    for clip, low, high in ((False, -9.0, 9.0), (True, -1.0, 1.0)):
        denoiser = denoiser_of(clip=clip)
        got = denoiser(noisy, sigma, denoiser.condition_on(["ant"])[torch.tensor([0, 0, 0])])
        assert got[:, 0, 0, 0].tolist() == pytest.approx([low, 0.1, high], rel=1e-2)


def test_networks_are_put_into_evaluation_mode() -> None:
    network = Shift().train()
    denoiser_of(network=network)
    assert not network.training


def test_unknown_classes_are_refused() -> None:
    denoiser = denoiser_of(classes=tuple(f"class {i}" for i in range(12)))
    with pytest.raises(ConditionError) as caught:
        denoiser.condition_on(["class 3", "clas 11"])
    listed = ", ".join(f"'class {i}'" for i in range(10))
    assert str(caught.value) == (
        f"The classes must be among {listed}, ... (12 in all). Got 'clas 11'. Did you mean 'class 11'?"
    )
    with pytest.raises(ConditionError) as caught:
        denoiser_of().condition_on([])
    assert str(caught.value) == "At least one class must be given, among 'ant', 'bee', 'cat'. Got none."


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        (
            {"classes": ("a",)},
            ConditionError,
            "A denoiser must know at least two classes to tell apart. Got ['a'].",
        ),
        ({"classes": ("a", "b", "a")}, ConditionError, "The classes of a denoiser must differ. Got 'a' twice."),
        (
            {"sigma_range": (1.0, 0.5)},
            RangeError,
            "The 'sigma_range' of a denoiser must be 0 < low < high. Got (1.0, 0.5).",
        ),
    ],
)
def test_denoisers_that_make_no_sense(options: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as caught:
        denoiser_of(**options)
    assert str(caught.value) == sentence


# Our own directories


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_model(tmp_path / "tiny", tiny_unet(in_channels=4, out_channels=4), METADATA, CARD)


def test_saved_models_load_and_conform(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == [
        "README.md", "config.json", "diffclass.json", "diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    assert [path.name for path in saved.parent.iterdir()] == ["tiny"]
    denoiser = load_pixel(saved)
    assert denoiser.metadata == METADATA
    assert denoiser.parametrisation == EDM(sigma_data=0.5, time_scale=250.0)
    assert denoiser.space.shape == (4, SIZE, SIZE)
    assert (denoiser.classes, denoiser.null_class, denoiser.sigma_range) == (CLASSES, 3, (0.02, 20.0))
    report = check_denoiser(denoiser)
    assert report.passed, str(report)


def test_saved_weights_are_bfloat16_and_read_into_any_dtype(saved: Path) -> None:
    weights = load_file(saved / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    network = load_pixel(saved).network
    assert network.conv_in.weight.dtype == torch.float32
    assert torch.equal(
        network.conv_in.weight, tiny_unet(in_channels=4, out_channels=4).conv_in.weight.bfloat16().float()
    )


def test_diffusers_opens_saved_models(saved: Path) -> None:
    from diffusers import UNet2DModel

    theirs = UNet2DModel.from_pretrained(saved, dtype=torch.float32)
    ours = load_pixel(saved).network
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True))


def test_saving_replaces_a_model_but_nothing_else(saved: Path) -> None:
    save_model(saved, tiny_unet(in_channels=4, out_channels=4), {**METADATA, "name": "second"}, CARD, torch.float32)
    assert load_pixel(saved).metadata["name"] == "second"
    (saved / "checkpoint.pt").write_bytes(b"precious")
    with pytest.raises(ResultError) as caught:
        save_model(saved, tiny_unet(), METADATA, CARD)
    assert str(caught.value) == (
        f"The model directory {str(saved)!r} must be new or hold only a model. It holds 'checkpoint.pt'."
    )
    assert (saved / "checkpoint.pt").read_bytes() == b"precious"


def test_a_failed_save_leaves_the_old_model(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(ResultError) as caught:
        save_model(saved, tiny_unet(), {**METADATA, "name": "second"}, CARD)
    assert str(caught.value) == f"The model could not be saved in {str(saved)!r}: No space left on device."
    assert load_pixel(saved).metadata["name"] == "tiny"
    assert [path.name for path in saved.parent.iterdir()] == ["tiny"]


def test_a_failed_rename_puts_the_old_model_back(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.suffix == ".part":
            raise OSError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ResultError) as caught:
        save_model(saved, tiny_unet(), {**METADATA, "name": "second"}, CARD)
    assert str(caught.value) == f"The model could not be saved in {str(saved)!r}: Permission denied."
    assert load_pixel(saved).metadata["name"] == "tiny"
    assert [path.name for path in saved.parent.iterdir()] == ["tiny"]


def test_loading_leaves_the_global_random_numbers_alone(saved: Path) -> None:
    before = torch.get_rng_state()
    load_pixel(saved)
    assert torch.equal(before, torch.get_rng_state())


def test_saved_classes_can_be_renamed(saved: Path) -> None:
    assert load_pixel(saved, classes=["x", "y", "z"]).classes == ("x", "y", "z")
    with pytest.raises(ConditionError) as caught:
        load_pixel(saved, classes=["x", "y"])
    assert str(caught.value) == "The 'classes' must be 3 names for 'tiny'. Got 2."
