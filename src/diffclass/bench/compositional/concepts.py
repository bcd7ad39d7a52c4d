"""What the pictures are of: 32 coloured shapes, pairs of them and relations, split as published."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import final

from diffclass.data.scenes.placing import Wanted
from diffclass.data.scenes.scene import COLOURS, SHAPES
from diffclass.errors import InputError

__all__ = [
    "CLASSES",
    "FOLDERS",
    "OPPOSITE",
    "POOLS",
    "RELATIONAL",
    "SEEN",
    "SPLITS",
    "TASKS",
    "Concept",
    "check_task",
    "concepts",
    "object_caption",
    "paraphrases",
    "relation_caption",
    "scene_of",
]

TASKS = ("single", "pair", "relation", "depth")
SPLITS = ("train", "id-validation", "id-test", "ood-validation", "ood-test")
FOLDERS: Mapping[str, str] = MappingProxyType(  # as the authors name them
    dict(zip(SPLITS, ("train", "ID_val", "ID_test", "OOD_val", "OOD_test"), strict=True))
)
CLASSES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)  # index 4 * colour + shape


def _named(text: str) -> tuple[str, ...]:
    """Read "sphere: red green; cube: blue" as names of classes."""
    groups = (group.split(":") for group in text.split(";"))
    return tuple(f"{colour} {shape.strip()}" for shape, colours in groups for colour in colours.split())


SEEN = _named(
    "sphere: red green purple cyan gray blue yellow; cube: gray blue brown; cylinder: red green purple cyan; "
    "cone: purple brown yellow"
)
_OOD_VALIDATION = _named("sphere: brown; cube: yellow; cylinder: gray; cone: cyan")
_OOD_TEST = _named("cube: red green purple cyan; cylinder: blue brown yellow; cone: red green gray blue")
POOLS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "train": SEEN,
        "id-validation": SEEN,
        "id-test": SEEN,
        "ood-validation": _OOD_VALIDATION,
        "ood-test": _OOD_TEST,
    }
)

_TRAINED_RELATIONS = (
    *("cube left sphere", "sphere right cube", "sphere left cube", "cube right sphere", "cylinder left sphere"),
    *("sphere left cone", "cone right sphere", "cylinder left cube", "cube right cylinder", "cylinder left cone"),
    "cone right cylinder",
)
RELATIONAL: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "train": _TRAINED_RELATIONS,
        "id-validation": _TRAINED_RELATIONS,
        "id-test": _TRAINED_RELATIONS,
        "ood-validation": (
            *("cube left cone", "cone right cube", "cube right cone", "sphere left cylinder"),
            "sphere right cylinder",
        ),
        "ood-test": (
            *("cone left cylinder", "cylinder right cone", "cube left cylinder", "cylinder right cube"),
            *("sphere right cone", "cone left sphere", "cylinder right sphere", "cone left cube"),
        ),
    }
)
_WORDS = {"left": "to the left of", "right": "to the right of", "front": "in front of", "behind": "behind"}
OPPOSITE: Mapping[str, str] = MappingProxyType({"left": "right", "right": "left", "front": "behind", "behind": "front"})
_IN_DEPTH = {"left": "front", "right": "behind"}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Concept:
    """What one caption says.

    Args:
        key: words joined by underscores, unique in a task: "blue_cube", "blue_cube_red_sphere", "cube_left_cone".
        caption: the text.
        folder: of its pictures in their split, as the authors have it.
        wanted: objects that its pictures show, the one that is named first at the front.
        relation: of the first to the second.
        fields: its parts by name, for tables.
    """

    key: str
    caption: str
    folder: str
    wanted: tuple[Wanted, ...]
    relation: str | None = None
    fields: Mapping[str, str | int] = field(default_factory=dict)


def object_caption(name: str) -> str:
    """Return the caption of a class: "a photo of a blue cube"."""
    return f"a photo of a {name}"


def relation_caption(first: str, relation: str, second: str) -> str:
    """Return the caption of a relation: "a photo of a cube to the left of a cone"."""
    return f"a photo of a {first} {_WORDS[relation]} a {second}"


def check_task(task: str, split: str) -> None:
    """Refuse a task or split that there is not.

    Raises:
        InputError: as it says.
    """
    if task not in TASKS:
        raise InputError(f"The task must be one of {', '.join(TASKS)}. Got {task!r}.")
    if split not in SPLITS:
        raise InputError(f"The split must be one of {', '.join(SPLITS)}. Got {split!r}.")


@cache
def concepts(task: str, split: str) -> tuple[Concept, ...]:
    """List what the pictures of a split are of.

    single: 17 classes in training and the splits whose names begin with id, 4 in ood-validation and 11 in ood-test.
    pair: ordered pairs of a pool's classes that differ in colour and in shape (186, 12, 74); the caption names the
    first, and both orders are true of one picture. relation: left and right of 4 shapes (11, 5, 8); each picture has
    two true captions, which may be in different splits. depth: the same lists with front for left and behind for
    right; they are not published (Lewis et al. 2022 have these relations, for three shapes).

    Raises:
        InputError: there is no such task or split.

    Source:
        Pearson et al. 2025 (anthology 2025.starsem-1.9): classes, pairs and captions of the splits as in the authors'
        repository and its history.
    """
    check_task(task, split)
    pool = POOLS[split]
    if task == "single":
        return tuple(_single(name) for name in pool)
    if task == "pair":
        return tuple(_pair(a, b) for a in pool for b in pool if not set(a.split()) & set(b.split()))
    return tuple(_relation(*words.split(), in_depth=task == "depth") for words in RELATIONAL[split])


def paraphrases(concept: Concept, task: str, split: str) -> tuple[Concept, ...]:
    """List the relations of a split that say the same as a concept from the other object's view: one or none.

    "a cone to the right of a cube" where a cube is to the left of a cone.
    """
    if concept.relation is None:
        return ()
    first, second = (concept.fields[name] for name in ("first", "second"))
    key = f"{second}_{OPPOSITE[concept.relation]}_{first}"
    return tuple(one for one in concepts(task, split) if one.key == key)


def scene_of(key: str) -> str:
    """Return the key by which a concept of two objects and its view from the other object are one scene.

    Example:
        >>> scene_of("red_sphere_blue_cube"), scene_of("sphere_right_cube"), scene_of("blue_cube")
        ('blue_cube_red_sphere', 'cube_left_sphere', 'blue_cube')
    """
    match key.split("_"):
        case [colour, shape, other_colour, other_shape]:
            return min(key, f"{other_colour}_{other_shape}_{colour}_{shape}")
        case [first, relation, second] if relation in OPPOSITE:
            return min(key, f"{second}_{OPPOSITE[relation]}_{first}")
    return key


def _single(name: str) -> Concept:
    colour, shape = name.split()
    return Concept(
        key=f"{colour}_{shape}", caption=object_caption(name), folder=name, wanted=(Wanted(shape, colour),),
        fields={"label": CLASSES.index(name), "colour": colour, "shape": shape},
    )  # fmt: skip


def _pair(first: str, second: str) -> Concept:
    (colour, shape), (other_colour, other_shape) = first.split(), second.split()
    key = f"{colour}_{shape}_{other_colour}_{other_shape}"
    return Concept(
        key=key, caption=object_caption(first), folder=f"{key}/{first}",
        wanted=(Wanted(shape, colour), Wanted(other_shape, other_colour)),
        fields={"colour": colour, "shape": shape, "other_colour": other_colour, "other_shape": other_shape},
    )  # fmt: skip


def _relation(first: str, relation: str, second: str, *, in_depth: bool) -> Concept:
    relation = _IN_DEPTH[relation] if in_depth else relation
    key = f"{first}_{relation}_{second}"
    return Concept(
        key=key, caption=relation_caption(first, relation, second), folder=f"{key}/{first} {relation} {second}",
        wanted=(Wanted(first), Wanted(second)), relation=relation,
        fields={"first": first, "relation": relation, "second": second},
    )  # fmt: skip
