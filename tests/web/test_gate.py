"""What gets past the gate: tables of headers and what is answered."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from diffclass.web import Limits
from tiny_web import client_of, png, tiny_app

TOKEN = "a token that is long enough"


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with client_of(tiny_app(Limits(upload=2000), token=TOKEN, hosts=["box.example"])) as found:
        yield found


def said(client: TestClient, **headers: str | bytes) -> tuple[int, Any]:
    bearing: Any = {"authorization": f"Bearer {TOKEN}"} | headers
    response = client.post("/api/v1/classify", params={"model": "tiny"}, content=png(), headers=bearing)
    return response.status_code, response.json().get("error")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8765", "localhost:8765", "[::1]:8765", "192.0.2.7", "BOX.example:80"]
)
def test_hosts_that_may(client: TestClient, host: str) -> None:
    assert said(client, host=host) == (200, None)


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:8765", "localhost.evil.example", "127.0.0.1.evil.example", "[evil]", "a:b"],
)
def test_hosts_that_may_not(client: TestClient, host: str) -> None:
    sentence = f"The Host header must be an address, 'localhost' or a name given with --allow-host. Got {host!r}."
    assert said(client, host=host) == (403, sentence)
    assert client.get("/", headers={"host": host}).status_code == 403


def test_origins(client: TestClient) -> None:
    assert said(client, origin="http://127.0.0.1:8765") == (200, None)
    for origin in ("http://evil.example", "http://127.0.0.1:9999", "null"):
        sentence = f"Requests must come from this server's own page. Got the origin {origin!r}."
        assert said(client, origin=origin) == (403, sentence)


def test_tokens(client: TestClient) -> None:
    sentence = "The request must bear the server's token: 'Authorization: Bearer TOKEN'."
    for given in ("", "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", TOKEN[:-1], "Bearer ä".encode("latin-1")):
        assert said(client, authorization=given) == (401, sentence)
    for path in ("/api/v1/models", "/api/v1/samples", "/api/v1/openapi.json"):
        assert client.get(path).status_code == 401
    for path in ("/", "/page.js", "/healthz", "/api/v1/healthz"):  # no secret in them
        assert client.get(path).status_code == 200


def test_uploads_that_are_too_large(client: TestClient) -> None:
    sentence = {"error": "The picture may have 2,000 bytes at most. Shrink it."}
    options: dict[str, Any] = {"params": {"model": "tiny"}, "headers": {"authorization": f"Bearer {TOKEN}"}}
    for content in (b"x" * 2001, iter([b"x" * 1000] * 3)):  # told at the start, and found out on the way
        response = client.post("/api/v1/classify", content=content, **options)
        assert (response.status_code, response.json()) == (413, sentence)
    lying = {**options, "headers": options["headers"] | {"content-length": "-1"}}
    assert client.post("/api/v1/classify", content=b"x", **lying).status_code == 413


def test_every_answer_keeps_a_browser_from_more_than_it_should(client: TestClient) -> None:
    for path in ("/", "/nothing", "/api/v1/models"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert client.get("/api/v1/healthz").headers["cache-control"] == "no-store"
