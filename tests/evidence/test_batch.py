"""The queue and the pipeline: what is packed is what was asked for, and the depth changes no answer."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffclass.decide import Exhaustive, PairedRace
from diffclass.denoisers import Conditions, Space
from diffclass.denoisers.analytic import GaussianDenoiser
from diffclass.errors import RangeError
from diffclass.evidence import Draws, Engine, Finished, Objective, Race
from diffclass.evidence.batch import Contest, Flight, Queue, send

SHAPE = (1, 4, 4)
SPACE = Space(channels=1, height=4, width=4, scale=1.0, offset=0.0, data_std=0.4)
RACE = PairedRace(n_draws=64, block=4)


def contest(index: int, n_draws: int, n_classes: int) -> Contest:
    draws = Draws.place(Objective(), (0.1, 1.0), n=n_draws, block=1, seed=0, key=index)
    return Contest(index, torch.zeros(1, *SHAPE), draws, n_classes)


# The queue


@given(data=st.data(), sizes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 5)), min_size=1, max_size=6))
def test_the_queue_is_a_list_of_cells(data: st.DataObject, sizes: list[tuple[int, int]]) -> None:
    queue, wanted, given_back = Queue(), [], []
    for index, (n_draws, n_classes) in enumerate(sizes):
        one = contest(index, n_draws, n_classes)
        one.alive[:] = data.draw(st.lists(st.booleans(), min_size=n_classes, max_size=n_classes))
        upto = data.draw(st.integers(0, n_draws))
        queue.ask(one, upto)
        wanted += [(index, draw, c) for draw in range(upto) for c in range(n_classes) if one.alive[c]]
        assert one.asked == upto
    assert len(queue) == len(wanted)
    while len(queue):
        before = len(queue)
        n = data.draw(st.integers(1, 9))
        cells = queue.take(n)
        assert len(cells) == before - len(queue) == min(n, before)
        owners = np.repeat([one.index for one in cells.contests], np.diff(cells.bounds)).tolist()
        batch = list(zip(owners, cells.draws.tolist(), cells.classes.tolist(), strict=True))
        given_back += batch
        pairs = list(dict.fromkeys((index, draw) for index, draw, _ in batch))
        assert [pairs.index((index, draw)) for index, draw, _ in batch] == cells.pairs.tolist()
        named = zip(cells.owners.tolist(), cells.draws[cells.firsts].tolist(), strict=True)
        assert [(cells.contests[owner].index, draw) for owner, draw in named] == pairs
        cells.store(np.array([100 * i + 10 * d + c for i, d, c in batch], dtype=np.float32))
        for i, d, c in batch:
            (owner,) = (one for one in cells.contests if one.index == i)
            assert owner.errors[d, c] == 100 * i + 10 * d + c
    assert given_back == wanted


def test_a_request_costs_nothing_to_keep() -> None:
    queue, one = Queue(), contest(0, 20_000, 1_000)
    queue.ask(one, 20_000)
    assert len(queue) == one.pending == 20_000_000
    cells = queue.take(5)
    assert (cells.draws == 0).all()
    assert cells.classes.tolist() == [0, 1, 2, 3, 4]


def test_nothing_asked_is_nothing_queued() -> None:
    queue, one = Queue(), contest(0, 4, 2)
    queue.ask(one, 0)
    assert len(queue) == one.pending == 0


def test_on_a_cpu_nothing_is_copied() -> None:
    values = torch.ones(3)
    assert send(values, torch.device("cpu")) is values
    cells = Queue()
    cells.ask(contest(0, 3, 1), 3)
    np.testing.assert_array_equal(Flight(cells.take(3), values).land(), [1, 1, 1])


# The pipeline


class Recording(GaussianDenoiser.__mro__[0]):  # type: ignore[misc,name-defined]
    """A denoiser that writes down what happens."""

    diary: list[str]

    def __call__(self, noisy: torch.Tensor, sigma: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        self.diary.append("launched")
        return super().__call__(noisy, sigma, conditions)


def recording(n_classes: int = 4) -> Recording:
    means = torch.rand((n_classes, *SHAPE), generator=torch.Generator().manual_seed(1)) * 0.3 + 0.3
    model = Recording(means, 0.15, space=SPACE, sigma_range=(0.01, 10.0))
    model.diary = []
    return model


def images(n: int) -> torch.Tensor:
    return torch.rand((n, *SHAPE), generator=torch.Generator().manual_seed(2))


def engine(model: Recording, *, depth: int | None, batch_size: int = 50, race: Race = RACE) -> Engine:
    return Engine(
        denoiser=model, conditions=model.condition_on(model.classes), classes=model.classes, objective=Objective(),
        race=race, batch_size=batch_size, depth=depth,
    )  # fmt: skip


def run(model: Recording, batch: torch.Tensor, **options: int | None) -> dict[int, Finished]:
    return {f.index: f for f in engine(model, **options).run(enumerate(batch))}  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize(("n_images", "batch_size"), [(1, 50), (1, 1000), (2, 7), (20, 50), (20, 64)])
def test_the_depth_changes_no_answer(depth: int, n_images: int, batch_size: int) -> None:
    batch, flat, deep = images(n_images), recording(), recording()
    wanted = run(flat, batch, depth=1, batch_size=batch_size)
    got = run(deep, batch, depth=depth, batch_size=batch_size)
    assert got.keys() == wanted.keys()
    for index, one in got.items():
        other = wanted[index]
        np.testing.assert_allclose(one.evidence.errors, other.evidence.errors, rtol=1e-5)
        assert np.array_equal(one.survivors, other.survivors)
        assert np.array_equal(one.looks, other.looks)
        assert one.reason == other.reason
    # Waiting for what is under way before a batch that is not full: no more batches but at the end.
    assert len(deep.diary) <= len(flat.diary) + depth * len(RACE.looks)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_so_many_batches_are_under_way(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, land = recording(), Flight.land

    def landed(flight: Flight) -> np.ndarray:
        model.diary.append("landed")
        return land(flight)

    monkeypatch.setattr(Flight, "land", landed)
    run(model, images(20), depth=depth)
    assert model.diary[: depth + 1] == ["launched"] * depth + ["landed"]
    under_way = np.cumsum([1 if event == "launched" else -1 for event in model.diary])
    assert under_way.max() == depth
    assert under_way[-1] == 0


def test_the_depth_of_a_cpu_is_one() -> None:
    model = recording()
    assert len(run(model, images(3), depth=None)) == 3
    with pytest.raises(RangeError, match=r"The 'depth' parameter must be at least 1\. Got 0\."):
        engine(model, depth=0)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("race", [RACE, Exhaustive(n_draws=64, block=4)])
def test_open_races_are_bounded_by_the_batch(depth: int, race: Race) -> None:
    taken, finished, most = 0, 0, 0

    def source() -> Iterator[tuple[int, torch.Tensor]]:
        nonlocal taken
        for item in enumerate(images(300)):
            taken += 1
            yield item

    for _ in engine(recording(), depth=depth, batch_size=40, race=race).run(source()):
        most = max(most, taken - finished)
        finished += 1
    assert finished == 300
    # An open race waits for at least 2 classes x 4 draws, in the queue (under 2 batches of them) or under way.
    assert most <= (depth + 2) * 40 // 8
