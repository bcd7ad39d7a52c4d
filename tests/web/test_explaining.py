"""Work that takes turns, and explanations where the layer that makes them is installed."""

import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from diffclass.decide import DiffusionClassifier
from diffclass.denoisers import check_denoiser
from diffclass.web import explaining
from diffclass.web.explaining import Turns, _TakesTurns
from tiny_mixture import tiny_mixture
from tiny_web import client_of, hang_on, idle, png, serving, tiny_app, until


def test_work_goes_on_turn_by_turn() -> None:
    turns, done = Turns(), []

    def work() -> str:
        for number in range(3):
            turns.pause()
            done.append(number)
        return "all"

    steps = turns.run(work)
    for expected in ([], [0], [0, 1]):
        next(steps)
        assert done == expected
    with pytest.raises(StopIteration) as ended:
        next(steps)
    assert ended.value.value == "all"


def test_work_that_is_closed_stops_where_it_is() -> None:
    turns, reached = Turns(), []

    def work() -> None:
        try:
            turns.pause()
        except Exception:  # what a careless handler does
            reached.append("caught")
        reached.append("went on")

    steps = turns.run(work)
    next(steps)
    steps.close()
    assert reached == []
    assert "diffclass-explaining" not in {thread.name for thread in threading.enumerate()}


def test_work_that_fails_says_so() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError):
        next(turns.run(lambda: 1 / 0))


def test_a_denoiser_that_waits_conforms() -> None:
    turns = Turns()
    waiting = _TakesTurns(tiny_mixture(), turns)
    for _ in turns.run(lambda: check_denoiser(waiting)):
        pass


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the layer: it classifies a picture, and draws it."""

    def explain_image(classifier: DiffusionClassifier, image: torch.Tensor, to: str | None) -> Any:
        decision = classifier.classify(image[None])[0]
        edited = SimpleNamespace(flipped=False)
        row = {"evaluations": decision.evaluations}
        return SimpleNamespace(
            source=decision.leader, to=to or decision.runner_up, counterfactual=edited, row=lambda: row
        )

    pixels = np.zeros((8, 8, 3), np.uint8)
    home, card, picture = (ModuleType(f"diffclass.explain{part}") for part in ("", ".card", ".picture"))
    home.explain_image = explain_image  # type: ignore[attr-defined]
    card.panels = lambda found: (("picture", "as it is", pixels, None), ("evidence", "for", pixels, pixels))  # type: ignore[attr-defined]
    picture.as_png = lambda pixels, size=None: b"png"  # type: ignore[attr-defined]
    modules = {module.__name__: module for module in (home, card, picture)}
    monkeypatch.setattr(explaining, "import_module", modules.__getitem__)
    monkeypatch.setattr(explaining, "can_explain", lambda: True)


def test_an_explanation_is_pictures_and_numbers(layer: None) -> None:
    with client_of(tiny_app()) as client:
        said = client.post("/api/v1/explain?model=tiny&toward=3", content=png()).json()
    assert said["text"] == "Why 1, and what would make it 3. The counterfactual is not answered 3: read it with care."
    assert [one["heading"] for one in said["pictures"]] == ["picture", "evidence"]
    assert [one["over"] for one in said["pictures"]] == [None, "data:image/png;base64,cG5n"]
    assert said["evaluations"] > 0


def test_an_explanation_is_stopped_by_who_hangs_up(layer: None) -> None:
    with serving(tiny_app()) as url:
        connection = hang_on(url, "explain?model=slow")
        assert until(lambda: not idle(url), 10)
        connection.close()
        assert until(lambda: idle(url))
        assert until(lambda: "diffclass-explaining" not in {thread.name for thread in threading.enumerate()})
