"""The API: what it answers is what the library answers, whoever else asks at the same time."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

import diffclass
from diffclass.data import load_image
from diffclass.decide import Decision, DiffusionClassifier
from diffclass.evidence import Engine
from diffclass.robust import certify
from tiny_mixture import tiny_mixture
from tiny_web import SHAPE, client_of, png, tiny_app, until

EVENTS = {"accept": "text/event-stream"}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with client_of(tiny_app()) as found:
        yield found


def classifier(**options: Any) -> DiffusionClassifier:
    return DiffusionClassifier.from_pretrained(tiny_mixture(), batch_size=64, **options)


def answer(content: bytes, **options: Any) -> Decision:
    return classifier(**options).classify(load_image(content, SHAPE)[None])[0]


def events_of(text: str) -> list[tuple[str, Any]]:
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        kind, data = block.split("\n")
        found.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_an_answer_is_the_librarys(client: TestClient) -> None:
    said = client.post("/api/v1/classify", params={"model": "tiny"}, content=png(3)).json()
    row = answer(png(3)).row()
    for name in ("label", "leader", "runner_up", "survivors", "n_draws", "evaluations", "reason", "seed"):
        assert said[name] == row[name]
    assert said["log_odds"] == pytest.approx(row["log_odds"], rel=1e-4)
    assert said["log_odds_se"] == pytest.approx(row["log_odds_se"], rel=1e-4)
    assert said["unit"] == "nats"
    assert said["budget"] == 256 * 10
    assert said["seconds"] > 0
    assert said["class_log_odds"][said["label"]] == 0
    assert set(said["class_log_odds_se"]) == set(said["class_log_odds"])


def test_many_clients_share_batches_and_get_their_own_answers(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, launch = [], Engine._launch
    monkeypatch.setattr(Engine, "_launch", lambda self, cells: (calls.append(len(cells)), launch(self, cells))[1])
    pictures = [png(index) for index in range(6)]
    wanted = [answer(content) for content in pictures]
    alone, calls[:] = len(calls), []

    def ask(content: bytes) -> dict[str, Any]:
        return client.post("/api/v1/classify", params={"model": "tiny"}, content=content).json()

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(ask, pictures))
    assert [one["label"] for one in found] == [decision.label for decision in wanted]
    assert [one["evaluations"] for one in found] == [decision.evaluations for decision in wanted]
    assert sum(calls) == sum(decision.evaluations for decision in wanted)
    assert len(calls) < alone


def test_events_lead_up_to_the_answer(client: TestClient) -> None:
    params = {"model": "tiny", "convert": True}
    response = client.post("/api/v1/classify", params=params, content=png(3, size=(20, 10), mode="RGB"), headers=EVENTS)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response.text)
    assert [kind for kind, _ in events] == ["picture", *["look"] * (len(events) - 2), "answer"]
    assert len(events) > 4
    picture, *looks, last = [data for _, data in events]
    assert picture["changes"] == ["converted from colour to grey", "centre-cropped 20x10 to 10x10",
                                  "resized 10x10 to 8x8"]  # fmt: skip
    assert picture["png"].startswith("data:image/png;base64,iVBOR")
    draws = [look["n_draws"] for look in looks]
    assert draws == sorted(draws)
    for before, after in zip(looks, [*looks[1:], last], strict=True):
        assert set(after["survivors"]) <= set(before["survivors"])
    assert looks[0]["class_log_odds"][looks[0]["leader"]] == 0
    assert last["changes"] == picture["changes"]


def test_labels_are_chosen_among(client: TestClient) -> None:
    params = {"model": "tiny", "label": ["3", "7"]}
    said = client.post("/api/v1/classify", params=params, content=png(2)).json()
    assert said["label"] == answer(png(2), classes=["3", "7"]).label
    assert list(said["class_log_odds"]) == ["3", "7"]


def test_a_certificate_is_the_librarys(client: TestClient) -> None:
    params = {"model": "tiny", "sigma": 0.25, "n": 600}
    said = client.post("/api/v1/certify", params=params, content=png(3)).json()
    row = certify(classifier(), load_image(png(3), SHAPE), sigma=0.25, n=600).row()
    assert {name: said[name] for name in row} == row
    assert said["classes"] == list(tiny_mixture().classes)


def test_a_certificate_reports_as_it_goes(client: TestClient) -> None:
    params = {"model": "slow", "noised": "epndc", "n": 12, "n0": 5, "sigma": 0.3}
    app = tiny_app(models={"slow": tiny_slow()})
    with client_of(app) as own:
        events = events_of(own.post("/api/v1/certify", params=params, content=png(), headers=EVENTS).text)
    kinds = [kind for kind, _ in events]
    assert kinds[0] == "picture"
    assert kinds[-1] == "certificate"
    assert set(kinds[1:-1]) == {"progress"}
    for _, progress in events[1:-1]:
        assert progress["of"] == 17
        assert sum(progress["votes"].values()) + progress["undecided"] in (5, 12)


def tiny_slow() -> Any:
    from tiny_web import Slow

    return Slow(seconds=0.0, n_draws=8)


def test_samples_can_be_classified(client: TestClient) -> None:
    samples = client.get("/api/v1/samples").json()["samples"]
    assert {"digits-1", "digits-5"} <= {sample["name"] for sample in samples}
    content = client.get("/api/v1/samples/digits-1")
    assert content.headers["content-type"] == "image/png"
    by_name = client.post("/api/v1/classify", params={"model": "tiny", "sample": "digits-1"}).json()
    by_body = client.post("/api/v1/classify", params={"model": "tiny"}, content=content.content).json()
    assert by_name["class_log_odds"] == by_body["class_log_odds"]


def test_what_is_served_is_listed(client: TestClient) -> None:
    said = client.get("/api/v1/models").json()
    assert [model["name"] for model in said["models"]] == ["tiny", "slow"]
    assert said["models"][0]["classes"] == [str(digit) for digit in range(10)]
    assert said["models"][0]["shape"] == [1, 8, 8]
    assert said["limits"]["upload"] == 10 * 2**20
    idle = {"status": "ok", "version": diffclass.__version__, "pictures": 0, "certificates": 0, "working": 0}
    assert until(lambda: client.get("/api/v1/healthz").json() == idle)


def test_the_api_describes_itself(client: TestClient) -> None:
    described = client.get("/api/v1/openapi.json").json()
    paths = {path.removeprefix("/api/v1") for path in described["paths"]}
    assert paths == {"/healthz", "/models", "/samples", "/samples/{name}", "/classify", "/certify", "/explain"}
    for verb in ("/classify", "/certify", "/explain"):
        post = described["paths"][f"/api/v1{verb}"]["post"]
        assert "image/*" in post["requestBody"]["content"]
        assert {"401", "403", "404", "413", "422", "503"} <= set(post["responses"])


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/race.js", "/talk.js", "/icon.svg"])
def test_the_page_refers_to_nothing_outside(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert "default-src 'none'" in response.headers["content-security-policy"]
    text = response.text.replace("http://www.w3.org/2000/svg", "")
    assert "http://" not in text
    assert "https://" not in text


def test_models_are_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffclass.web import Offer, offer

    loaded, load = [], offer.load
    monkeypatch.setattr(offer, "load", lambda source, **options: (loaded.append(source), load(source, **options))[1])
    served = Offer(["digits-mixture"])
    assert loaded == []
    with ThreadPoolExecutor(4) as pool:
        labels = [(), ("1", "2"), (), ("3", "4")]
        found = list(pool.map(lambda some: served.classifier("digits-mixture", some), labels))
    assert loaded == ["digits-mixture"]
    assert found[0] is found[2]
    assert found[0].denoiser is found[1].denoiser
