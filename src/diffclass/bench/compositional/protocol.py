"""The tasks of concept binding as parts: tasks x splits x settings."""

from collections.abc import Sequence
from pathlib import Path

from diffclass.bench.compositional.candidates import SETTINGS
from diffclass.bench.compositional.items import read_items
from diffclass.bench.compositional.part import Part
from diffclass.errors import InputError

__all__ = ["protocol_parts"]


def protocol_parts(
    directory: str | Path,
    *,
    tasks: Sequence[str],
    splits: Sequence[str],
    settings: Sequence[str] = SETTINGS,
    seed: int = 0,
) -> list[Part]:
    """Read the items of every task, split and setting.

    Under "zsl" a picture's candidates are of its own split's pool, under "gzsl" seen and unseen ones compete. A tie
    counts one over the number tied, for every scorer, so that a scorer that cannot tell captions apart is at chance.

    Args:
        directory: of the data.
        tasks: single, pair, relation or depth.
        splits: train, id-validation, id-test, ood-validation or ood-test.
        settings: "zsl", "gzsl" or both.
        seed: of the choice of candidates, which is the same for all scorers.

    Raises:
        InputError: a setting is unknown, nothing is asked for, or the data cannot be read.

    Source:
        Pearson et al. 2025 (aclanthology.org/2025.starsem-1.9).
    """
    for name, values in (("task", tasks), ("split", splits), ("setting", settings)):
        if not values:
            raise InputError(f"There must be at least one {name}. Got none.")
    if unknown := [setting for setting in settings if setting not in SETTINGS]:
        raise InputError(f"The 'setting' must be zsl or gzsl. Got {unknown[0]!r}.")
    return [
        Part(
            name=f"{task}.{split}.{setting}",
            items=tuple(read_items(Path(directory), task=task, split=split, setting=setting, seed=seed)),
            setting=setting,
        )
        for task in tasks
        for split in splits
        for setting in settings
    ]
