"""Denoisers with closed forms: posterior mean and density are exact at every noise level.

Every one of them is a mixture of Gaussians for each class, p(x | c) = sum_m w_m N(x; mean_m, covariance_m), so that

    log p(y; sigma | c) = log sum_m w_m N(y; mean_m, covariance_m + sigma^2 I)
    E[x | y, c]         = sum_m r_m E[x | y, m],   r_m proportional to w_m N(y; mean_m, covariance_m + sigma^2 I)

They are the oracles that estimates are held against, and, fitted to data, real models.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from diffclass.denoisers.protocol import Conditions, Space
from diffclass.errors import ConditionError, RangeError, ShapeError
from diffclass.types import Images, Latents, Sigmas

__all__ = ["EmpiricalDenoiser", "ExactDenoiser", "GaussianDenoiser", "GaussianMixtureDenoiser"]

_CHUNK = 512  # rows of a batch at once, so that the densities of large batches fit in memory

Rows = Float[Tensor, "batch _"]  # [model units] latents, flattened
Densities = Float[Tensor, "batch component"]  # [nats]
Variance = float | Float[Tensor, "class component #channel #height #width"]


class ExactDenoiser(ABC):
    """A mixture of Gaussians for each class; with no condition, the mixture of all classes under their prior.

    Components are listed class by class. A final class says only what one component does with a noisy image.

    Args:
        space: where the model lives.
        classes: names, each once.
        sizes: number of components of each class, at least one.
        weights: of each component within its class; they need not add to 1.
        prior: of each class, used where there is no condition; uniform if None.
        sigma_range: [model units] noise levels that callers may integrate over; the closed forms hold everywhere.
    """

    def __init__(
        self,
        space: Space,
        *,
        classes: Sequence[str],
        sizes: Sequence[int],
        weights: Float[Tensor, " component"],
        prior: Float[Tensor, " class"] | None = None,
        sigma_range: tuple[float, float] = (0.002, 80.0),
    ) -> None:
        _check_classes(classes, len(sizes))
        if not 0 < sigma_range[0] < sigma_range[1] < math.inf:
            raise RangeError(f"The 'sigma_range' of a denoiser must be 0 < low < high. Got {sigma_range}.")
        self.space = space
        self.sigma_range = sigma_range
        self.classes = tuple(classes)
        self.sizes = tuple(sizes)
        log_weights = [(part / part.sum()).log() for part in weights.double().split(self.sizes)]
        self.log_weights = torch.cat(log_weights)  # [component], within a class
        prior = torch.ones(len(self.sizes)) if prior is None else prior
        self.log_prior = (prior.double() / prior.double().sum()).log().to(self.log_weights.device)

    @abstractmethod
    def _log_densities(self, noisy: Rows, sigma: Sigmas, components: slice) -> Densities:
        """Return log N(y; mean_m, covariance_m + sigma^2 I) for some components, as exactly as float64 allows."""

    @abstractmethod
    def _denoise(self, noisy: Rows, sigma: Sigmas, components: slice, log_weights: Float64[Tensor, " _"]) -> Rows:
        """Return the posterior mean under some components with the given weights."""

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.log_weights.device

    def encode(self, images: Images) -> Latents:
        """Convert images in [0, 1] to what the denoiser sees."""
        return self.space.to_model(images)

    def decode(self, latents: Latents) -> Images:
        """Convert back to images in [0, 1]."""
        return self.space.to_images(latents)

    def condition_on(self, prompts: Sequence[str]) -> Conditions:
        """Look up classes by name; index K, one past the last class, means no condition."""
        unknown = [name for name in prompts if name not in self.classes]
        if unknown or not prompts:
            raise ConditionError(
                f"The 'prompts' parameter of condition_on must name classes of the model: {', '.join(self.classes)}. "
                f"Got {repr(unknown[0]) if unknown else 'none'}."
            )
        indices = torch.tensor([self.classes.index(name) for name in prompts], dtype=torch.int64, device=self.device)
        null = torch.tensor([len(self.classes)], device=self.device)
        return Conditions({"classes": indices}, {"classes": null})

    def __call__(self, noisy: Latents, sigma: Sigmas, conditions: Conditions) -> Latents:
        """Return E[x | noisy, condition], one condition for each element of the batch."""
        wanted = conditions.tensors["classes"]
        flat, parts, order = noisy.flatten(1), [], []
        for index in wanted.unique().tolist():
            rows = (wanted == index).nonzero()[:, 0]
            components, log_weights = self._components(index)
            for chunk in rows.split(_CHUNK):
                parts.append(self._denoise(flat[chunk], sigma[chunk], components, log_weights))
                order.append(chunk)
        return torch.cat(parts)[torch.cat(order).argsort()].reshape(noisy.shape).to(noisy.dtype)

    def _components(self, index: int) -> tuple[slice, Float64[Tensor, " _"]]:
        """Return which components a class has, with log weights; all of them for the null class."""
        if index == len(self.sizes):
            per_component = torch.tensor(self.sizes, device=self.device)
            return slice(None), self.log_weights + self.log_prior.repeat_interleave(per_component)
        start = sum(self.sizes[:index])
        components = slice(start, start + self.sizes[index])
        return components, self.log_weights[components]

    def log_density(self, noisy: Latents, sigma: Sigmas) -> Float64[Tensor, "batch class"]:
        """Return log p(noisy; sigma | class), every class at the same noisy images.

        Args:
            noisy: in model units.
            sigma: [model units] noise that the images carry, 0 for clean ones.

        Returns:
            [nats] a density per model unit, differentiable in `noisy`.
        """
        flat, rows = noisy.flatten(1), []
        for chunk, level in zip(flat.split(_CHUNK), sigma.split(_CHUNK), strict=True):
            joint = self._log_densities(chunk, level, slice(None)) + self.log_weights
            rows.append(torch.stack([part.logsumexp(1) for part in joint.split(self.sizes, dim=1)], dim=1))
        return torch.cat(rows)

    def log_likelihood(self, images: Images, *, tau: float = 0.0) -> Float64[Tensor, "batch class"]:
        """Return the exact log-likelihood of images under every class.

        Args:
            images: clean ones, or ones that carry noise of std tau.
            tau: [model units] std of that noise: the density is p(x) convolved with N(0, tau^2 I).

        Returns:
            [nats] log density per model unit, differentiable in `images`.

        Raises:
            RangeError: tau is negative or not finite.
        """
        if not (math.isfinite(tau) and tau >= 0):
            raise RangeError(f"The 'tau' parameter of log_likelihood must be a finite number of at least 0. Got {tau}.")
        sigma = torch.full((len(images),), tau, dtype=torch.float64, device=images.device)
        return self.log_density(self.encode(images), sigma)


@final
class GaussianDenoiser(ExactDenoiser):
    """Class c is N(mean_c, std^2 I), the simplest oracle.

    Args:
        means: [model units] of each class.
        std: [model units] of every class, above 0.
        space: where the model lives; the shape of the means in units of the image if None.
        classes: names; "0", "1", ... if None.
        prior: of each class; uniform if None.
        sigma_range: [model units] noise levels that callers may integrate over.

    Source:
        Bishop 2006, equations 2.113 to 2.117 (linear-Gaussian posterior).
    """

    def __init__(
        self,
        means: Float[Tensor, "class channel height width"],
        std: float,
        *,
        space: Space | None = None,
        classes: Sequence[str] | None = None,
        prior: Float[Tensor, " class"] | None = None,
        sigma_range: tuple[float, float] = (0.002, 80.0),
    ) -> None:
        _check_positive(torch.as_tensor(std), "std", "GaussianDenoiser")
        self.means = means.double().flatten(1)
        self.std = std
        super().__init__(
            _space_of(means, std, space),
            classes=_names(len(means)) if classes is None else classes,
            sizes=[1] * len(means),
            weights=torch.ones(len(means), device=means.device),
            prior=prior,
            sigma_range=sigma_range,
        )

    def _log_densities(self, noisy: Rows, sigma: Sigmas, components: slice) -> Densities:
        variance = (self.std**2 + sigma.double() ** 2)[:, None]
        squared = (noisy.double()[:, None] - self.means[components]).square().sum(-1)
        return -0.5 * (squared / variance + noisy.shape[1] * (2 * math.pi * variance).log())

    def _denoise(self, noisy: Rows, sigma: Sigmas, components: slice, log_weights: Float64[Tensor, " _"]) -> Rows:
        responsibilities = (self._log_densities(noisy, sigma, components) + log_weights).softmax(1)
        mean, noise = responsibilities @ self.means[components], sigma.double()[:, None] ** 2
        return (self.std**2 * noisy + noise * mean) / (self.std**2 + noise)


@final
class GaussianMixtureDenoiser(ExactDenoiser):
    """Class c is a mixture of Gaussians with isotropic or diagonal covariances.

    Args:
        means: [model units] of each component of each class.
        stds: [model units] one number, one for each component (last axes 1), or one for each pixel; above 0.
        weights: of each component within its class; uniform if None.
        space: where the model lives; the shape of the means in units of the image if None.
        classes: names; "0", "1", ... if None.
        prior: of each class; uniform if None.
        sigma_range: [model units] noise levels that callers may integrate over.

    Source:
        Bishop 2006, equations 2.113 to 2.117 for a component and 9.13 for the responsibilities.
    """

    def __init__(
        self,
        means: Float[Tensor, "class component channel height width"],
        stds: Variance,
        *,
        weights: Float[Tensor, "class component"] | None = None,
        space: Space | None = None,
        classes: Sequence[str] | None = None,
        prior: Float[Tensor, " class"] | None = None,
        sigma_range: tuple[float, float] = (0.002, 80.0),
    ) -> None:
        _check_positive(torch.as_tensor(stds), "stds", "GaussianMixtureDenoiser")
        n_classes, n_components = means.shape[:2]
        self.means = means.double().flatten(0, 1).flatten(1)  # [component, _]
        stds = torch.as_tensor(stds, dtype=torch.float64, device=means.device)
        self.variances = stds.square().expand(means.shape).flatten(0, 1).flatten(1)
        weights = torch.ones(n_classes, n_components, device=means.device) if weights is None else weights
        super().__init__(
            _space_of(means, float(self.variances.mean().sqrt()), space),
            classes=_names(n_classes) if classes is None else classes,
            sizes=[n_components] * n_classes,
            weights=weights.flatten(),
            prior=prior,
            sigma_range=sigma_range,
        )

    def _log_densities(self, noisy: Rows, sigma: Sigmas, components: slice) -> Densities:
        variance = self.variances[components] + (sigma.double() ** 2)[:, None, None]
        squared = (noisy.double()[:, None] - self.means[components]).square()
        return -0.5 * (squared / variance + (2 * math.pi * variance).log()).sum(-1)

    def _denoise(self, noisy: Rows, sigma: Sigmas, components: slice, log_weights: Float64[Tensor, " _"]) -> Rows:
        responsibilities = (self._log_densities(noisy, sigma, components) + log_weights).softmax(1)
        noise, variance = (sigma.double() ** 2)[:, None, None], self.variances[components]
        means = (variance * noisy[:, None] + noise * self.means[components]) / (variance + noise)
        return torch.einsum("bm,bmd->bd", responsibilities, means)


@final
class EmpiricalDenoiser(ExactDenoiser):
    """Class c is its training images and nothing else: what a network that learnt its data by heart would answer.

    Its clean density is a set of points, so a log-likelihood needs tau > 0.

    Args:
        images: training images [image units].
        labels: class of each.
        classes: names; every one needs at least one image.
        space: where the model lives; image units if None.
        prior: of each class; uniform if None.
        sigma_range: [model units] noise levels that callers may integrate over.

    Source:
        Karras et al. 2022, equation 57 in Appendix B.3 (arXiv:2206.00364).
    """

    def __init__(
        self,
        images: Images,
        labels: Int[Tensor, " batch"],
        *,
        classes: Sequence[str],
        space: Space | None = None,
        prior: Float[Tensor, " class"] | None = None,
        sigma_range: tuple[float, float] = (0.002, 80.0),
    ) -> None:
        sizes = [int((labels == index).sum()) for index in range(len(classes))]
        if min(sizes, default=0) < 1 or sum(sizes) != len(labels):
            raise ConditionError(
                f"EmpiricalDenoiser needs labels in 0..{len(classes) - 1} and an image of every class. "
                f"Got {sizes} images of the classes and {len(labels)} labels."
            )
        space = _space_of(images, 0.0, None) if space is None else space
        self.points = space.to_model(images).flatten(1)[labels.argsort(stable=True)]  # [component, _] class by class
        super().__init__(
            space,
            classes=classes,
            sizes=sizes,
            weights=torch.ones(len(images), device=images.device),
            prior=prior,
            sigma_range=sigma_range,
        )

    def _log_densities(self, noisy: Rows, sigma: Sigmas, components: slice) -> Densities:
        if not bool((sigma > 0).all()):
            raise RangeError("EmpiricalDenoiser has a density only under noise: sigma and tau must be above 0. Got 0.")
        y, variance = noisy.double(), (sigma.double() ** 2)[:, None]
        squared = []
        for points in self.points[components].split(_CHUNK):
            x = points.double()
            squared.append(y.square().sum(1, keepdim=True) - 2 * y @ x.T + x.square().sum(1))
        return -0.5 * (torch.cat(squared, dim=1) / variance + noisy.shape[1] * (2 * math.pi * variance).log())

    def _denoise(self, noisy: Rows, sigma: Sigmas, components: slice, log_weights: Float64[Tensor, " _"]) -> Rows:
        responsibilities = (self._log_densities(noisy, sigma, components) + log_weights).softmax(1)
        chunks = zip(responsibilities.split(_CHUNK, dim=1), self.points[components].split(_CHUNK), strict=True)
        return torch.stack([part @ points.double() for part, points in chunks]).sum(0)


def _names(n: int) -> list[str]:
    """Name classes by their index."""
    return [str(index) for index in range(n)]


def _check_classes(classes: Sequence[str], n: int) -> None:
    """Refuse names that don't fit the classes one to one."""
    if len(classes) != n or len(set(classes)) != n:
        raise ConditionError(f"The 'classes' parameter must be {n} different names. Got {list(classes)}.")


def _check_positive(values: Tensor, name: str, where: str) -> None:
    """Refuse standard deviations that are not finite and above 0."""
    if not bool(((values > 0) & values.isfinite()).all()):
        raise RangeError(f"The '{name}' parameter of {where} must be finite and above 0. Got {values.tolist()}.")


def _space_of(values: Tensor, std: float, space: Space | None) -> Space:
    """Return the given space once the means fit it, or the space whose model units are image units."""
    if space is None:
        channels, height, width = values.shape[-3:]
        spread = math.sqrt(float(values.double().var(correction=0)) + std**2)
        return Space(channels=channels, height=height, width=width, scale=1.0, offset=0.0, data_std=max(spread, 1e-6))
    if tuple(values.shape[-3:]) != space.shape:
        raise ShapeError(f"Means must have the shape of the space, {space.shape}. Got {tuple(values.shape[-3:])}.")
    return space
