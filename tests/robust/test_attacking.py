"""Attacks: their budgets, their noise, their checks, and who judges."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.denoisers import Conditions
from diffclass.denoisers.analytic import GaussianMixtureDenoiser
from diffclass.noise import derived_key, image_key
from diffclass.robust.attack import ATTACKS, Attack, attack_image, default_attacks
from diffclass.robust.gradient import (
    Access,
    Defence,
    agreement,
    finite_difference_error,
    margin,
    wrong_log_odds,
)
from diffclass.robust.search import Search, difference_ratio
from diffclass.robust.threat import Threat
from diffclass.robust.toolbox import apgd, square
from tiny_mixture import digits, tiny_mixture

QUICK = {"steps": 4, "queries": 6, "access": Access(n_draws=8)}


def defence(denoiser: Any = None, *, seed: int = 0, n_draws: int = 16) -> Defence:
    classifier = DiffusionClassifier(
        denoiser=denoiser or tiny_mixture(), race=Exhaustive(n_draws=n_draws, block=4), seed=seed, batch_size=512
    )
    return Defence(classifier=classifier)


def picture(index: int = 0) -> tuple[Tensor, str]:
    item = digits()[index]
    assert item.label is not None
    return item.load((1, 8, 8)), digits().classes[item.label]


# Budgets


@settings(max_examples=25)
@given(st.sampled_from(["linf", "l2"]), st.floats(0.01, 2.0), st.integers(0, 1000))
def test_projection_stays_within_the_threat(norm: str, epsilon: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image, other = torch.rand((1, 3, 3), generator=generator), torch.randn((1, 3, 3), generator=generator) * 3
    threat = Threat(norm, epsilon)
    found = threat.project(image, other)
    assert threat.distance(image, found) <= epsilon * (1 + 1e-5)
    assert found.min() >= 0
    assert found.max() <= 1
    torch.testing.assert_close(threat.project(image, found), found, atol=1e-6, rtol=0.0)
    corners = threat.random(image, 5, np.random.default_rng(seed))
    assert all(threat.distance(image, corner) <= epsilon * (1 + 1e-5) for corner in corners)


@pytest.mark.parametrize(
    ("text", "norm", "epsilon"), [("linf:8/255", "linf", 8 / 255), ("L2:0.5", "l2", 0.5), (" l2:1e-1", "l2", 0.1)]
)
def test_threats_are_read(text: str, norm: str, epsilon: float) -> None:
    threat = Threat.parse(text)
    assert (threat.norm, threat.epsilon) == (norm, epsilon)


def test_points_outside_the_threat_are_not_kept() -> None:
    image, truth = picture()
    search = Search(defence().view(1, Access(n_draws=8)), image, int(truth), Threat("linf", 0.01))
    search.joints(torch.zeros((1, 1, 8, 8)).numpy())
    assert search.margin == float("-inf")
    search.joints(image[None].numpy())
    assert search.margin > float("-inf")


# Losses


def test_losses_are_the_published_ones() -> None:
    joint = torch.tensor([[5.0, 1.0, 3.0, 2.5]], dtype=torch.float64)
    assert float(wrong_log_odds(joint, 0)[0]) == pytest.approx(np.log(np.exp(1) + np.exp(3) + np.exp(2.5)) - 5)
    assert float(margin(joint, 0)[0]) == -2.0
    assert float(margin(joint, 1)[0]) == 4.0
    assert float(difference_ratio()(joint, 0)[0]) == pytest.approx(-2 / (5 - 2.5))
    assert float(difference_ratio(1)(joint, 0)[0]) == pytest.approx(-4 / (5 - (2.5 + 1) / 2))
    assert float(difference_ratio()(joint[:, :2], 0)[0]) == -4.0  # too few classes to divide by


def test_the_loss_has_a_gradient_where_the_cross_entropy_has_none() -> None:
    joint = torch.tensor([[900.0, 0.0, 3.0]], dtype=torch.float64, requires_grad=True)
    (ours,) = torch.autograd.grad(wrong_log_odds(joint, 0).sum(), joint)
    (theirs,) = torch.autograd.grad(torch.nn.functional.cross_entropy(joint, torch.tensor([0])), joint)
    assert theirs.abs().max() == 0
    assert float(ours[0, 0]) == -1.0
    assert float(ours[0, 2]) > 0.9


def test_an_image_that_is_wrong_on_the_attackers_draws_is_attacked_all_the_same() -> None:
    """Its judge meets other draws, on which it may be right."""
    image, truth = picture()
    wrong = (int(truth) + 1) % 10
    for run in (lambda s: apgd(s, steps=4, restarts=2, seed=0), lambda s: square(s, queries=10, seed=0)):
        search = Search(defence().view(1, Access(n_draws=8)), image, wrong, Threat("linf", 0.05))
        start = search.margins(image[None].numpy())[0]
        assert start > 0
        run(search)
        assert search.margin > start
        assert search.view.looks >= 8


# Noise


def test_fixed_noise_is_that_of_the_images_own_classification() -> None:
    image, _ = picture()
    attacked = defence()
    joint = attacked.view(image_key(image), Access())(image[None])[0].numpy()
    wanted = attacked.judge(image[None])[0].evidence.log_odds()
    np.testing.assert_allclose(joint - joint.max(), wanted, rtol=1e-5, atol=1e-3)


def test_fixed_noise_stays_and_fresh_noise_does_not() -> None:
    image, _ = picture()
    fixed, fresh = (defence().view(3, Access(noise=noise, n_draws=8)) for noise in ("fixed", "fresh"))
    assert torch.equal(fixed(image[None]), fixed(image[None]))
    looks = [fresh(image[None]) for _ in range(3)]
    assert not torch.equal(looks[0], looks[1])
    again = defence().view(3, Access(noise="fresh", n_draws=8))
    assert torch.equal(again(image[None]), looks[0])  # a function of the key and the number of the look


def test_sets_of_draws_are_averaged_with_their_gradients() -> None:
    image, truth = picture()
    both = defence().view(3, Access(n_draws=8, eot=2))
    keys = (3, derived_key(3, 0, 1))
    x = image[None].clone().requires_grad_()
    alone = torch.stack([defence().view(key, Access(n_draws=8))(x) for key in keys]).mean(dim=0)
    torch.testing.assert_close(both(image[None]), alone.detach())
    (gradient,) = torch.autograd.grad(wrong_log_odds(alone, int(truth)).sum(), x)
    torch.testing.assert_close(both.gradient(image, int(truth)), gradient[0])
    assert both.evaluations == 2 * 2 * 8 * 10


# Attacks


def test_every_attack_reports_what_it_did() -> None:
    image, truth = picture(1)
    names = tuple(name for name in ATTACKS if name not in ("apgd-exact",))
    plan = Attack(threat=Threat("linf", 0.15), attacks=names, **QUICK)
    other = defence(seed=9)
    attacked = attack_image(defence(), image, truth, plan, other=other)
    row = attacked.row()
    assert list(row["attacks"]) == list(names)
    for name, one in row["attacks"].items():
        assert one["fooled"] == (one["label"] != truth)
        assert one["distance"] <= 0.15 * (1 + 1e-5)
        assert (one["gradients"] > 0) == (name.startswith("apgd") or name == "transfer")
        assert one["evaluations"] > 0
    assert row["robust"] == (not any(one["fooled"] for one in row["attacks"].values()))
    for found in attacked.found:  # the classifier is the judge
        assert defence().judge(found.image[None])[0].label == found.label
    assert row["checks"]["finite_difference_error"] < 0.01
    assert row["checks"]["agreement"] > 0.5
    assert row["checks"]["large_budget_fooled"]


def test_gradients_beat_chance() -> None:
    """Over a few digits: APGD's best margins exceed those of as many random looks by far."""
    plan = Attack(
        threat=Threat("linf", 0.1), attacks=("apgd-ce", "apgd-exact", "random"), steps=10, queries=20,
        access=Access(n_draws=8), checks=False,
    )  # fmt: skip
    for index in range(3):
        attacked = attack_image(defence(), *picture(index), plan)
        margins = {found.attack: found.margin for found in attacked.found}
        assert margins["apgd-ce"] > margins["random"] + 1
        assert margins["apgd-exact"] > margins["random"] + 1


def test_an_image_that_is_wrong_is_not_attacked() -> None:
    image, truth = picture()
    wrong = str((int(truth) + 1) % 10)
    attacked = attack_image(defence(), image, wrong, Attack(threat=Threat("linf", 0.1), **QUICK))
    assert (attacked.correct, attacked.robust, attacked.found) == (False, False, ())


def test_attacks_are_a_function_of_their_seed_and_leave_global_generators_alone() -> None:
    image, truth = picture(2)
    plan = Attack(threat=Threat("l2", 0.5), attacks=("apgd-ce", "apgd-dlr", "random", "reroll"), **QUICK)
    before = np.random.get_state()[1].copy(), torch.get_rng_state().clone()  # beartype draws from `random` itself
    rows = [attack_image(defence(), image, truth, plan).row() for _ in range(2)]
    assert rows[0] == rows[1]
    assert (np.random.get_state()[1] == before[0]).all()
    assert torch.equal(torch.get_rng_state(), before[1])
    other = attack_image(defence(), image, truth, Attack(**{**vars_of(plan), "seed": 1})).row()
    assert other["attacks"]["random"] != rows[0]["attacks"]["random"]


def vars_of(plan: Attack) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in plan.__slots__}


def test_restarts_and_targets_add_up() -> None:
    image, truth = picture()
    plan = Attack(threat=Threat("linf", 0.01), attacks=("apgd-ce",), steps=3, restarts=2, checks=False)
    attacked = attack_image(defence(n_draws=8), image, truth, plan)
    assert len(attacked.found[0].steps) >= 6
    assert list(attacked.found[0].steps) == sorted(attacked.found[0].steps)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_keeps_to_both_norms_where_pictures_are_large_enough(norm: str) -> None:
    side = 14 if norm == "l2" else 5  # the smallest there are
    means = torch.rand((3, 1, 1, side, side), generator=torch.Generator().manual_seed(0))
    attacked = defence(GaussianMixtureDenoiser(means, 0.3, sigma_range=(0.05, 5.0)), n_draws=8)
    threat = Threat(norm, 0.2 if norm == "linf" else 1.0)
    search = Search(attacked.view(1, Access()), means[0, 0], 0, threat)
    square(search, queries=15, seed=0)
    assert threat.distance(means[0, 0], search.best) <= threat.epsilon * (1 + 1e-5)
    with torch.no_grad():
        start = float(margin(attacked.view(1, Access())(means[0, :1]), 0)[0])
    assert search.margin > start
    assert "square" in default_attacks(attacked, threat, transfer=True)


def test_default_attacks_are_those_that_can_be_run() -> None:
    assert default_attacks(defence(), Threat("l2", 0.5)) == ("apgd-ce", "apgd-t", "apgd-exact", "random", "reroll")
    assert "square" in default_attacks(defence(), Threat("linf", 0.5))


# Checks


class Masked:
    """A mixture whose gradients are cut off but for a tenth, as a defence might do by accident."""

    def __init__(self) -> None:
        inner = tiny_mixture()
        self._inner = inner
        self.space, self.sigma_range, self.classes, self.device = (
            inner.space, inner.sigma_range, inner.classes, inner.device
        )  # fmt: skip
        self.encode, self.decode, self.condition_on = inner.encode, inner.decode, inner.condition_on

    def __call__(self, noisy: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        denoised = self._inner(noisy, sigma, conditions)
        return denoised.detach() + 0.1 * (noisy - noisy.detach())


def test_masked_gradients_are_found_out() -> None:
    image, truth = picture()
    masked, honest = defence(Masked()), defence()
    access = Access(n_draws=8)
    assert finite_difference_error(masked.view(1, access), image, int(truth)) > 0.3
    assert finite_difference_error(honest.view(1, access), image, int(truth)) < 0.01


def test_agreement_grows_with_the_draws() -> None:
    image, truth = picture()
    few, many = (agreement(defence().view(1, Access(n_draws=n)), image, int(truth)) for n in (4, 256))
    assert many > max(few + 0.2, 0.8)
    assert agreement(defence().exact_view(), image, int(truth)) == pytest.approx(1.0)


def test_fresh_noise_does_not_flatter_the_best_point() -> None:
    image, truth = picture()
    search = Search(defence().view(1, Access(noise="fresh", n_draws=4)), image, int(truth), Threat("linf", 0.05))
    apgd(search, steps=5, restarts=1, seed=0)
    picked = search.margin
    assert search.settle() != picked
