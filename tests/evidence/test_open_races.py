"""Races that start while others run, are watched, are given up, or break: none of it shows in another race."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffclass.decide import Exhaustive, PairedRace
from diffclass.denoisers import Conditions, Space
from diffclass.denoisers.analytic import GaussianDenoiser
from diffclass.errors import InputError
from diffclass.evidence import Engine, Evidence, Failed, Finished, Objective, OpenRaces, Race

SHAPE = (1, 4, 4)
SPACE = Space(channels=1, height=4, width=4, scale=1.0, offset=0.0, data_std=0.4)
RACE = PairedRace(n_draws=64, block=4)


class Counting(GaussianDenoiser.__mro__[0]):  # type: ignore[misc,name-defined]
    """Remembers how many cells were measured, and answers NaN for images that are all one."""

    cells = 0

    def __call__(self, noisy: torch.Tensor, sigma: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        type(self).cells += len(noisy)
        denoised = super().__call__(noisy, sigma, conditions)
        denoised[(noisy.mean(dim=(1, 2, 3)) > 900)] = torch.nan
        return denoised


def engine(race: Race = RACE, batch_size: int = 32, depth: int | None = None) -> Engine:
    means = torch.rand((4, *SHAPE), generator=torch.Generator().manual_seed(1)) * 0.3 + 0.3
    model = Counting(means, 0.15, space=SPACE, sigma_range=(0.01, 10.0))
    return Engine(
        denoiser=model, conditions=model.condition_on(model.classes), classes=tuple(model.classes),
        objective=Objective(), race=race, batch_size=batch_size, depth=depth,
    )  # fmt: skip


def images(n: int) -> torch.Tensor:
    return torch.rand((n, *SHAPE), generator=torch.Generator().manual_seed(2))


def drain(races: OpenRaces) -> dict[int, Finished | Failed]:
    ended = {}
    while len(races):
        ended |= {outcome.index: outcome for outcome in races.step()}
    return ended


def alone(image: torch.Tensor) -> Finished:
    return next(iter(engine().run([(0, image)])))


@settings(max_examples=10, deadline=None)
@given(
    batch_size=st.integers(1, 200),
    depth=st.integers(1, 3),
    plan=st.lists(st.tuples(st.sampled_from(["enter", "leave", "step"]), st.integers(0, 5)), max_size=30),
)
def test_who_comes_and_goes_changes_no_answer(batch_size: int, depth: int, plan: list[tuple[str, int]]) -> None:
    """Whatever comes, goes and comes again meanwhile, a race measures what it would measure alone."""
    batch, reference = images(6), [alone(image) for image in images(6)]
    races, ended, inside = engine(batch_size=batch_size, depth=depth).open(), {}, set()
    for verb, index in plan:
        if verb == "enter" and index not in inside:
            races.enter(index, batch[index])
            inside.add(index)
        elif verb == "leave":
            assert races.leave(index) == (index in inside)
            inside.discard(index)
        else:
            found = {outcome.index: outcome for outcome in races.step()}
            assert found.keys() <= inside
            inside -= found.keys()
            ended |= found
        assert len(races) == len(inside)
    last = drain(races)
    assert last.keys() == inside
    for index, finished in (ended | last).items():
        assert isinstance(finished, Finished)
        np.testing.assert_allclose(finished.evidence.errors, reference[index].evidence.errors, rtol=1e-5)
        assert np.array_equal(finished.survivors, reference[index].survivors)
        assert np.array_equal(finished.looks, reference[index].looks)


def test_nothing_is_measured_of_a_race_that_left() -> None:
    race = Exhaustive(n_draws=64, block=4)
    races = engine(race, batch_size=16).open()
    races.enter(0, images(1)[0])
    races.enter(1, images(2)[1])
    before = Counting.cells
    races.step()
    assert races.leave(0)
    assert not races.leave(0)
    assert drain(races).keys() == {1}
    assert Counting.cells - before == 16 + 64 * 4  # the batch that was under way, and the other race


@pytest.mark.parametrize("batch_size", [5, 16, 1000])
def test_a_race_is_watched_draw_by_draw(batch_size: int) -> None:
    """Draws come in as batches do, classes leave at planned looks, and intervals narrow."""
    seen: list[tuple[Evidence, np.ndarray]] = []
    races = engine(batch_size=batch_size).open()
    races.enter(7, torch.full(SHAPE, 0.45), lambda *new: seen.append(new))  # near all classes alike: a long race
    finished = drain(races)[7]
    assert isinstance(finished, Finished)
    planned = [n * RACE.block for n in RACE.looks if n * RACE.block < finished.evidence.n_draws]
    assert {evidence.n_draws for evidence, _ in seen} >= set(planned)
    assert (len(seen) > 2 * len(planned)) == (batch_size < 100)
    for evidence, survivors in seen:
        n = evidence.n_draws
        np.testing.assert_array_equal(evidence.errors[:n][:, survivors], finished.evidence.errors[:n][:, survivors])
        assert np.isnan(evidence.errors[n:]).all()
        assert survivors[evidence.leader()]
    for (before, stayed), (after, stay) in pairwise(seen):
        assert (after.n_draws, -stay.sum()) > (before.n_draws, -stayed.sum())
        assert (stay <= stayed).all()
        assert after.n_draws in planned or (stay == stayed).all()
    first, last = (seen[i][0] for i in (0, -1))
    leader = last.leader()
    rival = next(c for c in np.flatnonzero(last.alive).tolist() if c != leader)
    assert last.difference(leader, rival).se < first.difference(leader, rival).se


def test_a_race_that_breaks_takes_no_other_with_it() -> None:
    races = engine(batch_size=64).open()
    for index, image in enumerate(images(3)):
        races.enter(index, torch.full(SHAPE, 1000.0) if index == 1 else image)
    ended = drain(races)
    assert ended.keys() == {0, 1, 2}
    assert isinstance(ended[1], Failed)
    assert str(ended[1].error).startswith("The model returned NaN or infinity for image 1, draw ")
    for index in (0, 2):
        finished = ended[index]
        assert isinstance(finished, Finished)
        np.testing.assert_allclose(finished.evidence.errors, alone(images(3)[index]).evidence.errors, rtol=1e-5)


def test_an_index_in_use_is_refused() -> None:
    races = engine().open()
    races.enter(3, images(1)[0])
    with pytest.raises(InputError, match=r"^Races that are open must have different indices\. Got 3 twice\.$"):
        races.enter(3, images(1)[0])


def test_stepwise_stops_after_every_network_call() -> None:
    machine = engine(batch_size=16)
    before = Counting.cells
    outcomes = list(machine.stepwise(enumerate(images(3))))
    assert sum(outcome is None for outcome in outcomes) == (Counting.cells - before) / 16
    assert [outcome.index for outcome in outcomes if outcome is not None] == [
        finished.index for finished in engine(batch_size=16).run(enumerate(images(3)))
    ]
