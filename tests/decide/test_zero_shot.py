"""The call that people know: labels and scores for any picture and any classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import norm

import diffclass
from diffclass.decide import DiffusionClassifier, Exhaustive, Prompts, ZeroShotClassifier, certainty
from diffclass.errors import ConditionError, DiffclassWarning, InputError
from tiny_pipelines import loaded
from tiny_text import NAMES, TextDenoiser

BRIGHT = Image.new("L", (2, 2), 190)
DARK = Image.new("L", (2, 2), 40)


def zero_shot(**options: object) -> ZeroShotClassifier:
    return ZeroShotClassifier(denoiser=TextDenoiser(), options={"race": Exhaustive(n_draws=32), **options})


def test_one_picture_gives_a_sorted_list() -> None:
    found = zero_shot()(BRIGHT, candidate_labels=NAMES)
    assert isinstance(found, list)
    assert [set(row) for row in found] == [{"score", "label"}] * 3
    assert found[0]["label"] == "bright"
    scores = [row["score"] for row in found]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1.0)


def test_several_pictures_give_a_list_of_lists() -> None:
    found = zero_shot()([BRIGHT, DARK], "dark, grey, bright", "it is {}")
    assert [rows[0]["label"] for rows in found] == ["bright", "dark"]


def test_tensors_are_pictures() -> None:
    told, batch = zero_shot(), torch.tensor([190 / 255, 40 / 255]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
    assert told(batch, NAMES) == told([BRIGHT, DARK], NAMES)
    assert told(batch[0], NAMES) == told(BRIGHT, NAMES)


def test_calibrated_classifiers_give_probabilities() -> None:
    told = zero_shot(temperature=3.0)
    decision = told.classify(BRIGHT, NAMES)[0]
    assert {row["label"]: row["score"] for row in told(BRIGHT, NAMES)} == decision.probabilities
    probabilities = told.classifier(NAMES).predict_proba(told.tensors(BRIGHT))
    assert probabilities.shape == (1, 3)
    assert told.classifier(NAMES).classes_ == NAMES
    assert told.classifier(NAMES).predict(told.tensors(BRIGHT)) == ["bright"]


def test_certainty_of_two_classes_is_the_chance_that_more_draws_agree() -> None:
    image = torch.full((1, 1, 2, 2), 0.3503)  # almost halfway between dark and grey
    classifier = DiffusionClassifier(
        denoiser=TextDenoiser(), classes=("dark", "grey"), race=Exhaustive(n_draws=64, block=4)
    )
    evidence = classifier.classify(image)[0].evidence
    pair = evidence.difference(0, 1)
    shares = certainty(evidence)
    assert shares[0] == pytest.approx(norm.cdf(pair.mean / pair.se))
    assert 0.001 < shares[0] < 0.999
    assert shares.sum() == pytest.approx(1.0)


def test_certainty_of_classes_that_left_is_small_and_of_equal_classes_equal() -> None:
    decision = DiffusionClassifier(denoiser=TextDenoiser(), classes=NAMES).classify(torch.full((1, 1, 2, 2), 0.8))[0]
    assert decision.survivors == ("bright",)
    assert decision.scores["bright"] > 0.95
    assert all(0 <= score < 0.05 for name, score in decision.scores.items() if name != "bright")
    same = Prompts(classes=("a", "b"), texts=(("x dark", "y dark"),))
    equal = DiffusionClassifier(denoiser=TextDenoiser(), prompts=same).classify(torch.full((1, 1, 2, 2), 0.2))[0]
    assert np.allclose(list(equal.scores.values()), 0.5)


def test_a_pipeline_classifies_in_one_call(pipelines: Path) -> None:
    denoiser = loaded(pipelines / "sd1")
    model = ZeroShotClassifier.from_pretrained(denoiser, race=Exhaustive(n_draws=8))
    picture = Image.effect_noise((40, 30), 60)  # grey, and not square
    found = model(picture, ["cat", "dog"], ["a photo of {}.", "art of {}."])
    assert {row["label"] for row in found} == {"cat", "dog"}
    classifier = model.classifier(["cat", "dog"])
    assert classifier.batch_size == 32 * 64
    again = model(picture, ["cat", "dog"], ["a photo of {}.", "art of {}."])
    assert again == found
    assert diffclass.ZeroShotClassifier is ZeroShotClassifier


def test_bad_input_is_refused_in_one_sentence(tmp_path: Path) -> None:
    told = zero_shot()
    frames = [BRIGHT, DARK]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(DiffclassWarning) as caught:
        told(tmp_path / "two.gif", NAMES)
    assert str(caught[0].message) == "Picture 0 is animated or has several pages: took frame 1 of 2."
    BRIGHT.resize((64, 64)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"^The picture '.*cut\.png' is damaged and cannot be decoded: .*\.$"):
        told(tmp_path / "cut.png", NAMES)
    Image.new("1", (10_000, 10_001)).save(tmp_path / "huge.png")
    with pytest.raises(InputError, match=r"^The picture '.*huge\.png' has more than the 89,478,485 pixels that are "):
        told(tmp_path / "huge.png", NAMES)
    with pytest.raises(ConditionError, match=r"^A classifier needs at least two classes\. Got 1\.$"):
        told(BRIGHT, "cat")
    with pytest.raises(InputError, match=r"^There must be at least one picture\. Got none\.$"):
        told([], NAMES)
    with pytest.raises(ConditionError, match=r"^A zero-shot classifier needs a model that reads text\. "):
        ZeroShotClassifier.from_pretrained(TextDenoiser().exact)
