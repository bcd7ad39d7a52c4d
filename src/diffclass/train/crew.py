"""Processes that train together: each takes its part of every batch, and all take the same step."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from diffclass.errors import ConfigError

__all__ = ["Crew", "assemble"]


@final
@dataclass(frozen=True, slots=True)
class Crew:
    """The processes of one training, as one of them sees it.

    Every process has all the weights and draws the random numbers of the whole batch, so that the batch is that of a
    single process; gradients are summed in another order, and weights agree to rounding.

    Args:
        rank: of this process.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that reports and writes."""
        return self.rank == 0

    def share(self, n: int, what: str) -> slice:
        """Return this process's part of n things.

        Args:
            n: things in all.
            what: they are, for the error.

        Raises:
            ConfigError: they cannot be shared equally.
        """
        if n % self.size:
            raise ConfigError(f"{self.size} processes cannot share {what} of {n} equally. Start as many as divide it.")
        part = n // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let the process that leads go through a block first, and the others wait for it."""
        if self.size == 1:
            yield
            return
        from accelerate import PartialState

        with PartialState().main_process_first():
            yield

    def add(self, weights: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        """Replace the gradients by their sum over all processes, and return the sum of the losses."""
        if self.size == 1:
            return loss
        from accelerate.utils import reduce

        held = [weight.grad for weight in weights if weight.grad is not None]
        total = reduce(torch.cat([*(g.flatten() for g in held), loss.reshape(1)]), reduction="sum")
        assert isinstance(total, Tensor)
        *parts, summed = total.split([*(g.numel() for g in held), 1])
        for gradient, part in zip(held, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))
        return summed[0]


def assemble(device: str) -> tuple[Crew, torch.device]:
    """Join the processes that `accelerate launch` or `torchrun` started; a crew of one where neither did.

    Args:
        device: what each computes on; "cuda" is its own GPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Crew(), torch.device(device)
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    assert state.device is not None
    return Crew(state.process_index, state.num_processes), state.device
