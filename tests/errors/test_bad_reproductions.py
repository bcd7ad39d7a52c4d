"""What `diffclass reproduce` refuses: a table of arguments, exit code and the exact sentence on stderr."""

from pathlib import Path

import pytest
from click.testing import CliRunner

import published_sets
import tiny_pipelines
from diffclass.cli import main
from published_layout import DDPMPP, save_edm

CIFAR = "the python version, a folder or cifar-10-python.tar.gz"
EDM = "EDM's class-conditional and unconditional CIFAR-10 networks (VP)"
MADE = (
    "diffclass convert edm-cifar10-32x32-cond-vp.pkl --unconditional edm-cifar10-32x32-uncond-vp.pkl --classes cifar10 "
    "--out DIR"
)

# {h} is a folder with data sets and models
TABLE: dict[str, tuple[str, int, str]] = {
    "an unknown experiment": (
        "zeroshot-cats", 2,
        "Error: The experiment must be one of those that `diffclass reproduce --list` shows. Got 'zeroshot-cats'. Did "
        "you mean 'zeroshot-pets'?",
    ),
    "no data": (
        "zeroshot-pets --model {h}/sd1", 2,
        "Error: The experiment 'zeroshot-pets' needs the data set Oxford-IIIT Pets. Give your copy with --data "
        "(annotations/ and images/). Got nothing.",
    ),
    "data that is not there": (
        "certified-cifar10 --data {h}/none", 2,
        f"Error: The experiment 'certified-cifar10' needs the data set CIFAR-10. Give your copy with --data ({CIFAR}). "
        "Got '{h}/none', which does not exist.",
    ),
    "another published set": (
        "zeroshot-cifar10 --data {h}/pets", 2,
        f"Error: The experiment 'zeroshot-cifar10' needs CIFAR-10 ({CIFAR}). '{{h}}/pets' holds another published set, "
        "'pets'.",
    ),
    "a set without the split": (
        "zeroshot-pets --data {h}/trained", 2,
        "Error: The experiment 'zeroshot-pets' needs the split 'test' of Oxford-IIIT Pets. '{h}/trained' has: train.",
    ),
    "no model to certify": (
        "certified-cifar10 --data {h}/cifar", 3,
        f"Error: The experiment 'certified-cifar10' needs {EDM} as a model directory. Make one with `{MADE}` and give "
        "it with --model.",
    ),
    "a model that the hub does not give": (
        "zeroshot-pets --data {h}/pets", 3,
        "Error: The experiment 'zeroshot-pets' needs Stable Diffusion 2.0 base (512 pixels), "
        "'stabilityai/stable-diffusion-2-base', which is not to be had (reported to be withdrawn from the hub in 2025; "
        "mirrors exist). Give the directory or hub id of a copy with --model.",
    ),
    "a flow": (
        "zeroshot-pets --data {h}/pets --model {h}/sd3", 2,
        "Error: The experiment needs a text-to-image network with a noise schedule, as Stable Diffusion 1 and 2. Got "
        "Flow.",
    ),
    "a sigma of a zero-shot experiment": (
        "zeroshot-pets --data {h}/pets --model {h}/sd1 --sigma 0.5", 2,
        "Error: The option --sigma is for certified experiments. Leave it out.",
    ),
    "prompts of a certified experiment": (
        "certified-cifar10 --data {h}/cifar --model {h}/edm --prompts {h}/two.csv", 2,
        "Error: The option --prompts is for zero-shot experiments. Leave it out.",
    ),
    "a sigma that is not published": (
        "certified-cifar10 --data {h}/cifar --model {h}/edm --sigma 0.12", 2,
        "Error: The 'sigma' of the experiment must be one of 0.25, 0.5, 1. Got 0.12.",
    ),
    "copies that prove nothing": (
        "certified-cifar10 --data {h}/cifar --model {h}/edm --n 9", 2,
        "Error: The 'n' parameter of certify must be at least 10 for alpha=0.001: fewer copies prove no radius, even "
        "if all of them get one label. Got 9.",
    ),
    "the first images of a sorted set": (
        "zeroshot-pets --data {h}/sorted --model {h}/sd1 --limit 2 --selection first", 2,
        "Error: The images of 'sorted' that the selection 'first' picks are all of one class, because the set is "
        "sorted by class. Try --selection stratified.",
    ),
    "ImageNet without names": (
        "zeroshot-imagenet --data {h}/unnamed --model {h}/sd1", 2,
        "Error: The classes of 'unnamed' are WordNet ids, and prompts need their names. Put LOC_synset_mapping.txt or "
        "imagenet_class_index.json into its folder, or give a prompt file with --prompts.",
    ),
    "prompts of fewer classes than ImageNet's": (
        "zeroshot-imagenet --data {h}/unnamed --model {h}/sd1 --prompts {h}/two.csv", 2,
        "Error: The prompt file must have the 3 classes of 'unnamed', in their order. Got 2.",
    ),
    "prompts of other classes": (
        "zeroshot-pets --data {h}/pets --model {h}/sd1 --prompts {h}/two.csv", 2,
        "Error: The prompt file must name every class of 'pets'. It has no 'American Bulldog': change its classname, "
        "or leave --prompts out.",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny data sets and models."""
    folder = tmp_path_factory.mktemp("reproductions")
    for name in ("sd1", "sd3"):
        tiny_pipelines.save(name, folder)
    published_sets.pets(folder / "pets")
    published_sets.cifar(folder / "cifar")
    for name in ("a/1", "a/2", "b/1"):
        published_sets.picture(folder / "sorted" / f"{name}.png")
    published_sets.picture(folder / "trained" / "train" / "a" / "1.png")
    for wnid in published_sets.WNIDS:
        published_sets.picture(folder / "unnamed" / "val" / wnid / "1.png")
    published_sets.lines(folder / "two.csv", "prompt,classname,classidx", "a cat,Abyssinian,0", "a dog,Bulldog,1")
    small = DDPMPP | {"img_resolution": 32, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
    save_edm(folder / "cond.pkl", small | {"label_dim": 10})
    told = ("convert", folder / "cond.pkl", "--classes", "cifar10", "--out", folder / "edm")
    assert CliRunner().invoke(main, [*map(str, told)]).exit_code == 0
    return folder


@pytest.mark.parametrize("case", TABLE)
def test_what_cannot_be_run_is_one_sentence(case: str, home: Path) -> None:
    arguments, code, sentence = TABLE[case]
    words = arguments.replace("{h}", str(home)).split()
    found = CliRunner().invoke(main, ["reproduce", *words, "--device", "cpu", "--dtype", "float32", "--quiet"])
    assert (found.exit_code, found.stderr.strip()) == (code, sentence.replace("{h}", str(home))), found.exception
