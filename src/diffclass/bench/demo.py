"""Pictures that come inside installed packages, for a first try without any download."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import final

from diffclass.data.datasets import Item, open_dataset

__all__ = ["Sitting", "demo_sittings"]

_DIGITS = (0, 3, 1, 2, 4, 5)  # of the test split, which no model here was fitted to; the second one is hard


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sitting:
    """Pictures for one model.

    Args:
        model: name of a bundled model.
        items: the pictures.
        names: of the classes that their labels count.
        drawn: how many of them go into the figure.
    """

    model: str
    items: Sequence[Item]
    names: Sequence[str]
    drawn: int


def demo_sittings() -> list[Sitting]:
    """Return what there is: scikit-image's cat, if it is installed, and handwritten digits from scikit-learn."""
    test = open_dataset("digits", split="test")
    digits = [test[index] for index in _DIGITS]
    sittings = [
        Sitting(model="digits", items=digits, names=test.classes, drawn=2),
        Sitting(model="digits-mixture", items=digits, names=test.classes, drawn=1),
    ]
    spec = find_spec("skimage")
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    cats = [path for place in places if (path := Path(place) / "data" / "chelsea.png").is_file()]
    cat = [Item(id="scikit-image/chelsea.png", label=0, read=lambda path=path: path) for path in cats[:1]]
    return [Sitting(model="cifar10", items=cat, names=("cat",), drawn=1), *sittings] if cat else sittings
