"""`check_denoiser` on a denoiser that is right, and on ones that are wrong in one way each."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffclass.denoisers import check_denoiser


class Ids:
    """Conditions of an outsider: class numbers."""

    def __init__(self, ids: Tensor, null: dict[str, Tensor] | None = None) -> None:
        self.tensors = {"ids": ids}
        self.null = null

    def __len__(self) -> int:
        return len(self.tensors["ids"])

    def __getitem__(self, classes: Tensor) -> "Ids":
        return Ids(self.tensors["ids"][classes], self.null)

    def without_class(self, n: int) -> "Ids":
        assert self.null is not None
        return Ids(self.null["ids"].expand(n), self.null)


class Gaussians:
    """A denoiser that shares no line with the package: class c is N(MEANS[c], 0.25), the null class N(0, 0.25)."""

    MEANS = torch.tensor([-0.5, 0.0, 0.5, 0.2])  # the last one is the null class

    def __init__(self) -> None:
        self.space = SimpleNamespace(image_shape=(1, 4, 4), shape=(1, 4, 4), data_std=0.5)
        self.sigma_range = (0.02, 80.0)
        self.classes: tuple[str, ...] = ("a", "b", "c")
        self.device = torch.device("cpu")

    def encode(self, images: Tensor) -> Tensor:
        return 2 * images - 1

    def decode(self, latents: Tensor) -> Tensor:
        return (latents + 1) / 2

    def condition_on(self, prompts: Sequence[str]) -> Any:
        return Ids(torch.arange(len(prompts)), {"ids": torch.tensor([3])})

    def __call__(self, noisy: Tensor, sigma: Tensor, conditions: Any) -> Tensor:
        mean = self.MEANS[conditions.tensors["ids"]][:, None, None, None]
        variance = sigma[:, None, None, None] ** 2
        return (0.25 * noisy + variance * mean) / (0.25 + variance)


class Faulty(Gaussians):
    """The denoiser above with one fault, by name."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.calls = 0
        if fault == "evaluation-mode":
            self.dropout = nn.Dropout()
        if fault == "protocol":
            self.classes = ("a", "a", "b")

    def condition_on(self, prompts: Sequence[str]) -> Any:
        if self.fault == "prepare":
            return super().condition_on(prompts[1:])
        if self.fault == "null-condition":
            return Ids(torch.arange(len(prompts)), {"ids": torch.tensor([17])})
        return super().condition_on(prompts)

    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents) * (0.9 if self.fault == "round-trip" else 1)

    def __call__(self, noisy: Tensor, sigma: Tensor, conditions: Any) -> Tensor:
        given, self.calls = sigma, self.calls + 1
        if self.fault == "sigma-per-image":
            sigma = sigma[:1].expand(len(noisy))
        if self.fault == "classes-differ":
            conditions = Ids(torch.zeros(len(noisy), dtype=torch.long))
        if self.fault == "class-per-image":
            conditions = Ids(conditions.tensors["ids"].flip(0))
        answer = super().__call__(noisy, sigma, conditions)
        if self.fault in ACTIONS:
            ACTIONS[self.fault](given)
        if self.fault == "deterministic":
            answer = answer + 1e-6 * self.calls
        return ANSWERS.get(self.fault, lambda answer, *_: answer)(answer, noisy, given[:, None, None, None])


ANSWERS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "shape": lambda answer, noisy, sigma: answer[..., :-1],
    "dtype": lambda answer, noisy, sigma: answer.double(),
    "finite": lambda answer, noisy, sigma: torch.where(sigma < 1, torch.nan, answer),
    "large-sigma": lambda answer, noisy, sigma: torch.where(sigma > 50, torch.inf, answer),
    "small-sigma": lambda answer, noisy, sigma: 0.7 * answer,
    "batch-independent": lambda answer, noisy, sigma: answer + 0.01 * noisy.mean(dim=0, keepdim=True),
    "gradient": lambda answer, noisy, sigma: answer.detach(),
}
ACTIONS: dict[str, Callable[[Tensor], object]] = {
    "inputs-unchanged": lambda sigma: sigma.zero_(),
    "torch": lambda sigma: torch.rand(1),
    "numpy": lambda sigma: np.random.random(),
}
FAULTS = (
    "protocol", "prepare", "shape", "dtype", "finite", "deterministic", "inputs-unchanged", "batch-independent",
    "sigma-per-image", "small-sigma", "large-sigma", "classes-differ", "class-per-image", "null-condition",
    "round-trip", "gradient", "evaluation-mode",
)  # fmt: skip


def test_a_right_denoiser_passes_every_check() -> None:
    report = check_denoiser(Gaussians())
    assert report.passed, str(report)
    assert report.failed == ()
    assert {check.name for check in report.checks} == {*FAULTS, "global-random", "draws-shared"}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_fails_its_own_check_only(fault: str) -> None:
    report = check_denoiser(Faulty(fault))
    assert report.failed == (fault,), str(report)
    (check,) = (check for check in report.checks if not check.passed)
    assert check.detail
    assert f"{fault} " in str(report)


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_global_random_numbers_are_off_limits(library: str) -> None:
    report = check_denoiser(Faulty(library))
    assert report.failed == ("global-random",)
    assert report.checks[-2].detail == f"the call drew from the global random numbers of {library}"


def test_exceptions_are_findings() -> None:
    report = check_denoiser(object())
    assert report.failed == ("protocol",)
    assert report.checks[0].detail == (
        "it lacks space, sigma_range, classes, device, encode, decode, condition_on, __call__"
    )
    broken = Gaussians()
    broken.encode = lambda images: images.nothing  # type: ignore[method-assign]
    report = check_denoiser(broken)
    assert report.failed == ("prepare",)
    assert report.checks[-1].detail == "AttributeError: 'Tensor' object has no attribute 'nothing'"


@pytest.mark.parametrize("sigma_range", [(0.0, 1.0), (2.0, 1.0), (0.1, float("inf"))])
def test_noise_ranges_are_checked(sigma_range: tuple[float, float]) -> None:
    denoiser = Gaussians()
    denoiser.sigma_range = sigma_range
    assert check_denoiser(denoiser).failed == ("protocol",)


def test_checking_leaves_no_trace() -> None:
    before = torch.get_rng_state()
    with torch.inference_mode():
        first = check_denoiser(Gaussians(), seed=5)
    assert first == check_denoiser(Gaussians(), seed=5)
    assert torch.equal(before, torch.get_rng_state())


def test_own_images_take_the_place_of_random_ones() -> None:
    """An X0 network is right on its data alone: this one knows only grey images."""

    class Grey(Gaussians):
        def __call__(self, noisy: Tensor, sigma: Tensor, conditions: Any) -> Tensor:
            answer = super().__call__(noisy, sigma, conditions)
            return 0.01 * answer + 0.99 * noisy.mean(dim=(1, 2, 3), keepdim=True)

    assert check_denoiser(Grey()).failed == ("small-sigma",)
    assert check_denoiser(Grey(), images=torch.full((5, 1, 4, 4), 0.5)).passed
    few = check_denoiser(Grey(), images=torch.full((3, 1, 4, 4), 0.5))
    assert few.checks[-1].detail == "at least 4 images are needed, not 3"


def test_tolerance_is_what_counts_as_rounding() -> None:
    class Coarse(Gaussians):
        def __call__(self, noisy: Tensor, sigma: Tensor, conditions: Any) -> Tensor:
            return super().__call__(noisy, sigma, conditions) + 1e-3 * (len(noisy) % 2)

    assert check_denoiser(Coarse()).failed == ("batch-independent",)
    assert check_denoiser(Coarse(), tolerance=0.05).passed
