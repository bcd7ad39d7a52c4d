"""What the kept errors of a diffusion model say besides who won: margins by noise level, and a learned weight."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray

from diffclass.bench.compositional.counting import numbered
from diffclass.data.results import errors_path
from diffclass.decide.weighting import learn_weight
from diffclass.errors import InputError, ResultError
from diffclass.evidence import ErrorMatrices, Objective
from diffclass.stats.interval import clustered_mean, clustered_proportion
from diffclass.stats.paired import clustered_difference

__all__ = ["Kept", "learned_weighting", "margins", "read_kept"]

_BINS = 8


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kept:
    """A row with the errors behind it."""

    row: Mapping[str, Any]
    errors: Float32[ndarray, "draw class"]
    sigmas: Float64[ndarray, " draw"]
    weights: Float64[ndarray, " draw"]


def read_kept(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[Kept]:
    """Read the errors behind rows.

    Args:
        folder: of a scorer and part, in the folder of a run.
        rows: of its result file; those with an error of their own are left out.

    Raises:
        ResultError: errors are missing or damaged.
    """
    found = []
    for row in rows:
        if "error" in row:
            continue
        path = errors_path(folder, row["id"])
        try:
            with np.load(path, allow_pickle=False) as kept:
                found.append(Kept(row=row, errors=kept["errors"], sigmas=kept["sigmas"], weights=kept["weights"]))
        except (OSError, ValueError, KeyError) as error:
            raise ResultError(
                f"The errors of '{row['id']}' cannot be read from '{path}'. Use another --out."
            ) from error
    return found


def margins(kept: Sequence[Kept], *, distance: str = "l2", bins: int = _BINS) -> dict[str, list[dict[str, Any]]]:
    """Return by noise level how much better the true caption denoises than candidates of each tag.

    Only draws on which every caption of every item was measured are used, the first ones of each list: a race that
    stops when a difference is clear would bias what came later. An exhaustive race has all of them.

    Args:
        kept: rows with their errors.
        distance: of the errors.
        bins: of equal counts, by noise level.

    Returns:
        For each tag a list of bins: "sigma" (its median) [model units], "margin" (difference of the error of the
        predicted noise, summed over the latent) and "wins" (share of draws on which the true caption is better), each
        an estimate clustered by picture. Empty where no draw is shared by all.

    Source:
        Jeong et al. 2025 (accuracy at single noise levels).
    """
    n = min((int(np.isfinite(one.errors).sum(axis=0).min()) for one in kept), default=0)
    if n == 0:
        return {}
    sigmas = np.concatenate([one.sigmas[:n] for one in kept])
    edges = np.quantile(sigmas, np.linspace(0, 1, bins + 1))
    clusters = numbered([one.row["cluster"] for one in kept])
    power = 2 if distance == "l2" else 1
    found: dict[str, list[tuple[ndarray, ndarray, int]]] = defaultdict(list)
    for one, cluster in zip(kept, clusters, strict=True):
        target = one.row["target"]
        for index, tag in enumerate(one.row["tags"]):
            if index != target:
                behind = one.errors[:n, index].astype(np.float64) - one.errors[:n, target]
                found[tag].append((one.sigmas[:n], behind / one.sigmas[:n] ** power, int(cluster)))
    return {tag: _binned(values, edges) for tag, values in sorted(found.items())}


def _binned(values: Sequence[tuple[ndarray, ndarray, int]], edges: ndarray) -> list[dict[str, Any]]:
    sigmas = np.concatenate([sigma for sigma, _, _ in values])
    ahead = np.concatenate([margin for _, margin, _ in values])
    clusters = np.concatenate([np.full(len(margin), cluster) for _, margin, cluster in values])
    place = np.clip(np.searchsorted(edges, sigmas, side="right") - 1, 0, len(edges) - 2)
    made = []
    for number in range(len(edges) - 1):
        here = place == number
        if here.any():
            wins = np.where(ahead[here] == 0, 0.5, ahead[here] > 0).astype(np.float64)
            made.append({
                "sigma": float(np.median(sigmas[here])),
                "margin": asdict(clustered_mean(ahead[here], clusters[here])),
                "wins": asdict(clustered_proportion(wins, clusters[here])),
            })  # fmt: skip
    return made


def learned_weighting(
    kept: Sequence[Kept], *, objective: Objective, sigma_range: tuple[float, float], seed: int = 0
) -> dict[str, Any]:
    """Learn on half of the pictures how much each noise level should count, and measure the other half.

    Captions take places at random first, so that their order says nothing. Items of the most common number of captions
    are used. A tie is wrong.

    Args:
        kept: rows of an exhaustive race, with their errors.
        objective: under which they were measured.
        sigma_range: [model units] of it.
        seed: of the halves and of the places.

    Returns:
        "own" and "learned" accuracy on the half that was held out, their paired "gain", the weight's "log_ratio" at
        "log_sigma", and what cross-validation on the first half "told".

    Raises:
        InputError: a caption was not measured on every draw, or there are too few items.

    Source:
        Jeong et al. 2025 (half held out, cross-entropy of minus the mean weighted error).
    """
    if not all(np.isfinite(one.errors).all() for one in kept):
        raise InputError(
            "Learning a weight needs the error of every caption on every draw. Run with race='exhaustive'."
        )
    if not kept:
        raise InputError("Learning a weight needs answered items. Got none.")
    common = Counter(one.errors.shape for one in kept).most_common(1)[0][0]
    used = [one for one in kept if one.errors.shape == common]
    matrices = _matrices(used, seed)
    clusters = numbered([one.row["cluster"] for one in used])
    names = np.unique(clusters)
    half = np.random.default_rng(seed).permutation(len(names))[: len(names) // 2]
    learning = np.isin(clusters, names[half])
    found = learn_weight(
        matrices.part(np.flatnonzero(learning)), weight=objective.weight, sigma_range=sigma_range, seed=seed
    )
    rest = matrices.part(np.flatnonzero(~learning))
    ratio = np.exp(np.interp(np.log(rest.sigmas), found.log_sigma, found.log_ratio))
    right = [_right(part) for part in (rest, rest.reweighted(rest.weights * ratio))]
    held = clusters[~learning]
    return {
        "n_learned": int(learning.sum()),
        "n_held_out": int((~learning).sum()),
        "n_left_out": len(kept) - len(used),
        "own": asdict(clustered_proportion(right[0], held)),
        "learned": asdict(clustered_proportion(right[1], held)),
        "gain": asdict(clustered_difference(right[0], right[1], held)),
        "log_sigma": list(found.log_sigma),
        "log_ratio": list(found.log_ratio),
        "told": found.told,
    }


def _matrices(used: Sequence[Kept], seed: int) -> ErrorMatrices:
    """Put the captions of each item in random places."""
    errors, labels, keys = [], [], []
    for one in used:
        digest = blake2b(one.row["id"].encode("utf-8", "surrogatepass"), digest_size=8).digest()
        order = np.random.default_rng((seed, *digest)).permutation(one.errors.shape[1])
        errors.append(one.errors[:, order])
        labels.append(int(np.flatnonzero(order == one.row["target"])[0]))
        keys.append(int.from_bytes(digest, "big"))
    return ErrorMatrices(
        errors=np.stack(errors), sigmas=np.stack([one.sigmas for one in used]),
        weights=np.stack([one.weights for one in used]), labels=np.array(labels, dtype=np.int64),
        classes=tuple(str(place) for place in range(errors[0].shape[1])), block=1, seed=seed, keys=tuple(keys),
    )  # fmt: skip


def _right(matrices: ErrorMatrices) -> Float64[ndarray, " image"]:
    """Return 1 where the true caption alone has the least mean weighted error."""
    means = matrices.log_likelihood().mean(axis=1)
    own = means[np.arange(len(means)), matrices.labels]
    means[np.arange(len(means)), matrices.labels] = -np.inf
    return (own > means.max(axis=1)).astype(np.float64)
