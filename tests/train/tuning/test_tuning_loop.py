"""The tuning loop on a model of a few numbers: schedules, averages, and a kill at any moment."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diffclass.errors import NonFiniteError
from diffclass.train.loop import Progress, random_at
from diffclass.train.tuning.loop import Task, learning_rate_share, tune
from diffclass.train.tuning.recipe import TuningPart


class Line:
    """Learns a line, through dropout, from numbers that are a function of step and part."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.Linear(8, 1))

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.model.named_parameters())

    def loss(self, step: int, part: int) -> Tensor:
        x = torch.randn(16, 3, generator=random_at(1, step, part))
        return ((self.model(x)[:, 0] - x.sum(dim=1)) ** 2).mean()


class Killed(Exception):
    pass


def part(**values: object) -> TuningPart:
    return TuningPart(**({"learning_rate": 0.02, "steps": 12} | values))  # type: ignore[arg-type]


def run(path: Path, plan: TuningPart, report: Callable[[Progress], None] = lambda progress: None) -> dict[str, Tensor]:
    task = Line()
    assert isinstance(task, Task)
    tune(
        task, plan, steps=plan.steps, identity="line", checkpoint=path, report=report, checkpoint_seconds=0.0,
        report_every=1,
    )  # fmt: skip
    return {name: weight.detach().clone() for name, weight in task.parameters().items()}


@pytest.mark.parametrize("ema", [0.0, 0.2])
def test_a_kill_at_any_moment_costs_nothing_but_time(tmp_path: Path, ema: float) -> None:
    plan = part(accumulate=2, ema_half_life=ema, decay="cosine", warmup=0.2)
    whole = run(tmp_path / "whole.pt", plan)

    def kill(progress: Progress) -> None:
        if progress.step == 7:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "broken.pt", plan, kill)
    torch.manual_seed(99)  # what the rest of the process does with torch's own stream does not matter
    steps: list[int] = []
    resumed = run(tmp_path / "broken.pt", plan, lambda progress: steps.append(progress.step))
    assert steps[0] == 7  # the checkpoint was written after step 6
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_loss_falls_and_the_stream_of_others_is_left_alone(tmp_path: Path) -> None:
    losses: list[float] = []
    torch.manual_seed(3)
    wanted = torch.rand(4)
    task, plan = Line(), part(steps=80)
    torch.manual_seed(3)
    tune(task, plan, steps=80, identity="", checkpoint=tmp_path / "c.pt", report=lambda p: losses.append(p.loss))
    assert torch.equal(torch.rand(4), wanted)
    assert losses[-1] < 0.7 * losses[0]


def test_a_finished_run_ends_with_the_average_again(tmp_path: Path) -> None:
    plan = part(ema_half_life=0.5)
    first, again = run(tmp_path / "run.pt", plan), run(tmp_path / "run.pt", plan)
    last = run(tmp_path / "last.pt", part())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.allclose(first[name], last[name]) for name in first)


def test_the_learning_rate_over_a_run() -> None:
    def shares(decay: str) -> list[float]:
        return [round(learning_rate_share(part(decay=decay, warmup=0.2), step, 10), 3) for step in (0, 1, 2, 6, 9)]

    assert shares("constant") == [0.5, 1.0, 1.0, 1.0, 1.0]
    assert shares("linear") == [0.5, 1.0, 1.0, 0.5, 0.125]
    assert shares("cosine") == [0.5, 1.0, 1.0, 0.5, 0.038]


def test_steps_or_epochs() -> None:
    assert part().n_steps(1000) == 12
    assert part(steps=0, epochs=3, batch_size=8, accumulate=2).n_steps(100) == 19


def test_a_diverging_run_stops_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError) as caught:
        run(tmp_path / "run.pt", part(learning_rate=1e30, steps=40))
    assert str(caught.value).startswith("The training loss became ")
    assert str(caught.value).endswith(". Lower learning_rate.")
