"""The engine: what is measured does not depend on how it is batched, ordered or interrupted."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffclass.decide import Exhaustive, PairedRace
from diffclass.denoisers import Conditions, Space
from diffclass.denoisers.analytic import GaussianDenoiser
from diffclass.errors import ConditionError, NonFiniteError, RangeError
from diffclass.evidence import Clean, Engine, Finished, NoisedApproximate, NoisedExact, Objective

SHAPE = (1, 4, 4)
SPACE = Space(channels=1, height=4, width=4, scale=1.0, offset=0.0, data_std=0.4)


def denoiser(n_classes: int = 4) -> GaussianDenoiser:
    means = torch.rand((n_classes, *SHAPE), generator=torch.Generator().manual_seed(1)) * 0.3 + 0.3
    return GaussianDenoiser(means, 0.15, space=SPACE, sigma_range=(0.01, 10.0))


def images(n: int) -> torch.Tensor:
    return torch.rand((n, *SHAPE), generator=torch.Generator().manual_seed(2))


def engine(model: GaussianDenoiser | None = None, order: tuple[int, ...] | None = None, **options: object) -> Engine:
    model = model or denoiser()
    order = order or tuple(range(len(model.classes)))
    names = tuple(model.classes[i] for i in order)
    options.setdefault("race", Exhaustive(n_draws=32, block=4))
    return Engine(denoiser=model, conditions=model.condition_on(names), classes=names, objective=Objective(), **options)  # type: ignore[arg-type]


def run(machine: Engine, batch: torch.Tensor, indices: list[int] | None = None) -> dict[int, Finished]:
    indices = list(range(len(batch))) if indices is None else indices
    return {f.index: f for f in machine.run((i, batch[i]) for i in indices)}


@settings(max_examples=15, deadline=None)
@given(batch_size=st.integers(1, 300), reverse=st.booleans())
def test_batch_size_and_order_change_nothing(batch_size: int, reverse: bool) -> None:
    batch = images(5)
    reference = run(engine(batch_size=128, race=PairedRace(n_draws=64, block=4)), batch)
    order = [4, 3, 2, 1, 0] if reverse else [0, 1, 2, 3, 4]
    other = run(engine(batch_size=batch_size, race=PairedRace(n_draws=64, block=4)), batch, order)
    for i in range(5):
        np.testing.assert_allclose(other[i].evidence.errors, reference[i].evidence.errors, rtol=1e-5)
        assert np.array_equal(other[i].survivors, reference[i].survivors)
        assert np.array_equal(other[i].evidence.draws.sigmas, reference[i].evidence.draws.sigmas)


def test_an_image_has_the_same_evidence_alone_and_in_company() -> None:
    batch = images(3)
    together, alone = run(engine(), batch), run(engine(), batch, [1])
    np.testing.assert_array_equal(together[1].evidence.errors, alone[1].evidence.errors)


def test_permuting_classes_permutes_the_errors() -> None:
    batch, order = images(2), (2, 0, 3, 1)
    first, second = run(engine(), batch), run(engine(order=order), batch)
    np.testing.assert_allclose(second[0].evidence.errors, first[0].evidence.errors[:, list(order)], rtol=1e-6)


def test_classes_share_every_draw() -> None:
    """Two classes with the same name-independent model get the very same errors: no draw of their own."""
    means = torch.full((2, *SHAPE), 0.5)
    twins = GaussianDenoiser(means, 0.2, space=SPACE, sigma_range=(0.01, 10.0))
    for finished in run(engine(twins), images(3)).values():
        np.testing.assert_array_equal(finished.evidence.errors[:, 0], finished.evidence.errors[:, 1])
        difference = finished.evidence.difference(0, 1)
        assert difference.mean == 0
        assert difference.se == 0


def test_the_seed_decides_the_noise() -> None:
    batch = images(1)
    same, other = run(engine(seed=3), batch), run(engine(seed=4), batch)
    np.testing.assert_array_equal(run(engine(seed=3), batch)[0].evidence.errors, same[0].evidence.errors)
    assert not np.allclose(other[0].evidence.errors, same[0].evidence.errors)


def test_every_call_has_the_fixed_shape_and_full_batches() -> None:
    sizes: list[int] = []

    class Counting(GaussianDenoiser.__mro__[0]):  # type: ignore[misc,name-defined]
        def __call__(self, noisy: torch.Tensor, sigma: torch.Tensor, conditions: Conditions) -> torch.Tensor:
            sizes.append(len(noisy))
            return super().__call__(noisy, sigma, conditions)

    model = denoiser()
    counting = Counting(model.means.reshape(4, *SHAPE).float(), 0.15, space=SPACE, sigma_range=(0.01, 10.0))
    finished = run(engine(counting, batch_size=100, race=PairedRace(n_draws=64, block=4)), images(40))
    spent = sum(f.evidence.evaluations for f in finished.values())
    assert set(sizes) == {100}
    # only the last rounds can leave a batch unfilled: at most one look of one image each
    assert len(sizes) <= -(-spent // 100) + len(PairedRace(n_draws=64, block=4).looks)


def test_errors_are_the_squared_distances_of_the_pair() -> None:
    model, batch = denoiser(), images(1)
    evidence = run(engine(model), batch)[0].evidence
    draw, c = 7, 2
    sigma = torch.tensor([evidence.draws.sigmas[draw]], dtype=torch.float32)
    epsilon = evidence.draws.epsilon(range(draw, draw + 1), SHAPE)
    denoised = model(batch + sigma * epsilon, sigma, model.condition_on([model.classes[c]]))
    assert evidence.errors[draw, c] == pytest.approx(float((denoised - batch).square().sum()), rel=1e-5)


def test_dropped_classes_are_not_measured_and_nothing_is_measured_twice() -> None:
    for finished in run(engine(race=PairedRace(n_draws=128, block=4)), images(10)).values():
        measured = np.isfinite(finished.evidence.errors)
        assert (np.diff(measured.astype(int), axis=0) <= 0).all()  # a prefix for each class
        dropped = ~finished.survivors & (finished.looks > 0)
        assert (measured.sum(axis=0)[dropped] == finished.looks[dropped]).all()


@pytest.mark.parametrize("target", [NoisedExact(0.3), NoisedApproximate(0.3)])
def test_noised_targets_stay_above_tau(target: NoisedExact | NoisedApproximate) -> None:
    evidence = run(engine(target=target), images(1))[0].evidence
    assert evidence.draws.sigmas.min() >= target.sigma_floor >= 0.3


def test_noised_targets_become_clean_without_noise() -> None:
    x, epsilon, sigma = images(3), torch.randn(3, *SHAPE), torch.tensor([0.2, 1.0, 5.0])
    for noised in (NoisedExact(0.0), NoisedApproximate(0.0)):
        for a, b in zip(noised(x, sigma, epsilon), Clean()(x, sigma, epsilon), strict=True):
            torch.testing.assert_close(a, b)


def test_nan_from_a_model_is_named() -> None:
    means = torch.full((2, *SHAPE), 0.5)
    model = GaussianDenoiser(means, 0.2, space=SPACE, classes=["a", "b"], sigma_range=(0.01, 10.0))
    model.means[1] = float("nan")
    with pytest.raises(NonFiniteError, match=r"NaN or infinity for image 0, draw \d+, sigma [\d.]+, class 'b'"):
        run(engine(model), images(1))


def test_a_noise_range_that_is_empty_is_refused() -> None:
    with pytest.raises(RangeError, match="No noise level is left between 20 and 10"):
        run(engine(target=NoisedApproximate(20.0)), images(1))


def test_one_class_is_refused() -> None:
    with pytest.raises(ConditionError, match=r"at least two classes\. Got 1"):
        engine(order=(0,))
