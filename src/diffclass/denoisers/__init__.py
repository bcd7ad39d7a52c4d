"""Everything that knows a model family: what a denoiser is, which ones there are, and how they are loaded."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from diffclass.denoisers.card import ModelCard
from diffclass.denoisers.catalogue import LOAD_OPTIONS, list_models, load, read_card
from diffclass.denoisers.conformance import Check, Report, check_denoiser
from diffclass.denoisers.parametrisation import EDM, X0, Epsilon, Flow, Parametrisation, V
from diffclass.denoisers.pixel import PixelDenoiser, load_pixel
from diffclass.denoisers.protocol import Conditions, Denoiser, SharesDraws, Space
from diffclass.denoisers.schedule import DiscreteSchedule
from diffclass.denoisers.weights import save_model

if TYPE_CHECKING:
    from diffclass.denoisers.analytic import (
        EmpiricalDenoiser,
        ExactDenoiser,
        GaussianDenoiser,
        GaussianMixtureDenoiser,
    )
    from diffclass.denoisers.convert import convert_checkpoint
    from diffclass.denoisers.fit import fit_mixture
    from diffclass.denoisers.mixture import MixtureDenoiser
    from diffclass.denoisers.text_to_image import PipelineDenoiser

__all__ = [
    "EDM",
    "LOAD_OPTIONS",
    "X0",
    "Check",
    "Conditions",
    "Denoiser",
    "DiscreteSchedule",
    "EmpiricalDenoiser",
    "Epsilon",
    "ExactDenoiser",
    "Flow",
    "GaussianDenoiser",
    "GaussianMixtureDenoiser",
    "MixtureDenoiser",
    "ModelCard",
    "Parametrisation",
    "PipelineDenoiser",
    "PixelDenoiser",
    "Report",
    "SharesDraws",
    "Space",
    "V",
    "check_denoiser",
    "convert_checkpoint",
    "fit_mixture",
    "list_models",
    "load",
    "load_pixel",
    "read_card",
    "save_model",
]

_HOME_OF = {
    "EmpiricalDenoiser": "analytic",
    "ExactDenoiser": "analytic",
    "GaussianDenoiser": "analytic",
    "GaussianMixtureDenoiser": "analytic",
    "MixtureDenoiser": "mixture",
    "PipelineDenoiser": "text_to_image",
    "convert_checkpoint": "convert",
    "fit_mixture": "fit",
}


def __getattr__(name: str) -> Any:
    """Import the exact denoisers, and what converts, when they are first used (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
