"""Explanations of answers, from the layer `explain` where an installation has it.

That layer explains in one go, and a server has other things to do meanwhile: its work runs in a thread of its own that
stops before every network call until it is its turn.
"""

import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from queue import SimpleQueue
from typing import Any, final

import torch
from jaxtyping import Float32
from torch import Tensor

from diffclass.decide.classifier import DiffusionClassifier
from diffclass.denoisers import Conditions, Denoiser, Space
from diffclass.errors import MissingExtra
from diffclass.types import Images, Latents, Sigmas
from diffclass.web.pictures import png_address

__all__ = ["Turns", "can_explain", "check_explain", "explanation"]


def can_explain() -> bool:
    """Whether this installation has the layer."""
    return find_spec("diffclass.explain") is not None


def check_explain() -> None:
    """Refuse to explain where the layer is missing.

    Raises:
        MissingExtra: it is.
    """
    if not can_explain():
        raise MissingExtra("This installation cannot explain answers yet: it has no diffclass.explain.")


def explanation(
    classifier: DiffusionClassifier, image: Float32[Tensor, "channel height width"], toward: str | None
) -> Generator[None, None, dict[str, Any]]:
    """Explain an answer, a network call at a time: pictures with a heading and a note each, and the numbers."""
    turns = Turns()
    told = replace(classifier, denoiser=_TakesTurns(classifier.denoiser, turns))
    found = yield from turns.run(lambda: import_module("diffclass.explain").explain_image(told, image, toward))
    as_png = import_module("diffclass.explain.picture").as_png
    size = (int(image.shape[1]), int(image.shape[2]))
    pictures = [
        {"heading": heading, "note": note, "png": png_address(as_png(pixels)),
         "over": None if over is None else png_address(as_png(over, size))}
        for heading, note, pixels, over in import_module("diffclass.explain.card").panels(found)
    ]  # fmt: skip
    text = f"Why {found.source}, and what would make it {found.to}."
    if not found.counterfactual.flipped:
        text += f" The counterfactual is not answered {found.to}: read it with care."
    return {"text": text, "pictures": pictures, **found.row()}


class _Stopped(BaseException):
    """Nobody waits for the work any more; no handler of mere errors may catch it."""


@final
class Turns:
    """Work in a thread of its own that goes on when it is told to, and only then."""

    def __init__(self) -> None:
        self._orders: SimpleQueue[bool] = SimpleQueue()  # go on, or stop
        self._reports: SimpleQueue[tuple[str, Any]] = SimpleQueue()

    def pause(self) -> None:
        """Wait for a turn; called by the work."""
        self._reports.put(("paused", None))
        self._obey()

    def run(self, work: Callable[[], Any]) -> Generator[None, None, Any]:
        """Do the work, yielding whenever it pauses, and return what it returns. To close the generator stops it."""
        thread = threading.Thread(target=self._work, args=(work,), name="diffclass-explaining", daemon=True)
        thread.start()
        try:
            while True:
                self._orders.put(True)
                kind, found = self._reports.get()
                if kind == "done":
                    return found
                if kind == "failed":
                    raise found
                yield
        except GeneratorExit:
            self._orders.put(False)
            raise
        finally:
            thread.join()

    def _work(self, work: Callable[[], Any]) -> None:
        try:
            self._obey()
            self._reports.put(("done", work()))
        except _Stopped:
            pass
        except Exception as error:
            self._reports.put(("failed", error))

    def _obey(self) -> None:
        if not self._orders.get():
            raise _Stopped


@final
class _TakesTurns:
    """A denoiser that waits for its turn before every network call."""

    def __init__(self, denoiser: Denoiser, turns: Turns) -> None:
        self._denoiser, self._turns = denoiser, turns
        self.metadata = getattr(denoiser, "metadata", {})

    @property
    def space(self) -> Space:
        """Where the model lives."""
        return self._denoiser.space

    @property
    def sigma_range(self) -> tuple[float, float]:
        """[model units] Where the model can be trusted."""
        return self._denoiser.sigma_range

    @property
    def classes(self) -> tuple[str, ...]:
        """Names it was trained on."""
        return self._denoiser.classes

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._denoiser.device

    def encode(self, images: Images) -> Latents:
        """Convert images in [0, 1] to what the denoiser sees."""
        return self._denoiser.encode(images)

    def decode(self, latents: Latents) -> Images:
        """Convert back to images in [0, 1]."""
        return self._denoiser.decode(latents)

    def condition_on(self, prompts: Sequence[str]) -> Conditions:
        """Embed classes or prompts."""
        return self._denoiser.condition_on(prompts)

    def __call__(self, noisy: Latents, sigma: Sigmas, conditions: Conditions) -> Latents:
        """Return E[x | noisy, condition], when it is its turn."""
        self._turns.pause()
        return self._denoiser(noisy, sigma, conditions)
