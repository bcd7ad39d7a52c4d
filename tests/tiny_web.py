"""Servers for tests: tiny models, one slow one, and a real port."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from diffclass.denoisers import Conditions
from diffclass.denoisers.analytic import GaussianDenoiser
from diffclass.web import Address, Limits, Offer, create_app
from tiny_mixture import digits, tiny_mixture

SHAPE = (1, 8, 8)
FREED = 2.0  # [seconds] in which the work of a client that hung up must be gone


class Slow(GaussianDenoiser.__mro__[0]):  # type: ignore[misc,name-defined]
    """A model that takes its time over every network call, for races that only end with the budget."""

    def __init__(self, seconds: float = 0.02, n_draws: int = 4096) -> None:
        super().__init__(torch.full((2, *SHAPE), 0.5), 0.2, classes=["a", "b"], sigma_range=(0.01, 10.0))
        self.seconds, self.calls = seconds, 0
        self.metadata = {"classifier": {"n_draws": n_draws, "block": 4}}

    def __call__(self, noisy: torch.Tensor, sigma: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        self.calls += 1
        time.sleep(self.seconds)
        return super().__call__(noisy, sigma, conditions)


def tiny_app(limits: Limits | None = None, **options: Any) -> FastAPI:
    """An application with a mixture of digits, and a slow model."""
    mixture = tiny_mixture()
    models = options.pop("models", {"tiny": mixture, "slow": Slow()})
    return create_app(Offer(models), limits=limits, **options)


@contextmanager
def client_of(app: FastAPI) -> Iterator[TestClient]:
    """A client in this process."""
    with TestClient(app, base_url="http://127.0.0.1:8765") as client:
        yield client


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serve on a free port of this computer, and say where."""
    with Address(port=0).listen() as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


def png(index: int = 0, *, size: tuple[int, int] | None = None, mode: str = "L", kind: str = "PNG") -> bytes:
    """A digit as the content of a picture file."""
    pixels = np.asarray(digits()[index].read())
    image = Image.fromarray((pixels * 255).round().astype(np.uint8))
    image = image.resize(size) if size else image
    out = BytesIO()
    image.convert(mode).save(out, format=kind)
    return out.getvalue()


def until(condition: Any, seconds: float = 2.0) -> bool:
    """Wait for something, and say whether it came in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


def health(url: str) -> dict[str, Any]:
    """What a server has in hand."""
    with urlopen(f"{url}/healthz", timeout=10) as response:
        return json.loads(response.read())


def idle(url: str) -> bool:
    """Whether it has nothing in hand."""
    found = health(url)
    return found["pictures"] == found["certificates"] == found["working"] == 0


def hang_on(url: str, path: str, *, accept: str = "application/json", body: bytes | None = None) -> socket.socket:
    """Send a request and do not wait for the answer."""
    place = urlsplit(url)
    connection = socket.create_connection((place.hostname, place.port), timeout=10)
    body = png() if body is None else body
    head = f"POST /api/v1/{path} HTTP/1.1\r\nHost: {place.netloc}\r\nAccept: {accept}\r\nConnection: close\r\n"
    connection.sendall(f"{head}Content-Length: {len(png())}\r\n\r\n".encode() + body)
    return connection


def answer_to(url: str, path: str, body: bytes | None = None) -> str:
    """Send a request and return everything that comes back."""
    with hang_on(url, path, body=body) as connection:
        return b"".join(iter(lambda: connection.recv(4096), b"")).decode()
