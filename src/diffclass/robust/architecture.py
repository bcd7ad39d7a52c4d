"""The supervised networks: transformers' ResNets and ViTs, with random weights or with somebody's, alone or several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffclass.denoisers.card import read_json
from diffclass.denoisers.weights import fetch, find_weights, put_weights, read_weights
from diffclass.errors import UnsupportedModel
from diffclass.types import Images

__all__ = ["ARCHITECTURES", "Ensemble", "Inputs", "build_from_config", "build_resnet", "build_supervised", "pretrained"]

ARCHITECTURES = ("small-resnet", "resnet-18", "vit")
_SIDE = 64  # [pixels] to which smaller pictures are enlarged for a ResNet-18, whose stem takes a quarter of a side
_TOKENS = 100  # most patches of a ViT
_HEAD = "classifier."  # names of the weights of the last layer


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """How images in [0, 1] enter a network.

    Args:
        enlarge: every pixel becomes enlarge x enlarge.
        channels: that grey images are repeated to; None: as they are.
        side: [pixels] of the square that images are resampled to; None: as they are.
        mean: of each channel, or of all, subtracted.
        std: of each channel, or of all, divided by.
    """

    enlarge: int = 1
    channels: int | None = None
    side: int | None = None
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    def __call__(self, images: Images) -> Float[Tensor, "batch _ _ _"]:
        """Return what the network is given."""
        if self.channels is not None and images.shape[1] == 1:
            images = images.expand(-1, self.channels, -1, -1)
        if (self.mean, self.std) == ((0.5,), (0.5,)):
            scaled = 2 * images - 1
        else:
            mean, std = (torch.tensor(v, dtype=images.dtype, device=images.device)[:, None, None]
                         for v in (self.mean, self.std))  # fmt: skip
            scaled = (images - mean) / std
        scaled = scaled.repeat_interleave(self.enlarge, dim=2).repeat_interleave(self.enlarge, dim=3)
        if self.side is None or scaled.shape[2:] == (self.side, self.side):
            return scaled
        return nn.functional.interpolate(scaled, (self.side, self.side), mode="bilinear", antialias=True)


@final
class Ensemble(nn.Module):
    """Networks of one architecture, trained from different seeds: the mean of their probabilities.

    Args:
        members: with classes in the same order.

    Source:
        Lakshminarayanan, Pritzel and Blundell 2017, section 2.4 (arXiv:1612.01474).
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def config(self) -> Any:
        """What every member is."""
        return self.members[0].config

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        """Return the logarithm of the mean probabilities as logits."""
        each = torch.stack([member(pixel_values).logits.float().log_softmax(dim=1) for member in self.members])
        return SimpleNamespace(logits=each.logsumexp(dim=0) - torch.tensor(float(len(self.members))).log())


def build_resnet(
    channels: int, n_classes: int, *, widths: Sequence[int] = (32, 64, 128), depths: Sequence[int] = (1, 1, 1)
) -> nn.Module:
    """Build a small ResNet with random weights.

    Args:
        channels: of an image.
        n_classes: outputs.
        widths: channels of each stage; the first is the stem's too.
        depths: residual blocks of each stage.

    Source:
        He et al. 2016 (arXiv:1512.03385), with basic blocks.
    """
    return build_from_config(
        {
            "model_type": "resnet", "num_channels": channels, "embedding_size": widths[0], "hidden_sizes": list(widths),
            "depths": list(depths), "layer_type": "basic", "num_labels": n_classes, "downsample_in_first_stage": False,
        }
    )  # fmt: skip


def build_supervised(
    architecture: str, shape: tuple[int, int, int], n_classes: int, **resnet: Any
) -> tuple[nn.Module, Inputs]:
    """Build a network with random weights for images of a shape, and say how they enter it.

    Args:
        architecture: one of `ARCHITECTURES`.
        shape: channels, height and width [pixels].
        n_classes: outputs.
        resnet: widths, depths and enlarge of a small ResNet.

    Raises:
        UnsupportedModel: a ViT is asked to take images that are not square.

    Source:
        He et al. 2016 (arXiv:1512.03385); Dosovitskiy et al. 2021 (arXiv:2010.11929), at a hidden size of 192.
    """
    channels, height, width = shape
    if architecture == "small-resnet":
        enlarge = resnet.pop("enlarge")
        return build_resnet(channels, n_classes, **resnet), Inputs(enlarge=enlarge)
    if architecture == "resnet-18":
        network = build_resnet(channels, n_classes, widths=(64, 128, 256, 512), depths=(2, 2, 2, 2))
        return network, Inputs(enlarge=max(1, -(-_SIDE // min(height, width))))
    if height != width:
        raise UnsupportedModel(f"A ViT takes square images. Got {width}x{height}.")
    patches = [size for size in (1, 2, 4, 8, 16, 32) if height % size == 0]
    small = [size for size in patches if (height // size) ** 2 <= _TOKENS]
    config = {
        "model_type": "vit", "num_channels": channels, "image_size": height, "num_labels": n_classes,
        "patch_size": (small or patches[-1:])[0], "hidden_size": 192, "intermediate_size": 384, "num_hidden_layers": 6,
        "num_attention_heads": 3,
    }  # fmt: skip
    return build_from_config(config), Inputs()


def build_from_config(config: Mapping[str, Any]) -> nn.Module:
    """Build what a config.json of transformers describes, with random weights.

    Raises:
        UnsupportedModel: it is neither a ResNet nor a ViT.
    """
    import transformers

    kinds = {
        "resnet": (transformers.ResNetConfig, transformers.ResNetForImageClassification),
        "vit": (transformers.ViTConfig, transformers.ViTForImageClassification),
    }
    kind = config.get("model_type")
    if kind not in kinds:
        raise UnsupportedModel(f"A supervised network must be a resnet or a vit of transformers. Got {kind!r}.")
    of, network = kinds[kind]
    return network(of.from_dict(dict(config)))


def pretrained(source: str, n_classes: int) -> tuple[nn.Module, Inputs]:
    """Return a network with somebody's weights and a new last layer, and how images enter it.

    Args:
        source: a directory as transformers saves it, or "owner/name" on the Hugging Face hub.
        n_classes: outputs of the last layer, whose weights are random.

    Raises:
        WeightsMissing: there is no such model, or it has no weights.
        WeightsMismatch: the weights are damaged or of another network.
        UnsupportedModel: it is neither a ResNet nor a ViT that classifies.
    """
    home = Path(source) if Path(source).is_dir() else fetch(source)
    config = read_json(home / "config.json")
    names = {str(i): str(i) for i in range(n_classes)}
    network = build_from_config(config | {"id2label": names, "label2id": {name: int(name) for name in names}})
    path = find_weights(home)
    found = {name: tensor for name, tensor in read_weights(path).items() if not name.startswith(_HEAD)}
    fresh = {name: tensor for name, tensor in network.state_dict().items() if name.startswith(_HEAD)}
    put_weights(network, found | fresh, source=path)
    preprocessor = home / "preprocessor_config.json"
    return network, _inputs(config, read_json(preprocessor) if preprocessor.is_file() else {})


def _inputs(config: Mapping[str, Any], processor: Mapping[str, Any]) -> Inputs:
    """Read how a published network wants its images: their size, and what is subtracted and divided by."""
    size = processor.get("size", config.get("image_size"))
    if isinstance(size, Mapping):
        size = size.get("height", size.get("shortest_edge"))
    normalised = processor.get("do_normalize", True)
    mean, std = (processor.get(key, [0.5]) for key in ("image_mean", "image_std"))
    return Inputs(
        channels=config.get("num_channels", 3),
        side=size if isinstance(size, int) else None,
        mean=tuple(mean) if normalised else (0.0,),
        std=tuple(std) if normalised else (1.0,),
    )
