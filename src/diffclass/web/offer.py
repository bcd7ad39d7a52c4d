"""The models that a server offers: each loaded once, when it is first asked for, and shared by all requests."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

from diffclass.decide.classifier import DiffusionClassifier
from diffclass.denoisers import Denoiser, load
from diffclass.denoisers.card import ModelCard
from diffclass.denoisers.catalogue import list_models, read_card
from diffclass.errors import ConditionError, ModelError, WeightsMissing

__all__ = ["Offer"]

_CLASSIFIERS = 16  # sets of labels that are remembered, over all models
_ON_A_CPU = 64  # network evaluations a call, at most, so that a batch is soon over


@final
@dataclass(slots=True)
class _Offered:
    """A model by the name it is offered under."""

    source: str
    facts: dict[str, Any]
    denoiser: Denoiser | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


@final
class Offer:
    """Models by name, and the classifiers that requests make of them.

    Args:
        models: bundled names, directories or hub ids; all bundled ones if there are none. Those that are not bundled
            are loaded at once, so that a mistake is told before anything is served. Or denoisers by name.
        device: "auto", "cpu", "cuda", ...
        dtype: of networks.
        seed: of the noise.
        batch_size: network evaluations a call; the model's own, and at most 64 on a CPU, if None.

    Raises:
        ModelError: there is no such model.
    """

    def __init__(
        self,
        models: Sequence[str] | Mapping[str, Denoiser] = (),
        *,
        device: str = "auto",
        dtype: str = "auto",
        seed: int = 0,
        batch_size: int | None = None,
    ) -> None:
        self._device, self._dtype, self._seed, self._batch_size = device, dtype, seed, batch_size
        cards = {card.name: card for card in list_models()}
        self._models: dict[str, _Offered] = {}
        self._classifiers: dict[tuple[str, tuple[str, ...]], DiffusionClassifier] = {}
        self._lock = threading.Lock()
        if isinstance(models, Mapping):
            self._models = {name: _Offered(name, _own_facts(name, model), model) for name, model in models.items()}
        else:
            for source in models or cards:
                self._add(source, cards)
        if not self._models:
            raise WeightsMissing("This installation has no models in it. Name one of your own with --model.")

    def _add(self, source: str, cards: Mapping[str, ModelCard]) -> None:
        if source in cards:
            self._models[source] = _Offered(source, _facts(cards[source]))
            return
        denoiser, name = self._load(source), self._free_name(Path(source).name)
        self._models[name] = _Offered(source, {**_own_facts(source, denoiser), "name": name}, denoiser)

    def _load(self, source: str) -> Denoiser:
        return load(source, device=self._device, dtype=self._dtype)

    def _free_name(self, name: str) -> str:
        """Tell models apart whose directories have one name: where they are is nobody's business."""
        taken = sum(other == name or other.rpartition("-")[0] == name for other in self._models)
        return f"{name}-{taken + 1}" if taken else name

    @property
    def models(self) -> list[dict[str, Any]]:
        """What there is to know of each model, for JSON."""
        return [{**offered.facts, "loaded": offered.denoiser is not None} for offered in self._models.values()]

    def classifier(self, model: str, labels: Sequence[str] = ()) -> DiffusionClassifier:
        """Return the classifier of a model, among some labels or all of its own; the same object for the same request.

        Raises:
            WeightsMissing: no such model is offered.
            ConditionError: the labels cannot be used with it.
        """
        if model not in self._models:
            raise WeightsMissing(f"The model must be one of those served here: {', '.join(self._models)}. "
                                 f"Got {model[:80]!r}.")  # fmt: skip
        key = (model, tuple(labels))
        with self._lock:
            found = self._classifiers.pop(key, None)
        found = found or self._build(self._models[model], tuple(labels))
        with self._lock:
            found = self._classifiers.setdefault(key, found)
            while len(self._classifiers) > _CLASSIFIERS:
                del self._classifiers[next(iter(self._classifiers))]
        return found

    def _build(self, offered: _Offered, labels: tuple[str, ...]) -> DiffusionClassifier:
        with offered.lock:
            if offered.denoiser is None:
                offered.denoiser = self._load(offered.source)
            denoiser = offered.denoiser
            unknown = [label for label in labels if denoiser.classes and label not in denoiser.classes]
            if unknown:
                known = ", ".join(denoiser.classes[:20]) + (", ..." if len(denoiser.classes) > 20 else "")
                raise ConditionError(f"The labels must be classes of the model: {known}. Got {unknown[0][:80]!r}.")
            options: dict[str, Any] = {"classes": labels} if labels else {}
            classifier = DiffusionClassifier.from_pretrained(denoiser, seed=self._seed, **options)
            most = min(classifier.batch_size, _ON_A_CPU) if denoiser.device.type == "cpu" else classifier.batch_size
            return replace(classifier, batch_size=self._batch_size or most)


def _facts(card: ModelCard) -> dict[str, Any]:
    """Return what a card says, without where it lies."""
    return {
        "name": card.name,
        "kind": card.kind,
        "classes": list(card.classes),
        "shape": list(card.shape),
        "licence": card.licence,
        "data": card.data,
        "description": card.description,
        "accuracy": _accuracy(card.figures),
    }


def _own_facts(source: str, denoiser: Denoiser) -> dict[str, Any]:
    """Return what is known of a model that somebody brought."""
    try:
        return _facts(read_card(source))
    except ModelError:
        kind = "network" if denoiser.classes else "text"
        shape = list(denoiser.space.image_shape)
        return {
            "name": source, "kind": kind, "classes": list(denoiser.classes), "shape": shape, "licence": "unknown",
            "data": "unknown", "description": "", "accuracy": None,
        }  # fmt: skip


def _accuracy(figures: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the accuracy with its interval on the test split, or on the first one that has any."""
    found = {split: rows["accuracy"] for split, rows in figures.items()
             if isinstance(rows, Mapping) and isinstance(rows.get("accuracy"), Mapping)}  # fmt: skip
    if not found:
        return None
    split = "test" if "test" in found else next(iter(found))
    return {"split": split, **{key: found[split][key] for key in ("value", "low", "high", "n")}}
