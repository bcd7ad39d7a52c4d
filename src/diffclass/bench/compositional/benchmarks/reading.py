"""From "winoground:PATH" to the parts of a benchmark."""

from pathlib import Path

from diffclass.bench.compositional.benchmarks.pairs import read_aro, read_clevr, read_sugarcrepe, read_valse
from diffclass.bench.compositional.benchmarks.several import (
    read_cobi,
    read_self_bench,
    read_whatsup,
    read_winoground,
)
from diffclass.bench.compositional.part import Part
from diffclass.errors import InputError

__all__ = ["READERS", "read_benchmark"]

READERS = {
    "aro": read_aro,
    "clevr": read_clevr,
    "cobi": read_cobi,
    "self-bench": read_self_bench,
    "sugarcrepe": read_sugarcrepe,
    "valse": read_valse,
    "whatsup": read_whatsup,
    "winoground": read_winoground,
}


def read_benchmark(spec: str) -> list[Part]:
    """Read a benchmark's local copy.

    Args:
        spec: NAME:PATH.

    Raises:
        InputError: the name is unknown, or the copy is incomplete.
    """
    name, _, path = spec.partition(":")
    if name not in READERS or not path:
        raise InputError(f"A benchmark must be NAME:PATH, with one of {', '.join(READERS)}. Got {spec!r}.")
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"The benchmark's folder '{folder}' does not exist. Check the path.")
    return READERS[name](folder)
