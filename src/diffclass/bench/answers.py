"""Pictures in, answers out: a stream that a broken picture does not stop."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, final

from jaxtyping import Float32
from torch import Tensor

from diffclass.data.datasets import Item
from diffclass.data.images import Prepared, Resize
from diffclass.decide.classifier import DiffusionClassifier
from diffclass.decide.decision import Decision
from diffclass.errors import DiffclassError
from diffclass.evidence import LikelihoodWeight, Objective

__all__ = ["Answer", "answer_items", "unit_of"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What became of one picture.

    Args:
        id: of the picture.
        truth: its class, where that is known.
        decision: what the classifier says; None for a picture that could not be opened.
        error: why it could not be opened.
        changes: what was done to the picture, beyond decoding it, before the model saw it.
        image: as the model saw it.
        unit: of its log-odds: "nats", or what they are in place of that.
        seconds: of wall time. Pictures share network calls, so the time of those that ended together is divided among
            them by their evaluations, and the sum over pictures is the time of the run.
    """

    id: str
    truth: str | None
    decision: Decision | None = None
    error: str | None = None
    changes: tuple[str, ...] = ()
    image: Float32[Tensor, "channel height width"] | None = field(default=None, repr=False)
    unit: str = "nats"
    seconds: float = 0.0

    def row(self) -> dict[str, Any]:
        """Return plain values for a result file; a failed picture has an "error" and no "label"."""
        head = {"id": self.id, "truth": self.truth}
        if self.decision is None:
            return {**head, "error": self.error}
        evidence = self.decision.evidence
        values = (odds if isfinite(odds) else None for odds in evidence.log_odds().tolist())  # None: never measured
        odds = dict(zip(evidence.classes, values, strict=True))
        tail = {"class_log_odds": odds, "changes": list(self.changes), "seconds": self.seconds}
        return {**head, **self.decision.row(), **tail}


def answer_items(
    classifier: DiffusionClassifier,
    items: Iterable[Item],
    *,
    names: Sequence[str] = (),
    resize: Resize = "refuse",
    convert: bool = False,
    most: int = 64,
    seconds: float = 5.0,
) -> Iterator[list[Answer]]:
    """Classify pictures one by one from a stream, and yield answers a few at a time, in no fixed order.

    Args:
        items: read when the classifier has room for them.
        names: of the classes that the items' labels count.
        resize: "refuse", "crop" or "stretch" pictures of another size than the model's.
        convert: allow grey to become colour and colour grey.
        most: answers that are yielded together.
        seconds: after which answers are yielded, however few they are.
    """
    waiting: dict[int, tuple[Item, Prepared]] = {}
    ready: list[Answer] = []
    shape, unit = classifier.denoiser.space.image_shape, unit_of(classifier.objective)

    def truth(item: Item) -> str | None:
        """Return the name of an item's class, where it is known."""
        return None if item.label is None or not names else names[item.label]

    def images() -> Iterator[tuple[int, Tensor]]:
        """Open the pictures one by one; one that cannot be opened is an answer already."""
        for index, item in enumerate(items):
            try:
                prepared = item.prepare(shape, resize=resize, convert=convert)
            except DiffclassError as error:
                ready.append(Answer(id=item.id, truth=truth(item), error=str(error)))
                continue
            waiting[index] = item, prepared
            yield index, prepared.image

    started = time.monotonic()
    for index, decision in classifier.stream(images()):
        item, prepared = waiting.pop(index)
        ready.append(
            Answer(
                id=item.id, truth=truth(item), decision=decision, changes=prepared.changes, image=prepared.image,
                unit=unit,
            )
        )  # fmt: skip
        now = time.monotonic()
        if len(ready) >= most or now - started >= seconds:
            yield _timed(ready, now - started)
            ready.clear()
            started = now
    if ready:
        yield _timed(ready, time.monotonic() - started)


def unit_of(objective: Objective | None) -> str:
    """Say in what log-odds are: nats only where squared errors are weighted as the likelihood weights them."""
    if objective is None or (isinstance(objective.weight, LikelihoodWeight) and objective.distance == "l2"):
        return "nats"
    return "weighted error, not nats"


def _timed(answers: list[Answer], seconds: float) -> list[Answer]:
    """Divide the time among answers by their evaluations."""
    spent = [0 if answer.decision is None else answer.decision.evaluations for answer in answers]
    total = max(1, sum(spent))
    return [replace(answer, seconds=seconds * n / total) for answer, n in zip(answers, spent, strict=True)]
