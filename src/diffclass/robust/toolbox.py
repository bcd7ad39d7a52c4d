"""APGD and Square as the Adversarial Robustness Toolbox (ART) has them: the only file that knows it.

Its attacks ask a classifier for labels, losses and gradients; here they are asked of a `Search`, which answers with
exact gradients and keeps the best point. They are never told that they have succeeded, and use up their steps. Their
random numbers are global, and put back afterwards.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import numpy as np
from numpy import ndarray

from diffclass.errors import InputError, MissingExtra
from diffclass.robust.search import Search

try:
    from art.attacks.evasion import AutoProjectedGradientDescent, SquareAttack
    from art.estimators.classification import ClassifierMixin
    from art.estimators.estimator import BaseEstimator, LossGradientsMixin, NeuralNetworkMixin
except ImportError as error:
    raise MissingExtra(
        "Attacks need the Adversarial Robustness Toolbox: pip install 'diffclass[attack]', or name attacks that do "
        "without it: random."
    ) from error

__all__ = ["apgd", "check_square", "square"]

_NORMS: dict[str, Any] = {"linf": np.inf, "l2": 2}
_P_INIT = 0.8


def apgd(search: Search, *, steps: int, restarts: int, seed: int) -> None:
    """Run AutoPGD on the loss of a search.

    Args:
        search: that answers.
        steps: of each restart.
        restarts: each from a random image within the threat.
        seed: of the random numbers.

    Source:
        Croce and Hein 2020, algorithm 1 (arXiv:2003.01690).
    """
    threat = search.threat
    with _seeded(seed):
        attack = AutoProjectedGradientDescent(
            _estimator(search), norm=_NORMS[threat.norm], eps=threat.epsilon, eps_step=2 * threat.epsilon,
            max_iter=steps, nb_random_init=restarts, batch_size=1, loss_type=None, verbose=False,
        )  # fmt: skip
        attack.generate(search.image.numpy()[None], _one_hot(search))


def square(search: Search, *, queries: int, seed: int) -> None:
    """Run the Square attack, which sees log-odds and no gradients.

    Args:
        search: that answers.
        queries: looks, at most.
        seed: of the random numbers.

    Source:
        Andriushchenko et al. 2020, algorithms 1 to 3 (arXiv:1912.00049).
    """
    check_square(search.threat.norm, tuple(search.image.shape))
    with _seeded(seed):
        attack = SquareAttack(
            _estimator(search), norm=_NORMS[search.threat.norm], eps=search.threat.epsilon, max_iter=queries,
            p_init=_P_INIT, nb_restarts=1, batch_size=1, verbose=False, adv_criterion=_never,
            loss=lambda points, _: -search.margins(points),
        )  # fmt: skip
        attack.generate(search.image.numpy()[None], _one_hot(search))


def check_square(norm: str, shape: tuple[int, ...]) -> None:
    """Refuse pictures that ART's Square attack cannot cut into squares.

    Raises:
        InputError: they are too small, or not square.
    """
    least = 14 if norm == "l2" else 5  # or its first window, 80% of the area, may be as large as the picture
    if shape[1] != shape[2] or shape[1] < least:
        raise InputError(
            f"Attack 'square' under {norm} needs square pictures of at least {least}x{least} pixels. "
            f"Got {shape[2]}x{shape[1]}."
        )


def _estimator(search: Search) -> Any:
    """Return what ART calls a classifier with loss gradients."""
    return _Estimator(search)


def _never(labels: ndarray, _: ndarray) -> Any:
    """Say that no point is misclassified yet."""
    return np.zeros(len(labels), dtype=bool)


def _one_hot(search: Search) -> ndarray:
    n_classes = len(search.view.defence.classifier.classes_)
    return np.eye(n_classes, dtype=np.float32)[[search.label]]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators that ART draws from, and put them back."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@final
class _Estimator(ClassifierMixin, LossGradientsMixin, NeuralNetworkMixin, BaseEstimator):
    """A search with the methods that ART calls; the truth that it hands over is the search's own."""

    def __init__(self, search: Search) -> None:
        super().__init__(model=None, clip_values=(0.0, 1.0), preprocessing=None, channels_first=True)
        self._search = search
        self.nb_classes = len(search.view.defence.classifier.classes_)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self._search.image.shape)

    def predict(self, x: ndarray, *_: Any, **__: Any) -> ndarray:
        """Call every point right: ART leaves an image alone once it is wrong, on draws that its judge will not meet."""
        return 2.0 * np.repeat(_one_hot(self._search), len(x), axis=0)  # not 1, which ART takes for a probability

    def compute_loss(self, x: ndarray, y: Any, *_: Any, **__: Any) -> ndarray:
        return self._search.losses(x)

    def loss_gradient(self, x: ndarray, y: Any, *_: Any, **__: Any) -> ndarray:
        return self._search.loss_gradients(x)

    def fit(self, x: ndarray, y: Any, *_: Any, **__: Any) -> None:
        raise NotImplementedError

    def get_activations(self, x: ndarray, *_: Any, **__: Any) -> ndarray:
        raise NotImplementedError
