"""Serving on a port of this computer."""

import secrets
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, final

from diffclass.errors import InputError

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["Address", "make_token", "serve"]

_SHORT = 16  # [characters] least length of a token
_LEAVE = 2  # [seconds] for responses under way when the server stops


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server listens; beyond this computer only with a token.

    Args:
        host: "127.0.0.1", another address of this computer, or a name of it.
        port: 0 for any that is free.
        token: that requests to the API must bear.

    Raises:
        InputError: the port is none, the token is too short, or there is none and others could reach the server.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = None

    def __post_init__(self) -> None:
        """Refuse what would be open to everyone."""
        if not 0 <= self.port <= 65535:
            raise InputError(f"The port must be from 0 to 65535. Got {self.port}.")
        if self.token is not None and (len(self.token) < _SHORT or not self.token.isascii()):
            raise InputError(f"A token must have at least {_SHORT} ASCII characters. Got {len(self.token)}. "
                             "Try '--token auto'.")  # fmt: skip
        if self.token is None and not self._is_here():
            raise InputError(
                f"A server that others can reach needs a token. Got the host {self.host!r} without one. "
                "Give --token, or '--token auto' to have one made."
            )

    def _is_here(self) -> bool:
        """Whether only this computer can reach the host."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def listen(self) -> socket.socket:
        """Take the port.

        Raises:
            InputError: it is taken already, or the host is not this computer's.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        taken = socket.socket(family, socket.SOCK_STREAM)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((self.host, self.port))
            taken.listen()
        except OSError as error:
            taken.close()
            remedy = (
                "" if error.errno is None or self.port == 0 else " Choose another with --port, or 0 for a free one."
            )
            reason = error.strerror or str(error)
            raise InputError(f"Port {self.port} of {self.host!r} cannot be used: {reason}.{remedy}") from error
        return taken

    @property
    def name(self) -> str:
        """What others call the host: this computer's name, where it listens on all of its addresses."""
        return socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host

    def url(self, port: int) -> str:
        """Return what to open in a browser; the token is behind the #, which browsers do not send."""
        host = f"[{self.name}]" if ":" in self.name else self.name
        return f"http://{host}:{port}/" + (f"#token={self.token}" if self.token else "")


def make_token() -> str:
    """Return a token that nobody guesses."""
    return secrets.token_urlsafe(24)


def serve(app: "FastAPI", listener: socket.socket) -> None:
    """Serve until it is interrupted."""
    import uvicorn

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=_LEAVE,
        limit_concurrency=512, lifespan="on",
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listener])
