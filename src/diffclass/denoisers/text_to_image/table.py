"""The families there are, by the names of their pipelines."""

from pathlib import Path
from typing import Any

from diffclass.denoisers.text_to_image.dit import DIT
from diffclass.denoisers.text_to_image.family import Family
from diffclass.denoisers.text_to_image.flux import FLUX
from diffclass.denoisers.text_to_image.pixart import PIXART
from diffclass.denoisers.text_to_image.sana import SANA
from diffclass.denoisers.text_to_image.stable_diffusion import STABLE_DIFFUSION
from diffclass.denoisers.text_to_image.stable_diffusion_3 import STABLE_DIFFUSION_3
from diffclass.denoisers.text_to_image.stable_diffusion_xl import STABLE_DIFFUSION_XL
from diffclass.errors import UnsupportedModel

__all__ = ["FAMILIES", "check_distillation", "family_of"]

FAMILIES = (STABLE_DIFFUSION, STABLE_DIFFUSION_XL, STABLE_DIFFUSION_3, FLUX, PIXART, SANA, DIT)
_DISTILLED_PIPELINES = ("LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline", "SanaSprintPipeline")
_DISTILLED_WORDS = ("turbo", "lightning", "lcm", "hyper-sd", "schnell", "dmd", "sprint", "consistency", "distill")


def family_of(pipeline: str | None, where: str) -> Family:
    """Find the family of a pipeline class.

    Raises:
        UnsupportedModel: there is none.
    """
    for family in FAMILIES:
        if pipeline in family.pipelines:
            return family
    if pipeline in _DISTILLED_PIPELINES:
        raise UnsupportedModel(_refusal(where, f"its pipeline is a {pipeline}"))
    known = ", ".join(name for family in FAMILIES for name in family.pipelines)
    raise UnsupportedModel(f"The model {where!r} must be one of these diffusers pipelines: {known}. Got {pipeline!r}.")


def check_distillation(family: Family, pipe: Any, names: tuple[str, ...], *, force: bool) -> None:
    """Refuse a network that was distilled to take few steps, unless it is wanted all the same.

    Args:
        family: of the model.
        pipe: its pipeline.
        names: of the model and of a LoRA, if there is one; the last part of each counts.
        force: whether it is wanted all the same.

    Raises:
        UnsupportedModel: the network does not estimate the mean of the clean image.
    """
    if force:
        return
    reason = family.distilled(pipe)
    if reason is None:
        words = [(Path(name).name, word) for name in names for word in _DISTILLED_WORDS if word in _stem(name)]
        reason = f"the name {words[0][0]!r} says so ({words[0][1]})" if words else None
    if reason is not None:
        raise UnsupportedModel(_refusal(names[0], reason) + " To try it all the same, use force=True (--force).")


def _stem(name: str) -> str:
    return Path(name).name.lower()


def _refusal(where: str, reason: str) -> str:
    return (
        f"The model {where!r} was distilled to take few steps ({reason}): it does not estimate the mean of the clean "
        "image, so its errors say little about likelihood. Use the model that it was distilled from."
    )
