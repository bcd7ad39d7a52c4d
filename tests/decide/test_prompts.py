"""Prompts: made of templates or read, and told to all classes of a draw alike."""

from pathlib import Path

import numpy as np
import pytest
import torch

from diffclass.decide import DiffusionClassifier, Exhaustive, Prompts
from diffclass.errors import ConditionError, DiffclassError, InputError
from diffclass.evidence import Draws, Objective
from tiny_text import NAMES, TextDenoiser

TEMPLATES = ("a photo of {}.", "a drawing of {}.", "it is {}")
IMAGE = torch.full((1, 1, 2, 2), 0.7)


def classifier(denoiser: TextDenoiser, *, n_draws: int = 12, **options: object) -> DiffusionClassifier:
    race = Exhaustive(n_draws=n_draws, block=4)
    return DiffusionClassifier(denoiser=denoiser, race=race, **{"batch_size": 8, **options})  # type: ignore[arg-type]


def test_templates_are_filled_in() -> None:
    prompts = Prompts.from_templates(["cat", "dog"], ["a {}", "{}, a photo of a {}"])
    assert prompts.texts == (("a cat", "a dog"), ("cat, a photo of a cat", "dog, a photo of a dog"))


def test_files_of_li_et_al_are_read(tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text(
        "prompt,classname,classidx\n"
        '"a photo of a ship, a kind of boat.",ship,1\n'
        "a photo of a cat.,cat,0\n\n"
        "a drawing of a ship.,ship,1\n"
        "a drawing of a cat.,cat,0\n"
    )
    prompts = Prompts.from_csv(path)
    assert prompts.classes == ("cat", "ship")
    assert prompts.texts == (
        ("a photo of a cat.", "a photo of a ship, a kind of boat."),
        ("a drawing of a cat.", "a drawing of a ship."),
    )


def test_classes_of_a_draw_are_told_by_the_same_template() -> None:
    denoiser = TextDenoiser()
    classifier(denoiser, prompts=Prompts.from_templates(NAMES, TEMPLATES), n_draws=12).classify(IMAGE)
    seen: dict[bytes, list[int]] = {}
    for told, noisy in zip(denoiser.told, denoiser.noisy, strict=True):
        for prompt, x in zip(told, noisy, strict=True):
            seen.setdefault(x.numpy().tobytes(), []).append(prompt)
    assert len(seen) == 12
    for prompts in seen.values():
        assert len({prompt // 3 for prompt in prompts}) == 1  # one template ...
        assert {prompt % 3 for prompt in prompts} == {0, 1, 2}  # ... and every class
    templates = [prompts[0] // 3 for prompts in seen.values()]
    assert sorted(templates) == [0] * 4 + [1] * 4 + [2] * 4


def test_templates_that_mean_the_same_change_nothing() -> None:
    # The model hears the class alone, so that three templates must give the errors of one, bit by bit.
    one = classifier(TextDenoiser(), prompts=Prompts.from_templates(NAMES, TEMPLATES[:1])).classify(IMAGE)[0]
    three = classifier(TextDenoiser(), prompts=Prompts.from_templates(NAMES, TEMPLATES)).classify(IMAGE)[0]
    assert np.array_equal(one.evidence.errors, three.evidence.errors)
    assert one.label == "bright"


@pytest.mark.parametrize("antithetic", [False, True])
def test_every_prompt_is_drawn_equally_often(antithetic: bool) -> None:
    draws = Draws.place(Objective(antithetic=antithetic), (0.1, 10.0), n=48, block=4, seed=3, key=5, n_prompts=3)
    plain = Draws.place(Objective(antithetic=antithetic), (0.1, 10.0), n=48, block=4, seed=3, key=5)
    assert draws.prompts is not None
    assert np.bincount(draws.prompts).tolist() == [16, 16, 16]
    assert np.array_equal(draws.sigmas, plain.sigmas)
    if antithetic:
        assert np.array_equal(draws.prompts[::2], draws.prompts[1::2])


def test_any_prompt_may_meet_any_draw() -> None:
    # Over keys, each of 8 draws takes the first of two prompts half of the time. The 16 counts are binomial with 2,000
    # keys: a deviation beyond 4.5 standard deviations comes up with probability below 2e-4 in all, for a fixed seed.
    place = lambda key: Draws.place(Objective(), (0.1, 10.0), n=8, block=4, seed=0, key=key, n_prompts=2)  # noqa: E731
    counts = sum(1 - draws for draws in (np.asarray(place(key).prompts) for key in range(2000)))
    assert np.abs(np.asarray(counts) - 1000).max() < 4.5 * np.sqrt(500)


def test_the_default_prompt_is_a_photo() -> None:
    denoiser = TextDenoiser()
    found = classifier(denoiser, classes=NAMES)
    assert found.predict(IMAGE) == ["bright"]
    assert found.classes_ == NAMES
    assert denoiser.embedded == [tuple(f"a photo of a {name}." for name in NAMES)]


def test_prompts_that_classes_share_between_templates_are_embedded_once() -> None:
    denoiser = TextDenoiser()
    prompts = Prompts(classes=("a", "b"), texts=(("x dark", "x grey"), ("x dark", "y grey")))
    conditions = prompts.embed(denoiser)
    assert denoiser.embedded == [("x dark", "x grey", "y grey")]
    assert conditions.tensors["prompt"].tolist() == [0, 1, 0, 2]


CASES: dict[str, tuple[object, type[DiffclassError], str]] = {
    "one label": (
        lambda p: Prompts.from_templates(["cat"]),
        ConditionError,
        "A classifier needs at least two classes. Got 1.",
    ),
    "duplicate labels": (
        lambda p: Prompts.from_templates(["cat", "dog", "cat"]),
        ConditionError,
        "Every class must be named once. 'cat' is there more than once.",
    ),
    "empty label": (
        lambda p: Prompts.from_templates(["cat", " "]),
        ConditionError,
        "Every class must have a name. Got ' '.",
    ),
    "template without a place": (
        lambda p: Prompts.from_templates(["cat", "dog"], ["a photo"]),
        ConditionError,
        "A template must hold {} where the class goes, as in 'a photo of a {}.'. Got 'a photo'.",
    ),
    "template twice": (
        lambda p: Prompts.from_templates(["cat", "dog"], ["a {}", "a {}"]),
        ConditionError,
        "Every template must be given once. 'a {}' is there more than once.",
    ),
    "no template": (
        lambda p: Prompts.from_templates(["cat", "dog"], []),
        ConditionError,
        "There must be a prompt for each class and template.",
    ),
    "empty prompt": (
        lambda p: Prompts(classes=("cat", "dog"), texts=(("a cat", ""),)),
        ConditionError,
        "The prompt of 'dog' must have words in it. Got ''.",
    ),
    "shared prompt": (
        lambda p: Prompts(classes=("cat", "dog"), texts=(("a pet", "a pet"),)),
        ConditionError,
        "The classes 'cat' and 'dog' must differ in their prompt. Got 'a pet'.",
    ),
    "no file": (
        lambda p: Prompts.from_csv(p / "none.csv"),
        InputError,
        "The prompt file '{p}/none.csv' cannot be read as a CSV file: [Errno 2] No such file or directory: "
        "'{p}/none.csv'.",
    ),
    "other columns": (
        lambda p: Prompts.from_csv(write(p, "prompt,label\na,b\n")),
        InputError,
        "The prompt file '{p}/x.csv' must have the columns prompt, classname, classidx. It lacks classname.",
    ),
    "short row": (
        lambda p: Prompts.from_csv(write(p, "prompt,classname,classidx\na cat,cat\n")),
        InputError,
        "Every row of the prompt file '{p}/x.csv' must have 3 columns.",
    ),
    "no number": (
        lambda p: Prompts.from_csv(write(p, "prompt,classname,classidx\na cat,cat,one\n")),
        InputError,
        "The 'classidx' in line 2 of '{p}/x.csv' must be a whole number. Got 'one'.",
    ),
    "two names": (
        lambda p: Prompts.from_csv(write(p, "prompt,classname,classidx\na cat,cat,0\na dog,dog,0\n")),
        InputError,
        "Class 0 of '{p}/x.csv' must have one name. Got 'cat' and another.",
    ),
    "uneven": (
        lambda p: Prompts.from_csv(write(p, "prompt,classname,classidx\na cat,cat,0\na dog,dog,1\nthe dog,dog,1\n")),
        ConditionError,
        "Every class of '{p}/x.csv' must have the same number of prompts, so that classes stay paired. Got 1 to 2.",
    ),
    "no classes": (
        lambda p: classifier(TextDenoiser()),
        ConditionError,
        "This model reads text and has no classes of its own. Name at least two with classes=[...] or --labels.",
    ),
    "other classes": (
        lambda p: classifier(TextDenoiser(), classes=("a", "b"), prompts=Prompts.from_templates(NAMES)),
        ConditionError,
        "The classes must be those of the prompts, in their order: 'dark', 'grey', 'bright'. Got 'a', 'b'.",
    ),
    "prompts for numbers": (
        lambda p: DiffusionClassifier(denoiser=TextDenoiser().exact, prompts=Prompts.from_templates(NAMES)),
        ConditionError,
        "Prompts are for models that read text. This one knows its classes by number: leave the prompts and templates "
        "out.",
    ),
}


def write(folder: Path, text: str) -> Path:
    (folder / "x.csv").write_text(text)
    return folder / "x.csv"


@pytest.mark.parametrize("case", CASES)
def test_bad_prompts_are_refused(case: str, tmp_path: Path) -> None:
    call, error, sentence = CASES[case]
    with pytest.raises(error) as caught:
        call(tmp_path)  # type: ignore[operator]
    assert str(caught.value) == sentence.replace("{p}", str(tmp_path))
