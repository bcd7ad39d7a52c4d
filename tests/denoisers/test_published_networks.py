"""The networks of published checkpoints: against a second implementation, and against what papers say of them."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

import published_reference
from diffclass.denoisers import check_denoiser, convert_checkpoint, load
from diffclass.denoisers.blocks import BlockStyle, ResidualBlock, SelfAttention, attention_levels
from diffclass.denoisers.edm import _ADM, _SONG, _adm_config, _song_config
from diffclass.denoisers.guided import PUBLISHED, config_of, guided_flags
from diffclass.denoisers.pixel import network_class
from published_layout import ADM, DDPMPP, NCSNPP, adm, edm_weights, guided_weights, save_edm, song

KINDS = {"DDPM++": DDPMPP, "NCSN++": NCSNPP, "ADM": ADM}
GUIDED = {
    "heads": (4, None, "head part channel"),
    "widths": (1, 32, "head part channel"),
    "new": (1, 32, "part head channel"),
}
GUIDED_FLAGS = (
    "--image_size 16 --class_cond True --num_channels 64 --num_res_blocks 1 --attention_resolutions 8 "
    "--channel_mult 1,1 --resblock_updown True --learn_sigma True --noise_schedule cosine"
)


def build(options: dict[str, Any]) -> Any:
    return adm(options) if options["model_channels"] == 64 else song(options)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_networks_of_edm_agree_with_a_second_implementation(options: dict[str, Any]) -> None:
    network = build(options)
    x, t, ids = noise(3, 3, 16, 16), torch.tensor([-0.6, 0.0, 0.7]), torch.tensor([0, 1, 4])  # the last is no class
    told = one_hot(ids, 5)[:, :4].float()
    with torch.no_grad():
        wanted = published_reference.edm(edm_weights(network, options), options, x, t, told)
        torch.testing.assert_close(network(x, t, ids).sample, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_checkpoints_of_edm_become_denoisers(options: dict[str, Any], tmp_path: Path) -> None:
    weights = edm_weights(save_edm(tmp_path / "net.pkl", options), options)
    denoiser: Any = load(convert_checkpoint(tmp_path / "net.pkl", tmp_path / "model"), dtype="float32", device="cpu")
    report = check_denoiser(denoiser)
    assert report.passed, str(report)
    sigma, ids = torch.tensor([0.1, 1.0, 20.0]), torch.tensor([0, 1, 3])
    noisy, s = noise(3, 3, 16, 16) * sigma[:, None, None, None], sigma[:, None, None, None]
    with torch.no_grad():
        got = denoiser(noisy, sigma, denoiser.condition_on(denoiser.classes)[ids])
        inner = noisy / (s**2 + 0.25).sqrt()
        told = one_hot(ids, 4).float()
        output = published_reference.edm(weights, options, inner, sigma.log() / 4, told)
    wanted = 0.25 / (s**2 + 0.25) * noisy + 0.5 * s / (s**2 + 0.25).sqrt() * output
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("heads", "width", "order"), GUIDED.values(), ids=GUIDED)
def test_checkpoints_of_guided_diffusion_become_denoisers(
    heads: int, width: int | None, order: str, tmp_path: Path
) -> None:
    new = order.startswith("part")
    flags = f"{GUIDED_FLAGS} --num_heads {heads} --num_head_channels {width or -1} --use_new_attention_order {new}"
    config = config_of(guided_flags(flags), n_classes=5)
    network = network_class("ADMUNet").from_config(config).eval()
    weights = guided_weights(network, mixes=not new)
    torch.save({k: v.detach().contiguous() for k, v in weights.items()}, tmp_path / "net.pt")
    denoiser: Any = load(
        convert_checkpoint(tmp_path / "net.pt", tmp_path / "model", flags=flags), dtype="float32", device="cpu"
    )
    report = check_denoiser(denoiser)
    assert report.passed, str(report)
    t, ids = torch.tensor([0.0, 500.0, 900.0]), torch.tensor([0, 2, 4])
    sigma = denoiser.parametrisation.schedule.sigma(t)
    s, x = sigma[:, None, None, None], noise(3, 3, 16, 16)
    noisy = x * (1 + s**2).sqrt()
    with torch.no_grad():
        got = denoiser(noisy, sigma, denoiser.condition_on(denoiser.classes)[ids])
        epsilon = published_reference.guided(weights, x, t, ids, heads=heads, width=width, order=order)[:, :3]
    torch.testing.assert_close((noisy - got) / s, epsilon, rtol=1e-3, atol=2e-4)


def test_networks_have_as_many_weights_as_papers_say() -> None:
    cifar = {"img_resolution": 32, "in_channels": 3, "out_channels": 3, "label_dim": 10, "channel_mult": [2, 2, 2]}
    ncsnpp = {
        name: NCSNPP[name] for name in ("embedding_type", "encoder_type", "channel_mult_noise", "resample_filter")
    }
    imagenet = {"img_resolution": 64, "in_channels": 3, "out_channels": 3, "label_dim": 1000}
    here = Path("x")
    with torch.device("meta"):
        found = {
            "DDPM++": count(network_class("SongUNet").from_config(_song_config(_SONG | cifar, here))),
            "NCSN++": count(network_class("SongUNet").from_config(_song_config(_SONG | cifar | ncsnpp, here))),
            "ADM": count(network_class("ADMUNet").from_config(_adm_config(_ADM | imagenet, here))),
        }
        for name, flags in PUBLISHED.items():
            found[name] = count(network_class("ADMUNet").from_config(config_of(guided_flags(flags), n_classes=1000)))
    # Karras et al. 2022, Dhariwal and Nichol 2021; without the thousand weights of augmentation labels.
    millions = {name: round(n / 1e6) for name, n in found.items()}
    assert millions == {
        "DDPM++": 56, "NCSN++": 56, "ADM": 296, "64x64_diffusion": 296, "128x128_diffusion": 422,
        "256x256_diffusion": 554, "512x512_diffusion": 559,
    }  # fmt: skip


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_network_that_says_nothing_leaves_the_skip_connection(options: dict[str, Any], tmp_path: Path) -> None:
    weights = edm_weights(build(options), options)
    for name in weights:
        if "aux_conv" in name or "out_conv" in name:
            weights[name] = torch.zeros_like(weights[name])
    save_edm(tmp_path / "net.pkl", options, weights=weights)
    denoiser: Any = load(convert_checkpoint(tmp_path / "net.pkl", tmp_path / "model"), dtype="float32", device="cpu")
    sigma = torch.tensor([0.5, 2.0])
    noisy = noise(2, 3, 16, 16)
    with torch.no_grad():
        denoised = denoiser(noisy, sigma, denoiser.condition_on(denoiser.classes)[torch.tensor([0, 1])])
    torch.testing.assert_close(denoised[0], 0.5 * noisy[0])  # c_skip = 0.25 / (0.25 + 0.25)
    torch.testing.assert_close(denoised[1], 0.25 / 4.25 * noisy[1])


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_networks_listen_to_class_and_noise_level_and_to_nothing_else(options: dict[str, Any]) -> None:
    network, x = build(options), noise(1, 3, 16, 16)
    with torch.no_grad():

        def answer(t: float, label: int) -> Tensor:
            return network(x, torch.tensor([t]), torch.tensor([label])).sample

        first = answer(0.0, 0)
        assert first.shape == (1, 3, 16, 16)
        assert torch.equal(first, answer(0.0, 0))
        others = [answer(0.0, label) for label in (1, 2, 3, 4)] + [answer(0.5, 0)]
    assert all((first - other).abs().max() > 1e-4 for other in others)


def test_unconditional_networks_do_not_look_at_the_class() -> None:
    for options in (DDPMPP | {"label_dim": 0}, ADM | {"label_dim": 0}):
        network, x, t = build(options), noise(2, 3, 16, 16), torch.zeros(2)
        with torch.no_grad():
            same = [network(x, t, torch.tensor(ids)).sample for ids in ([0, 0], [3, 999])]
        assert torch.equal(*same)


def test_fourier_frequencies_keep_their_bits_in_half_precision() -> None:
    network = song(NCSNPP)
    before = network.frequency_bits.clone()
    assert torch.equal(network.to(torch.bfloat16).frequency_bits, before)
    assert network.conv_in.weight.dtype == torch.bfloat16


def test_attention_on_equal_pixels_is_their_value() -> None:
    style = BlockStyle(embedding_width=8, adaptive=True, eps=1e-5, heads=2)
    attention = SelfAttention(16, style)
    x = noise(2, 16, 1, 1).expand(2, 16, 3, 3)
    with torch.no_grad():
        value = attention.qkv(attention.norm(x))[:, 32:]
        torch.testing.assert_close(attention(x), x + attention.out(value))


def test_a_block_whose_last_convolution_is_zero_is_its_shortcut() -> None:
    style = BlockStyle(embedding_width=8, adaptive=False, eps=1e-6, gain=math.sqrt(0.5), projects=True)
    block = ResidualBlock(8, 8, style)
    nn.init.zeros_(block.conv_out.weight)
    nn.init.zeros_(block.conv_out.bias)
    x = noise(1, 8, 4, 4)
    torch.testing.assert_close(block(x, noise(1, 8)), x * math.sqrt(0.5))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: BlockStyle(embedding_width=1, adaptive=True, eps=1e-5, heads=3).n_heads(64), "have 3 heads"),
        (lambda: BlockStyle(embedding_width=1, adaptive=True, eps=1e-5, heads=0).n_heads(64), "have 0 heads"),
        (lambda: BlockStyle(embedding_width=1, adaptive=True, eps=1e-5, head_width=48).n_heads(64), "heads of 48"),
        (lambda: BlockStyle(embedding_width=1, adaptive=True, eps=1e-5, head_width=0).n_heads(64), "heads of 0"),
        (lambda: attention_levels(20, [8], 4), "4 sizes of features do not fit images of 20 pixels"),
        (lambda: attention_levels(16, [8], 0), "0 sizes"),
    ],
)
def test_networks_that_cannot_be_are_not_built(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
