"""From "clip:DIR" to a scorer."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffclass.bench.compositional.scorer import Scorer
from diffclass.errors import InputError

__all__ = ["KINDS", "open_scorers"]

KINDS = ("diffusion", "clip", "vilt", "blind", "chance")
_SPEC = re.compile(r"(?:(?P<name>[A-Za-z0-9][\w.-]*)=)?(?P<kind>[a-z]+)(?::(?P<rest>.+))?", re.DOTALL)


def open_scorers(
    specs: Sequence[str],
    *,
    device: str = "auto",
    dtype: str = "auto",
    race: str = "paired",
    draws: int | None = None,
    delta: float = 0.01,
    keep: int = 5,
    n_others: int = 8,
    **options: Any,
) -> list[Scorer]:
    """Open scorers by what the command line calls them.

    Args:
        specs: "diffusion:MODEL", "clip:MODEL", "vilt:MODEL", "blind:" before one of these, or "chance"; each with
            "NAME=" in front where another name than its own is wanted.
        device: of all of them.
        dtype: of diffusion models; the others compute in float32.
        race: of diffusion models, as draws, delta and keep: see `DiffusionScorer`.
        draws: most draws for a caption.
        delta: chance of an error of a paired race.
        keep: captions that the published schedule keeps.
        n_others: pictures that a blind scorer is shown.
        options: of `PipelineOptions` and `DiffusionClassifier`, for diffusion models.

    Raises:
        InputError: a scorer is unknown, or two have one name.
        ModelError: a model cannot be had or used.
        ConditionError: a diffusion model reads no text.
    """
    if not specs:
        raise InputError(f"There must be at least one scorer. Name some of {', '.join(KINDS)}.")
    settings = {"race": race, "draws": draws, "delta": delta, "keep": keep}
    parsed = [_parse(spec) for spec in specs]
    names = [name for name, _, _ in parsed]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"Scorers need names that differ. {twice!r} is there twice. Try NAME={specs[0]}.")
    place = {"device": device, "dtype": dtype, "n_others": n_others}
    return [_opened(name, kind, rest, settings, place, options) for name, kind, rest in parsed]


def _parse(spec: str) -> tuple[str, str, str]:
    """Return name, kind and the rest."""
    found = _SPEC.fullmatch(spec)
    kind, rest = (found["kind"], found["rest"] or "") if found else ("", "")
    if kind not in KINDS or (kind == "chance") != (not rest):
        raise InputError(
            f"A scorer must be diffusion:MODEL, clip:MODEL, vilt:MODEL, blind:SCORER or chance. Got {spec!r}."
        )
    assert found is not None
    if kind == "blind":
        inner, inner_kind, _ = _parse(rest)
        if inner_kind in ("blind", "chance"):
            raise InputError(f"A blind scorer must be made of diffusion, clip or vilt. Got {spec!r}.")
        return found["name"] or f"blind-{inner}", kind, rest
    own = re.sub(r"[^\w.-]+", "-", Path(rest).name) if rest else ""
    return found["name"] or "-".join(filter(None, (kind, own))), kind, rest


def _opened(
    name: str, kind: str, rest: str, settings: dict[str, Any], place: dict[str, Any], options: dict[str, Any]
) -> Scorer:
    """Open one scorer."""
    from diffclass.bench.compositional import baseline, diffusion, encoders
    from diffclass.decide.zero_shot import ZeroShotClassifier
    from diffclass.denoisers.catalogue import choose_device

    if kind == "chance":
        return baseline.Chance(name=name)
    if kind == "blind":
        base = _opened(*_parse(rest), settings, place, options)
        return baseline.Blind(base=base, n_others=place["n_others"], name=name)
    if kind == "diffusion":
        model = ZeroShotClassifier.from_pretrained(rest, device=place["device"], dtype=place["dtype"], **options)
        return diffusion.DiffusionScorer(name=name, model=model, **settings)
    encoder = encoders.ClipScorer if kind == "clip" else encoders.ViltScorer
    return encoder.from_pretrained(rest, name=name, device=str(choose_device(place["device"])))
