"""The paired errors of many images, measured in full and kept: to replay races and fit weights without a network."""

import os
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Float32, Float64, Int, Int64
from numpy import ndarray

from diffclass.errors import InputError, RangeError, ResultError, ShapeError
from diffclass.evidence.draws import Draws
from diffclass.evidence.evidence import Evidence

__all__ = ["ErrorMatrices"]

FORMAT = 1


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ErrorMatrices:
    """Paired errors of many images, measured in full, to replay races and to fit weights without a network.

    Args:
        errors: [model units squared] squared distance summed over the latent, of every class on every draw.
        sigmas: [model units] noise levels of each image, in the order of the visit.
        weights: w(sigma) / q(sigma); the mean over draws of weight x error is the evidence.
        labels: index into `classes`, the truth.
        classes: names.
        block: draws in a block.
        seed: of the noise.
        keys: of the images (`noise.image_key`).
        antithetic: whether draws come in pairs of opposite noise.

    Raises:
        ShapeError: the arrays are not of the same images, draws and classes.
        RangeError: an error is NaN or infinite, a label is no class, or draws are no whole number of blocks.
    """

    errors: Float32[ndarray, "image draw class"]
    sigmas: Float64[ndarray, "image draw"]
    weights: Float64[ndarray, "image draw"]
    labels: Int64[ndarray, " image"]
    classes: tuple[str, ...]
    block: int
    seed: int
    keys: tuple[int, ...]
    antithetic: bool = False

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        n, draws, n_classes = self.errors.shape if self.errors.ndim == 3 else (-1, -1, -1)
        if not (
            self.sigmas.shape == self.weights.shape == (n, draws)
            and self.labels.shape == (n,)
            and len(self.keys) == n
            and len(self.classes) == n_classes
        ):
            raise ShapeError(
                "ErrorMatrices need errors of [image, draw, class], sigmas and weights of [image, draw], labels and "
                f"keys of [image], and a name for each class. Got {self.errors.shape}, {self.sigmas.shape}, "
                f"{self.weights.shape}, {self.labels.shape}, {len(self.keys)} keys, {len(self.classes)} names."
            )
        if self.block < 1 or draws < 1 or draws % self.block:
            raise RangeError(
                f"The draws of ErrorMatrices must be whole blocks. Got {draws} draws in blocks of {self.block}."
            )
        for name in ("errors", "sigmas", "weights"):
            if not np.isfinite(getattr(self, name)).all():
                raise RangeError(
                    f"The '{name}' of ErrorMatrices must be finite: every class is measured on every draw. Got NaN or "
                    "infinity. Measure with the race Exhaustive."
                )
        if n and not (self.labels.min() >= 0 and self.labels.max() < n_classes):
            raise RangeError(
                f"The 'labels' of ErrorMatrices must be from 0 to {n_classes - 1}. "
                f"Got {self.labels.min()} to {self.labels.max()}."
            )

    def __len__(self) -> int:
        return len(self.errors)

    @property
    def n_draws(self) -> int:
        """Draws of each image."""
        return self.errors.shape[1]

    def evidence(self, image: int) -> Evidence:
        """Return everything that is known of one image, under a uniform prior."""
        draws = Draws(
            sigmas=self.sigmas[image],
            weights=self.weights[image],
            block=self.block,
            seed=self.seed,
            key=self.keys[image],
            antithetic=self.antithetic,
        )
        prior = np.full(len(self.classes), -np.log(len(self.classes)))
        return Evidence(errors=self.errors[image], draws=draws, classes=self.classes, log_prior=prior)

    def log_likelihood(self) -> Float64[ndarray, "image draw class"]:
        """Return minus weight x error: the mean over draws estimates log p(x | class) up to a constant."""
        return -self.weights[:, :, None] * self.errors

    def part(self, images: Int[ndarray, " image"]) -> "ErrorMatrices":
        """Return some of the images, in the order given."""
        return replace(
            self,
            errors=self.errors[images],
            sigmas=self.sigmas[images],
            weights=self.weights[images],
            labels=self.labels[images],
            keys=tuple(self.keys[i] for i in images.tolist()),
        )

    def reweighted(self, weights: Float64[ndarray, "image draw"]) -> "ErrorMatrices":
        """Return the same errors under other weights w(sigma) / q(sigma)."""
        return replace(self, weights=weights)

    def first(self, n_draws: int) -> "ErrorMatrices":
        """Return the first draws alone, as what a race of a smaller budget sees.

        Raises:
            RangeError: they are no whole number of blocks, or more than there are.
        """
        if not 1 <= n_draws <= self.n_draws or n_draws % self.block:
            raise RangeError(
                f"The 'n_draws' of ErrorMatrices.first must be whole blocks of {self.block}, at most {self.n_draws}. "
                f"Got {n_draws}."
            )
        return replace(
            self,
            errors=self.errors[:, :n_draws],
            sigmas=self.sigmas[:, :n_draws],
            weights=self.weights[:, :n_draws],
        )

    def reordered(self, *, seed: int, block: int | None = None) -> "ErrorMatrices":
        """Return the same draws in another order, one that `Draws.place` is as likely to visit them in.

        Every order that it can choose has the same probability whatever the draws themselves are, so that a race on
        the new order costs and errs as often as on the old one.

        Args:
            seed: of the order.
            block: draws in a block of the new order; the same as now if None.
        """
        block = self.block if block is None else block
        if self.antithetic:
            if block != self.block:
                raise RangeError(
                    f"Pairs of opposite noise keep their blocks. The 'block' must be {self.block}. Got {block}."
                )
            return self._ordered(self._pairs_in_order(np.random.default_rng(seed)))
        rows = self.n_draws // block
        random = np.random.default_rng(seed)
        fine = random.permuted(np.tile(np.arange(rows)[:, None], (len(self), 1, block)), axis=1)
        stratum = random.permuted(fine + np.arange(block) * rows, axis=2).reshape(len(self), -1)
        order = np.take_along_axis(np.argsort(self.sigmas, axis=1, kind="stable"), stratum, axis=1)
        return replace(self._ordered(order), block=block)

    def _pairs_in_order(self, random: np.random.Generator) -> Int64[ndarray, "image draw"]:
        """Return an order that moves whole pairs: each to any block, in any place of it, either draw first."""
        n, draws = self.sigmas.shape
        rows, half = draws // self.block, self.block // 2
        rank = np.argsort(np.argsort(self.sigmas, axis=1, kind="stable"), axis=1, kind="stable")
        part = rank[:, ::2] // (2 * rows)  # of the range, which each pair covers: one of a kind in every block
        of_part = np.argsort(part, axis=1, kind="stable").reshape(n, half, rows)
        blocks = random.permuted(of_part, axis=2).transpose(0, 2, 1)
        pairs = random.permuted(blocks, axis=2).reshape(n, -1, 1)
        return (2 * pairs + random.permuted(np.tile([0, 1], (n, draws // 2, 1)), axis=2)).reshape(n, draws)

    def _ordered(self, order: Int64[ndarray, "image draw"]) -> "ErrorMatrices":
        """Return the same draws in another order."""
        return replace(
            self,
            errors=np.take_along_axis(self.errors, order[:, :, None], axis=1),
            sigmas=np.take_along_axis(self.sigmas, order, axis=1),
            weights=np.take_along_axis(self.weights, order, axis=1),
        )

    @classmethod
    def concatenate(cls, parts: Sequence["ErrorMatrices"]) -> "ErrorMatrices":
        """Join images that were measured on the same classes, with the same draws and seed."""
        if not parts:
            raise InputError("ErrorMatrices.concatenate needs at least one part. Got none.")
        kinds = {(part.classes, part.block, part.seed, part.n_draws, part.antithetic) for part in parts}
        if len(kinds) > 1:
            raise InputError(
                "Only ErrorMatrices of the same classes, block, seed and number of draws can be joined. "
                f"Got {len(kinds)} kinds."
            )
        return replace(
            parts[0],
            errors=np.concatenate([part.errors for part in parts]),
            sigmas=np.concatenate([part.sigmas for part in parts]),
            weights=np.concatenate([part.weights for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            keys=tuple(key for part in parts for key in part.keys),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an npz file; a reader sees the old file or the new one whole.

        Raises:
            ResultError: the file cannot be written.
        """
        target = Path(path)
        scratch = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        content |= {"classes": np.array(self.classes, dtype=np.str_), "keys": np.array(self.keys, dtype=np.uint64)}
        content |= {"block": np.int64(self.block), "seed": np.int64(self.seed), "format": np.int64(FORMAT)}
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with scratch.open("wb") as file:
                np.savez(file, **content)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(target)
        except OSError as error:
            with suppress(OSError):
                scratch.unlink()
            raise ResultError(f"The file '{target}' cannot be written: {error.strerror or error}.") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ErrorMatrices":
        """Read a file that `save` wrote.

        Raises:
            ResultError: it is missing, damaged or holds something else.
        """
        source = Path(path)
        try:
            with source.open("rb") as file, np.load(file, allow_pickle=False) as content:
                found = {name: content[name] for name in content.files}
        except (ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise ResultError(f"The file '{source}' holds no error matrices: it is damaged or no npz file.") from error
        except OSError as error:
            raise ResultError(f"The file '{source}' cannot be read: {error.strerror or error}.") from error
        wanted = {field.name for field in fields(cls)} | {"format"}
        found.setdefault("antithetic", np.bool_(False))  # files written before there were pairs
        if found.keys() != wanted or int(found["format"]) != FORMAT:
            raise ResultError(
                f"The file '{source}' holds no error matrices of format {FORMAT}: wanted {', '.join(sorted(wanted))}. "
                f"Got {', '.join(sorted(found))}."
            )
        return cls(
            errors=found["errors"],
            sigmas=found["sigmas"],
            weights=found["weights"],
            labels=found["labels"],
            classes=tuple(str(name) for name in found["classes"]),
            block=int(found["block"]),
            seed=int(found["seed"]),
            keys=tuple(int(key) for key in found["keys"]),
            antithetic=bool(found["antithetic"]),
        )
