"""The networks of EDM and guided-diffusion as functions of named weights, to compare ours with.

Written from the papers (Song et al. 2021; Dhariwal and Nichol 2021; Karras et al. 2022, Appendix F), and with nothing
of the library: blocks are found by the names of their weights, sums are loops or einsum.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Weights = Mapping[str, Tensor]


def _conv(w: Weights, name: str, x: Tensor, padding: int = 0) -> Tensor:
    weight = w[f"{name}.weight"]
    return F.conv2d(x, weight.reshape(*weight.shape[:2], weight.shape[2] if weight.ndim > 2 else 1, -1),
                    w.get(f"{name}.bias"), padding=padding)  # fmt: skip


def _linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def _norm(w: Weights, name: str, x: Tensor, eps: float, width: int) -> Tensor:
    groups = min(32, x.shape[1] // width)
    parts = x.reshape(len(x), groups, -1)
    parts = (parts - parts.mean(2, keepdim=True)) / (parts.var(2, keepdim=True, unbiased=False) + eps).sqrt()
    return parts.reshape(x.shape) * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]


def _resampled(x: Tensor, taps: list[int], up: bool) -> Tensor:
    """Filter and halve, or double and filter, along each axis, by a matrix."""
    for axis in (2, 3):
        n = x.shape[axis]
        line = torch.tensor(taps, dtype=x.dtype) / sum(taps)
        long, short, pad = (2 * n, n, len(taps) // 2 - 1) if up else (n, n // 2, len(taps) // 2 - 1)
        matrix = torch.zeros(short, long, dtype=x.dtype)
        for i in range(short):
            for k, tap in enumerate(line.tolist()):
                if 0 <= (j := 2 * i + k - pad) < long:
                    matrix[i, j] += tap
        matrix = 2 * matrix.t() if up else matrix
        x = torch.tensordot(x, matrix, dims=([axis], [1])).movedim(-1, axis)
    return x


def _attention(qkv: Tensor, heads: int, order: str) -> Tensor:
    """Attend, the channels being in the order "head channel part", "head part channel" or "part head channel"."""
    n, channels, height, width = qkv.shape
    sizes = {"head": heads, "part": 3, "channel": channels // 3 // heads}
    axes = order.split()
    letters = {"head": "h", "part": "p", "channel": "c"}
    spread = qkv.reshape(n, *(sizes[a] for a in axes), height * width)
    q, k, v = torch.einsum(f"n{''.join(letters[a] for a in axes)}x->pnhcx", spread)
    weights = (torch.einsum("nhcx,nhcy->nhxy", q, k) / math.sqrt(sizes["channel"])).softmax(dim=-1)
    return torch.einsum("nhxy,nhcy->nhcx", weights, v).reshape(n, -1, height, width)


def _waves(t: Tensor, frequencies: Tensor, *, sines_first: bool) -> Tensor:
    angles = t[:, None] * frequencies
    parts = [angles.sin(), angles.cos()] if sines_first else [angles.cos(), angles.sin()]
    return torch.cat(parts, dim=1)


def _edm_told(w: Weights, t: Tensor, one_hot: Tensor) -> Tensor:
    """What blocks are told of the noise level and the class."""
    half, is_adm = w["map_layer0.weight"].shape[1] // 2, "out_norm.weight" in w
    if "map_noise.freqs" in w:
        frequencies = 2 * math.pi * w["map_noise.freqs"]
    else:
        frequencies = torch.tensor([10_000 ** (-i / (half if is_adm else half - 1)) for i in range(half)])
    time = _waves(t, frequencies, sines_first=not is_adm)
    if is_adm:
        return F.silu(
            _linear(w, "map_layer1", F.silu(_linear(w, "map_layer0", time))) + _linear(w, "map_label", one_hot)
        )
    time = time + _linear(w, "map_label", one_hot * math.sqrt(one_hot.shape[1]))
    return F.silu(_linear(w, "map_layer1", F.silu(_linear(w, "map_layer0", time))))


def _edm_block(w: Weights, name: str, x: Tensor, told: Tensor, taps: list[int]) -> Tensor:
    """One block; its name says whether it changes the size."""
    is_adm, kind = "out_norm.weight" in w, name.rsplit("_", 1)[1]
    gain, eps = (1.0, 1e-5) if is_adm else (math.sqrt(0.5), 1e-6)

    def changed(y: Tensor) -> Tensor:
        return _resampled(y, taps, kind == "up") if kind in ("up", "down") else y

    h = _conv(w, f"{name}.conv0", changed(F.silu(_norm(w, f"{name}.norm0", x, eps, 4))), 1)
    extra = _linear(w, f"{name}.affine", told)[:, :, None, None]
    if is_adm:
        scale, shift = extra.chunk(2, dim=1)
        h = _norm(w, f"{name}.norm1", h, eps, 4) * (1 + scale) + shift
    else:
        h = _norm(w, f"{name}.norm1", h + extra, eps, 4)
    h, x = _conv(w, f"{name}.conv1", F.silu(h), 1), changed(x)
    x = ((_conv(w, f"{name}.skip", x) if f"{name}.skip.weight" in w else x) + h) * gain
    if f"{name}.qkv.weight" in w:
        qkv = _conv(w, f"{name}.qkv", _norm(w, f"{name}.norm2", x, eps, 4))
        found = _attention(qkv, x.shape[1] // 64 if is_adm else 1, "head channel part")
        x = (x + _conv(w, f"{name}.proj", found)) * gain
    return x


def edm(w: Weights, options: Mapping[str, Any], x: Tensor, t: Tensor, one_hot: Tensor) -> Tensor:
    """DDPM++, NCSN++ or ADM by the weights that EDM's files name."""
    told, taps, n = _edm_told(w, t, one_hot), options.get("resample_filter", [1, 1]), options["num_blocks"]
    size, levels = options["img_resolution"], len(options["channel_mult"])
    sides = [f"{size >> level}x{size >> level}" for level in range(levels)]
    image, x = x, _conv(w, f"enc.{sides[0]}_conv", x, 1)
    skips = [x]
    for side in sides:
        if side != sides[0]:
            x = _edm_block(w, f"enc.{side}_down", x, told, taps)
            if (name := f"enc.{side}_aux_residual") + ".weight" in w:
                wide = F.conv2d(F.pad(image, (2, 2, 2, 2)), w[f"{name}.weight"], w[f"{name}.bias"])
                x = image = (x + _low_passed(wide, taps)) * math.sqrt(0.5)
            skips.append(x)
        for index in range(n):
            x = _edm_block(w, f"enc.{side}_block{index}", x, told, taps)
            skips.append(x)
    for side in reversed(sides):
        for part in ("in0", "in1") if side == sides[-1] else ("up",):
            x = _edm_block(w, f"dec.{side}_{part}", x, told, taps)
        for index in range(n + 1):
            x = _edm_block(w, f"dec.{side}_block{index}", torch.cat([x, skips.pop()], dim=1), told, taps)
    adm = "out_norm.weight" in w
    ends = ("out_norm", "out_conv") if adm else (f"dec.{sides[0]}_aux_norm", f"dec.{sides[0]}_aux_conv")
    return _conv(w, ends[1], F.silu(_norm(w, ends[0], x, 1e-5 if adm else 1e-6, 4)), 1)


def _low_passed(x: Tensor, taps: list[int]) -> Tensor:
    """Filter without padding, and keep every second pixel."""
    line = [tap / sum(taps) for tap in taps]
    for axis in (2, 3):
        places = range(0, x.shape[axis] - len(taps) + 1, 2)
        x = torch.stack([sum(c * x.select(axis, i + k) for k, c in enumerate(line)) for i in places], dim=axis)  # type: ignore[arg-type]
    return x


def guided(w: Weights, x: Tensor, t: Tensor, label: Tensor, *, heads: int, width: int | None, order: str) -> Tensor:
    """ADM by the weights that guided-diffusion's files name; `width` is that of a head, where it is fixed."""
    half = w["time_embed.0.weight"].shape[1] // 2
    time = _waves(t, torch.tensor([10_000 ** (-i / half) for i in range(half)]), sines_first=False)
    told = _linear(w, "time_embed.2", F.silu(_linear(w, "time_embed.0", time))) + w["label_emb.weight"][label]

    def block(name: str, x: Tensor, change: str = "") -> Tensor:
        def changed(y: Tensor) -> Tensor:
            return _resampled(y, [1, 1], change == "up") if change else y

        h = _conv(w, f"{name}.in_layers.2", changed(F.silu(_norm(w, f"{name}.in_layers.0", x, 1e-5, 1))), 1)
        scale, shift = _linear(w, f"{name}.emb_layers.1", F.silu(told))[:, :, None, None].chunk(2, dim=1)
        h = _norm(w, f"{name}.out_layers.0", h, 1e-5, 1) * (1 + scale) + shift
        h = _conv(w, f"{name}.out_layers.3", F.silu(h), 1)
        x = changed(x)
        return h + (_conv(w, f"{name}.skip_connection", x) if f"{name}.skip_connection.weight" in w else x)

    def attend(name: str, x: Tensor) -> Tensor:
        if f"{name}.qkv.weight" not in w:
            return x
        qkv = _conv(w, f"{name}.qkv", _norm(w, f"{name}.norm", x, 1e-5, 1))
        found = _attention(qkv, x.shape[1] // width if width else heads, order)
        return x + _conv(w, f"{name}.proj_out", found)

    def is_block(name: str) -> bool:
        return f"{name}.in_layers.2.weight" in w

    x = _conv(w, "input_blocks.0.0", x, 1)
    skips, index = [x], 1
    downs = {2}  # one block a level, two levels: the second input block halves the size
    while is_block(f"input_blocks.{index}.0"):
        x = attend(f"input_blocks.{index}.1", block(f"input_blocks.{index}.0", x, "down" if index in downs else ""))
        skips.append(x)
        index += 1
    x = block("middle_block.2", attend("middle_block.1", block("middle_block.0", x)))
    for group in range(len(skips)):
        name = f"output_blocks.{group}"
        x = attend(f"{name}.1", block(f"{name}.0", torch.cat([x, skips.pop()], dim=1)))
        if up := next((f"{name}.{part}" for part in (1, 2) if is_block(f"{name}.{part}")), None):
            x = block(up, x, "up")
    return _conv(w, "out.2", F.silu(_norm(w, "out.0", x, 1e-5, 1)), 1)
