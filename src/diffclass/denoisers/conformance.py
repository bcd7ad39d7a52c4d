"""Whether an object is a denoiser: what the engine relies on, checked one property at a time."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from diffclass.denoisers.protocol import SharesDraws
from diffclass.types import Images

__all__ = ["Check", "Report", "check_denoiser"]

_PROTOCOL = ("space", "sigma_range", "classes", "device", "encode", "decode", "condition_on", "__call__")
_FREE_TEXT = ("a photo of a cat", "a photo of a dog", "a photo of a house")
_N = 4  # images in the batch


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One property that a denoiser must have.

    Args:
        name: of the property.
        passed: whether it holds.
        detail: what was seen, where it does not.
    """

    name: str
    passed: bool
    detail: str = ""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `check_denoiser` found. Checks that an earlier failure left without meaning are not in it.

    Args:
        checks: in the order in which they were made.
    """

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(check.name for check in self.checks if not check.passed)

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = (f"{c.name:<{width}}  {'ok' if c.passed else 'FAILED'}  {c.detail}".rstrip() for c in self.checks)
        return "\n".join(lines)


def check_denoiser(
    denoiser: Any, *, seed: int = 0, images: Images | None = None, tolerance: float | None = None
) -> Report:
    """Check that an object keeps the promises of the `Denoiser` protocol.

    Nothing is raised for a broken denoiser: every fault is a failed check. Random images are far from the data of most
    models, which only matters to "small-sigma": give some of the model's own images if that one fails.

    Args:
        denoiser: any object; it need not import anything from diffclass.
        seed: of the images and the noise.
        images: at least four, in place of random ones.
        tolerance: largest difference, relative to the largest value, that counts as rounding; by default 1e-4, and
            0.05 for a denoiser whose `dtype` is a 16-bit one.
    """
    if tolerance is None:
        dtype = getattr(denoiser, "dtype", None)
        tolerance = 0.05 if dtype in (torch.bfloat16, torch.float16) else 1e-4
    found: list[Check] = []

    def attempt(name: str, check: Callable[[], str | None]) -> bool:
        try:
            detail = check()
        except Exception as error:  # whatever a foreign object raises is a finding
            detail = f"{type(error).__name__}: {error}"
        found.append(Check(name=name, passed=detail is None, detail=detail or ""))
        return detail is None

    with torch.inference_mode(False), torch.no_grad():
        if attempt("protocol", lambda: _protocol(denoiser)):
            probe = _Probe(denoiser, seed, images, tolerance)
            for stage in (_PREPARE, _BASIC, _CHECKS):
                passed = [attempt(name, partial(check, probe)) for name, check in stage.items()]
                if not all(passed):
                    break
    return Report(checks=tuple(found))


def _protocol(denoiser: Any) -> str | None:
    """Look for the attributes and a sensible noise range."""
    missing = [name for name in _PROTOCOL if getattr(denoiser, name, None) is None]
    if missing:
        return f"it lacks {', '.join(missing)}"
    low, high = denoiser.sigma_range
    if not 0 < low < high < float("inf"):
        return f"sigma_range must be 0 < low < high, not {denoiser.sigma_range}"
    if len(denoiser.classes) == 1 or len(set(denoiser.classes)) != len(denoiser.classes):
        return f"classes must be empty, or two and more that differ, not {denoiser.classes}"
    return None


@final
class _Probe:
    """One denoiser with the inputs that it is tried on; every method returns what is wrong, or None."""

    def __init__(self, denoiser: Any, seed: int, images: Images | None, tolerance: float) -> None:
        self.denoiser = denoiser
        self.tolerance = tolerance
        self.random = torch.Generator().manual_seed(seed)
        self.images = images
        self.low, self.high = map(float, denoiser.sigma_range)
        self.middle = float(np.clip(getattr(denoiser.space, "data_std", 0.5), self.low, self.high))

    def prepare(self) -> str | None:
        """Encode images and embed conditions."""
        device = self.denoiser.device
        if self.images is None:
            self.images = torch.rand(_N, *self.denoiser.space.image_shape, generator=self.random)
        self.images = self.images[:_N].to(device, torch.float32)
        if len(self.images) < _N:
            return f"at least {_N} images are needed, not {len(self.images)}"
        self.x = self.denoiser.encode(self.images)
        self.noise = torch.randn(self.x.shape, generator=self.random).to(device)
        names = tuple(self.denoiser.classes) or _FREE_TEXT
        self.conditions = self.denoiser.condition_on(names)
        if len(self.conditions) != len(names):
            return f"condition_on gave {len(self.conditions)} conditions for {len(names)} classes"
        last = len(names) - 1
        self.classes = list(dict.fromkeys((0, 1, max(0, last - 1), last)))
        return None

    def noisy(self, sigma: float) -> Tensor:
        return self.x + sigma * self.noise

    def denoise(self, noisy: Tensor, sigma: float | list[float], classes: list[int]) -> Tensor:
        sigmas = [sigma] * len(noisy) if isinstance(sigma, float) else sigma
        sigmas = torch.tensor(sigmas, dtype=torch.float32, device=noisy.device)
        return self.denoiser(noisy.clone(), sigmas, self.conditions[torch.tensor(classes, device=noisy.device)])

    def differ(self, a: Tensor, b: Tensor, noisy: Tensor) -> float:
        """Return the largest difference, in tolerances."""
        scale = max(1e-3, float(noisy.abs().max()), float(b.abs().max()))
        return float((a - b).abs().max()) / (self.tolerance * scale)

    def agree(self, a: Tensor, b: Tensor, noisy: Tensor) -> str | None:
        off = self.differ(a, b, noisy)
        return None if off <= 1 else f"answers differ by {off:.3g} times the tolerance"

    def shape(self) -> str | None:
        """The answer has the shape of what it denoises, and that is the space's."""
        noisy = self.noisy(self.middle)
        if tuple(noisy.shape[1:]) != tuple(self.denoiser.space.shape):
            return f"encode gave {tuple(noisy.shape[1:])}, the space says {tuple(self.denoiser.space.shape)}"
        got = tuple(self.denoise(noisy, self.middle, [0] * _N).shape)
        return None if got == tuple(noisy.shape) else f"{tuple(noisy.shape)} gave {got}"

    def dtype(self) -> str | None:
        """float32 in, float32 out."""
        got = self.denoise(self.noisy(self.middle), self.middle, [0] * _N).dtype
        return None if got == torch.float32 else f"float32 gave {got}"

    def finite(self) -> str | None:
        """No NaN and no infinity at small and middle noise."""
        for sigma in (self.low, self.middle):
            if not bool(self.denoise(self.noisy(sigma), sigma, [0] * _N).isfinite().all()):
                return f"NaN or infinity at sigma {sigma:g}"
        return None

    def deterministic(self) -> str | None:
        """The same call gives the same bits."""
        first, second = (self.denoise(self.noisy(self.middle), self.middle, [0] * _N) for _ in range(2))
        return None if torch.equal(first, second) else "two equal calls gave different answers"

    def unchanged(self) -> str | None:
        """Nothing that is passed in is written to."""
        noisy, sigma = self.noisy(self.middle), torch.full((_N,), self.middle, device=self.x.device)
        conditions = self.conditions[torch.zeros(_N, dtype=torch.long, device=self.x.device)]
        given = {"noisy": noisy, "sigma": sigma, **conditions.tensors}
        before = {name: tensor.clone() for name, tensor in given.items()}
        self.denoiser(noisy, sigma, conditions)
        changed = [name for name, tensor in given.items() if not torch.equal(tensor, before[name])]
        return f"the call changed {', '.join(changed)}" if changed else None

    def batch(self) -> str | None:
        """An image is denoised alike alone and in company."""
        noisy = self.noisy(self.middle)
        together = self.denoise(noisy, self.middle, [0] * _N)
        alone = torch.cat([self.denoise(noisy[i : i + 1], self.middle, [0]) for i in range(_N)])
        return self.agree(together, alone, noisy)

    def sigmas(self) -> str | None:
        """Every image is denoised at its own noise level."""
        noisy = self.noisy(self.middle)
        levels = [float(np.clip(self.middle * factor, self.low, self.high)) for factor in (1.0, 0.5, 2.0, 0.7)]
        mixed = self.denoise(noisy, levels, [0] * _N)
        uniform = torch.stack([self.denoise(noisy, level, [0] * _N)[i] for i, level in enumerate(levels)])
        return self.agree(mixed, uniform, noisy)

    def small_sigma(self) -> str | None:
        """Where there is hardly any noise, there is hardly anything to remove."""
        gap = self.denoise(self.noisy(self.low), self.low, [0] * _N) - self.noisy(self.low)
        rms = float(gap.square().mean().sqrt()) / self.low
        return None if rms <= 5 else f"at sigma {self.low:g} it moves an image by {rms:.3g} sigma (5 at most)"

    def large_sigma(self) -> str | None:
        """The end of the noise range is within reach."""
        ok = bool(self.denoise(self.noisy(self.high), self.high, [0] * _N).isfinite().all())
        return None if ok else f"NaN or infinity at sigma {self.high:g}"

    def classes_differ(self) -> str | None:
        """The class is heard."""
        noisy = self.noisy(self.middle)[:1]
        answers = [self.denoise(noisy, self.middle, [c]) for c in self.classes]
        same = [
            f"{self.classes[i]} and {self.classes[j]}"
            for i in range(len(answers))
            for j in range(i)
            if torch.equal(answers[i], answers[j])
        ]
        return f"classes {same[0]} give the same answer" if same else None

    def class_per_image(self) -> str | None:
        """Every image is denoised under its own class, in any order."""
        order = [*self.classes[::-1], self.classes[0]]
        noisy = self.noisy(self.middle)[:1].expand(len(order), -1, -1, -1)
        mixed = self.denoise(noisy, self.middle, order)
        uniform = torch.stack([self.denoise(noisy, self.middle, [c] * len(order)) for c in self.classes])
        distance = (uniform - mixed).double().square().sum(dim=(2, 3, 4))  # [class, batch]
        for i, c in enumerate(order):
            nearest = int(distance[:, i].argmin())
            if distance[self.classes.index(c), i] > distance[nearest, i]:
                return f"in a batch of classes {order}, image {i} was given class {self.classes[nearest]}"
        return None

    def each(self) -> str | None:
        """Sharing a noisy image between classes changes no answer."""
        denoiser = self.denoiser
        if not isinstance(denoiser, SharesDraws):
            return None
        rows = torch.tensor([i for i in range(_N) for _ in self.classes], device=self.x.device)
        classes = torch.tensor(self.classes * _N, device=self.x.device)
        noisy, sigma = self.noisy(self.middle), torch.full((_N,), self.middle, device=self.x.device)
        shared = denoiser.denoise_each(noisy, sigma, self.conditions[classes], rows)
        plain = self.denoiser(noisy[rows], sigma[rows], self.conditions[classes])
        return self.agree(shared, plain, noisy)

    def null(self) -> str | None:
        """The null condition works, if there is one."""
        if self.conditions.null is None:
            return None
        sigma = torch.full((_N,), self.middle, device=self.x.device)
        answer = self.denoiser(self.noisy(self.middle), sigma, self.conditions.without_class(_N))
        ok = answer.shape == self.x.shape and bool(answer.isfinite().all())
        return None if ok else "the null condition gives no answer of the right shape"

    def round_trip(self) -> str | None:
        """Decode undoes encode; an autoencoder's only roughly, so there its shape counts."""
        assert self.images is not None
        if getattr(self.denoiser.space, "latent", None) is not None:
            decoded = self.denoiser.decode(self.x)
            ok = decoded.shape == self.images.shape and bool(decoded.isfinite().all())
            return None if ok else f"decode gave {tuple(decoded.shape)}, or NaN or infinity"
        off = float((self.denoiser.decode(self.x) - self.images).abs().max())
        return None if off <= 1e-3 else f"decode(encode(images)) is off by {off:.3g}"

    def gradient(self) -> str | None:
        """The answer can be differentiated by its input."""
        noisy = self.noisy(self.middle)
        with torch.enable_grad():
            noisy.requires_grad_()
            sigma = torch.full((_N,), self.middle, device=noisy.device)
            conditions = self.conditions[torch.zeros(_N, dtype=torch.long, device=noisy.device)]
            answer = self.denoiser(noisy, sigma, conditions)
            if not answer.requires_grad:
                return "the answer does not depend on the input for autograd"
            (gradient,) = torch.autograd.grad(answer.square().sum(), noisy)
        ok = bool(gradient.isfinite().all()) and bool((gradient != 0).any())
        return None if ok else "the gradient by the input is zero or not finite"

    def global_random(self) -> str | None:
        """The global random numbers are left alone."""
        before = _random_state()
        self.denoise(self.noisy(self.middle), self.middle, [0] * _N)
        changed = [name for name, state in _random_state().items() if state != before[name]]
        return f"the call drew from the global random numbers of {', '.join(changed)}" if changed else None

    def evaluation(self) -> str | None:
        """Networks are in evaluation mode."""
        training = [name for name, module in _modules(self.denoiser).items() if module.training]
        return f"{training[0]} is in training mode" if training else None


# Each stage needs what the one before it has checked.
_PREPARE = {"prepare": _Probe.prepare}
_BASIC = {"shape": _Probe.shape, "dtype": _Probe.dtype, "finite": _Probe.finite}
_CHECKS = {
    "deterministic": _Probe.deterministic,
    "inputs-unchanged": _Probe.unchanged,
    "batch-independent": _Probe.batch,
    "sigma-per-image": _Probe.sigmas,
    "small-sigma": _Probe.small_sigma,
    "large-sigma": _Probe.large_sigma,
    "classes-differ": _Probe.classes_differ,
    "class-per-image": _Probe.class_per_image,
    "draws-shared": _Probe.each,
    "null-condition": _Probe.null,
    "round-trip": _Probe.round_trip,
    "gradient": _Probe.gradient,
    "global-random": _Probe.global_random,
    "evaluation-mode": _Probe.evaluation,
}


def _random_state() -> dict[str, Any]:
    """Copy the states of the generators that everybody shares, in a form that compares.

    Python's own is left out: run-time type checkers draw from it.
    """
    states = {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": pickle.dumps(np.random.get_state()),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state().numpy().tobytes()
    return states


def _modules(denoiser: Any) -> dict[str, nn.Module]:
    """Find the torch modules that an object holds, or is."""
    if isinstance(denoiser, nn.Module):
        return {"the denoiser": denoiser}
    slots = [name for kind in type(denoiser).__mro__ for name in getattr(kind, "__slots__", ())]
    held = {name: getattr(denoiser, name, None) for name in slots} | dict(getattr(denoiser, "__dict__", {}))
    return {name: value for name, value in held.items() if isinstance(value, nn.Module)}
