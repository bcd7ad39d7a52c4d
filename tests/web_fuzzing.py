"""Requests that nobody should send, made by hypothesis, and what every answer to them must be."""

import json
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from hypothesis import strategies as st

from tiny_web import png

__all__ = ["REQUESTS", "check"]

WHOLE = [
    png(0),
    png(1, size=(20, 30), mode="RGB"),
    png(2, kind="GIF"),
    png(3, kind="JPEG"),
    png(4, kind="TIFF"),
    png(5, kind="WEBP"),
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A picture file of which bytes are changed, cut off, repeated or put in."""
    content = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(content)))
        kind = draw(st.sampled_from(["change", "cut", "insert", "repeat"]))
        if kind == "cut":
            del content[at:]
        elif kind == "insert":
            content[at:at] = draw(st.binary(max_size=20))
        elif kind == "repeat":
            content[at:at] = content[at : at + 30]
        elif at < len(content):
            content[at] = draw(st.integers(0, 255))
    return bytes(content)


bodies = st.one_of(st.sampled_from(WHOLE), damaged(), st.binary(max_size=200))
words = st.text(st.characters(blacklist_categories=("Cs",)), max_size=12)
numbers = st.one_of(
    st.integers(-5, 400),
    st.integers(),
    st.floats(),
    st.sampled_from(["", "nan", "inf", "-inf", "1e400", "0x10", "\uff11"]),
    words,
)
names = st.one_of(st.sampled_from(["tiny", "no", "../tiny", "tiny\0"]), words)
queries = st.fixed_dictionaries(
    {"model": st.integers(0, 5).flatmap(lambda number: names if number == 0 else st.just("tiny"))},
    optional={
        "label": st.lists(st.one_of(st.sampled_from("0123456789"), words), max_size=5),
        "sample": st.one_of(st.just("digits-1"), words),
        "resize": st.sampled_from(["crop", "stretch", "refuse", "melt", ""]),
        "convert": st.sampled_from(["true", "false", "1", "maybe"]),
        "sigma": numbers, "n": numbers, "n0": numbers, "alpha": numbers, "radius": numbers,
        "noised": st.sampled_from(["exact", "epndc", "apndc", "apndc-class", "no"]),
        "toward": words,
        "extra": words,
    },
)  # fmt: skip
headers = st.fixed_dictionaries(
    {},
    optional={
        "accept": st.sampled_from(["application/json", "text/event-stream", "*/*", ""]),
        "content-type": st.sampled_from(["image/png", "multipart/form-data; boundary=x", "application/json", ""]),
        "host": st.sampled_from(["127.0.0.1", "evil.example", "[::1]:80", ""]),
        "origin": st.sampled_from(["http://127.0.0.1:8765", "http://evil.example", "null"]),
        "authorization": st.sampled_from(["Bearer x", ""]),
        "content-length": st.sampled_from(["-1", "1e9", "99999999999"]),
    },
)
asking = st.fixed_dictionaries({"accept": st.sampled_from(["application/json", "text/event-stream"])})
samples = words.map(lambda word: f"samples/{word}")
served = ["classify"] * 12 + ["certify"] * 3 + ["explain", "models", "samples", "healthz", "samples/digits-1"]
paths = st.integers(0, 15).flatmap(lambda number: samples if number == 0 else st.sampled_from(served))
rarely = st.integers(0, 9).flatmap(lambda number: headers if number == 0 else asking)
REQUESTS = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["POST"] * 12 + ["GET", "PUT", "DELETE", "OPTIONS"]),
        "path": paths, "params": queries, "headers": rarely, "content": bodies,
    }
)  # fmt: skip


def check(client: TestClient, request: dict[str, Any]) -> int:
    """Send a request; whatever it was, its answer is a result or one sentence. Return the status."""
    options = {name: value for name, value in request.items() if name not in ("method", "path")}
    if request["method"] == "GET":
        options.pop("content")
    params = options.pop("params")
    options["params"] = {
        name: [str(one) for one in value] if isinstance(value, list) else str(value) for name, value in params.items()
    }
    response = client.request(request["method"], f"/api/v1/{_quoted(request['path'])}", **options)
    kind = response.headers.get("content-type", "")
    if response.status_code == 200 and kind.startswith("text/event-stream"):
        last = response.text.rstrip("\n").rpartition("\n\n")[2].split("\n")
        assert last[0] in ("event: answer", "event: certificate"), last[:1]
        json.loads(last[1].removeprefix("data: "), parse_constant=_never)
    elif response.status_code == 200:
        assert kind in ("application/json", "image/png"), kind
        if kind == "application/json":
            said = json.loads(response.content, parse_constant=_never)
            assert not isinstance(said.get("radius"), float) or 0 <= said["radius"] < np.inf
    else:
        assert response.status_code in (401, 403, 404, 405, 413, 422, 501), (response.status_code, response.text)
        said = response.json()
        assert list(said) == ["error"]
        assert isinstance(said["error"], str)
        assert 10 < len(said["error"]) < 700
    return response.status_code


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(path)


def _never(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")
