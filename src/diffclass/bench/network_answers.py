"""The answers of a supervised network, as rows that say the same things as a diffusion classifier's."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float64
from numpy import ndarray

from diffclass.data.datasets import Item
from diffclass.data.images import Prepared, Resize
from diffclass.decide.calibration import probabilities
from diffclass.errors import DiffclassError
from diffclass.robust.supervised import SupervisedNetwork

__all__ = ["NetworkAnswer", "answer_by_network"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkAnswer:
    """What became of one picture.

    Args:
        id: of the picture.
        truth: its class, where that is known.
        content: the rest of its row.
    """

    id: str
    truth: str | None
    content: Mapping[str, Any]

    def row(self) -> dict[str, Any]:
        """Return plain values for a result file; a failed picture has an "error" and no "label"."""
        return {"id": self.id, "truth": self.truth, **self.content}


def answer_by_network(
    network: SupervisedNetwork,
    items: Iterable[Item],
    *,
    names: Sequence[str] = (),
    resize: Resize = "refuse",
    convert: bool = False,
    batch_size: int = 64,
) -> Iterator[list[NetworkAnswer]]:
    """Classify pictures one by one from a stream, and yield answers a batch at a time, in their order.

    A network's log-odds are differences of its logits, known without error. It names the class of the largest logit;
    an evaluation is that of one member.

    Args:
        network: which answers.
        items: read when the network has room for them.
        names: of the classes that the items' labels count.
        resize: "refuse", "crop" or "stretch" pictures of another size than the network's.
        convert: allow grey to become colour and colour grey.
        batch_size: pictures a call.
    """
    for together in _batches(items, batch_size):
        started = time.monotonic()
        answers: list[NetworkAnswer] = []
        ready: list[tuple[Item, Prepared]] = []
        for item in together:
            truth = None if item.label is None or not names else names[item.label]
            try:
                ready.append((item, item.prepare(network.image_shape, resize=resize, convert=convert)))
            except DiffclassError as error:
                answers.append(NetworkAnswer(id=item.id, truth=truth, content={"error": str(error)}))
        if ready:
            logits = network.scores(torch.stack([prepared.image for _, prepared in ready])).double().numpy()
            seconds = (time.monotonic() - started) / len(ready)
            for (item, prepared), row in zip(ready, logits, strict=True):
                truth = None if item.label is None or not names else names[item.label]
                content = _content(network, row) | {"changes": list(prepared.changes), "seconds": seconds}
                answers.append(NetworkAnswer(id=item.id, truth=truth, content=content))
        yield answers


def _batches(items: Iterable[Item], n: int) -> Iterator[tuple[Item, ...]]:
    stream = iter(items)
    while together := tuple(islice(stream, n)):
        yield together


def _content(network: SupervisedNetwork, logits: Float64[ndarray, " class"]) -> dict[str, Any]:
    """Return everything about an answer but what it is of."""
    classes, temperature = network.classes, network.temperature
    order = np.argsort(-logits, kind="stable")
    odds = logits - logits[order[0]]
    scores = probabilities(odds[None], temperature or 1.0)[0].tolist()
    named = dict(zip(classes, scores, strict=True))
    leader, runner_up = (classes[index] for index in order[:2])
    return {
        "label": leader, "leader": leader, "runner_up": runner_up, "log_odds": float(-odds[order[1]]),
        "log_odds_se": 0.0, "probability": None if temperature is None else named[leader], "score": named[leader],
        "probabilities": None if temperature is None else named, "vote_shares": {}, "survivors": [leader],
        "unmeasured": [], "evaluations": network.n_members, "n_draws": 0, "reason": "network", "seed": 0,
        "class_log_odds": dict(zip(classes, odds.tolist(), strict=True)),
    }  # fmt: skip
