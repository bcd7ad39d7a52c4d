"""Who else judges a counterfactual: a classifier that had no part in making it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float64
from numpy import ndarray
from torch import nn

from diffclass.bench.recording import fingerprint
from diffclass.decide.classifier import DiffusionClassifier
from diffclass.errors import ConditionError, ShapeError
from diffclass.explain.metric import Judge
from diffclass.explain.reference import own_judge
from diffclass.robust.supervised import SupervisedNetwork, is_supervised
from diffclass.types import Images

__all__ = ["Referee"]


@final
class Referee:
    """A supervised network, or another model as a classifier.

    Args:
        model: that judges.
        classes: of the classifier that is judged, in whose order probabilities come.
        n_draws: of a diffusion classifier.

    Raises:
        ConditionError: it does not know the same classes.
    """

    def __init__(
        self, model: SupervisedNetwork | DiffusionClassifier, *, classes: Sequence[str], n_draws: int = 16
    ) -> None:
        self.model, self.n_draws = model, n_draws
        known = model.classes if isinstance(model, SupervisedNetwork) else model.classes_
        if set(known) != set(classes):
            raise ConditionError(
                f"The judge must know the classes that are judged, {', '.join(classes[:10])}. "
                f"Got {', '.join(known[:10])}."
            )
        self._order = [known.index(name) for name in classes]
        self.image_shape = (
            model.image_shape if isinstance(model, SupervisedNetwork) else model.denoiser.space.image_shape
        )

    @classmethod
    def load(
        cls, model: str | Path, *, classes: Sequence[str], shape: tuple[int, int, int], n_draws: int = 16
    ) -> "Referee":
        """Load a network that `diffclass baseline` trained, or any model that classifies.

        Raises:
            ShapeError: it takes other images than `shape`.
            ConditionError: it does not know the same classes.
            ModelError: it cannot be loaded.
        """
        loaded = SupervisedNetwork.load(model) if is_supervised(model) else DiffusionClassifier.from_pretrained(model)
        made = cls(loaded, classes=classes, n_draws=n_draws)
        if made.image_shape != shape:
            raise ShapeError(f"The judge must take images of {shape}. Got one of {made.image_shape}.")
        return made

    @property
    def network(self) -> SupervisedNetwork | None:
        """The network, if it is supervised."""
        return self.model if isinstance(self.model, SupervisedNetwork) else None

    @property
    def last_stage(self) -> nn.Module | None:
        """The last layer of a supervised network that has pixels."""
        if self.network is None:
            return None
        resnet: Any = self.network.network
        return resnet.resnet.encoder.stages[-1]

    def logits(self, images: Images) -> torch.Tensor:
        """Return a supervised network's logits, in the order of the classes, with gradients."""
        assert self.network is not None
        return self.network.logits(images)[:, self._order]

    def of(self, image: torch.Tensor) -> Judge:
        """Return the judge of images near one image."""
        if isinstance(self.model, DiffusionClassifier):
            own = own_judge(self.model, image, n_draws=self.n_draws)
            return lambda images: own(images)[:, self._order]
        return self._probabilities

    @torch.inference_mode()
    def _probabilities(self, images: Images) -> Float64[ndarray, "batch class"]:
        """Return the softmax of a network's logits."""
        assert self.network is not None
        return self.logits(images.to(self.network.device)).double().softmax(dim=1).cpu().numpy().astype(np.float64)

    def described(self) -> dict[str, Any]:
        """Return what its judgements depend on, as plain values."""
        held = self.network if self.network is not None else self.model.denoiser  # type: ignore[union-attr]
        return {"kind": type(held).__name__, "weights": fingerprint(held), "n_draws": self.n_draws}
