"""Scores of foreign images: standardised as they say, and apart where the noise levels tell."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.decide.measure import measure
from diffclass.decide.outside import fit_outside_score
from diffclass.errors import InputError
from diffclass.evidence import ErrorMatrices
from diffclass.stats import fpr_at_tpr, ood_auc
from tiny_mixture import digits, tiny_mixture


@pytest.fixture(scope="module")
def classifier() -> DiffusionClassifier:
    return DiffusionClassifier(denoiser=tiny_mixture(), race=Exhaustive(n_draws=16), batch_size=512)


@pytest.fixture(scope="module")
def known(classifier: DiffusionClassifier) -> ErrorMatrices:
    images, labels = digits().array((1, 8, 8), range(80))
    return measure(classifier, images, labels.numpy(), n_draws=16)


def foreign(classifier: DiffusionClassifier, images: torch.Tensor) -> ErrorMatrices:
    return measure(classifier, images, np.zeros(len(images), dtype=np.int64), n_draws=16)


def test_validation_images_have_mean_zero_and_sd_one_in_each_bin(known: ErrorMatrices) -> None:
    one = fit_outside_score(known, n_bins=1, both_sides=False)(known)
    assert one.mean() == pytest.approx(0, abs=1e-9)
    assert one.std(ddof=1) == pytest.approx(1)
    assert fit_outside_score(known, n_bins=4, both_sides=False)(known).mean() == pytest.approx(0, abs=1e-9)
    assert fit_outside_score(known, n_bins=4)(known).min() > 0


def test_the_score_is_its_formula(known: ErrorMatrices) -> None:
    made = fit_outside_score(known, n_bins=2, both_sides=False)
    low = known.sigmas[0] < made.edges[0]
    least = [known.errors[0][part].astype(np.float64).mean(axis=0).min() for part in (low, ~low)]
    z = [(np.log(e) - m) / s for e, m, s in zip(least, made.mean, made.sd, strict=True)]
    assert made(known)[0] == pytest.approx(np.mean(z))


def test_noise_is_foreign(classifier: DiffusionClassifier, known: ErrorMatrices) -> None:
    score = fit_outside_score(known.part(np.arange(40)))
    inside = score(known.part(np.arange(40, 80)))
    outside = score(foreign(classifier, torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))))
    assert ood_auc(inside, outside).value > 0.95
    assert fpr_at_tpr(inside, outside).value < 0.2


def test_scaling_every_error_moves_every_image_alike(known: ErrorMatrices) -> None:
    scaled = replace(known, errors=known.errors * np.float32(2))
    np.testing.assert_allclose(fit_outside_score(scaled)(scaled), fit_outside_score(known)(known), atol=1e-5)


def test_bad_input_is_refused(known: ErrorMatrices) -> None:
    few = known.part(np.arange(5))
    cases = [
        (lambda: fit_outside_score(few), "fit_outside_score needs at least 20 validation images. Got 5."),
        (lambda: fit_outside_score(known, n_bins=5),
         "fit_outside_score needs at least 4 draws for each of its 'n_bins'. Got 5 bins and 16 draws."),
    ]  # fmt: skip
    for call, sentence in cases:
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == sentence
    empty = replace(known, sigmas=np.full_like(known.sigmas, 1.0))
    with pytest.raises(InputError) as caught:
        fit_outside_score(known, n_bins=4)(empty)
    assert str(caught.value) == (
        "Every image needs a draw in each of the 4 noise bins. Image 0 has none in bin 0. Measure more draws, or fit "
        "with fewer bins."
    )
