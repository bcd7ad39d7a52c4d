"""What a request must get past before anything is done for it: its host, its origin, its token and its size."""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from hmac import compare_digest
from ipaddress import ip_address
from typing import Any, final

from fastapi import HTTPException

from diffclass.web.limits import Limits

__all__ = ["Gate"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_OPEN = ("/healthz", "/api/v1/healthz")  # without a token
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


@final
class Gate:
    """Lets requests through to an application.

    A page elsewhere can make a browser send requests here, under a name of its own that it points at this computer (DNS
    rebinding) or across origins. So the Host must be an address, "localhost" or a name that was allowed, and where
    there is an Origin it must be the Host's. Addresses are safe: a name is what rebinding needs.

    Args:
        app: the application.
        limits: of which the size of an upload counts.
        token: that every request to the API must bear; None: none.
        hosts: names by which this server may be called, besides "localhost" and addresses.
    """

    def __init__(self, app: App, *, limits: Limits, token: str | None = None, hosts: Iterable[str] = ()) -> None:
        self._app, self._limits, self._token = app, limits, token
        self._hosts = {"localhost", *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that may not pass, and hand on any other."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = _with_headers(send)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        await self._app(scope, self._bounded(receive), send)

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Return the status and the sentence for a request that may not pass."""
        host = headers.get("host", "")
        if not self._knows(host):
            return 403, (
                f"The Host header must be an address, 'localhost' or a name given with --allow-host. Got {host[:80]!r}."
            )
        origin = headers.get("origin")
        if origin is not None and scope["method"] not in ("GET", "HEAD") and origin.partition("://")[2] != host:
            return 403, f"Requests must come from this server's own page. Got the origin {origin[:80]!r}."
        path = scope["path"]
        if self._token is not None and path.startswith("/api/") and path not in _OPEN:
            given = headers.get("authorization", "").removeprefix("Bearer ").encode()
            if not compare_digest(given, self._token.encode()):
                return 401, "The request must bear the server's token: 'Authorization: Bearer TOKEN'."
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._limits.upload:
            return 413, self._too_large()
        return None

    def _knows(self, host: str) -> bool:
        """Whether a Host header names this server."""
        before, _, port = host.rpartition(":")
        name = before if port.isdecimal() else host
        if name.startswith("[") and name.endswith("]"):
            name = name[1:-1]
        try:
            ip_address(name)
        except ValueError:
            return name.lower() in self._hosts
        return True

    def _bounded(self, receive: Receive) -> Receive:
        """Return what receives a body up to the limit, whatever its header promised."""
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._limits.upload:
                raise HTTPException(413, self._too_large())
            return message

        return bounded

    def _too_large(self) -> str:
        return f"The picture may have {self._limits.upload:,} bytes at most. Shrink it."


def _with_headers(send: Send) -> Send:
    """Return what sends every response with the headers that keep a browser from doing more than it should."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message["headers"]}
            more = [(key.encode(), value.encode()) for key, value in _HEADERS.items() if key.encode() not in there]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return sending


async def _refuse(send: Send, status: int, sentence: str) -> None:
    """Answer with a sentence, and close: an upload that nobody reads may still be on its way."""
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": sentence}).encode()})
