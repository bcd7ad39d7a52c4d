"""Networks in half precision, laid out and patched so that they are fast there."""

from typing import no_type_check

import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm

__all__ = ["Float32GroupNorm", "fastest_dtype", "place_network"]


class Float32GroupNorm(nn.Module):
    """A GroupNorm, not to be trained on, that computes in float32 and answers in the dtype of its input.

    On a CPU, torch's own for bfloat16 in channels-last layout takes three times as long as converting there and back,
    and was two thirds of the time of a small UNet.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.num_groups, self.eps = norm.num_groups, norm.eps
        for name in ("weight", "bias"):  # buffers: a network's parameters tell its dtype
            self.register_buffer(name, getattr(norm, name).detach().float() if norm.affine else None)

    @no_type_check  # the wrapper of a checker would cut a compiled network into pieces
    def forward(self, x: Tensor) -> Tensor:
        """Normalise, in float32."""
        return group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps).to(x.dtype)


def place_network(network: nn.Module, *, device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    """Move a network for classifying: channels-last in half precision, with float32 group norms on a CPU.

    Args:
        network: changed in place; freeze it first, its weights are cast.
        device: where it goes.
        dtype: of its weights and activations.

    Returns:
        The network.
    """
    nn.Module.to(network, device=device, dtype=dtype)  # diffusers' own .to warns about nothing
    if dtype.itemsize != 2:
        return network
    nn.Module.to(network, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if torch.device(device).type == "cpu":
        norms = [(p, name) for p in network.modules() for name, c in p.named_children() if isinstance(c, nn.GroupNorm)]
        for parent, name in norms:
            setattr(parent, name, Float32GroupNorm(getattr(parent, name)))
    return network


def fastest_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 for a device that computes with it rather than emulating it, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.6 does not tell
        fast = device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return torch.bfloat16 if fast else torch.float32
