"""More than a server takes, clients that hang up, and work that breaks: the next one is served all the same."""

import asyncio
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import pytest
import torch
from PIL import Image

from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.web import Limits
from diffclass.web.worker import Job, Worker
from tiny_mixture import tiny_mixture
from tiny_web import FREED, SHAPE, Slow, answer_to, client_of, hang_on, health, idle, png, serving, tiny_app, until


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(tiny_app(Limits(waiting=3, certificates=2))) as url:
        yield url


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("path", ["classify?model=slow", "certify?model=slow&noised=epndc&n=500"])
def test_a_client_that_hangs_up_frees_its_work(server: str, path: str, accept: str) -> None:
    connection = hang_on(server, path, accept=accept)
    assert until(lambda: health(server)["working"] == 1, 10)
    if accept == "text/event-stream":
        assert b"200 OK" in connection.recv(1000)
    connection.close()
    assert until(lambda: idle(server), FREED)


def test_a_client_that_hangs_up_while_it_sends_frees_its_place(server: str) -> None:
    connection = hang_on(server, "classify?model=slow", body=png()[:20])
    assert until(lambda: health(server)["pictures"] == 1, 10)
    assert health(server)["working"] == 0
    connection.close()
    assert until(lambda: idle(server), FREED)


def test_more_than_a_server_takes_is_told_to_come_back(server: str) -> None:
    connections = [hang_on(server, "classify?model=slow") for _ in range(3)]
    assert until(lambda: health(server)["pictures"] == 3, 10)
    answer = answer_to(server, "classify?model=tiny")
    assert answer.startswith("HTTP/1.1 503 ")
    assert 1 <= int(answer.split("retry-after: ")[1].split("\r\n")[0]) <= 60
    assert '"The server has 3 pictures in hand and takes no more. Try again in ' in answer
    for connection in connections:
        connection.close()
    assert until(lambda: idle(server), FREED)
    assert answer_to(server, "classify?model=tiny").startswith("HTTP/1.1 200 ")


def test_certificates_do_not_take_the_places_of_pictures(server: str) -> None:
    connections = [hang_on(server, "certify?model=slow&noised=epndc&n=500") for _ in range(2)]
    assert until(lambda: health(server)["certificates"] == 2, 10)
    assert "The server has 2 certificates and explanations in hand" in answer_to(server, "certify?model=tiny")
    assert answer_to(server, "classify?model=tiny").startswith("HTTP/1.1 200 ")
    for connection in connections:
        connection.close()
    assert until(lambda: idle(server), FREED)


def test_an_upload_that_never_ends_is_cut_off() -> None:
    with serving(tiny_app(Limits(upload_seconds=1.0))) as url:
        answer = answer_to(url, "classify?model=tiny", body=png()[:20])
        assert answer.startswith("HTTP/1.1 408 ")
        assert "An upload must be complete within 1 s." in answer
        assert until(lambda: idle(url), FREED)


def test_one_picture_that_breaks_the_model_takes_no_other_with_it() -> None:
    class Fragile(Slow):
        def __call__(self, noisy: torch.Tensor, sigma: torch.Tensor, conditions: Any) -> torch.Tensor:
            denoised = super().__call__(noisy, sigma, conditions)
            denoised[noisy.amax(dim=(1, 2, 3)) > 1e3] = torch.nan
            return denoised

        def encode(self, images: torch.Tensor) -> torch.Tensor:
            return images * (1e6 if images.mean() == 1 else 1.0)

    white = BytesIO()
    Image.new("L", (8, 8), 255).save(white, format="PNG")
    app = tiny_app(models={"fragile": Fragile(seconds=0.0, n_draws=64)})
    with client_of(app) as client, ThreadPoolExecutor(4) as pool:
        bodies = [png(0), white.getvalue(), png(1), png(2)]
        found = list(pool.map(lambda body: client.post("/api/v1/classify?model=fragile", content=body), bodies))
    assert [one.status_code for one in found] == [200, 500, 200, 200]
    assert found[1].json()["error"].startswith("The model returned NaN or infinity for image ")


def race(worker: Worker, classifier: DiffusionClassifier, image: torch.Tensor) -> Any:
    async def ask() -> Any:
        job = Job()
        worker.race(classifier, image, job)
        return await asyncio.wait_for(job.next(), 20)

    return asyncio.run(ask())


def test_work_that_raises_ends_and_the_worker_goes_on() -> None:
    worker = Worker()
    worker.start()

    def steps() -> Generator[None, None, None]:
        yield
        raise ZeroDivisionError("a bug")

    async def ask() -> Any:
        job = Job()
        worker.work(steps(), job)
        return await asyncio.wait_for(job.next(), 20)

    kind, error = asyncio.run(ask())
    assert (kind, str(error)) == ("failed", "a bug")
    classifier = DiffusionClassifier(denoiser=tiny_mixture(), race=Exhaustive(n_draws=8))
    broken = DiffusionClassifier(denoiser=Slow(), race=Exhaustive(n_draws=8), batch_size=4)
    object.__setattr__(broken, "aggregate", None)  # what only a bug could do
    assert race(worker, broken, torch.full(SHAPE, 0.5))[0] == "failed"
    assert race(worker, classifier, torch.full((1, 9, 9), 0.5))[0] == "failed"
    assert race(worker, classifier, torch.full(SHAPE, 0.5))[0] == "done"
    assert until(lambda: worker.load == 0)
    worker.close(5.0)


def test_a_worker_that_is_closed_stops() -> None:
    before = set(threading.enumerate())
    with client_of(tiny_app()) as client:
        assert client.post("/api/v1/classify?model=tiny", content=png()).status_code == 200
        started = set(threading.enumerate()) - before
        assert "diffclass-worker" in {thread.name for thread in started}
    assert not [thread for thread in started if thread.name == "diffclass-worker" and thread.is_alive()]


def test_idle_classifiers_are_forgotten() -> None:
    worker = Worker()
    worker.start()
    for _ in range(12):
        classifier = DiffusionClassifier(denoiser=tiny_mixture(), race=Exhaustive(n_draws=4))
        assert race(worker, classifier, torch.full(SHAPE, 0.5))[0] == "done"
    assert len(worker._lines) <= 8
    worker.close(5.0)
