"""Counterfactuals of small models: that they flip, what they cost, and what they are held against."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_pipelines
from diffclass.decide import DiffusionClassifier, Exhaustive, Prompts
from diffclass.denoisers import EDM, Conditions, PixelDenoiser, Space, load
from diffclass.explain import Edit, counterfactual, explain_image
from diffclass.explain.edit import STRENGTHS
from diffclass.explain.flow import sigma_of_strength
from tiny_mixture import digits, tiny_mixture
from tiny_networks import CLASSES, SIZE, tiny_unet


def classifier(**options: Any) -> DiffusionClassifier:
    options = {"race": Exhaustive(n_draws=32, block=4), "temperature": 2.0} | options
    return DiffusionClassifier(denoiser=tiny_mixture(), **options)


def digit(index: int = 0) -> Tensor:
    return digits().array((1, 8, 8), [index])[0][0]


class Counting:
    """A denoiser that counts what it is asked."""

    def __init__(self) -> None:
        self._inner = inner = tiny_mixture()
        self.space, self.sigma_range, self.classes, self.device = (
            inner.space, inner.sigma_range, inner.classes, inner.device
        )  # fmt: skip
        self.encode, self.decode, self.condition_on = inner.encode, inner.decode, inner.condition_on
        self.evaluations = 0

    def __call__(self, noisy: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        self.evaluations += len(noisy)
        return self._inner(noisy, sigma, conditions)


@pytest.mark.parametrize("method", ["inversion", "partial"])
def test_the_least_strength_that_changes_the_answer_is_found(method: str) -> None:
    flipped = 0
    for index in range(3):
        found = counterfactual(classifier(), digit(index), edit=Edit(method=method, n_steps=6))
        flipped += found.flipped
        assert found.tried == STRENGTHS[: len(found.tried)]
        assert found.edit.strength in found.tried
        assert found.sigma == pytest.approx(
            sigma_of_strength(found.edit.strength, data_std=tiny_mixture().space.data_std)
        )
        if found.flipped and found.is_clear:
            assert found.edit.strength == found.tried[-1]
        before = STRENGTHS[: STRENGTHS.index(found.edit.strength)]
        if before:
            weaker = counterfactual(
                classifier(), digit(index), edit=Edit(method=method, strength=before[-1], n_steps=6)
            )
            assert not (weaker.flipped and weaker.is_clear)
        for picture in (found.factual, found.counterfactual):
            assert picture.shape == (1, 8, 8)
            assert 0 <= float(picture.min()) <= float(picture.max()) <= 1
        assert torch.equal(found.difference, found.counterfactual - found.factual)
    assert flipped >= 2


def test_the_factual_of_an_inversion_is_the_image() -> None:
    found = counterfactual(classifier(), digit(), edit=Edit(strength=0.8, n_steps=24))
    assert found.held
    assert float((found.factual - digit()).abs().max()) < 0.03
    assert float(found.difference.abs().max()) > 0.1


@pytest.mark.parametrize(
    "edit",
    [
        Edit(strength=0.7, n_steps=3),
        Edit(strength=0.7, n_steps=3, solver="euler"),
        Edit(strength=0.7, n_steps=3, guidance=0.0),
        Edit(strength=0.7, n_steps=3, method="partial"),
        Edit(strength=0.7, n_steps=3, method="partial", guidance=0.0),
    ],
    ids=str,
)
def test_every_evaluation_is_counted(edit: Edit) -> None:
    counting = Counting()
    asked = replace(classifier(), denoiser=counting, batch_size=320)
    decision = asked.classify(digit()[None])[0]
    counting.evaluations = 0
    found = counterfactual(asked, digit(), edit=edit, decision=decision)
    judged = sum(answer.evaluations for answer in found.answers)
    assert counting.evaluations == found.evaluations + judged


def test_strength_one_is_the_most_noise_that_the_model_knows() -> None:
    found = counterfactual(classifier(), digit(), edit=Edit(strength=1.0))
    assert found.sigma == tiny_mixture().sigma_range[1]


def test_a_named_class_is_what_comes_out() -> None:
    asked = classifier()
    label = asked.predict(digit()[None])[0]
    other = next(name for name in asked.classes_ if name != label)
    found = counterfactual(asked, digit(), other, edit=Edit(strength=0.95, guidance=2.0))
    assert (found.source, found.to) == (label, other)
    assert found.answers[1].label == other


def test_an_explanation_uses_one_answer_for_all_of_it() -> None:
    asked = classifier()
    found = explain_image(asked, digit(), edit=Edit(strength=0.8), n_draws=32)
    plain = asked.classify(digit()[None])[0]
    picture, factual, other = found.verdicts
    assert picture.label == plain.label == found.source == found.map.favoured
    assert found.to == plain.runner_up == found.map.against
    assert picture.log_odds == plain.log_odds == found.map.difference.mean
    assert plain.probabilities is not None
    assert picture.probability == plain.probabilities[found.source]
    assert picture.other_probability == plain.probabilities[found.to]
    assert factual.log_odds > 0 > other.log_odds
    again = explain_image(asked, digit(), edit=Edit(strength=0.8), n_draws=32)
    assert again.row() == found.row()


def test_a_model_without_a_null_class_is_not_guided() -> None:
    network = PixelDenoiser(
        network=tiny_unet(), parametrisation=EDM(), space=Space(channels=1, height=SIZE, width=SIZE),
        sigma_range=(0.02, 8.0), classes=CLASSES,
    )  # fmt: skip
    asked = DiffusionClassifier(denoiser=network, race=Exhaustive(n_draws=8, block=4), batch_size=24)
    found = counterfactual(asked, digit(), edit=Edit(strength=0.5, n_steps=2))
    assert found.edit.guidance == 0
    assert counterfactual(replace(asked, denoiser=replace(network, null_class=3)), digit(),
                          edit=Edit(strength=0.5, n_steps=2)).edit.guidance == 1  # fmt: skip


def test_latents_and_several_prompts(pipelines: Any) -> None:
    """A text-to-image model: the map has the latents' grid, and the edit is told the first prompt."""
    name = next(iter(tiny_pipelines.PIPELINES))
    denoiser = load(pipelines / name)
    prompts = Prompts.from_templates(("cat", "dog"), ("a {}.", "one {} here."))
    asked = DiffusionClassifier(denoiser=denoiser, prompts=prompts, race=Exhaustive(n_draws=16, block=4), batch_size=32)
    image = torch.rand(denoiser.space.image_shape, generator=torch.Generator().manual_seed(1))
    found = explain_image(asked, image, edit=Edit(strength=0.5, n_steps=2), n_draws=16)
    assert denoiser.space.latent is not None
    assert found.map.values.shape == denoiser.space.latent[1:]
    assert found.map.values.sum() == pytest.approx(found.map.difference.mean, rel=1e-4, abs=1e-4)
    assert found.counterfactual.counterfactual.shape == image.shape
    backwards = explain_image(asked, image, edit=Edit(strength=0.5, n_steps=2, method="partial"), n_draws=8)
    assert backwards.counterfactual.factual.shape == image.shape
