"""Mixtures of probabilistic PCA: exact denoisers that fit real images.

Class c is p(x | c) = sum_m w_m N(x; mu_m, W_m W_m^T + f_m I) with a few columns in W_m. Under noise the covariance
keeps its eigenbasis, so that the posterior mean and the density of a noisy image cost two matrix products.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from diffclass.denoisers.analytic import ExactDenoiser
from diffclass.denoisers.card import figures_table, front_matter, read_json, read_metadata
from diffclass.denoisers.protocol import Space
from diffclass.denoisers.weights import read_weights
from diffclass.errors import RangeError, ResultError, ShapeError, UnsupportedModel, WeightsMismatch, WeightsMissing
from diffclass.types import Sigmas

__all__ = ["LowRankGaussians", "MixtureDenoiser", "mixture_card"]

_WEIGHTS = "model.safetensors"

Rows = Float[Tensor, "batch _"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LowRankGaussians:
    """Gaussians whose covariance is U diag(spectrum) U^T + floor I.

    Args:
        means: flattened.
        basis: orthonormal rows, one for each direction of each component.
        spectrum: variance along each row, beyond the floor.
        floors: variance in every other direction.

    Source:
        Tipping and Bishop 1999, "Mixtures of probabilistic principal component analysers", equations 5 to 9.
    """

    means: Float[Tensor, "component _"]
    basis: Float[Tensor, "component _ _"]
    spectrum: Float[Tensor, "component _"]
    floors: Float[Tensor, " component"]

    @classmethod
    def from_loadings(
        cls,
        means: Float[Tensor, "component _"],
        loadings: Float[Tensor, "component _ _"],
        floors: Float[Tensor, " component"],
    ) -> "LowRankGaussians":
        """Find the eigenbasis of W W^T in float64; W is given by rows, rounded or not."""
        _, singular, basis = torch.linalg.svd(loadings.double(), full_matrices=False)
        return cls(means=means.double(), basis=basis, spectrum=singular.square(), floors=floors.double())

    def to(self, dtype: torch.dtype) -> "LowRankGaussians":
        """Return a copy in another precision."""
        return type(self)(
            means=self.means.to(dtype),
            basis=self.basis.to(dtype),
            spectrum=self.spectrum.to(dtype),
            floors=self.floors.to(dtype),
        )

    def __getitem__(self, components: slice) -> "LowRankGaussians":
        """Pick some components, without a copy."""
        return type(self)(
            means=self.means[components],
            basis=self.basis[components],
            spectrum=self.spectrum[components],
            floors=self.floors[components],
        )

    def project(self, y: Rows) -> tuple[Float[Tensor, "batch component _"], Float[Tensor, "batch component"]]:
        """Return the coordinates of y - mean in each basis, and |y - mean|^2."""
        centre = self.means.mean(0)  # differences of small numbers lose less
        y, means = y - centre, self.means - centre
        z = (y @ self.basis.flatten(0, 1).T).unflatten(1, self.spectrum.shape)
        z = z - torch.einsum("mrd,md->mr", self.basis, means)
        squared = y.square().sum(1, keepdim=True) - 2 * y @ means.T + means.square().sum(1)
        return z, squared

    def log_density(
        self,
        z: Float[Tensor, "batch component _"],
        squared: Float[Tensor, "batch component"],
        noise: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch component"]:
        """Return log N(y; mean, covariance + noise I) from what `project` gave; noise is a variance.

        Source:
            The Woodbury identity and the matrix determinant lemma, in the eigenbasis.
        """
        rest = self.floors + noise[:, None]  # variance outside the basis
        ratio = self.spectrum / rest[:, :, None]
        quadratic = (squared - (z.square() * (ratio / (1 + ratio))).sum(2)) / rest
        return -0.5 * (quadratic + self.means.shape[1] * (2 * math.pi * rest).log() + ratio.log1p().sum(2))

    def posterior_mean(
        self,
        y: Rows,
        z: Float[Tensor, "batch component _"],
        noise: Float[Tensor, " batch"],
        responsibilities: Float[Tensor, "batch component"],
    ) -> Rows:
        """Return sum_m r_m E[x | y, m], with E[x | y, m] = mean + covariance (covariance + noise I)^-1 (y - mean)."""
        rest = self.floors + noise[:, None]
        shrink = self.floors / rest  # outside the basis
        extra = noise[:, None, None] * self.spectrum / ((self.spectrum + rest[:, :, None]) * rest[:, :, None])
        inside = (responsibilities[:, :, None] * extra * z).flatten(1) @ self.basis.flatten(0, 1)
        kept = responsibilities * shrink
        return kept.sum(1, keepdim=True) * y + (responsibilities - kept) @ self.means + inside


@final
class MixtureDenoiser(ExactDenoiser):
    """Class c is a mixture of probabilistic PCA, in image units.

    Denoising computes in float32, densities in float64.

    Args:
        means: [image units] of every component, class by class.
        loadings: [image units] of every component: the columns of W, each in the shape of an image.
        floors: [image units squared] variance in every direction, above 0.
        sizes: number of components of each class.
        weights: of each component within its class.
        classes: names.
        data_std: [image units] standard deviation of the pixels.
        prior: of each class; uniform if None.
        sigma_range: [image units] noise levels that callers may integrate over.
        metadata: the content of diffclass.json, with "fit" for how the mixture came about.

    Source:
        Tipping and Bishop 1999, "Mixtures of probabilistic principal component analysers".
    """

    def __init__(
        self,
        means: Float[Tensor, "component channel height width"],
        loadings: Float[Tensor, "component _ _ _ _"],
        *,
        floors: Float[Tensor, " component"],
        sizes: Sequence[int],
        weights: Float[Tensor, " component"],
        classes: Sequence[str],
        data_std: float,
        prior: Float[Tensor, " class"] | None = None,
        sigma_range: tuple[float, float] = (0.005, 20.0),
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        if loadings.shape[2:] != means.shape[1:]:
            raise ShapeError(f"Loadings must have the means' shape {tuple(means.shape)}. Got {tuple(loadings.shape)}.")
        if not bool(((floors > 0) & floors.isfinite()).all()):
            raise RangeError(f"The 'floors' parameter must be above 0. Got {float(floors.min())}.")
        channels, height, width = means.shape[1:]
        self.means, self.loadings, self.floors, self.weights = means, loadings, floors, weights
        self.prior = torch.ones(len(sizes), device=means.device) if prior is None else prior
        self.metadata = dict(metadata or {})
        self._exact = LowRankGaussians.from_loadings(means.flatten(1), loadings.flatten(2), floors)
        self._fast = self._exact.to(torch.float32)
        super().__init__(
            Space(channels=channels, height=height, width=width, scale=1.0, offset=0.0, data_std=data_std),
            classes=classes,
            sizes=sizes,
            weights=weights,
            prior=prior,
            sigma_range=sigma_range,
        )

    def _log_densities(self, noisy: Rows, sigma: Sigmas, components: slice) -> Float64[Tensor, "batch component"]:
        part = self._exact[components]
        return part.log_density(*part.project(noisy.double()), sigma.double() ** 2)

    def _denoise(self, noisy: Rows, sigma: Sigmas, components: slice, log_weights: Float64[Tensor, " _"]) -> Rows:
        exact = noisy.dtype == torch.float64
        part, dtype = (self._exact, torch.float64) if exact else (self._fast, torch.float32)
        part, y, noise = part[components], noisy.to(dtype), sigma.to(dtype) ** 2
        z, squared = part.project(y)
        responsibilities = (part.log_density(z, squared, noise) + log_weights.to(dtype)).softmax(1)
        return part.posterior_mean(y, z, noise, responsibilities)

    def save(
        self,
        directory: str | Path,
        *,
        metadata: Mapping[str, Any] | None = None,
        dtype: torch.dtype = torch.bfloat16,
    ) -> Path:
        """Write a model directory that `load` reads, with a model card.

        Args:
            directory: made where it is missing; a model that it holds is replaced.
            metadata: goes into diffclass.json: name, licence, data, figures, description, command.
            dtype: of the saved means and loadings.

        Raises:
            ResultError: it cannot be written.
        """
        from safetensors.torch import save

        target = Path(directory).absolute()
        facts = {"format": 1, "name": target.name} | self.metadata | dict(metadata or {})
        facts |= {"classes": list(self.classes), "null_class": len(self.classes), "space": asdict(self.space)}
        facts |= {"sigma_range": list(self.sigma_range)}
        config = {"_class_name": "MixtureDenoiser", "sizes": list(self.sizes), "rank": self.loadings.shape[1]}
        tensors = {
            "means": self.means.to(dtype),
            "loadings": self.loadings.to(dtype),
            "floors": self.floors.double(),
            "weights": self.weights.double(),
            "prior": self.prior.double(),
        }
        content = {
            _WEIGHTS: save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, {"format": "pt"}),
            "config.json": _json(config),
            "README.md": mixture_card(facts).encode(),
            "diffclass.json": _json(facts),
        }
        try:
            target.mkdir(parents=True, exist_ok=True)
            for name, data in content.items():
                part = target / f".{name}.{os.getpid()}.part"
                part.write_bytes(data)
                part.replace(target / name)
        except OSError as error:
            raise ResultError(f"The model could not be saved in {str(target)!r}: {error.strerror or error}.") from error
        return target

    @classmethod
    def load(cls, directory: str | Path, *, device: str | torch.device = "cpu") -> "MixtureDenoiser":
        """Read a model directory: the exact density of the rounded parameters that it holds.

        Raises:
            WeightsMissing: a file is not there.
            WeightsMismatch: the weights are damaged or do not fit the other files.
            UnsupportedModel: it is not a mixture.
        """
        source = Path(directory)
        config, metadata = read_json(source / "config.json"), read_metadata(source)
        if config.get("_class_name") != "MixtureDenoiser" or not isinstance(config.get("sizes"), list):
            raise UnsupportedModel(f"The model in {str(source)!r} is not a MixtureDenoiser. Try diffclass.load.")
        if not (source / _WEIGHTS).is_file():
            raise WeightsMissing(f"The model directory {str(source)!r} holds no {_WEIGHTS!r}.")
        tensors = read_weights(source / _WEIGHTS)
        space, sizes = Space(**metadata["space"]), config["sizes"]
        _check_tensors(tensors, space.image_shape, sizes, len(metadata["classes"]), source / _WEIGHTS)
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        return cls(
            tensors["means"],
            tensors["loadings"],
            floors=tensors["floors"],
            sizes=sizes,
            weights=tensors["weights"],
            classes=metadata["classes"],
            data_std=space.data_std,
            prior=tensors["prior"],
            sigma_range=tuple(metadata["sigma_range"]),
            metadata=metadata,
        )


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _check_tensors(
    tensors: Mapping[str, Tensor], shape: tuple[int, int, int], sizes: Sequence[int], n_classes: int, path: Path
) -> None:
    """Refuse weights that don't fit the other files of a model."""
    n = sum(sizes)
    wanted = {"means": (n, *shape), "loadings": (n, -1, *shape), "floors": (n,), "weights": (n,), "prior": (n_classes,)}
    for name, axes in wanted.items():
        got = tuple(tensors[name].shape) if name in tensors else ()
        fits = len(got) == len(axes) and all(a in (b, -1) for a, b in zip(axes, got, strict=True))
        if not fits or not bool(tensors[name].isfinite().all()) or len(sizes) != n_classes:
            raise WeightsMismatch(
                f"The weights in {str(path)!r} do not fit the model's other files: {name!r} must be finite and of "
                f"shape {axes} (-1: any). Got {got}. Use the files that were saved together."
            )


def mixture_card(metadata: Mapping[str, Any]) -> str:
    """Write the README.md of a mixture from its diffclass.json, for people and the Hugging Face hub."""
    space, fit = metadata["space"], metadata.get("fit", {})
    lines = [
        *front_matter(metadata),
        f"# {metadata['name']}",
        "",
        metadata.get("description", "A mixture of probabilistic PCA for each class: an exact diffusion model."),
        "",
        f"- **Classes** ({len(metadata['classes'])}): {', '.join(metadata['classes'])}",
        f"- **Images**: {space['channels']} x {space['height']} x {space['width']}, in [0, 1]",
        f"- **Data**: {metadata.get('data', 'unknown')}",
        f"- **Licence of the data**: {metadata.get('licence', 'unknown')}",
        *(f"- **{name.replace('_', ' ').capitalize()}**: {value}" for name, value in fit.items()),
        *([f"- **Calibration**: {metadata['calibration']}"] if metadata.get("calibration") else []),
        "",
        "Class c is a mixture of Gaussians with covariance W W^T + floor^2 I. Its denoiser E[x | noisy, class] and its "
        "density, clean or under Gaussian noise, have closed forms: there is no network and no approximation but the "
        "mixture itself. The density is that of the numbers as they are stored.",
    ]
    use = f"classifier = diffclass.DiffusionClassifier.from_pretrained({metadata['name']!r})"
    lines += ["", "## Use", "", "```python", "import diffclass", "", use, "```"]
    if metadata.get("figures"):
        lines += ["", "## Measured", "", *figures_table(metadata["figures"])]
        lines += [
            "",
            "By exact likelihoods under a uniform prior, after rounding, except where races are named; accuracies have "
            "Wilson intervals. Under noise of standard deviation tau [image units] the likelihood is that of the noisy "
            "image.",
        ]
    if "command" in metadata:
        lines += ["", "## Reproduce", "", "```", metadata["command"], "```"]
    return "\n".join([*lines, ""])
