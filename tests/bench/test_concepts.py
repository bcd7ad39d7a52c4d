"""Concepts, splits and candidates of compositional generalisation, against the published lists and plain logic."""

import re
from itertools import combinations

import pytest

from diffclass.bench.compositional.candidates import (
    COLOUR_SWAP,
    OBJECT_SWAP,
    RANDOM,
    RELATION_FLIP,
    SETTINGS,
    SHAPE_SWAP,
    TARGET,
    candidates_of,
)
from diffclass.bench.compositional.concepts import (
    CLASSES,
    POOLS,
    RELATIONAL,
    SEEN,
    SPLITS,
    TASKS,
    Concept,
    concepts,
    paraphrases,
)
from diffclass.bench.compositional.item import Candidate

EVERY = [(task, split) for task in TASKS for split in SPLITS]
MIRRORED = {"left": "right", "right": "left", "front": "behind", "behind": "front"}
RELATION = re.compile(r"a photo of a (\w+) (to the left of|to the right of|in front of|behind) a (\w+)")
SAID = {"to the left of": "left", "to the right of": "right", "in front of": "front", "behind": "behind"}


def classes_of(text: str) -> set[str]:
    return set(text.removeprefix("a photo of a ").split())


def is_true(caption: str, concept: Concept) -> bool:
    """Say whether a caption is true of a concept's pictures: by what they show, not by how captions are made."""
    if concept.relation is None:
        return any(caption == f"a photo of a {one.colour} {one.shape}" for one in concept.wanted)
    match = RELATION.fullmatch(caption)
    assert match is not None
    first, relation, second = match[1], SAID[match[2]], match[3]
    a, b = (one.shape for one in concept.wanted)
    return (first, relation, second) in {(a, concept.relation, b), (b, MIRRORED[concept.relation], a)}


def of(concept: Concept, task: str, split: str, setting: str, seed: int = 0) -> tuple[tuple[Candidate, ...], int]:
    return candidates_of(concept, task=task, split=split, setting=setting, seed=seed)  # type: ignore[arg-type]


def find(task: str, split: str, key: str) -> Concept:
    return next(one for one in concepts(task, split) if one.key == key)


# Splits


def test_classes_have_the_published_indices() -> None:
    assert len(CLASSES) == 32
    indices = {split: sorted(CLASSES.index(name) for name in names) for split, names in POOLS.items()}
    assert indices["train"] == [1, 3, 4, 5, 10, 11, 13, 15, 18, 19, 20, 22, 23, 26, 27, 28, 31]
    assert indices["ood-validation"] == [7, 8, 14, 29]
    assert indices["ood-test"] == [0, 2, 6, 9, 12, 16, 17, 21, 24, 25, 30]
    assert sorted(indices["train"] + indices["ood-validation"] + indices["ood-test"]) == list(range(32))


def test_every_colour_and_shape_is_trained() -> None:
    assert set().union(*(set(name.split()) for name in SEEN)) == set().union(*(set(name.split()) for name in CLASSES))


@pytest.mark.parametrize(
    ("task", "counts"), [("single", [17, 4, 11]), ("pair", [186, 12, 74]), ("relation", [11, 5, 8])]
)
def test_splits_have_the_published_numbers(task: str, counts: list[int]) -> None:
    assert [len(concepts(task, split)) for split in ("train", "ood-validation", "ood-test")] == counts
    assert concepts(task, "id-validation") == concepts(task, "id-test") == concepts(task, "train")


def test_relations_are_split_without_overlap() -> None:
    lists = [RELATIONAL[split] for split in ("train", "ood-validation", "ood-test")]
    assert len({words for one in lists for words in one}) == 24
    assert not any(set(one) & set(other) for one, other in combinations(lists, 2))


@pytest.mark.parametrize(("task", "split"), EVERY)
def test_concepts_are_told_apart(task: str, split: str) -> None:
    found = concepts(task, split)
    assert len({one.key for one in found}) == len({one.folder for one in found}) == len(found)


def test_depth_is_the_relational_list_turned() -> None:
    for flat, deep in zip(concepts("relation", "ood-test"), concepts("depth", "ood-test"), strict=True):
        assert deep.wanted == flat.wanted
        assert (flat.relation, deep.relation) in {("left", "front"), ("right", "behind")}


@pytest.mark.parametrize(("task", "split"), EVERY)
def test_paraphrases_are_what_else_is_true(task: str, split: str) -> None:
    for concept in concepts(task, split):
        true = {one.key for one in concepts(task, split) if concept.relation and is_true(one.caption, concept)}
        assert {one.key for one in paraphrases(concept, task, split)} == true - {concept.key}


# Candidates


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(("task", "split"), EVERY)
def test_exactly_one_caption_is_true(task: str, split: str, setting: str) -> None:
    for concept in concepts(task, split):
        found, target = of(concept, task, split, setting)
        assert [is_true(one.caption, concept) for one in found] == [index == target for index in range(len(found))]
        assert found[target] == Candidate(concept.caption, TARGET, found[target].seen)
        assert len({one.caption for one in found}) == len(found)
        assert [one.tag for one in found].count(TARGET) == 1


@pytest.mark.parametrize(
    ("task", "split", "setting", "count"),
    [
        *(("single", "train", "zsl", 17), ("single", "ood-validation", "zsl", 4), ("single", "ood-test", "zsl", 11)),
        *(("single", "ood-test", "gzsl", 32), ("pair", "ood-test", "zsl", 3), ("pair", "ood-validation", "gzsl", 5)),
        *(("relation", "ood-validation", "zsl", 3), ("relation", "ood-test", "gzsl", 5)),
    ],
)
def test_numbers_of_candidates(task: str, split: str, setting: str, count: int) -> None:
    assert {len(of(concept, task, split, setting)[0]) for concept in concepts(task, split)} == {count}


def test_the_published_example_of_a_pair() -> None:
    concept = find("pair", "ood-validation", "brown_sphere_gray_cylinder")
    found, _ = of(concept, "pair", "ood-validation", "gzsl")
    assert {(one.caption.removeprefix("a photo of a "), one.tag, one.seen) for one in found} == {
        ("brown sphere", TARGET, False),
        ("brown cylinder", SHAPE_SWAP, False),
        ("gray sphere", COLOUR_SWAP, True),
        ("cyan cone", RANDOM, False),
        ("yellow cube", RANDOM, False),
    }


@pytest.mark.parametrize("split", SPLITS)
def test_zero_shot_candidates_of_pairs_share_nothing(split: str) -> None:
    pool = {f"a photo of a {name}" for name in POOLS[split]}
    for concept in concepts("pair", split):
        found, _ = of(concept, "pair", split, "zsl")
        assert {one.caption for one in found} <= pool
        assert not any(classes_of(a.caption) & classes_of(b.caption) for a, b in combinations(found, 2))


def test_the_second_object_would_else_be_drawn() -> None:
    # in "ood-validation" all four classes differ from each other: without the exclusion half of the draws would have it
    concept = find("pair", "ood-validation", "cyan_cone_yellow_cube")
    for seed in range(20):
        found, _ = of(concept, "pair", "ood-validation", "gzsl", seed)
        assert "a photo of a yellow cube" not in {one.caption for one in found}


def test_generalised_candidates_of_relations_hold_both_falsifications() -> None:
    found, _ = of(find("relation", "ood-test", "cone_left_cube"), "relation", "ood-test", "gzsl")
    tags = {one.tag: one for one in found}
    assert tags[RELATION_FLIP] == Candidate("a photo of a cone to the right of a cube", RELATION_FLIP, False)
    assert tags[OBJECT_SWAP] == Candidate("a photo of a cube to the left of a cone", OBJECT_SWAP, False)
    assert [one.tag for one in found].count(RANDOM) == 2


def test_single_objects_are_wrong_in_one_way_or_in_both() -> None:
    found, target = of(find("single", "ood-test", "red_cube"), "single", "ood-test", "gzsl")
    tags = [one.tag for one in found]
    assert (tags.count(COLOUR_SWAP), tags.count(SHAPE_SWAP), tags.count(RANDOM)) == (7, 3, 21)
    assert sum(one.seen for one in found) == 17
    assert not found[target].seen


@pytest.mark.parametrize("task", TASKS)
def test_candidates_depend_on_the_seed_alone(task: str) -> None:
    found = [
        of(concept, task, "ood-test", "gzsl", seed) for seed in (0, 0, 1) for concept in concepts(task, "ood-test")
    ]
    third = len(found) // 3
    assert found[:third] == found[third : 2 * third]
    assert found[:third] != found[2 * third :]


def test_the_true_caption_is_not_always_first() -> None:
    places = [of(concept, "pair", "train", "gzsl")[1] for concept in concepts("pair", "train")]
    assert all(places.count(index) > 15 for index in range(5))  # 186 / 5 expected; below 16 by chance: 2e-5 each
