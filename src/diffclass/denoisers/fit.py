"""Fit a mixture of probabilistic PCA to each class of a labelled set, in seconds and without a network."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from time import monotonic
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffclass.denoisers.mixture import LowRankGaussians, MixtureDenoiser
from diffclass.errors import ConditionError, RangeError, ShapeError
from diffclass.types import Images

__all__ = ["fit_mixture"]

_COMPONENTS = (1, 4, 12, 24)  # tried where the caller leaves the choice open
_RANKS = (6, 18, 36)
_VECTORS = 480  # means and loadings of a class at most, when they are chosen here
_FLOORS = tuple(round(0.01 * math.sqrt(2) ** k, 4) for k in range(12))  # [image units]
_MEMBERS = 16  # images a component should have
_ITERATIONS = 6  # of expectation and maximisation
_HELD_OUT = 500  # images of a class at most

Group = Float[Tensor, "image _"]  # flattened images of one class
Progress = Callable[[int, int], None]  # steps done, of how many


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Components:
    """The components of one class before a floor is chosen: eigenvalues are those of the whole covariance."""

    weights: Float[Tensor, " component"]
    means: Float[Tensor, "component _"]
    basis: Float[Tensor, "component _ _"]
    eigenvalues: Float[Tensor, "component _"]
    residual: float  # mean variance outside the bases

    def gaussians(self, floor: float, rank: int | None = None) -> LowRankGaussians:
        """Return the Gaussians with a floor [image units], of the given rank or less."""
        return LowRankGaussians(
            means=self.means,
            basis=self.basis[:, :rank],
            spectrum=(self.eigenvalues[:, :rank] - floor**2).clamp(min=0),
            floors=torch.full_like(self.weights, floor**2),
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """What was chosen, and what it gave on images held out."""

    n_components: int
    rank: int
    floor: float
    accuracy: float = math.nan  # balanced
    log_likelihood: float = math.nan
    n: int = 0

    @property
    def told(self) -> str:
        """Say how the choice was made."""
        if self.n == 0:
            return "components, rank and floor were not chosen on images held out"
        return (
            f"components, rank and floor were given or chosen on {self.n} images held out, without moves: there, "
            f"balanced accuracy {self.accuracy:.4f} and {self.log_likelihood:.1f} nats an image"
        )


def fit_mixture(
    images: Images,
    labels: Int[Tensor, " batch"],
    *,
    classes: Sequence[str],
    n_components: int | None = None,
    rank: int | None = None,
    floor: float | None = None,
    shift: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> MixtureDenoiser:
    """Fit a mixture of probabilistic PCA to each class.

    k-means starts it, expectation maximisation refines it. What is left open is chosen on a tenth of the images, held
    out: of the settings whose balanced accuracy is within a standard error of the best, the one with the largest
    likelihood. All images are used in the end. The prior is the share of each class.

    Args:
        images: [image units] training images in [0, 1].
        labels: index into `classes`.
        classes: names, two or more.
        n_components: of each class at most; a small class gets fewer.
        rank: directions of each component at most.
        floor: [image units] standard deviation in every other direction.
        shift: [pixels] also learn from every image moved this far up, down, left and right.
        seed: of k-means, of the held-out images and of the randomised eigenvectors.
        progress: called with the number of steps done and of all.

    Returns:
        A denoiser whose `metadata["fit"]` says what was chosen and how long it took.

    Raises:
        ConditionError: a class has fewer than two images, or labels and classes don't fit.
        RangeError: a pixel is outside [0, 1], or a setting outside its range.

    Source:
        Tipping and Bishop 1999, "Mixtures of probabilistic principal component analysers", section 3 and Appendix C.
    """
    started = monotonic()
    _check(images, labels, classes, {"n_components": n_components, "rank": rank}, floor, shift)
    groups = _group(images, labels, len(classes))
    candidates = _candidates(groups, n_components, rank, floor)
    ticker = _Ticker(progress, len(classes) * (1 + len(candidates)))
    choice = _choose(groups, candidates, rank, floor, seed, ticker)
    if choice is None:
        choice = _Choice(n_components=n_components or 1, rank=rank or _RANKS[0], floor=floor or 0.1)
    fitted = []
    for group in groups:
        moved = [group, *(move.flatten(1) for move in _moves(group.unflatten(1, images.shape[1:]), shift))]
        fitted.append(_fit_group(group, choice.n_components, choice.rank, seed, torch.cat(moved)))
        ticker()
    notes = {
        "method": "k-means, then expectation maximisation, class by class",
        "training_images": len(images),
        "components": ", ".join(str(len(parts.weights)) for parts in fitted),
        "rank": choice.rank,
        "floor": choice.floor,
        "shift": f"every image also moved by up to {shift} pixels in four directions" if shift else "none",
        "choice": choice.told,
        "seed": seed,
        "seconds": round(monotonic() - started, 1),
    }
    return _assemble(fitted, choice, images, labels, classes, notes)


def _assemble(
    fitted: list[_Components],
    choice: _Choice,
    images: Images,
    labels: Int[Tensor, " batch"],
    classes: Sequence[str],
    notes: dict[str, object],
) -> MixtureDenoiser:
    """Put the components of all classes into one denoiser."""
    parts = [components.gaussians(choice.floor) for components in fitted]
    loadings = [part.spectrum.sqrt()[:, :, None] * part.basis for part in parts]
    rank = max(part.shape[1] for part in loadings)
    padded = [torch.nn.functional.pad(part, (0, 0, 0, rank - part.shape[1])) for part in loadings]
    return MixtureDenoiser(
        torch.cat([part.means for part in parts]).unflatten(1, images.shape[1:]),
        torch.cat(padded).unflatten(2, images.shape[1:]),
        floors=torch.cat([part.floors for part in parts]),
        sizes=[len(components.weights) for components in fitted],
        weights=torch.cat([components.weights for components in fitted]),
        classes=classes,
        data_std=max(float(images.std(correction=0)), 1e-6),
        prior=labels.bincount(minlength=len(classes)).double(),
        metadata={"fit": notes, "classifier": _classifier(choice.floor)},
    )


def _classifier(floor: float) -> dict[str, object]:
    """Return how to classify by draws: the evidence comes from noise about as large as the floor."""
    proposal = {"proposal": "log-normal", "proposal_mean": round(math.log(floor), 2), "proposal_std": 1.1}
    return {"weight": "likelihood", **proposal, "n_draws": 256, "block": 8}


def _fit_group(
    x: Group, n_components: int, rank: int, seed: int, everything: Float[Tensor, "_ _"] | None = None
) -> _Components:
    """Fit the components of one class; `everything` holds moved copies of the images as well."""
    from sklearn.cluster import KMeans

    n_components = max(1, min(n_components, len(x) // _MEMBERS))
    members = KMeans(n_components, n_init="auto", max_iter=50, random_state=seed).fit_predict(x.numpy())
    components = _maximise(x, torch.nn.functional.one_hot(torch.from_numpy(members).long(), n_components), rank, seed)
    for iteration in range(_ITERATIONS):
        last = iteration >= _ITERATIONS // 2  # the first half only sorts the images themselves
        data = everything if everything is not None and last else x
        components = _maximise(data, _responsibilities(data, components), rank, seed)
    return components


def _responsibilities(x: Group, components: _Components) -> Float[Tensor, "image component"]:
    """Return how much each component explains each image (expectation)."""
    gaussians = components.gaussians(max(1e-3, math.sqrt(components.residual)))
    log_weights = components.weights.log()
    parts = []
    for chunk in x.split(2048):
        z, squared = gaussians.project(chunk)
        parts.append((gaussians.log_density(z, squared, torch.zeros(len(chunk))) + log_weights).softmax(1))
    return torch.cat(parts)


def _maximise(x: Group, responsibilities: Tensor, rank: int, seed: int) -> _Components:
    """Return the most likely components given the responsibilities (maximisation)."""
    shares = responsibilities.float()
    counts = shares.sum(0)
    shares, counts = shares[:, counts > 1], counts[counts > 1]  # a component of one image has no covariance
    rank = min(rank, x.shape[1])
    means, bases, eigenvalues, rest = [], [], [], []
    for share, count in zip(shares.T, counts, strict=True):
        rows = share > 1e-4
        weight = (share[rows] / share[rows].sum())[:, None]
        mean = (weight * x[rows]).sum(0)
        values, basis, total = _principal(weight.sqrt() * (x[rows] - mean), rank, seed)
        means.append(mean)
        bases.append(basis)
        eigenvalues.append(values)
        rest.append(float(count) * max(0.0, total - float(values.sum())))
    return _Components(
        weights=counts / counts.sum(),
        means=torch.stack(means),
        basis=torch.stack(bases),
        eigenvalues=torch.stack(eigenvalues),
        residual=sum(rest) / float(counts.sum()) / max(1, x.shape[1] - rank),
    )


def _principal(z: Group, rank: int, seed: int) -> tuple[Float[Tensor, " _"], Float[Tensor, "_ _"], float]:
    """Return the largest eigenvalues of z^T z with their vectors (zeros where there are fewer), and its trace."""
    from sklearn.utils.extmath import randomized_svd

    n = min(rank, *z.shape)
    if min(z.shape) <= 4 * rank or z.shape[1] <= 128:  # small enough to be exact
        _, singular, basis = torch.linalg.svd(z.double(), full_matrices=False)
    else:
        options: dict[str, Any] = {"n_iter": 4, "random_state": seed}
        _, singular, basis = map(torch.as_tensor, randomized_svd(z.numpy(), n, **options))
    values, vectors = torch.zeros(rank), torch.zeros(rank, z.shape[1])
    values[:n], vectors[:n] = singular[:n].square().float(), basis[:n].float()
    return values, vectors, float(z.double().square().sum())


def _candidates(
    groups: list[Tensor], n_components: int | None, rank: int | None, floor: float | None
) -> tuple[int, ...]:
    """Return the numbers of components to try: none where all is given, or a class has fewer than ten images."""
    if None not in (n_components, rank, floor) or min(map(len, groups)) < 10:
        return ()
    return _COMPONENTS if n_components is None else (n_components,)


def _choose(
    groups: list[Tensor],
    candidates: tuple[int, ...],
    rank: int | None,
    floor: float | None,
    seed: int,
    ticker: "_Ticker",
) -> _Choice | None:
    """Choose what is left open on images that are held out; None if there is nothing to try."""
    random = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(group), generator=random) for group in groups]
    cuts = [min(len(group) // 10, _HELD_OUT) for group in groups]
    kept = [group[order[cut:]] for group, order, cut in zip(groups, orders, cuts, strict=True)]
    held = torch.cat([group[order[:cut]] for group, order, cut in zip(groups, orders, cuts, strict=True)])
    truth = torch.arange(len(groups)).repeat_interleave(torch.tensor(cuts))
    choices = []
    for m in candidates:
        ranks = [r for r in _RANKS if m * (r + 1) <= _VECTORS] if rank is None else [rank]
        settings = list(product(ranks, _FLOORS if floor is None else (floor,)))
        scores = []
        for group in kept:
            scores.append(_score(held, _fit_group(group, m, max(ranks), seed), settings))
            ticker()
        for (r, f), joint in zip(settings, torch.stack(scores, dim=2), strict=True):
            choices.append(_judge(joint, truth, _Choice(n_components=m, rank=r, floor=f)))
    if not choices:
        return None
    best = max(choice.accuracy for choice in choices)
    good = [choice for choice in choices if choice.accuracy >= best - _standard_error(best, cuts)]
    return max(good, key=lambda choice: choice.log_likelihood)


def _score(held: Group, components: _Components, settings: list[tuple[int, float]]) -> Float[Tensor, "_ image"]:
    """Return the log-likelihood of images under one class, for every setting (rank, floor)."""
    z, squared = components.gaussians(_FLOORS[0]).project(held)
    noise, log_weights = torch.zeros(len(held)), components.weights.log()
    densities = (components.gaussians(f, r).log_density(z[:, :, :r], squared, noise) for r, f in settings)
    return torch.stack([(density + log_weights).logsumexp(1) for density in densities])


def _judge(joint: Float[Tensor, "image class"], truth: Int[Tensor, " image"], setting: _Choice) -> _Choice:
    """Add to a setting how well it does on held-out images."""
    right = (joint.argmax(1) == truth).double()
    accuracy = torch.stack([right[truth == index].mean() for index in truth.unique()]).mean()
    likelihood = joint.gather(1, truth[:, None]).double().mean()
    return replace(setting, accuracy=float(accuracy), log_likelihood=float(likelihood), n=len(truth))


def _standard_error(accuracy: float, counts: list[int]) -> float:
    """Return the standard error of a balanced accuracy, not 0 where all are right."""
    n, k = sum(counts), len(counts)
    p = (accuracy * n + 1) / (n + 2)
    return math.sqrt(p * (1 - p) * sum(1 / count for count in counts)) / k


@final
class _Ticker:
    """Counts steps for a progress callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)


def _moves(images: Images, shift: int) -> list[Images]:
    """Return copies of images moved by 1 to `shift` pixels in four directions; the border pixels are repeated."""
    if shift == 0:
        return []
    height, width = images.shape[2:]
    padded = torch.nn.functional.pad(images, (shift,) * 4, mode="replicate")
    steps = [step for k in range(1, shift + 1) for step in ((k, 0), (-k, 0), (0, k), (0, -k))]
    return [padded[:, :, shift + dy : shift + dy + height, shift + dx : shift + dx + width] for dy, dx in steps]


def _group(images: Images, labels: Int[Tensor, " batch"], n_classes: int) -> list[Tensor]:
    """Sort flattened images into their classes."""
    flat = images.detach().float().cpu().flatten(1)
    return [flat[labels.cpu() == index] for index in range(n_classes)]


def _check(
    images: Images,
    labels: Int[Tensor, " batch"],
    classes: Sequence[str],
    counts: dict[str, int | None],
    floor: float | None,
    shift: int,
) -> None:
    """Refuse what cannot be fitted."""
    if len(images) != len(labels):
        raise ShapeError(f"fit_mixture needs a label for every image. Got {len(images)} images, {len(labels)} labels.")
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ConditionError(f"The 'classes' parameter of fit_mixture must be two or more names. Got {list(classes)}.")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
        raise ConditionError(
            f"The 'labels' parameter of fit_mixture must lie in 0..{len(classes) - 1}. "
            f"Got {int(labels.min())}..{int(labels.max())}."
        )
    members = labels.bincount(minlength=len(classes)).tolist()
    if min(members) < 2:
        index = members.index(min(members))
        raise ConditionError(
            f"fit_mixture needs at least two images of every class. Got {members[index]} of {classes[index]!r}."
        )
    if not bool(((images >= 0) & (images <= 1)).all()):  # NaN is refused, too
        raise RangeError(
            "The 'images' parameter of fit_mixture must have pixels in [0, 1]. "
            f"Got {float(images.min()):.4g} to {float(images.max()):.4g}. Try dividing 8-bit pixels by 255."
        )
    for name, count in counts.items():
        if count is not None and count < 1:
            raise RangeError(f"The '{name}' parameter of fit_mixture must be an integer of at least 1. Got {count}.")
    if floor is not None and not 0 < floor < math.inf:
        raise RangeError(f"The 'floor' parameter of fit_mixture must be above 0. Got {floor}.")
    if not 0 <= shift < min(images.shape[2:]):
        raise RangeError(f"The 'shift' parameter of fit_mixture must be in [0, {min(images.shape[2:])}). Got {shift}.")
