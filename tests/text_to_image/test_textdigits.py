"""The bundled text-to-image model: it is small, and it reads."""

from pathlib import Path

import pytest

from diffclass import Exhaustive, ZeroShotClassifier, list_models, open_dataset

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="module")
def reader() -> ZeroShotClassifier:
    return ZeroShotClassifier.from_pretrained("textdigits", device="cpu")


def test_bundled_models_fit_into_a_package() -> None:
    sizes = {card.name: sum(p.stat().st_size for p in card.path.rglob("*") if p.is_file()) for card in list_models()}
    assert sizes.pop("concepts") <= 12e6
    assert sizes.pop("textdigits") <= 6e6
    assert max(sizes.values()) <= 8.1e6
    assert sum(sizes.values()) <= 24e6


def test_it_reads_captions_that_it_never_saw(reader: ZeroShotClassifier, data_root: Path) -> None:
    test = open_dataset(data_root / "mnist", split="test").sample(12, seed=3)
    images, labels = test.array((1, 28, 28))
    quick = reader.configured(race=Exhaustive(n_draws=12))
    decisions = quick.classify(images, NUMBERS, "{} written by hand")
    right = sum(d.label == NUMBERS[int(label)] for d, label in zip(decisions, labels, strict=True))
    assert right >= 9  # guessing reaches 6 with a chance of 1 in 2,000


def test_fewer_labels_are_a_question_of_their_own(reader: ZeroShotClassifier, data_root: Path) -> None:
    test = open_dataset(data_root / "mnist", split="test")
    image = test[next(i for i, label in enumerate(test.labels) if label == 7)].load((1, 28, 28))
    found = reader(image, candidate_labels=["seven", "eight"], hypothesis_template="the digit {}")
    assert [row["label"] for row in found] == ["seven", "eight"]
    assert sum(row["score"] for row in found) == pytest.approx(1.0)
