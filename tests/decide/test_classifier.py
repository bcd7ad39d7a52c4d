"""The classifier's face: labels, log-odds, probabilities, abstentions, and what it refuses."""

import json

import numpy as np
import pytest
import torch

from diffclass.decide import DiffusionClassifier, Exhaustive, MajorityVote, PairedRace, SuccessiveHalving
from diffclass.denoisers import Space
from diffclass.denoisers.analytic import GaussianDenoiser
from diffclass.errors import ConditionError, InputError, RangeError, ShapeError
from diffclass.evidence import NoisedApproximate, NoisedExact

SHAPE = (1, 4, 4)
SPACE = Space(channels=1, height=4, width=4, scale=1.0, offset=0.0, data_std=0.3)
NAMES = ("a", "b", "c")


def denoiser(std: float = 0.15) -> GaussianDenoiser:
    means = torch.rand((3, *SHAPE), generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2
    return GaussianDenoiser(means, std, space=SPACE, classes=NAMES, sigma_range=(0.01, 10.0))


def pictures(model: GaussianDenoiser, n: int = 30) -> tuple[torch.Tensor, list[str]]:
    random = torch.Generator().manual_seed(2)
    labels = torch.arange(n) % 3
    noise = model.std * torch.randn((n, *SHAPE), generator=random)
    return (model.means.reshape(3, *SHAPE).float()[labels] + noise).clamp(0, 1), [NAMES[i] for i in labels]


def test_the_answers_are_those_of_bayes_rule() -> None:
    model = denoiser()
    images, _ = pictures(model)
    exact = [NAMES[i] for i in model.log_likelihood(images).argmax(dim=1)]
    assert DiffusionClassifier(denoiser=model).predict(images) == exact


def test_log_odds_are_log_likelihood_ratios() -> None:
    model = denoiser(std=0.4)
    images, _ = pictures(model, 6)
    exact = model.log_likelihood(images).numpy()
    classifier = DiffusionClassifier(denoiser=model, race=Exhaustive(n_draws=2048, block=16))
    for decision, row in zip(classifier.classify(images), exact, strict=True):
        a, b = NAMES.index(decision.leader), NAMES.index(decision.runner_up)
        assert abs(decision.log_odds - (row[a] - row[b])) < 4.5 * decision.log_odds_se + 0.02


def test_the_race_spends_less_and_says_the_same() -> None:
    model = denoiser()
    images, _ = pictures(model)
    full = DiffusionClassifier(denoiser=model, race=Exhaustive(n_draws=256, block=4)).classify(images)
    raced = DiffusionClassifier(denoiser=model, race=PairedRace(n_draws=256, block=4)).classify(images)
    assert [d.label for d in raced] == [d.label for d in full]
    assert sum(d.evaluations for d in raced) < sum(d.evaluations for d in full) / 2
    assert {d.reason for d in full} == {"budget"}
    assert {d.reason for d in raced} <= {"confidence", "budget"}


@pytest.mark.parametrize("target", [NoisedExact(0.2), NoisedApproximate(0.2)])
def test_noised_classifiers_classify_noisy_images(target: NoisedExact | NoisedApproximate) -> None:
    model = denoiser()
    images, labels = pictures(model)
    noisy = images + 0.2 * torch.randn(images.shape, generator=torch.Generator().manual_seed(4))
    classifier = DiffusionClassifier(denoiser=model, target=target)
    decisions = dict(classifier.stream(enumerate(noisy)))
    exact = model.log_likelihood(noisy, tau=0.2).argmax(dim=1)
    same = sum(decisions[i].label == NAMES[int(exact[i])] for i in range(len(labels)))
    assert same >= len(labels) - 2


def test_twins_end_in_an_abstention() -> None:
    means = torch.full((2, *SHAPE), 0.5)
    model = GaussianDenoiser(means, 0.2, space=SPACE, classes=["x", "y"], sigma_range=(0.01, 10.0))
    decision = DiffusionClassifier(denoiser=model).classify(torch.full((1, *SHAPE), 0.5))[0]
    assert decision.label is None
    assert not decision.decided
    assert decision.reason == "undecided"
    assert decision.survivors == ("x", "y")
    assert decision.vote_shares == {"x": 0.5, "y": 0.5}


def test_the_prior_can_turn_an_answer() -> None:
    means = torch.stack([torch.full(SHAPE, 0.50), torch.full(SHAPE, 0.52)])
    model = GaussianDenoiser(means, 0.3, space=SPACE, classes=["x", "y"], sigma_range=(0.01, 10.0))
    image = torch.full((1, *SHAPE), 0.52)
    assert DiffusionClassifier(denoiser=model).predict(image) == ["y"]
    assert DiffusionClassifier(denoiser=model, prior=[0.99, 0.01]).predict(image) == ["x"]


def test_a_subset_of_the_classes_can_be_asked_for() -> None:
    model = denoiser()
    images, _ = pictures(model)
    classifier = DiffusionClassifier(denoiser=model, classes=("c", "a"))
    ratio = model.log_likelihood(images)[:, 2] - model.log_likelihood(images)[:, 0]
    clear = (ratio.abs() > 8).nonzero()[:, 0].tolist()  # images of class b can be near ties
    assert len(clear) > 15
    said = classifier.predict(images)
    assert [said[i] for i in clear] == ["c" if ratio[i] > 0 else "a" for i in clear]
    assert classifier.classes_ == ("c", "a")


def test_votes_are_counted_among_all_classes_without_a_race() -> None:
    model = denoiser()
    images, labels = pictures(model)
    classifier = DiffusionClassifier(denoiser=model, race=Exhaustive(n_draws=128, block=4), aggregate=MajorityVote())
    decisions = classifier.classify(images)
    for decision in decisions:
        assert decision.vote_shares[decision.leader] == max(decision.vote_shares.values())
        assert sum(decision.vote_shares.values()) == pytest.approx(1)
    assert sum(d.label == label for d, label in zip(decisions, labels, strict=True)) >= 25


def test_successive_halving_keeps_one() -> None:
    model = denoiser()
    images, _ = pictures(model, 5)
    race = SuccessiveHalving(stages=((16, 2), (64, 1)))
    for decision in DiffusionClassifier(denoiser=model, race=race).classify(images):
        assert decision.decided
        assert decision.evaluations == 16 * 3 + 48 * 2


def test_probabilities_need_a_temperature() -> None:
    model = denoiser()
    images, _ = pictures(model, 3)
    with pytest.raises(InputError, match="predict_proba needs a calibrated classifier"):
        DiffusionClassifier(denoiser=model).predict_proba(images)
    calibrated = DiffusionClassifier(denoiser=model).calibrated(2.0)
    rows = calibrated.predict_proba(images)
    np.testing.assert_allclose(rows.sum(axis=1), 1)
    assert [NAMES[i] for i in rows.argmax(axis=1)] == calibrated.predict(images)


def test_a_row_is_json() -> None:
    model = denoiser()
    decision = DiffusionClassifier(denoiser=model, temperature=1.0).classify(pictures(model, 1)[0])[0]
    row = json.loads(json.dumps(decision.row(), allow_nan=False))
    assert row["label"] == decision.label
    assert row["seed"] == 0
    assert row["evaluations"] == decision.evaluations


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"classes": ("a",)}, ConditionError, "A classifier needs at least two classes. Got 1."),
        ({"classes": ("a", "b", "a")}, ConditionError, "Every class must be named once. 'a' is there more than once."),
        ({"temperature": 0.0}, RangeError, "The 'temperature' parameter must be positive. Got 0.0."),
        ({"prior": [1.0, 2.0]}, RangeError, "The 'prior' parameter must be 3 positive numbers, one for each class."),
    ],
)
def test_what_it_refuses(options: dict[str, object], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as caught:
        DiffusionClassifier(denoiser=denoiser(), **options)  # type: ignore[arg-type]
    assert str(caught.value) == sentence


def test_wrong_images_are_refused() -> None:
    classifier = DiffusionClassifier(denoiser=denoiser())
    with pytest.raises(ShapeError):
        classifier.classify(torch.rand(1, 3, 4, 4))
    with pytest.raises(RangeError):
        classifier.classify(torch.full((1, *SHAPE), 128.0))
    with pytest.raises(RangeError):
        classifier.classify(torch.full((1, *SHAPE), float("nan")))
