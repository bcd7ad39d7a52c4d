"""How much one server takes on."""

from dataclasses import dataclass
from typing import final

from diffclass.errors import RangeError

__all__ = ["Limits"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a server refuses, so that no request can take it over.

    Args:
        waiting: pictures in hand at once, being raced or waiting for it; the next one is told to come back.
        certificates: certificates and explanations in hand at once.
        upload: [bytes] largest picture file.
        pixels: largest picture, width x height.
        copies: most noisy copies of one certificate.
        labels: most labels of one request.
        upload_seconds: in which an upload must be complete.

    Raises:
        RangeError: a limit is below 1.
    """

    waiting: int = 64
    certificates: int = 4
    upload: int = 10 * 2**20
    pixels: int = 25_000_000
    copies: int = 10_000
    labels: int = 200
    upload_seconds: float = 30.0

    def __post_init__(self) -> None:
        """Refuse a limit that lets nothing through."""
        for name in self.__slots__:
            if not getattr(self, name) >= 1:
                raise RangeError(f"The '{name}' limit must be at least 1. Got {getattr(self, name)}.")
