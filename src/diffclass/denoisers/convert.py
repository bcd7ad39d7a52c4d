"""Checkpoints of other libraries, converted to model directories without running what they hold."""

import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffclass.denoisers.card import front_matter
from diffclass.denoisers.edm import read_edm
from diffclass.denoisers.foreign import ForeignModel
from diffclass.denoisers.guided import PUBLISHED, guided_flags, is_guided, read_guided
from diffclass.denoisers.pixel import network_class
from diffclass.denoisers.weights import misfits, read_weights, save_model
from diffclass.errors import ConditionError, InputError, UnsupportedModel, WeightsMismatch, WeightsMissing

__all__ = ["convert_checkpoint", "read_classes"]

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SIGMA_MAX = 3.0  # [model units] Chen et al. 2024 look no further
_CLASSIFIER = {
    "weight": "edm", "proposal": "log-normal", "proposal_mean": -1.2, "proposal_std": 1.2, "n_draws": 256, "block": 4,
}  # fmt: skip
_WORDNET = re.compile(r"(n\d{8})\b.*")
_LEGACY = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # how torch.save's files began before they were zips
_USE = """
## Use

```python
import diffclass

classifier = diffclass.DiffusionClassifier.from_pretrained({path!r})
```

Nothing has been measured on this model here: `diffclass evaluate` does, `diffclass check` tells whether it conforms.
"""


def convert_checkpoint(
    path: str | Path,
    out: str | Path,
    *,
    unconditional: str | Path | None = None,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    flags: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Convert a published checkpoint to a model directory that `load` reads.

    It takes EDM's pickles (CIFAR-10 and ImageNet-64) and guided-diffusion's state dictionaries (.pt). Nothing that is
    pickled in them is run: the source code that EDM's files carry is passed over. The model classifies, by default, by
    EDM's weight on noise levels up to 3, as Chen et al. 2024 (arXiv:2402.02316) do.

    Args:
        path: of the checkpoint, class-conditional.
        out: the model directory, new or holding only a model.
        unconditional: a checkpoint of the same kind that was trained without classes, for what is asked without one
            (the first step of APNDC).
        classes: names in the order of the network's class ids; "0", "1", ... if None.
        name: of the model; the file's if None.
        flags: what a guided-diffusion network was trained with, as its scripts take it (MODEL_FLAGS), and its
            unconditional companion too. None takes those of the published checkpoint whose weights have these names
            and shapes.
        dtype: of the saved weights.

    Returns:
        The directory.

    Raises:
        ModelError: the file is missing, damaged, unsafe, or holds no class-conditional network of these kinds.
        InputError: the flags cannot be read, or are given for a file that needs none.
        ConditionError: the classes do not fit the network.
        ResultError: the directory holds other files, or it cannot be written.
    """
    source = Path(path)
    foreign = _read(source, flags)
    if not foreign.config["num_classes"]:
        raise UnsupportedModel(
            f"A classifier needs a network that is told the class. The one in {str(source)!r} is unconditional. "
            "Take a class-conditional checkpoint ('cond' in its name), and this one as its unconditional companion."
        )
    names = _names(foreign, classes)
    network, sources = _network(foreign, source), [source]
    low, high = foreign.sigma_range
    if unconditional is not None:
        sources.append(Path(unconditional))
        other = _read(sources[1], flags)
        _check_companion(foreign, other, sources[1])
        low, high = max(low, other.sigma_range[0]), min(high, other.sigma_range[1])
        network = _joined(foreign, network, other, _network(other, sources[1]))
    title = name or source.stem
    size, channels = foreign.config["sample_size"], foreign.config["in_channels"]
    metadata: dict[str, Any] = {
        "format": 1,
        "name": title,
        "description": foreign.description,
        "classes": list(names),
        "null_class": len(names) if foreign.null_class or unconditional is not None else None,
        "space": {"channels": channels, "height": size, "width": size, "data_std": foreign.data_std},
        "parametrisation": dict(foreign.parametrisation),
        "sigma_range": [low, high],
        "classifier": {**_CLASSIFIER, "sigma_range": [low, min(high, _SIGMA_MAX)]},
        "licence": foreign.licence,
        "data": "as the source of the checkpoint says",
        "converted_from": [one.name for one in sources],
    }
    return save_model(out, network, metadata, _card(metadata, foreign, Path(out)), dtype)


def read_classes(text: str) -> tuple[str, ...]:
    """Read names of classes: "a,b,c", the path of a file with one a line, or "cifar10".

    A file whose every line begins with a WordNet id (map_clsloc.txt, LOC_synset_mapping.txt) names ImageNet's classes:
    by their ids, sorted, which is the order in which ImageNet's networks count them, whatever the order of the lines.

    Raises:
        InputError: the file cannot be read, or there is none.
    """
    if text == "cifar10":
        return _CIFAR10
    if not Path(text).is_file():
        if "," not in text:
            raise InputError(
                "The classes must be names with commas between them, a file with one a line, or 'cifar10'. "
                f"Got {text!r}."
            )
        return tuple(name.strip() for name in text.split(","))
    try:
        lines = Path(text).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"The file {text!r} must be text with the name of one class a line.") from error
    names = tuple(line.strip() for line in lines if line.strip())
    ids = [match[1] for name in names if (match := _WORDNET.fullmatch(name))]
    return tuple(sorted(ids)) if ids and len(ids) == len(names) else names


def _read(path: Path, flags: str | None) -> ForeignModel:
    """Tell the format of a checkpoint and read it."""
    if not path.is_file():
        raise WeightsMissing(f"The checkpoint {str(path)!r} is no file. Check the path.")
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except OSError as error:
        raise WeightsMissing(f"The file {str(path)!r} cannot be read: {error.strerror or error}.") from error
    if path.suffix != ".safetensors" and not zipfile.is_zipfile(path) and _LEGACY not in start:
        if flags is not None:
            raise InputError(f"The file {str(path)!r} says itself how its network is built. Leave the flags out.")
        return read_edm(path)
    given = read_weights(path)
    if not is_guided(given):
        raise UnsupportedModel(
            f"The file {str(path)!r} must hold the weights of a guided-diffusion network (input_blocks.0.0.weight, "
            f"...). Its first is {next(iter(given), 'missing')!r}."
        )
    return read_guided(given, guided_flags(flags), path) if flags is not None else _published(given, path)


def _published(given: Mapping[str, Tensor], path: Path) -> ForeignModel:
    """Find the published checkpoint that has these names and shapes."""
    for text in PUBLISHED.values():
        flags = guided_flags(text)
        try:
            foreign = read_guided(given, flags, path)
        except UnsupportedModel:  # a weight that the network has not, or of a shape that its heads cannot share
            continue
        if not misfits(_empty(foreign), foreign.weights):
            return foreign
    raise UnsupportedModel(
        f"The weights in {str(path)!r} are of none of the published networks "
        f"({', '.join(PUBLISHED)}). Give the flags that the network was trained with."
    )


def _empty(foreign: ForeignModel) -> nn.Module:
    """Build a network that has shapes and no numbers."""
    try:
        with torch.device("meta"):
            return network_class(foreign.network).from_config(dict(foreign.config)).eval()
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise UnsupportedModel(f"The network of the checkpoint cannot be built: {error}.") from error


def _network(foreign: ForeignModel, path: Path) -> nn.Module:
    """Build the network with its weights."""
    network = _empty(foreign)
    if told := misfits(network, foreign.weights):
        raise WeightsMismatch(
            f"The weights in {str(path)!r} do not fit the network that its options describe: {told}. "
            "Give the options that it was trained with, or copy the file again."
        )
    network.load_state_dict(foreign.weights, assign=True)
    return network


def _check_companion(foreign: ForeignModel, other: ForeignModel, path: Path) -> None:
    """Refuse two networks that cannot stand for one another."""
    if other.config["num_classes"]:
        raise UnsupportedModel(
            f"The unconditional companion must be a network without classes. The one in {str(path)!r} is told one of "
            f"{other.config['num_classes']}."
        )
    same = ("sample_size", "in_channels", "out_channels")
    if dict(foreign.parametrisation) != dict(other.parametrisation) or any(
        foreign.config[name] != other.config[name] for name in same
    ):
        raise UnsupportedModel(
            f"The unconditional companion must take the same images and noise levels, and answer the same. The one in "
            f"{str(path)!r} is for {other.config['sample_size']} pixels and returns {other.config['out_channels']} "
            f"channels ({other.parametrisation['kind']}); the other is for {foreign.config['sample_size']} and returns "
            f"{foreign.config['out_channels']} ({foreign.parametrisation['kind']})."
        )


def _joined(foreign: ForeignModel, network: nn.Module, other: ForeignModel, companion: nn.Module) -> nn.Module:
    """Put a network and its unconditional companion together."""
    configs = {
        name: {"_class_name": one.network, **one.config}
        for name, one in (("conditional", foreign), ("unconditional", other))
    }
    with torch.device("meta"):
        both = network_class("WithUnconditional")(**configs).eval()
    parts = {"with_class": network, "without_class": companion}
    weights = {f"{part}.{name}": tensor for part, one in parts.items() for name, tensor in one.state_dict().items()}
    both.load_state_dict(weights, assign=True)
    return both


def _names(foreign: ForeignModel, classes: Sequence[str] | None) -> tuple[str, ...]:
    """Check the names of the classes, or number them."""
    n = foreign.config["num_classes"]
    names = tuple(map(str, range(n))) if classes is None else tuple(classes)
    if len(names) != n:
        raise ConditionError(f"The 'classes' must be as many as the network has ({n}). Got {len(names)}.")
    if n < 2:
        raise ConditionError(f"A denoiser must know at least two classes to tell apart. Got {n}.")
    if twice := [one for one, count in Counter(names).items() if count > 1]:
        raise ConditionError(f"The classes of a denoiser must differ. Got {twice[0]!r} twice.")
    return names


def _card(metadata: Mapping[str, Any], foreign: ForeignModel, out: Path) -> str:
    """Write the README.md."""
    shown = ", ".join(metadata["classes"][:20]) + (", ..." if len(metadata["classes"]) > 20 else "")
    space, (low, high) = metadata["space"], metadata["sigma_range"]
    lines = [
        *front_matter(metadata),
        f"# {metadata['name']}",
        "",
        f"{foreign.description} Converted from {' and '.join(f'`{one}`' for one in metadata['converted_from'])}.",
        "",
        f"- **Classes** ({len(metadata['classes'])}): {shown}",
        f"- **Images**: {space['channels']} x {space['height']} x {space['width']}",
        f"- **Noise levels**: sigma {low:.3g} to {high:.3g}, for images in [-1, 1]",
        f"- **Licence**: {metadata['licence']}",
    ]
    if foreign.left_out:
        lines.append(
            f"- **Left out**: {', '.join(foreign.left_out)}, which is told how images were augmented in training"
        )
    return "\n".join(lines) + "\n" + _USE.format(path=str(out.name))
