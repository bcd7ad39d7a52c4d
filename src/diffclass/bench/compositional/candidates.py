"""The captions that compete for a picture, zero-shot (ZSL) or generalised (GZSL): one is true, the others false."""

from collections.abc import Sequence
from itertools import combinations
from random import Random

from diffclass.bench.compositional.concepts import (
    CLASSES,
    OPPOSITE,
    POOLS,
    SEEN,
    Concept,
    check_task,
    concepts,
    object_caption,
    relation_caption,
)
from diffclass.bench.compositional.item import Candidate
from diffclass.errors import InputError

__all__ = [
    "COLOUR_SWAP",
    "OBJECT_SWAP",
    "RANDOM",
    "RELATION_FLIP",
    "SETTINGS",
    "SHAPE_SWAP",
    "TAGS",
    "TARGET",
    "candidates_of",
]

SETTINGS = ("zsl", "gzsl")
TARGET, RANDOM = "target", "random"
COLOUR_SWAP, SHAPE_SWAP = "colour swap", "shape swap"  # right but for its colour, right but for its shape
RELATION_FLIP, OBJECT_SWAP = "relation flip", "object swap"  # a right of b, b left of a, where a is left of b
TAGS = (TARGET, COLOUR_SWAP, SHAPE_SWAP, RELATION_FLIP, OBJECT_SWAP, RANDOM)

_DISTRACTORS = 2  # drawn for pairs and relations


def candidates_of(
    concept: Concept, *, task: str, split: str, setting: str, seed: int = 0
) -> tuple[tuple[Candidate, ...], int]:
    """Return the captions that compete for the pictures of a concept, and which of them is true.

    single: in "zsl" every class of the split's pool, in "gzsl" all 32 classes.
    pair: in "zsl" the first object and two classes of the pool, all three with different colours and shapes; in "gzsl"
    the first object, its colour on the second's shape and the reverse, and two classes of the pool that differ from it
    in colour and in shape. The second object is never among them: it would be a second true caption.
    relation and depth: in "zsl" the caption and two others of the split's list; in "gzsl" the caption, the opposite
    relation, the shapes swapped, and two others of the list. The caption from the other object's view is as true, and
    never among them. The published lists for relations are not available: these are made like those for pairs.

    The choice and the order depend on the seed and the concept alone, so that all pictures of a concept share them.

    Returns:
        The captions, no two alike, and the index of the true one.

    Raises:
        InputError: there is no such task, split or setting.

    Source:
        Pearson et al. 2025: candidates as in the authors' repository and its history, whose pairs do not exclude
        the second object.
    """
    check_task(task, split)
    if setting not in SETTINGS:
        raise InputError(f"The setting must be one of {', '.join(SETTINGS)}. Got {setting!r}.")
    random = Random(f"{seed}/{task}/{split}/{setting}/{concept.key}")
    if task == "single":
        found = _single(concept, split, setting)
    elif task == "pair":
        found = _pair(concept, split, setting, random)
    else:
        found = _relation(concept, task, split, setting, random)
    ordered = _shuffled(random, found)
    return ordered, next(i for i, one in enumerate(ordered) if one.tag == TARGET)


def _single(concept: Concept, split: str, setting: str) -> list[Candidate]:
    """Every class of the pool or of all, told apart by what is wrong."""
    target = f"{concept.fields['colour']} {concept.fields['shape']}"
    return [_object(name, _tag(name, target)) for name in (POOLS[split] if setting == "zsl" else CLASSES)]


def _tag(name: str, target: str) -> str:
    (colour, shape), (right_colour, right_shape) = name.split(), target.split()
    if colour == right_colour:
        return TARGET if shape == right_shape else SHAPE_SWAP
    return COLOUR_SWAP if shape == right_shape else RANDOM


def _pair(concept: Concept, split: str, setting: str, random: Random) -> list[Candidate]:
    """The first object, hard negatives made of both in "gzsl", and classes of the pool that share nothing with it."""
    colour, shape, other_colour, other_shape = (
        str(concept.fields[name]) for name in ("colour", "shape", "other_colour", "other_shape")
    )
    target, second = f"{colour} {shape}", f"{other_colour} {other_shape}"
    allowed = [name for name in POOLS[split] if _differ(name, target) and name != second]
    choices = list(combinations(allowed, _DISTRACTORS))
    if setting == "zsl":
        choices = [(one, other) for one, other in choices if _differ(one, other)]
    drawn = [_object(name, RANDOM) for name in choices[int(random.random() * len(choices))]]
    hard = [_object(f"{colour} {other_shape}", SHAPE_SWAP), _object(f"{other_colour} {shape}", COLOUR_SWAP)]
    return [_object(target, TARGET), *(hard if setting == "gzsl" else []), *drawn]


def _differ(name: str, other: str) -> bool:
    """Say whether two classes differ both in colour and in shape."""
    return not set(name.split()) & set(other.split())


def _object(name: str, tag: str) -> Candidate:
    return Candidate(object_caption(name), tag, name in SEEN)


def _relation(concept: Concept, task: str, split: str, setting: str, random: Random) -> list[Candidate]:
    """The caption, its two falsifications in "gzsl", and others of the split's list."""
    first, relation, second = (str(concept.fields[name]) for name in ("first", "relation", "second"))
    opposite = OPPOSITE[relation]
    same = relation_caption(second, opposite, first)
    tags = {
        concept.caption: TARGET,
        relation_caption(first, opposite, second): RELATION_FLIP,
        relation_caption(second, relation, first): OBJECT_SWAP,
    }
    trained = {one.caption for one in concepts(task, "train")}
    listed = [one.caption for one in concepts(task, split)]
    given = [text for text, tag in tags.items() if setting == "gzsl" or tag == TARGET]
    choices = list(combinations([text for text in listed if text != same and text not in given], _DISTRACTORS))
    drawn = choices[int(random.random() * len(choices))]
    return [Candidate(text, tags.get(text, RANDOM), text in trained) for text in (*given, *drawn)]


def _shuffled(random: Random, found: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Put the captions in random order, so that a rule that takes the first of equals gains nothing."""
    order = sorted(range(len(found)), key=lambda _: random.random())
    return tuple(found[i] for i in order)
