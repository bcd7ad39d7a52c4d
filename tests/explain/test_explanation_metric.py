"""Measures of explanations against values that are known by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor

from diffclass.explain import agreement, cout, deletion, insertion, proximity
from diffclass.explain.metric import blurred
from diffclass.explain.picture import as_png, as_tint, scale_of

SHAPE = (1, 8, 8)


def bright_left(images: Tensor) -> np.ndarray:
    """A judge whose first class is as likely as the left half is bright."""
    p = images[:, 0, :, :4].double().mean(dim=(1, 2)).numpy()
    return np.stack([p, 1 - p], axis=1)


def half(left: bool) -> np.ndarray:
    ranking = np.zeros((8, 8))
    ranking[:, :4] = left
    ranking[:, 4:] = not left
    return ranking


def test_proximity_by_hand() -> None:
    image, other = torch.full((2, 8, 8), 0.5), torch.full((2, 8, 8), 0.5)
    other[0, :2] = 0.9
    found = proximity(other, image)
    assert found.l1 == pytest.approx(0.4 / 8)
    assert found.l2 == pytest.approx(np.sqrt(0.16 / 8))
    assert found.changed == 0.25  # a pixel counts if one of its channels does
    assert found.ssim is not None
    assert found.ssim < 1
    same = proximity(image, image)
    assert (same.l1, same.l2, same.changed, same.ssim) == (0, 0, 0, 1)
    assert proximity(torch.zeros(1, 6, 6), torch.zeros(1, 6, 6)).ssim is None


def test_ssim_is_that_of_wang_et_al() -> None:
    """Of one window, by the equation: luminance, contrast and structure with the standard constants."""
    random = np.random.default_rng(0)
    one, other = random.random((2, 1, 7, 7))
    found = proximity(torch.from_numpy(one), torch.from_numpy(other)).ssim
    c1, c2 = 0.01**2, 0.03**2
    a, b = one.ravel(), other.ravel()
    covariance = np.cov(a, b)
    top = (2 * a.mean() * b.mean() + c1) * (2 * covariance[0, 1] + c2)
    bottom = (a.mean() ** 2 + b.mean() ** 2 + c1) * (covariance[0, 0] + covariance[1, 1] + c2)
    assert found == pytest.approx(top / bottom)


def test_deletion_and_insertion_by_hand() -> None:
    image, black = torch.ones(SHAPE), torch.zeros(SHAPE)
    first, last = (deletion(bright_left, image, half(left), 0, baseline=black, steps=4) for left in (True, False))
    assert first.shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert first.probabilities.tolist() == [1, 0.5, 0, 0, 0]
    assert last.probabilities.tolist() == [1, 1, 1, 0.5, 0]
    assert (first.area, last.area) == (0.25, 0.75)
    back = insertion(bright_left, image, half(True), 0, baseline=black, steps=4)
    assert back.probabilities.tolist() == [0, 0.5, 1, 1, 1]
    assert back.area == 0.75
    assert deletion(bright_left, image, half(True), 1, baseline=black, steps=4).area == 0.75


def test_without_a_baseline_pixels_are_blurred() -> None:
    image = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    curve = deletion(bright_left, image, half(True), 0, steps=2)
    assert curve.probabilities[-1] == pytest.approx(bright_left(blurred(image)[None])[0, 0])
    assert float(blurred(image).std()) < 0.5 * float(image.std())
    assert float(blurred(torch.full(SHAPE, 0.3)).std()) < 1e-6


def test_cout_by_hand() -> None:
    """The counterfactual darkens the left half strongly, and the right half, which does not matter, a little."""
    image, other = torch.ones(SHAPE), torch.full(SHAPE, 0.5)
    other[:, :, :4] = 0.0
    p = np.array([1, 0.5, 0, 0, 0])
    expected = np.trapezoid(1 - 2 * p, [0, 0.25, 0.5, 0.75, 1])
    assert cout(bright_left, image, other, 0, 1, steps=4) == pytest.approx(expected) == pytest.approx(0.5)
    assert cout(bright_left, image, image, 0, 1, steps=4) == -1


def test_agreement_is_of_sizes_and_ranks() -> None:
    one = np.arange(16.0).reshape(4, 4)
    assert agreement(one, -np.exp(one)) == pytest.approx(1)
    assert agreement(one, one[::-1, ::-1]) == pytest.approx(-1)
    assert np.isnan(agreement(one, np.ones((4, 4))))


def test_colours_say_the_sign_and_opacity_the_size() -> None:
    values = np.array([[2.0, -1.0], [0.0, -4.0]])
    tint = as_tint(values, positive="#0000ff", negative="#ff0000", scale=2.0)
    assert tint[0, 0].tolist() == [0, 0, 255, 255]
    assert tint[0, 1].tolist() == [255, 0, 0, 128]
    assert tint[1, :, 3].tolist() == [0, 255]
    pale = as_tint(values, positive="#0000ff", negative="#ff0000", scale=2.0, sure=values > 0)
    assert pale[..., 3].tolist() == [[255, 38], [0, 76]]
    assert scale_of(values, least=9.0) == 9.0
    assert as_png(tint).startswith(b"\x89PNG")
