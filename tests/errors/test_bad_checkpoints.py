"""Checkpoints that cannot be converted: a table of files and the exact sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from diffclass.cli import main
from diffclass.denoisers import convert_checkpoint
from diffclass.denoisers.convert import read_classes
from diffclass.errors import (
    ConditionError,
    DiffclassError,
    InputError,
    ResultError,
    UnsupportedModel,
    WeightsMismatch,
    WeightsMissing,
)
from published_layout import DDPMPP, Saved, edm_bytes, edm_weights, save_edm, song, tree

FLAGS = "--resblock_updown True --class_cond True --channel_mult 1,1 --image_size 16 --num_channels 64 "
GUIDED = {
    "time_embed.0.weight": torch.zeros(8, 4), "input_blocks.0.0.weight": torch.zeros(4, 3, 3, 3),
    "label_emb.weight": torch.zeros(3, 8),
}  # fmt: skip


def edm(weights: Any = None, *, kind: str = "SongUNet", outer: str = "EDMPrecond", **options: Any) -> bytes:
    """A checkpoint of EDM's with something changed."""
    given = edm_weights(song(DDPMPP), DDPMPP) if weights is None else weights
    return edm_bytes(tree(given, kind, DDPMPP | options), outer)


def without(name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in edm_weights(song(DDPMPP), DDPMPP).items() if key != name}


def convert(content: Callable[[], bytes] | bytes | dict[str, torch.Tensor], **options: Any) -> Callable[[Path], object]:
    """Write a file, and convert it."""

    def call(home: Path) -> object:
        path = home / "net.pt"
        if isinstance(content, dict):
            torch.save(content, path)
        else:
            path.write_bytes(content() if callable(content) else content)
        if "unconditional" in options:
            options["unconditional"] = home / options["unconditional"]
            save_edm(home / "same.pkl", DDPMPP)
            save_edm(home / "large.pkl", DDPMPP | {"label_dim": 0, "img_resolution": 32})
        return convert_checkpoint(path, home / "out", **options)

    return call


def guided(flags: str, **weights: torch.Tensor) -> Callable[[Path], object]:
    return convert(GUIDED | weights, flags=FLAGS + flags)


DAMAGED = "The file '{h}/net.pt' is truncated, altered or no pickle. Copy or download it again."
TABLE: dict[str, tuple[Callable[[Path], object], type[DiffclassError], str]] = {
    "wrong path": (
        lambda h: convert_checkpoint(h / "none.pkl", h / "out"), WeightsMissing,
        "The checkpoint '{h}/none.pkl' is no file. Check the path.",
    ),
    "folder": (
        lambda h: convert_checkpoint(h, h / "out"), WeightsMissing,
        "The checkpoint '{h}' is no file. Check the path.",
    ),
    "web page": (convert(b"<html>Sign in</html>"), WeightsMismatch, DAMAGED),
    "empty file": (convert(b""), WeightsMismatch, DAMAGED),
    "half a file": (convert(lambda: edm()[:100_000]), WeightsMismatch, DAMAGED),
    "no network": (
        convert(b"\x80\x02}."), UnsupportedModel,
        "The file '{h}/net.pt' must hold a network of EDM's under 'ema'. Got none.",
    ),
    "baseline of EDM": (
        convert(lambda: edm(outer="VPPrecond")), UnsupportedModel,
        "The network in '{h}/net.pt' must be under EDM preconditioning (EDMPrecond). Got VPPrecond, one of the "
        "baselines that EDM was compared with. Take the file whose name begins with 'edm-'.",
    ),
    "another network": (
        convert(lambda: edm(kind="StyleNet")), UnsupportedModel,
        "The file '{h}/net.pt' must hold a SongUNet or DhariwalUNet under EDMPrecond. Got StyleNet under EDMPrecond.",
    ),
    "nothing said": (
        convert(lambda: edm_bytes(Saved("SongUNet"))), UnsupportedModel,
        "The network in '{h}/net.pt' must say what it was built with. It does not: train with named arguments.",
    ),
    "unknown option": (
        convert(lambda: edm(colour="red")), UnsupportedModel,
        "The SongUNet in '{h}/net.pt' has the option 'colour', which EDM's own has not.",
    ),
    "unknown embedding": (
        convert(lambda: edm(embedding_type="learned")), UnsupportedModel,
        "The embedding_type of the network in '{h}/net.pt' must be positional or fourier. Got learned.",
    ),
    "odd filter": (
        convert(lambda: edm(resample_filter=[1, 2, 1])), UnsupportedModel,
        "The resample_filter of the network in '{h}/net.pt' must be symmetric and even. Got [1, 2, 1].",
    ),
    "option of another type": (
        convert(lambda: edm(num_blocks="many")), UnsupportedModel,
        "The network in '{h}/net.pt' is not put together as EDM's are (ValueError: invalid literal for int() with base "
        "10: 'many').",
    ),
    "dotless weight": (
        convert(lambda: edm(without("") | {"scale": torch.zeros(1)})), UnsupportedModel,
        "The file '{h}/net.pt' has the weight 'scale', which EDM's networks have not.",
    ),
    "missing weight": (
        convert(lambda: edm(without("map_layer0.bias"))), WeightsMismatch,
        "The weights in '{h}/net.pt' do not fit the network that its options describe: 1 missing ('time_in.bias'). "
        "Give the options that it was trained with, or copy the file again.",
    ),
    "sizes that do not halve": (
        convert(lambda: edm(img_resolution=18)), UnsupportedModel,
        "The network of the checkpoint cannot be built: 3 sizes of features do not fit images of 18 pixels.",
    ),
    "unconditional": (
        lambda h: save_edm(h / "u.pkl", DDPMPP | {"label_dim": 0}) and convert_checkpoint(h / "u.pkl", h / "out"),
        UnsupportedModel,
        "A classifier needs a network that is told the class. The one in '{h}/u.pkl' is unconditional. Take a "
        "class-conditional checkpoint ('cond' in its name), and this one as its unconditional companion.",
    ),
    "companion with classes": (
        convert(edm, unconditional="same.pkl"), UnsupportedModel,
        "The unconditional companion must be a network without classes. The one in '{h}/same.pkl' is told one of 4.",
    ),
    "companion of another size": (
        convert(edm, unconditional="large.pkl"), UnsupportedModel,
        "The unconditional companion must take the same images and noise levels, and answer the same. The one in "
        "'{h}/large.pkl' is for 32 pixels and returns 3 channels (edm); the other is for 16 and returns 3 (edm).",
    ),
    "flags for EDM": (
        convert(edm, flags=FLAGS), InputError,
        "The file '{h}/net.pt' says itself how its network is built. Leave the flags out.",
    ),
    "too few classes": (
        convert(edm, classes=("a", "b")), ConditionError,
        "The 'classes' must be as many as the network has (4). Got 2.",
    ),
    "class twice": (
        convert(edm, classes=("a", "b", "a", "c")), ConditionError,
        "The classes of a denoiser must differ. Got 'a' twice.",
    ),
    "folder with other files": (
        lambda h: [(h / "out").mkdir(), (h / "out" / "thesis.txt").touch(), convert(edm())(h)], ResultError,
        "The model directory '{h}/out' must be new or hold only a model. It holds 'thesis.txt'.",
    ),
    "weights of another library": (
        convert({"encoder.weight": torch.zeros(1)}), UnsupportedModel,
        "The file '{h}/net.pt' must hold the weights of a guided-diffusion network (input_blocks.0.0.weight, ...). "
        "Its first is 'encoder.weight'.",
    ),
    "nothing in it": (
        convert({}), UnsupportedModel,
        "The file '{h}/net.pt' must hold the weights of a guided-diffusion network (input_blocks.0.0.weight, ...). "
        "Its first is 'missing'.",
    ),
    "of no published size": (
        convert(GUIDED), UnsupportedModel,
        "The weights in '{h}/net.pt' are of none of the published networks (64x64_diffusion, 128x128_diffusion, "
        "256x256_diffusion, 512x512_diffusion). Give the flags that the network was trained with.",
    ),
    "dotless weight of guided-diffusion": (
        guided("", scale=torch.zeros(1)), UnsupportedModel,
        "The file '{h}/net.pt' has the weight 'scale', which no ADM network has.",
    ),
    "classes without axes": (
        guided("", **{"label_emb.weight": torch.zeros(3)}), UnsupportedModel,
        "The weight 'label_emb.weight' of '{h}/net.pt' must have two axes. Got (3,).",
    ),
    "heads that do not share": (
        guided("--num_heads 5", **{"middle_block.1.qkv.weight": torch.zeros(192, 64, 1)}), UnsupportedModel,
        "The heads of attention must share its 192 rows of queries, keys and values. Got 5 heads.",
    ),
    "flag without value": (
        guided("--num_heads"), InputError,
        f"The flags of a checkpoint must be pairs, as '--num_channels 192'. Got '{FLAGS}--num_heads'.",
    ),
    "open quotes": (
        convert(GUIDED, flags="--num_heads '4"), InputError,
        "The flags of a checkpoint must be pairs, as '--num_channels 192'. Got \"--num_heads '4\".",
    ),
    "flag of another type": (
        guided("--num_heads four"), InputError, "The flag 'num_heads' of a checkpoint must be of type int. Got 'four'.",
    ),
    "no heads": (
        guided("--num_heads 0"), InputError, "The flag 'num_heads' of a checkpoint must be at least 1. Got 0.",
    ),
    "widths that are no numbers": (
        guided("--channel_mult 1,,2"), InputError,
        "The flag 'channel_mult' of a checkpoint must be numbers above 0, as '1,2,4'. Got '1,,2'.",
    ),
    "no residual resampling": (
        guided("--resblock_updown False"), UnsupportedModel,
        "The flag 'resblock_updown' of an ADM checkpoint must be True. Got False.",
    ),
    "another schedule": (
        guided("--noise_schedule sqrt"), UnsupportedModel,
        "The flag 'noise_schedule' of a checkpoint must be linear or cosine. Got 'sqrt'.",
    ),
    "names of nothing": (
        lambda h: read_classes("cifar100"), InputError,
        "The classes must be names with commas between them, a file with one a line, or 'cifar10'. Got 'cifar100'.",
    ),
    "names that are no text": (
        lambda h: (h / "names").write_bytes(b"\xff\xfe") and read_classes(str(h / "names")), InputError,
        "The file '{h}/names' must be text with the name of one class a line.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_bad_checkpoints_are_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    call, kind, said = TABLE[name]
    with pytest.raises(kind) as refused:
        call(tmp_path)
    assert type(refused.value) is kind
    assert str(refused.value) == said.format(h=tmp_path)


def test_the_command_says_the_same(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["convert", str(tmp_path / "none.pkl"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 3
    assert result.stderr == f"Error: The checkpoint '{tmp_path}/none.pkl' is no file. Check the path.\n"
