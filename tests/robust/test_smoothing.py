"""Certificates: what they are computed from, and what must not change them."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffclass.decide import DiffusionClassifier, Exhaustive, PairedRace
from diffclass.denoisers.analytic import GaussianDenoiser
from diffclass.noise import epsilon, smoothing
from diffclass.robust import (
    NO_LABEL,
    Certificate,
    Certification,
    CopyClassifier,
    NoisedRaces,
    Smoothing,
    Votes,
    certify,
    copy_classifier,
    largest_radius,
    probability_for,
    radius_of,
)
from diffclass.stats import LookPlan, lower_bound

SHAPE = (1, 3, 4)
IMAGE = torch.full(SHAPE, 0.55)


def classifier(**options: object) -> DiffusionClassifier:
    means = torch.stack([torch.full(SHAPE, 0.35), torch.full(SHAPE, 0.65)])
    model = GaussianDenoiser(means, 0.1, classes=["a", "b"], sigma_range=(0.002, 80.0))
    return DiffusionClassifier(denoiser=model, **{"race": Exhaustive(n_draws=8, block=4), **options})  # type: ignore[arg-type]


def of_counts(k: int, n: int) -> Certificate:
    return Certificate(
        classes=("a", "b"), sigma=0.5, alpha=0.001, selection=Votes(counts=(0, 9), undecided=1),
        votes=Votes(counts=(n - k, k)), plan=LookPlan.fixed(n, alpha=0.001), successes=(k,), wanted_radius=None,
        reason="budget", evaluations=7, seed=0,
    )  # fmt: skip


@given(n=st.integers(1, 5000), k=st.integers(0, 5000))
def test_the_radius_is_monotone_in_the_counts(n: int, k: int) -> None:
    k = min(k, n - 1)
    fewer, more = of_counts(k, n), of_counts(k + 1, n)
    assert fewer.radius <= more.radius
    assert fewer.radius <= of_counts(k + 1, n + 1).radius  # a further vote for the label
    assert of_counts(k, n + 1).radius <= fewer.radius  # one against it
    assert (more.label is None) == (more.radius == 0)
    assert more.radius == pytest.approx(radius_of(lower_bound(k + 1, n, 0.001), 0.5))


def test_a_certificate_counts_nothing_but_its_votes() -> None:
    """Ten times the votes is another certificate, of ten times the copies: no field can say so by itself."""
    certificate = of_counts(95, 100)
    assert (certificate.n, certificate.n0, certificate.label) == (100, 10, "b")
    assert of_counts(950, 1000).radius > certificate.radius
    row = json.loads(json.dumps(certificate.row()))
    assert row["votes"] == {"counts": [5, 95], "undecided": 0}
    assert row["looks"] == [[100, 95]]
    assert Votes.from_row(row["votes"]) == certificate.votes


@pytest.mark.parametrize(("n", "most"), [(100, 1.5005), (1_000, 2.4633), (10_000, 3.1986), (100_000, 3.8115)])
def test_the_largest_radius_is_the_published_cap(n: int, most: float) -> None:
    assert largest_radius(n, alpha=0.001, sigma=1.0) == pytest.approx(most, abs=1e-4)
    assert radius_of(probability_for(0.3, 0.25), 0.25) == pytest.approx(0.3)
    assert radius_of(0.0, 0.25) == radius_of(0.4, 0.25) == 0.0


class Constant(CopyClassifier):
    """Gives labels from a list, over and over."""

    def __init__(self, *labels: int, chunk: int = 7) -> None:
        self.sigma, self.chunk, self.classes, self.image_shape = 0.5, chunk, ("a", "b", "c"), SHAPE
        self._labels, self._next = labels, 0

    def labels(self, copies: torch.Tensor) -> tuple[np.ndarray, int]:
        found = [self._labels[(self._next + i) % len(self._labels)] for i in range(len(copies))]
        self._next += len(copies)
        return np.array(found, dtype=np.int64), 10 * len(copies)


def test_copies_without_a_label_count_against_all() -> None:
    certificate = certify(Constant(1, 1, 1, NO_LABEL), IMAGE, sigma=0.5, n=400, n0=40)
    assert certificate.votes == Votes(counts=(0, 300, 0), undecided=100)
    assert certificate.p_lower == lower_bound(300, 400, 0.001)
    assert (certificate.evaluations, certificate.label) == (4_400, "b")
    nothing = certify(Constant(NO_LABEL), IMAGE, sigma=0.5, n=400, n0=40)
    assert (nothing.label, nothing.radius, nothing.n, nothing.reason) == (None, 0.0, 0, "budget")
    assert certify(Constant(NO_LABEL), IMAGE, sigma=0.5, radius=0.1).reason == "out of reach"
    assert nothing.row()["candidate"] is None


def test_half_of_the_votes_is_an_abstention() -> None:
    certificate = certify(Constant(0, 1), IMAGE, sigma=0.5, n=2_000)
    assert (certificate.label, certificate.radius) == (None, 0.0)


def test_a_wanted_radius_ends_in_one_of_three_ways() -> None:
    proved = certify(Constant(2), IMAGE, sigma=0.5, radius=0.5)
    assert (proved.reason, proved.label, proved.radius > 0.5, proved.n < 100) == ("proved", "c", True, True)
    refuted = certify(Constant(0, 0, 0, 1), IMAGE, sigma=0.5, radius=0.9)
    assert (refuted.reason, refuted.n < 200) == ("out of reach", True)
    near = (*[0] * 842, *[1] * 158)  # sigma probit(0.8413) is the radius
    settled = certify(Constant(*np.random.default_rng(0).permutation(near)), IMAGE, sigma=0.5, n=2_000, radius=0.5)
    assert settled.reason in ("budget", "out of reach")
    assert settled.radius < 0.5
    assert settled.plan.looks[-1] == 2_000


def test_a_proof_by_the_best_case_is_given_up_once_it_is_impossible() -> None:
    """Without statistics: too many votes against the label for any later look, so nothing is lost by stopping."""
    work = Certification(Constant(0), IMAGE, Smoothing(n0=2, n=100, radius=0.5))
    threshold = probability_for(0.5, 0.5)
    work.selection = Votes(counts=(2, 0, 0))
    for look in range(1, len(work.plan.looks) + 1):
        counts = tuple(int(0.8 * n) for n in work.plan.looks[:look])
        if not work.plan.can_exceed(counts, threshold) and look < len(work.plan.looks):
            work.votes, work.successes = Votes(counts=(counts[-1], work.plan.looks[look - 1] - counts[-1], 0)), counts
            assert work.reason == "out of reach"
            return
    pytest.fail("every look left a chance")


# What must not change an answer


@settings(max_examples=10)
@given(chunk=st.integers(1, 600), radius=st.sampled_from([None, 0.05, 0.3]))
def test_chunks_and_interruptions_change_nothing(chunk: int, radius: float | None) -> None:
    wanted = Smoothing(n0=30, n=500, radius=radius)
    reference = certify(classifier(), IMAGE, sigma=0.25, n0=30, n=500, radius=radius)
    copies = copy_classifier(classifier(), sigma=0.25)
    copies.chunk = chunk
    state = None
    while True:  # a new object after every chunk, from what JSON holds of the one before
        work = Certification(copies, IMAGE, wanted, state=state)
        if work.reason is not None:
            break
        work.advance()
        state = json.loads(json.dumps(work.state()))
    assert work.certificate().row() == reference.row()


def test_batch_size_changes_nothing_for_races() -> None:
    rows = [
        certify(classifier(batch_size=size, race=PairedRace(n_draws=48, block=4)), IMAGE, sigma=0.25, noised=noised, n=40, n0=10).row()  # noqa: E501
        for noised in ("epndc", "apndc")
        for size in (16, 999)
    ]  # fmt: skip
    assert rows[0] == rows[1]
    assert rows[2] == rows[3]
    assert rows[0] != rows[2]


def test_the_seed_decides_the_copies() -> None:
    rows = [certify(classifier(), IMAGE, sigma=0.25, n=200, seed=seed).row() for seed in (5, 5, 6)]
    assert rows[0] == rows[1]
    assert rows[0]["votes"] != rows[2]["votes"]
    assert certify(classifier(seed=5), IMAGE, sigma=0.25, n=200).row() == rows[0]


def test_copies_have_noise_of_their_own() -> None:
    """Apart from the draws of a race with the same seed and key, and from one another."""
    noise = smoothing(3, 11, range(4), SHAPE)
    assert not torch.equal(noise, epsilon(3, 11, range(4), SHAPE))
    assert torch.equal(noise[2:], smoothing(3, 11, range(2, 4), SHAPE))
    assert len({tuple(row.flatten().tolist()) for row in noise}) == 4


def test_progress_is_told_in_copies() -> None:
    seen: list[int] = []
    certify(classifier(), IMAGE, sigma=0.25, n=100, n0=20, progress=seen.append)
    assert seen == [20, 120]


def test_what_was_calibrated_for_clean_images_is_left_out() -> None:
    copies = copy_classifier(classifier(temperature=3.0), sigma=0.25, noised="epndc")
    assert isinstance(copies, NoisedRaces)
    assert copies.classifier.temperature is None
    assert copies.classifier.target.tau == 0.25


def test_a_chunk_that_is_broken_off_counts_for_nothing() -> None:
    """Stopped between two network calls and begun again, a certification ends as one that was never stopped."""
    copies = copy_classifier(classifier(batch_size=64), sigma=0.3, noised="epndc")
    assert isinstance(copies, NoisedRaces)
    copies.chunk = 10
    settings_ = Smoothing(n0=10, n=20)
    whole, broken = (Certification(copies, IMAGE, settings_, seed=1) for _ in range(2))
    while whole.reason is None:
        whole.advance()
    stops = 0
    while broken.reason is None:
        before, started = broken.state(), broken.steps()
        next(started)
        started.close()
        assert broken.state() == before
        stops += sum(1 for _ in broken.steps())
    assert broken.certificate().row() == whole.certificate().row()
    assert stops >= 3 * 10 * 8 * 2 / 64  # a network call each
