"""Explanations of answers, from the layer `explain` where an installation has it."""

from collections.abc import Generator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from jaxtyping import Float32
from torch import Tensor

from diffclass.decide.classifier import DiffusionClassifier
from diffclass.errors import MissingExtra

__all__ = ["can_explain", "check_explain", "explanation"]


def can_explain() -> bool:
    """Whether this installation has the layer."""
    return find_spec("diffclass.explain") is not None


def check_explain() -> None:
    """Refuse to explain where the layer is missing.

    Raises:
        MissingExtra: it cannot.
    """
    if not can_explain():
        raise MissingExtra("This installation cannot explain answers yet: it has no diffclass.explain.")


def explanation(
    classifier: DiffusionClassifier, image: Float32[Tensor, "channel height width"], toward: str | None
) -> Generator[None, None, dict[str, Any]]:
    """Explain an answer, step by step."""
    explain = import_module("diffclass.explain")
    yield
    return explain.explain_for_page(classifier, image, toward=toward)
