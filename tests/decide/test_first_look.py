"""A first look: it saves draws, keeps the guarantee, and says so where it does not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffclass.decide import DiffusionClassifier, Exhaustive, FirstLook, PairedRace, Prompts
from diffclass.errors import DiffclassError, DiffclassWarning, RangeError, UnsupportedModel, WeightsMissing
from diffclass.evidence import Draws, Evidence, Foresight, Objective
from tiny_pipelines import TOKENS, clip_tokenizer
from tiny_text import NAMES, TextDenoiser

K, BLOCK, DRAWS, DELTA = 6, 4, 128, 0.1


def evidence(seed: int, gap: float, weights: np.ndarray | None) -> Evidence:
    """Errors of Gaussian noise, class 0 the best of the list by construction of its mean, others behind by the gap."""
    random = np.random.default_rng(seed)
    errors = random.normal(size=(DRAWS, K)) + gap * (np.arange(K) > 0)
    draws = Draws.place(Objective(), (0.1, 10.0), n=DRAWS, block=BLOCK, seed=seed, key=0)
    draws = Draws(sigmas=draws.sigmas, weights=np.ones(DRAWS), block=BLOCK, seed=seed, key=0)
    foresight = None if weights is None else Foresight(weights=weights, tried=np.ones(K, dtype=bool))
    prior = np.full(K, -np.log(K))
    return Evidence(
        errors=errors.astype(np.float32), draws=draws, classes=tuple("abcdef"), log_prior=prior, foresight=foresight
    )


def run(whole: Evidence, race: PairedRace) -> tuple[int, int]:
    """Return the class that wins a race, and the evaluations it took."""
    errors = np.full_like(whole.errors, np.nan)
    alive, n = np.ones(K, dtype=bool), 0
    while alive.sum() > 1 and n < DRAWS:
        upto = race.next_look(n)
        errors[n:upto, alive] = whole.errors[n:upto, alive]
        n = upto
        seen = Evidence(
            errors=errors, draws=whole.draws, classes=whole.classes, log_prior=whole.log_prior,
            foresight=whole.foresight,
        )  # fmt: skip
        alive = race.survivors(seen)
    return int(np.flatnonzero(alive)[0]), int(np.isfinite(errors).sum())


@pytest.mark.parametrize("guess", [0, 3], ids=["right", "wrong"])
def test_the_guarantee_holds_whatever_the_guess(guess: int) -> None:
    # The winner differs from that of all draws with probability at most 0.1 in each of 300 races: more than 46 of them
    # would come up with probability below 1e-3 at exactly 0.1 (binomial), for fixed seeds.
    weights = Foresight.from_probabilities(np.eye(K)[guess]).weights
    race = PairedRace(n_draws=DRAWS, block=BLOCK, delta=DELTA)
    wrong = 0
    for seed in range(300):
        whole = evidence(seed, gap=0.25, weights=weights)
        wrong += run(whole, race)[0] != whole.errors.astype(np.float64).mean(axis=0).argmin()
    assert wrong <= 46


@pytest.mark.parametrize("bound", ["student", "asymptotic"])
def test_a_right_guess_saves_draws_and_a_wrong_one_costs_few(bound: str) -> None:
    race = PairedRace(n_draws=DRAWS, block=BLOCK, delta=0.01, bound=bound)
    guesses = {"none": None, "right": np.eye(K)[0], "wrong": np.eye(K)[3]}
    spent = {
        name: sum(
            run(evidence(s, 1.0, None if p is None else Foresight.from_probabilities(p).weights), race)[1]
            for s in range(40)
        )
        for name, p in guesses.items()
    }
    assert spent["right"] < spent["none"] < spent["wrong"] < 1.5 * spent["none"]


def test_weights_are_a_distribution_over_what_is_tried() -> None:
    found = Foresight.from_probabilities(np.array([0.7, 0.1, 0.15, 0.05]), keep=2)
    assert found.tried.tolist() == [True, False, True, False]
    assert found.weights.sum() == pytest.approx(1.0)
    assert found.weights[found.tried].min() > 0.25 * 0.5
    assert found.weights[~found.tried].tolist() == [0.0, 0.0]


class _Guess:
    """A first look that knows what it says."""

    def __init__(self, probabilities: list[float], keep: int | None) -> None:
        self.found = Foresight.from_probabilities(np.array(probabilities), keep)
        self.name, self.keep = "guess", keep

    def __call__(self, prompts: Prompts) -> Any:
        return lambda image: self.found


def with_guess(probabilities: list[float], keep: int | None, race: Any) -> DiffusionClassifier:
    classifier = DiffusionClassifier(denoiser=TextDenoiser(), classes=NAMES, race=race)
    object.__setattr__(classifier, "first_look", _Guess(probabilities, keep))
    return classifier


@pytest.mark.parametrize("race", [Exhaustive(n_draws=32), PairedRace(n_draws=32)])
def test_classes_left_out_are_not_measured_and_said_to_be(race: Any) -> None:
    image = torch.full((1, 1, 2, 2), 0.8)
    decision = with_guess([0.6, 0.3, 0.1], 2, race).classify(image)[0]
    assert decision.label == "grey"  # the right one was left out
    assert decision.unmeasured == ("bright",)
    assert np.isnan(decision.evidence.errors[:, 2]).all()
    assert decision.scores["bright"] == 0.0
    assert decision.evidence.log_odds()[2] == -np.inf
    whole = with_guess([0.6, 0.3, 0.1], None, race).classify(image)[0]
    assert (whole.label, whole.unmeasured) == ("bright", ())


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_guesses_are_those_of_transformers(encoders: Path, name: str) -> None:
    import transformers

    prompts = Prompts.from_templates(NAMES)
    look = FirstLook.from_pretrained(encoders / name)
    image = torch.rand(3, 8, 8)  # of its own size, so that nothing is resampled
    foresight = look(prompts)(image)
    model = look.model
    tokens = clip_tokenizer()(list(prompts.texts[0]), padding="max_length", max_length=TOKENS, return_tensors="pt")
    pixels = ((image * 255).round() / 255 - torch.tensor(look.mean)[:, None, None]) / torch.tensor(look.std)[
        :, None, None
    ]
    given = {"input_ids": tokens["input_ids"], "pixel_values": pixels[None]}
    if name == "clip":
        given["attention_mask"] = tokens["attention_mask"]
    with torch.no_grad():
        wanted = model(**given).logits_per_image[0].double().softmax(dim=0).numpy()
    assert isinstance(model, transformers.CLIPModel | transformers.SiglipModel)
    assert foresight.weights == pytest.approx(0.5 * wanted + 0.5 / 3, rel=1e-4)
    assert foresight.tried.all()


def test_first_looks_go_before_pipelines(encoders: Path) -> None:
    look = FirstLook.from_pretrained(encoders / "clip", keep=2)
    classifier = DiffusionClassifier(
        denoiser=TextDenoiser(), classes=NAMES, first_look=look, race=Exhaustive(n_draws=8)
    )
    decision = classifier.classify(torch.full((1, 1, 2, 2), 0.8))[0]
    assert len(decision.unmeasured) == 1
    assert decision.evaluations == 16


def test_prompts_that_it_cuts_are_reported(encoders: Path) -> None:
    look = FirstLook.from_pretrained(encoders / "clip")
    with pytest.warns(DiffclassWarning) as caught:
        look(Prompts.from_templates(["cat", "dog"], ["{} on a very long and dusty mat"]))
    n = len(clip_tokenizer()("cat on a very long and dusty mat").input_ids)
    assert str(caught[0].message) == (
        f"A prompt has {n} tokens, of which the first look, '{encoders / 'clip'}', reads {TOKENS}."
    )


def test_bad_first_looks_are_refused(encoders: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    cases: dict[str, tuple[Any, type[DiffclassError], str]] = {
        "another kind": (
            lambda: FirstLook.from_pretrained(tmp_path),
            UnsupportedModel,
            f"A first look takes a CLIP or SigLIP model. The config.json of '{tmp_path}' says 'bert'.",
        ),
        "too few": (
            lambda: FirstLook.from_pretrained(encoders / "clip", keep=1),
            RangeError,
            "The 'keep' parameter of FirstLook must be at least 2. Got 1.",
        ),
        "no network": (
            lambda: FirstLook.from_pretrained("openai/clip"),
            WeightsMissing,
            "The model 'openai/clip' is neither a directory here nor to be had from the Hugging Face hub "
            "(LocalEntryNotFoundError). Check the name and the connection, or download it first and give its "
            "directory.",
        ),
    }
    for call, error, sentence in cases.values():
        with pytest.raises(error) as caught:
            call()
        assert str(caught.value) == sentence
