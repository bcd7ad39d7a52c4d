"""Supervised networks, smoothed: what certificates of diffusion classifiers are compared with.

Cohen et al. train a network on images with Gaussian noise and smooth it. Carlini et al. denoise each copy once, without
a class, and hand it to a network that has seen clean images.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor, nn

from diffclass.denoisers import Denoiser
from diffclass.denoisers.card import read_json
from diffclass.denoisers.weights import find_weights, put_weights, read_weights
from diffclass.errors import RangeError, ResultError, ShapeError, UnsupportedModel
from diffclass.robust.architecture import Ensemble, Inputs, build_from_config
from diffclass.robust.copies import CopyClassifier, Smoothable
from diffclass.types import Images

__all__ = [
    "DenoisedCopies",
    "NetworkCopies",
    "SmoothedNetwork",
    "SupervisedNetwork",
    "is_supervised",
]

_FACTS, _KIND = "diffclass.json", "supervised"


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SupervisedNetwork:
    """A network that was told the labels.

    Args:
        network: of transformers, from pixel values to logits.
        classes: names, in the order of the logits.
        image_shape: channels, height and width [pixels].
        sigma: [image units] std of the noise in its training images.
        inputs: how images enter the network.
        metadata: the rest of what diffclass.json holds.
    """

    network: nn.Module
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    sigma: float
    inputs: Inputs = field(default_factory=lambda: Inputs(enlarge=4))
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where it lives."""
        return next(self.network.parameters()).device

    def logits(self, images: Images) -> Float[Tensor, "batch class"]:
        """Return the logits of images in image units, noisy or not."""
        return self.network(self.inputs(images)).logits.float()

    @property
    def classes_(self) -> tuple[str, ...]:
        """Class names, under the name that a classifier has for them."""
        return self.classes

    @property
    def temperature(self) -> float | None:
        """By which logits are divided before they are made probabilities; None: nobody has fitted one."""
        return self.metadata.get("temperature")

    @property
    def n_members(self) -> int:
        """How many networks answer together."""
        return len(self.network.members) if isinstance(self.network, Ensemble) else 1

    @torch.inference_mode()
    def scores(self, images: Images) -> Float[Tensor, "batch class"]:
        """Return the logits of images on any device, on the CPU and without gradients."""
        return self.logits(images.to(self.device)).cpu()

    @torch.inference_mode()
    def predict(self, images: Images) -> Int64[ndarray, " batch"]:
        """Return the index of the largest logit of each image."""
        return self.logits(images.to(self.device)).argmax(dim=1).cpu().numpy()

    def save(self, directory: str | Path, card: str = "") -> Path:
        """Write a directory that transformers opens too, unless several networks are in it.

        Raises:
            ResultError: it cannot be written.
        """
        from safetensors.torch import save_file

        target = Path(directory)
        facts = {"format": 1, "kind": _KIND, **self.metadata, "classes": list(self.classes), "sigma": self.sigma}
        usual = self.inputs == Inputs(enlarge=self.inputs.enlarge)
        inputs = {"enlarge": self.inputs.enlarge} if usual else asdict(self.inputs)
        members = {"members": self.n_members} if isinstance(self.network, Ensemble) else {}
        facts |= {"image_shape": list(self.image_shape), **inputs, **members}
        try:
            target.mkdir(parents=True, exist_ok=True)
            state = {name: tensor.contiguous().cpu() for name, tensor in self.network.state_dict().items()}
            save_file(state, target / "model.safetensors", metadata={"format": "pt"})
            self.network.config.save_pretrained(target)  # type: ignore[union-attr, operator]
            text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)
            (target / _FACTS).write_text(text + "\n", encoding="utf-8")
            if card:
                (target / "README.md").write_text(card, encoding="utf-8")
        except OSError as error:
            raise ResultError(f"The network could not be saved in {str(target)!r}: {error}.") from error
        return target

    @classmethod
    def load(cls, directory: str | Path, *, device: str | torch.device = "cpu") -> "SupervisedNetwork":
        """Read what `save` wrote.

        Raises:
            WeightsMissing: a file is not there.
            WeightsMismatch: the weights are damaged or of another network.
            UnsupportedModel: it is no supervised network.
        """
        source = Path(directory)
        facts = read_json(source / _FACTS)
        wanted = ("classes", "image_shape", "sigma", "enlarge")
        if facts.get("kind") != _KIND or not all(name in facts for name in wanted):
            raise UnsupportedModel(f"The model in {str(source)!r} is not a supervised network. Try diffclass.load.")
        config = read_json(source / "config.json")
        network = build_from_config(config)
        if "members" in facts:
            network = Ensemble([network, *(build_from_config(config) for _ in range(facts["members"] - 1))])
        weights = find_weights(source)
        put_weights(network, read_weights(weights), source=weights)
        other = ("channels", "side", "mean", "std")
        told: dict[str, Any] = {
            name: tuple(v) if isinstance(v := facts[name], list) else v for name in other if name in facts
        }
        rest = {n: value for n, value in facts.items() if n not in {*wanted, *other, "members", "format", "kind"}}
        return cls(
            network=network.eval().requires_grad_(False).to(device), classes=tuple(facts["classes"]),
            image_shape=tuple(facts["image_shape"]), sigma=facts["sigma"],
            inputs=Inputs(enlarge=facts["enlarge"], **told), metadata=rest,
        )  # fmt: skip


def is_supervised(model: str | Path) -> bool:
    """Whether a directory holds a supervised network."""
    path = Path(model) / _FACTS
    return path.is_file() and read_json(path).get("kind") == _KIND


@final
class NetworkCopies(CopyClassifier):
    """A network labels noisy copies as they are: it should have been trained on such.

    Args:
        network: whose classes are chosen from.
        sigma: [image units] std of the noise in the copies.

    Source:
        Cohen, Rosenfeld and Kolter 2019, section 3.3 (arXiv:1902.02918); Lecuyer et al. 2019.
    """

    def __init__(self, network: SupervisedNetwork, *, sigma: float) -> None:
        self.network, self.sigma, self.chunk = network, sigma, 512
        self.classes, self.image_shape = network.classes, network.image_shape

    def labels(self, copies: Images) -> tuple[Int64[ndarray, " batch"], int]:
        """Return the network's answers; an evaluation is one of them."""
        return self.network.predict(copies), len(copies)


@final
class DenoisedCopies(CopyClassifier):
    """Copies are denoised once, without a class, and labelled by a network.

    Args:
        network: trained on clean images, or on denoised ones.
        denoiser: with a condition for "no class".
        sigma: [image units] std of the noise in the copies.

    Raises:
        ShapeError: network and denoiser take images of different shapes.
        UnsupportedModel: the denoiser was trained with classes only.
        RangeError: it was not trained on so much or so little noise.

    Source:
        Carlini et al. 2023, algorithm 1 (arXiv:2206.10550), with the noise level in place of the time.
    """

    def __init__(self, network: SupervisedNetwork, denoiser: Denoiser, *, sigma: float) -> None:
        if denoiser.space.image_shape != network.image_shape:
            raise ShapeError(
                f"Network and denoiser must take the same images. Got {network.image_shape} and "
                f"{denoiser.space.image_shape}."
            )
        (low, high), self._tau = denoiser.sigma_range, denoiser.space.sigma_to_model(sigma)
        if not low <= self._tau <= high:
            scale = denoiser.space.scale
            raise RangeError(
                f"The 'sigma' of denoised copies must be from {low / scale:.4g} to {high / scale:.4g} [image units], "
                f"where the denoiser was trained. Got {sigma}."
            )
        self._conditions = denoiser.condition_on(denoiser.classes[:1])
        if self._conditions.null is None:
            raise UnsupportedModel("Denoising without a class needs a model that was trained so. This one was not.")
        self.network, self.denoiser, self.sigma, self.chunk = network, denoiser, sigma, 512
        self.classes, self.image_shape = network.classes, network.image_shape

    @torch.inference_mode()
    def labels(self, copies: Images) -> tuple[Int64[ndarray, " batch"], int]:
        """Return the network's answers; an evaluation is one of either network."""
        denoiser, n = self.denoiser, len(copies)
        noisy = denoiser.encode(copies.to(denoiser.device))
        sigma = torch.full((n,), self._tau, dtype=noisy.dtype, device=noisy.device)
        denoised = denoiser.decode(denoiser(noisy, sigma, self._conditions.without_class(n)))
        return self.network.predict(denoised.float().clamp(0, 1)), 2 * n


@final
class SmoothedNetwork(Smoothable):
    """A supervised network, to be smoothed: as it is, or behind a denoiser.

    Args:
        network: that labels.
        denoiser: that copies go through first; None: they do not.
        seed: of the smoothing noise.
    """

    def __init__(self, network: SupervisedNetwork, *, denoiser: Denoiser | None = None, seed: int = 0) -> None:
        self.network, self.denoiser, self.seed = network, denoiser, seed
        self.noised = "network" if denoiser is None else "denoised"
        self.classes, self.image_shape, self.device = network.classes, network.image_shape, network.device

    def copies(self, sigma: float) -> CopyClassifier:
        """Return the network as a classifier of copies."""
        if self.denoiser is None:
            return NetworkCopies(self.network, sigma=sigma)
        return DenoisedCopies(self.network, self.denoiser, sigma=sigma)
