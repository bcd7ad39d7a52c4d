"""Half precision: what is cast, and that norms stay exact."""

import torch
from torch import nn

from diffclass.denoisers.precision import Float32GroupNorm, fastest_dtype, place_network


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 4, 1)).eval()


def test_float32_group_norm_is_torchs_own_in_float32() -> None:
    norm, x = nn.GroupNorm(4, 16, eps=1e-6), torch.randn(8, 16, 5, 5) * 3 + 1
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    wanted = norm(x)
    torch.testing.assert_close(Float32GroupNorm(norm)(x), wanted)
    half = Float32GroupNorm(norm)(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), wanted, rtol=2e-2, atol=5e-2)


def test_a_cpu_network_in_half_precision_has_float32_norms() -> None:
    x = torch.randn(8, 4, 6, 6)
    wanted = network()(x)
    half = place_network(network(), device="cpu", dtype=torch.bfloat16)
    assert isinstance(half[1], Float32GroupNorm)  # type: ignore[index]
    assert half.state_dict().keys() == network().state_dict().keys()
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    out = half(x.bfloat16())
    assert out.dtype == torch.bfloat16
    assert (out.float() - wanted).square().mean() < 1e-4 * wanted.square().mean()


def test_float32_networks_are_left_as_they_are() -> None:
    plain = place_network(network(), device="cpu", dtype=torch.float32)
    assert isinstance(plain[1], nn.GroupNorm)  # type: ignore[index]


def test_the_fastest_dtype_is_one_of_two() -> None:
    assert fastest_dtype(torch.device("cpu")) in (torch.bfloat16, torch.float32)
