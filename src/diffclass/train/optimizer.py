"""The optimiser of the training loop: AdamW, or Muon for the matrices with AdamW for the rest."""

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from diffclass.errors import ConfigError
from diffclass.train.recipe import TrainPart

__all__ = ["Optimizer"]

_EDGES = ("embed", "conv_in", "conv_out", "pos_embed", "proj_out")  # first, last and embedding layers stay with AdamW


def _as_matrix(tensor: Tensor) -> Tensor:
    """View a weight as [output, everything else], whatever its memory layout; Muon does not mind the columns' order."""
    if tensor.ndim == 4 and not tensor.is_contiguous():
        tensor = tensor.permute(0, 2, 3, 1)  # channels_last
    return tensor.view(tensor.shape[0], -1)


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim >= 2 and not any(edge in name for edge in _EDGES)


@final
class Optimizer:
    """One step for all weights, with a learning rate that the schedule scales.

    Muon replaces the update of a matrix by the nearest orthogonal one, so that every direction is learned at the same
    pace; convolutions are matrices [output, input x kernel]. Its updates are scaled to the size of AdamW's.

    Args:
        network: on its device, in its memory layout.
        train: which optimiser, and its learning rates.

    Source:
        Loshchilov and Hutter 2019 (AdamW, arXiv:1711.05101); Jordan et al. 2024, "Muon"; Liu et al. 2025, equation 4
        (the scale of its updates, arXiv:2502.16982).

    Raises:
        ConfigError: the recipe wants Muon and this version of torch has none.
    """

    def __init__(self, network: nn.Module, train: TrainPart) -> None:
        named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        self._clip, self._all = train.gradient_clip, [p for _, p in named]
        self._matrices = [p for name, p in named if train.optimizer == "muon" and _is_matrix(name, p)]
        held = {id(p) for p in self._matrices}
        rest = [p for p in self._all if id(p) not in held]
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                rest, lr=train.learning_rate, betas=(0.9, 0.99), weight_decay=train.weight_decay, fused=True
            )
        ]
        self._views = [nn.Parameter(_as_matrix(p.data)) for p in self._matrices]  # the same memory
        if self._views:
            muon = getattr(torch.optim, "Muon", None)
            if muon is None:
                raise ConfigError(f"The optimizer 'muon' needs torch 2.9 or newer. This is {torch.__version__}.")
            self._parts.append(
                muon(
                    self._views, lr=train.matrix_learning_rate, momentum=0.95, weight_decay=train.weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )  # fmt: skip
        self._peaks = [part.param_groups[0]["lr"] for part in self._parts]

    @property
    def weights(self) -> list[nn.Parameter]:
        """All weights that are trained."""
        return self._all

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._all:
            parameter.grad = None

    def step(self, scale: float) -> None:
        """Clip the gradients' norm and take one step at `scale` times the peak learning rates."""
        clip_grad_norm_(self._all, self._clip)
        for view, parameter in zip(self._views, self._matrices, strict=True):
            assert parameter.grad is not None
            view.grad = _as_matrix(parameter.grad.contiguous(memory_format=_layout(parameter)))
        for part, peak in zip(self._parts, self._peaks, strict=True):
            for group in part.param_groups:
                group["lr"] = scale * peak
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume needs."""
        return {str(i): part.state_dict() for i, part in enumerate(self._parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        for i, part in enumerate(self._parts):
            part.load_state_dict(state[str(i)])


def _layout(parameter: nn.Parameter) -> torch.memory_format:
    """Return the memory layout of a weight, which its gradient has to share to be viewed the same way."""
    last = parameter.ndim == 4 and not parameter.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
