"""Parametrisations against Gaussian algebra, and schedules against diffusers."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from diffclass.denoisers import EDM, X0, DiscreteSchedule, Epsilon, Flow, Parametrisation, V
from diffclass.denoisers.scheduler import parametrisation_of, read_parametrisation
from diffclass.errors import InputError, UnsupportedModel

S = 0.3  # std of the Gaussian that plays the data
MU = torch.tensor([[0.5, -1.0], [0.25, 0.75]], dtype=torch.float64)[None, None]
SIGMAS = torch.tensor([0.011, 0.1, 0.3, 1.0, 7.0, 80.0], dtype=torch.float64)
ABAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def means(z: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """E[x0 | z] and E[epsilon | z] where z = a x0 + b epsilon and x0 is N(MU, S^2)."""
    gain = (z - a * MU) / (a**2 * S**2 + b**2)
    return MU + a * S**2 * gain, b * gain


def columns(values: Tensor) -> Tensor:
    return values.double()[:, None, None, None]


def variance_preserving(table: DiscreteSchedule, time: Tensor) -> tuple[Tensor, Tensor]:
    sigma = columns(table.sigma(time))
    return 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()


def exact_epsilon(table: DiscreteSchedule, z: Tensor, time: Tensor) -> Tensor:
    return means(z, *variance_preserving(table, time))[1]


def exact_v(table: DiscreteSchedule, z: Tensor, time: Tensor) -> Tensor:
    a, b = variance_preserving(table, time)
    x0, epsilon = means(z, a, b)
    return a * epsilon - b * x0


def exact_x0(table: DiscreteSchedule, z: Tensor, time: Tensor) -> Tensor:
    return means(z, *variance_preserving(table, time))[0]


def exact_flow(table: DiscreteSchedule, z: Tensor, time: Tensor) -> Tensor:
    t = columns(time) / 1000
    x0, epsilon = means(z, 1 - t, t)
    return epsilon - x0


def exact_edm(table: DiscreteSchedule, z: Tensor, time: Tensor) -> Tensor:
    """The mean of EDM's training target, (x0 - c_skip x) / c_out; here sigma_data is 0.5 and time_scale 250."""
    sigma = columns((time * 4 / 250).exp())
    size = (sigma**2 + 0.25).sqrt()
    x = z * size
    x0, _ = means(x, torch.ones_like(sigma), sigma)
    return (x0 - 0.25 / size**2 * x) * size / (0.5 * sigma)


TABLE = DiscreteSchedule.from_alphas_cumprod(ABAR)
CASES: dict[str, tuple[Parametrisation, Callable[[DiscreteSchedule, Tensor, Tensor], Tensor]]] = {
    "epsilon": (Epsilon(TABLE), exact_epsilon),
    "v": (V(TABLE), exact_v),
    "x0": (X0(TABLE), exact_x0),
    "flow": (Flow(), exact_flow),
    "edm": (EDM(sigma_data=0.5, time_scale=250.0), exact_edm),
}


@pytest.mark.parametrize("name", CASES)
def test_five_parametrisations_of_one_gaussian_agree(name: str) -> None:
    """O8. The bound is float32's, in which times are kept: 1e-5; where they are exact, 1e-10."""
    parametrisation, network = CASES[name]
    noisy = MU + torch.randn(len(SIGMAS), 1, 2, 2, dtype=torch.float64) * (S**2 + columns(SIGMAS) ** 2).sqrt()
    sample, time = parametrisation.prepare(noisy, SIGMAS)
    got = parametrisation.denoised(noisy, SIGMAS, network(TABLE, sample, time))
    exact = (S**2 * noisy + columns(SIGMAS) ** 2 * MU) / (S**2 + columns(SIGMAS) ** 2)
    assert got.dtype == torch.float64
    assert (got - exact).abs().max() < (1e-10 if name in ("flow", "edm") else 1e-5)


@pytest.mark.parametrize("sigma", [0.02, 0.5, 3.0])
def test_edm_keeps_input_and_target_at_unit_variance(sigma: float) -> None:
    """Karras et al. 2022, appendix B.6; variances of 40,000 values: 6 standard errors, false alarm 1e-8."""
    edm = EDM(sigma_data=0.7)
    x, epsilon = 0.7 * torch.randn(40_000, 1, 1, 1), torch.randn(40_000, 1, 1, 1)
    sigmas, noisy = torch.full((40_000,), sigma), x + sigma * epsilon
    sample, time = edm.prepare(noisy, sigmas)
    skip = edm.denoised(noisy, sigmas, torch.zeros_like(noisy))
    out = edm.denoised(torch.zeros_like(noisy), sigmas, torch.ones_like(noisy))
    bound = 6 * math.sqrt(2 / 40_000)
    assert sample.var().item() == pytest.approx(1, abs=bound)
    assert ((x - skip) / out).var().item() == pytest.approx(1, abs=bound)
    assert time[0].item() == pytest.approx(math.log(sigma) / 4)


def test_edm_output_is_zero_where_the_skip_connection_is_exact() -> None:
    """For N(0, sigma_data^2) the posterior mean is the skip connection."""
    noisy, sigma = torch.randn(3, 1, 2, 2), torch.tensor([0.1, 1.0, 9.0])
    got = EDM(sigma_data=0.7).denoised(noisy, sigma, torch.zeros_like(noisy))
    torch.testing.assert_close(got, 0.49 / (0.49 + sigma[:, None, None, None] ** 2) * noisy)


def test_sign_turns_the_output_of_edm() -> None:
    noisy, sigma, output = torch.randn(2, 1, 2, 2), torch.tensor([0.1, 1.0]), torch.randn(2, 1, 2, 2)
    assert torch.equal(EDM(sign=-1.0).denoised(noisy, sigma, output), EDM().denoised(noisy, sigma, -output))


# Schedules


def test_table_holds_the_noise_of_every_time() -> None:
    assert TABLE.sigma_range == pytest.approx((math.sqrt(1e-4 / 0.9999), 157.40737), rel=1e-5)
    times = torch.tensor([0.0, 1.0, 499.0, 999.0])
    torch.testing.assert_close(TABLE.sigma(times), ((1 - ABAR) / ABAR).sqrt()[times.long()].float())


def test_time_and_sigma_undo_each_other() -> None:
    times = torch.tensor([0.0, 0.5, 3.25, 500.5, 998.75, 999.0])
    torch.testing.assert_close(TABLE.time(TABLE.sigma(times)), times, rtol=0, atol=1e-3)


def test_times_stop_at_the_ends_of_the_table() -> None:
    assert TABLE.time(torch.tensor([1e-6, 1e6])).tolist() == [0, 999]


def test_log_sigma_is_linear_between_times() -> None:
    between = TABLE.sigma(torch.tensor([10.5]))
    ends = TABLE.sigma(torch.tensor([10.0, 11.0]))
    torch.testing.assert_close(between, ends.prod(dim=0, keepdim=True).sqrt())


@pytest.mark.parametrize("abar", [[0.9, 0.9, 0.5], [0.5, 0.9]])
def test_noise_must_grow_with_time(abar: list[float]) -> None:
    with pytest.raises(InputError, match=r"^A schedule must have strictly decreasing 'alphas_cumprod'\.$"):
        DiscreteSchedule.from_alphas_cumprod(torch.tensor(abar))


# diffusers' schedulers

BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
PREDICTIONS = ("epsilon", "v_prediction", "sample")


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("betas", BETAS)
def test_errors_are_those_of_ddpm_scheduler(betas: str, prediction: str) -> None:
    """|D - x|^2 is the scheduler's own error up to the factor that its target implies, for any output at all."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(beta_schedule=betas, prediction_type=prediction)
    parametrisation, _ = parametrisation_of(dict(scheduler.config, _class_name="DDPMScheduler"))
    t = torch.tensor([0, 10, 500, 998])
    x, epsilon, output = torch.randn(3, 4, 1, 3, 3, dtype=torch.float64).unbind()
    abar = columns(scheduler.alphas_cumprod[t])
    sigma = ((1 - abar) / abar).sqrt()
    noisy = x + sigma * epsilon
    sample, time = parametrisation.prepare(noisy, sigma.flatten())
    torch.testing.assert_close(sample, scheduler.add_noise(x, epsilon, t), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(time, t.float(), rtol=0, atol=2e-3)
    target, factor = {
        "epsilon": (epsilon, sigma**2),
        "v_prediction": (scheduler.get_velocity(x, epsilon, t), 1 - abar),
        "sample": (x, torch.ones_like(abar)),
    }[prediction]
    ours = (parametrisation.denoised(noisy, sigma.flatten(), output) - x).square()
    torch.testing.assert_close(ours, factor * (output - target).square(), rtol=1e-4, atol=1e-10)


@pytest.mark.parametrize("sign", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_edm_is_that_of_the_edm_schedulers(name: str, sign: str) -> None:
    import diffusers

    scheduler = getattr(diffusers, name)(sigma_data=0.7, prediction_type=sign, sigma_min=0.01, sigma_max=60.0)
    edm, sigma_range = parametrisation_of(dict(scheduler.config, _class_name=name))
    noisy, output = torch.randn(2, 5, 1, 2, 2).unbind()
    sigma = torch.tensor([0.01, 0.1, 1.0, 10.0, 60.0])
    sample, time = edm.prepare(noisy, sigma)
    column = sigma[:, None, None, None]
    torch.testing.assert_close(sample, scheduler.precondition_inputs(noisy, column))
    torch.testing.assert_close(time, scheduler.precondition_noise(sigma))
    torch.testing.assert_close(
        edm.denoised(noisy, sigma, output), scheduler.precondition_outputs(noisy, output, column)
    )
    assert sigma_range == (0.01, 60.0)


def test_flow_is_that_of_the_flow_scheduler() -> None:
    """scale_noise looks times up in its own table, which `shift` distorts: sigma is what both share."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    flow, sigma_range = parametrisation_of(dict(scheduler.config, _class_name="FlowMatchEulerDiscreteScheduler"))
    where = torch.tensor([5, 300, 990])
    t = scheduler.sigmas[where].double()
    sigma = t / (1 - t)
    x, epsilon, output = torch.randn(3, 3, 1, 2, 2, dtype=torch.float64).unbind()
    sample, time = flow.prepare(x + columns(sigma) * epsilon, sigma)
    torch.testing.assert_close(sample, scheduler.scale_noise(x, scheduler.timesteps[where], epsilon))
    torch.testing.assert_close(time.float(), scheduler.timesteps[where])
    ours = (flow.denoised(x + columns(sigma) * epsilon, sigma, output) - x).square()
    torch.testing.assert_close(ours, columns(t) ** 2 * (output - (epsilon - x)).square())
    assert sigma_range == pytest.approx((1 / 999, 999))


SOLVERS = (
    "DDIMScheduler", "PNDMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "SASolverScheduler",
    "DPMSolverSinglestepScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler", "DDPMParallelScheduler",
)  # fmt: skip


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_have_the_schedule_they_build(name: str) -> None:
    import diffusers

    scheduler = getattr(diffusers, name)(beta_schedule="scaled_linear", beta_start=0.001, num_train_timesteps=200)
    parametrisation, _ = parametrisation_of(dict(scheduler.config, _class_name=name))
    assert isinstance(parametrisation, Epsilon)
    abar = scheduler.alphas_cumprod.double()
    torch.testing.assert_close(parametrisation.schedule.sigmas, ((1 - abar) / abar).sqrt(), rtol=1e-6, atol=0)


def test_absent_options_are_the_defaults_of_the_solver() -> None:
    """HeunDiscreteScheduler's betas do not start where DDPMScheduler's do."""
    _, (low, _) = parametrisation_of({"_class_name": "HeunDiscreteScheduler"})
    assert low == pytest.approx(math.sqrt(0.00085 / (1 - 0.00085)), rel=1e-4)


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_zero_terminal_snr_ends_at_a_finite_noise(name: str) -> None:
    found, (_, high) = parametrisation_of(
        {"_class_name": name, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    )
    assert isinstance(found, V)
    assert 100 < high <= 1000
    assert high == float(found.schedule.sigmas[-1])


@pytest.mark.parametrize(
    ("scheduler", "sentence"),
    [
        (
            {"_class_name": "ScoreSdeVeScheduler"},
            "The scheduler must be one whose network predicts epsilon, v, the image or a flow at a known noise level. "
            "Got 'ScoreSdeVeScheduler' with prediction_type 'epsilon'.",
        ),
        (
            {
                "_class_name": "EulerDiscreteScheduler",
                "timestep_type": "continuous",
                "prediction_type": "v_prediction",
            },
            "The scheduler must be one whose network predicts epsilon, v, the image or a flow at a known noise level. "
            "Got 'EulerDiscreteScheduler' with prediction_type 'v_prediction' and continuous times.",
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True},
            "A flow whose scheduler inverts its sigmas (from noise at t = 0) is not supported.",
        ),
        (
            {"_class_name": "DDPMScheduler", "beta_schedule": "straight"},
            "The noise schedule of DDPMScheduler cannot be built: straight is not implemented for "
            "<class 'diffusers.schedulers.scheduling_ddpm.DDPMScheduler'>.",
        ),
    ],
)
def test_other_schedulers_are_refused(scheduler: dict[str, object], sentence: str) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        parametrisation_of(scheduler)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({"kind": "edm", "sigma_data": 0.4, "time_scale": 250.0}, EDM(sigma_data=0.4, time_scale=250.0)),
        ({"kind": "flow", "time_scale": 1.0}, Flow(time_scale=1.0)),
    ],
)
def test_parametrisations_are_read_back(metadata: dict[str, object], found: Parametrisation) -> None:
    assert read_parametrisation(metadata) == found


@pytest.mark.parametrize(("kind", "cls"), [("epsilon", Epsilon), ("v", V), ("x0", X0)])
def test_schedules_are_read_back(kind: str, cls: type) -> None:
    found = read_parametrisation({"kind": kind, "schedule": {"num_train_timesteps": 1000}})
    assert isinstance(found, cls)
    np.testing.assert_allclose(found.schedule.sigmas, TABLE.sigmas, rtol=1e-3)
