"""What a diffusers scheduler's configuration says about its network: the parametrisation and the noise range."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from diffclass.denoisers.card import check_keys
from diffclass.denoisers.parametrisation import EDM, X0, Epsilon, Flow, Parametrisation, V
from diffclass.denoisers.schedule import DiscreteSchedule
from diffclass.errors import UnsupportedModel

__all__ = ["parametrisation_of", "parametrisation_settings", "read_parametrisation"]

_PREDICTIONS = {"epsilon": Epsilon, "v_prediction": V, "sample": X0}
_KINDS = {"edm": EDM, "flow": Flow, "epsilon": Epsilon, "v": V, "x0": X0}
_DISCRETE = (
    "DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler", "DDIMInverseScheduler",
    "PNDMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "LMSDiscreteScheduler", "SASolverScheduler", "UniPCMultistepScheduler",
)  # fmt: skip
_EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
_FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
_DISTILLED = (
    "CMStochasticIterativeScheduler", "ConsistencyDecoderScheduler", "FlowMatchLCMScheduler", "LCMScheduler",
    "SCMScheduler", "TCDScheduler",
)  # fmt: skip
_UNDISTILLED = {"LCMScheduler": "DDPMScheduler", "TCDScheduler": "DDPMScheduler"}
_UNDISTILLED |= {"FlowMatchLCMScheduler": "FlowMatchEulerDiscreteScheduler"}
_BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
_SIGMA_LIMIT = 1000.0  # [model units] an image drowns in float32 beyond it, and zero-SNR tables end in infinity

Found = tuple[Parametrisation, tuple[float, float]]


def parametrisation_of(scheduler: Mapping[str, Any], *, distilled: bool = False) -> Found:
    """Read a scheduler's configuration (the content of scheduler_config.json).

    Args:
        scheduler: the configuration.
        distilled: take a distilled network for what it was distilled from, where its scheduler says enough.

    Returns:
        The parametrisation, and the noise range [model units] of the scheduler.

    Raises:
        UnsupportedModel: the network does not predict a posterior mean, or nobody has said how.
    """
    name = scheduler.get("_class_name")
    prediction = scheduler.get("prediction_type", "epsilon")
    if distilled and name in _UNDISTILLED:
        name = _UNDISTILLED[name]
        scheduler = {**scheduler, "_class_name": name}
    if name in _DISTILLED:
        raise UnsupportedModel(
            f"A network of {name} was distilled to jump to the end of a trajectory: it does not estimate the mean of "
            "the clean image, so its errors say nothing about likelihood. Use the model it was distilled from."
        )
    if name in _EDM and prediction in ("epsilon", "v_prediction"):
        edm = EDM(sigma_data=scheduler.get("sigma_data", 0.5), sign=1.0 if prediction == "epsilon" else -1.0)
        return edm, (scheduler.get("sigma_min", 0.002), scheduler.get("sigma_max", 80.0))
    if name in _FLOW or (name in _DISCRETE and prediction == "flow_prediction"):
        return _flow(scheduler)
    if name in _DISCRETE and prediction in _PREDICTIONS and scheduler.get("timestep_type") != "continuous":
        schedule = _schedule(scheduler)
        return _PREDICTIONS[prediction](schedule), schedule.sigma_range
    times = " and continuous times" if scheduler.get("timestep_type") == "continuous" else ""
    raise UnsupportedModel(
        "The scheduler must be one whose network predicts epsilon, v, the image or a flow at a known noise level. "
        f"Got {name!r} with prediction_type {prediction!r}{times}."
    )


def read_parametrisation(metadata: Mapping[str, Any]) -> Parametrisation:
    """Read the "parametrisation" of a diffclass.json.

    Kinds "edm" (sigma_data, time_scale) and "flow" (time_scale) hold their numbers; "epsilon", "v" and "x0" hold a
    "schedule": the noise schedule in the words of diffusers' DDPMScheduler (num_train_timesteps, beta_start, ...), or
    the table itself ("sigmas").

    Raises:
        UnsupportedModel: the kind is unknown, or its numbers are.
    """
    numbers = dict(metadata)
    kind = numbers.pop("kind", None)
    if kind not in _KINDS:
        raise UnsupportedModel(f"The parametrisation must be one of {', '.join(_KINDS)}. Got {kind!r}.")
    check_keys(numbers, _KINDS[kind], f"The parametrisation {kind!r}")
    if "schedule" in numbers:
        told = numbers["schedule"]
        numbers["schedule"] = (
            _table(told["sigmas"]) if "sigmas" in told else _schedule({"_class_name": "DDPMScheduler", **told})
        )
    return _KINDS[kind](**numbers)


def parametrisation_settings(parametrisation: Parametrisation) -> dict[str, Any]:
    """Return the "parametrisation" of a diffclass.json, which `read_parametrisation` turns into the very same value.

    Raises:
        UnsupportedModel: it is of a class of the caller's own.
    """
    kind = next((name for name, known in _KINDS.items() if type(parametrisation) is known), None)
    if kind is None:
        raise UnsupportedModel(
            f"A model can be saved if its parametrisation is one of {', '.join(_KINDS)}. "
            f"Got {type(parametrisation).__name__}."
        )
    values: Any = parametrisation
    if isinstance(parametrisation, Epsilon | V | X0):
        return {"kind": kind, "schedule": {"sigmas": parametrisation.schedule.sigmas.double().tolist()}}
    return {"kind": kind, **asdict(values)}


def _table(sigmas: Any) -> DiscreteSchedule:
    """Read a schedule that is given as its noise levels."""
    try:
        table = torch.tensor([float(sigma) for sigma in sigmas], dtype=torch.float64)
    except (TypeError, ValueError):
        table = torch.empty(0)
    if len(table) < 2 or not bool((table > 0).all() and (table.diff() > 0).all() and table.isfinite().all()):
        raise UnsupportedModel("The 'sigmas' of a schedule must be two or more positive numbers, ascending.")
    return DiscreteSchedule(table)


def _flow(scheduler: Mapping[str, Any]) -> Found:
    """Read a rectified flow: t in steps of 1/n, the two ends (no noise, no image) left out."""
    if scheduler.get("invert_sigmas"):
        raise UnsupportedModel("A flow whose scheduler inverts its sigmas (from noise at t = 0) is not supported.")
    n = scheduler.get("num_train_timesteps", 1000)
    return Flow(time_scale=float(n)), (1 / (n - 1), float(n - 1))


def _schedule(scheduler: Mapping[str, Any]) -> DiscreteSchedule:
    """Build the table of a variance-preserving scheduler.

    diffusers makes the table: its solvers share one definition of the betas, but some overwrite the last value, so
    DDPMScheduler makes it for all, with the solver's own defaults.
    """
    import diffusers

    defaults = inspect.signature(getattr(diffusers, scheduler["_class_name"]).__init__).parameters
    options = {key: scheduler.get(key, defaults[key].default) for key in _BETAS if key in scheduler or key in defaults}
    try:
        alphas_cumprod = diffusers.DDPMScheduler(**options).alphas_cumprod.double()
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UnsupportedModel(f"The noise schedule of {scheduler['_class_name']} cannot be built: {error}.") from error
    usable = (1 - alphas_cumprod) <= _SIGMA_LIMIT**2 * alphas_cumprod
    return DiscreteSchedule.from_alphas_cumprod(alphas_cumprod[: int(torch.cumprod(usable, 0).sum())])
