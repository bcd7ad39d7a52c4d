"""Every scorer against what it stands for: the classifier among an item's captions, transformers, chance."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffclass.bench.compositional.baseline import Blind, Chance
from diffclass.bench.compositional.comparing import compare
from diffclass.bench.compositional.diffusion import DiffusionScorer, published_objective
from diffclass.bench.compositional.encoders import ClipScorer, ViltScorer
from diffclass.bench.compositional.part import Part
from diffclass.bench.compositional.picture import open_picture
from diffclass.bench.compositional.scorer import Asked, Scored, Scorer
from diffclass.data.images import prepare_image
from diffclass.decide.classifier import DiffusionClassifier
from diffclass.decide.prompts import Prompts
from diffclass.decide.race import PairedRace
from diffclass.decide.zero_shot import ZeroShotClassifier
from diffclass.denoisers.parametrisation import Flow
from diffclass.errors import DiffclassWarning
from diffclass.evidence import Objective, TabulatedWeight
from tiny_matching import BrightnessReader, grey_items, item, save_grey, save_noise
from tiny_pipelines import TOKENS, clip_tokenizer, loaded

VALUES = (0.1, 0.3, 0.5, 0.7, 0.9, 0.3)


def reader(**options: Any) -> DiffusionScorer:
    return DiffusionScorer(name="reader", model=ZeroShotClassifier(denoiser=BrightnessReader()), **options)


def asked(items: Any) -> list[Asked]:
    return [Asked(item=one, picture=open_picture(one.image)) for one in items]


def answers(scorer: Scorer, items: Any, **options: Any) -> list[Scored]:
    found = dict(scorer.answer(asked(items), **{"seed": 0, **options}))
    return [found[i] for i in range(len(items))]


def test_captions_of_many_items_race_as_each_item_would_alone(tmp_path: Path) -> None:
    items = grey_items(tmp_path, VALUES, n=4)
    together = answers(reader(draws=64), items)
    for one, scored in zip(items, together, strict=True):
        assert scored.chosen == (0,)
        captions = tuple(candidate.caption for candidate in one.candidates)
        alone = DiffusionClassifier(
            denoiser=BrightnessReader(), prompts=Prompts(classes=captions, texts=(captions,)),
            race=PairedRace(n_draws=64, block=4), batch_size=7,
        )  # fmt: skip
        image = prepare_image(open_picture(one.image), (1, 2, 2), resize="stretch", convert=True).image
        decision = alone.classify(image[None])[0]
        assert scored.measured is not None
        np.testing.assert_allclose(scored.measured.errors, decision.evidence.errors, rtol=1e-4)
        assert (scored.evaluations, scored.draws) == (decision.evaluations, decision.n_draws)
        assert scored.scores == pytest.approx(decision.evidence.log_odds(), rel=1e-3, abs=1e-3)
    assert sum(s.evaluations for s in together) < 64 * 4 * len(items)  # the race dropped captions


def test_whole_answers_hold_every_error(tmp_path: Path) -> None:
    for scored in answers(reader(), grey_items(tmp_path, VALUES), whole=True):
        assert scored.measured is not None
        assert np.isfinite(scored.measured.errors).all()
        means = (scored.measured.weights[:, None] * scored.measured.errors.astype(np.float64)).mean(axis=0)
        assert scored.scores == pytest.approx(means.mean() - means)
        assert (scored.chosen, scored.evaluations) == ((0,), 96)


def test_comparable_scores_tell_the_picture_of_a_caption(tmp_path: Path) -> None:
    captions = ("a thing of 0.2", "a thing of 0.8")
    images = [save_grey(tmp_path / f"{v}.png", v) for v in (0.2, 0.8)]
    items = [item(str(t), image, captions, target=t) for t, image in enumerate(images)]
    first, second = answers(reader(), items, comparable=True)
    assert first.scores[0] > second.scores[0]
    assert second.scores[1] > first.scores[1]
    assert (first.evaluations, first.chosen, second.chosen) == (96, (0,), (1,))
    # the exact difference to the marginal mean of 0.5: its sign is that of the closer mean
    assert min(first.scores[0], second.scores[1]) > 0 > max(first.scores[1], second.scores[0])


def test_the_published_schedule_makes_3025_evaluations(tmp_path: Path) -> None:
    image = save_grey(tmp_path / "x.png", 0.45)
    captions = [f"a thing of {round(0.01 + 0.03 * k, 2)}" for k in range(32)]
    (scored,) = answers(reader(race="published"), [item("x", image, captions, target=15)])
    assert (scored.evaluations, scored.draws) == (3025, 200)
    assert captions[scored.chosen[0]] == "a thing of 0.46"
    (five,) = answers(reader(race="published"), [item("x", image, captions[12:17])])
    assert five.evaluations == 1000


def test_published_errors_are_absolute_errors_of_the_noise(pipelines: Path) -> None:
    denoiser = loaded(pipelines / "sd1")
    scorer = DiffusionScorer(name="sd", model=ZeroShotClassifier(denoiser=denoiser), race="published")
    objective = scorer.classifier(("a", "b"), seed=0, whole=False).objective
    assert objective is not None
    assert objective.distance == "l1"
    low, high = denoiser.sigma_range
    sigma = np.geomspace(1.01 * low, 0.99 * high, 50)
    # under draws uniform over the schedule's times, |image error| counts 1 / sigma: as |noise error|
    counted = objective.weight(sigma) / objective.proposal.density(sigma, low, high) * sigma
    assert counted == pytest.approx(counted[0], rel=1e-6)


def test_published_errors_of_a_flow_are_of_its_velocity() -> None:
    weight = TabulatedWeight((-3.0, 0.0, 3.0), (1.0, 2.0, 3.0))
    found = published_objective(Objective(weight=weight), Flow())
    sigma = np.exp(np.array(weight.log_sigma))
    assert found.weight(sigma) / weight(sigma) == pytest.approx(sigma / (1 + sigma))


def test_clip_scores_are_those_of_transformers(matching: Path, tmp_path: Path) -> None:
    scorer = ClipScorer.from_pretrained(matching / "clip")
    captions = ["a red cube", "a blue cube", "a dog"]
    items = [item(str(i), save_noise(tmp_path / f"{i}.png", i), captions[: 3 - i]) for i in range(2)]
    found = answers(scorer, items)
    tokens = clip_tokenizer()(captions, padding="max_length", max_length=TOKENS, return_tensors="pt")
    for one, scored in zip(items, found, strict=True):
        pixels = torch.from_numpy(np.asarray(Image.open(one.image)) / 255).float().permute(2, 0, 1)
        pixels = (pixels - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor([0.2, 0.3, 0.4])[:, None, None]
        with torch.no_grad():
            logits = scorer.model(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels[None]
            ).logits_per_image[0]
        assert scored.scores == pytest.approx(logits[: len(one.candidates)].tolist(), rel=1e-4)
        assert scored.chosen == (int(np.argmax(scored.scores)),)
        assert scored.evaluations == 1 + len(one.candidates)


def test_vilt_scores_are_those_of_transformers(matching: Path, tmp_path: Path) -> None:
    scorer = ViltScorer.from_pretrained(matching / "vilt")
    captions = ["a red cube", "a blue cube"]
    one = item("x", save_noise(tmp_path / "x.png", 3, size=(40, 20)), captions)
    (scored,) = answers(scorer, [one])
    (again,) = answers(scorer, [one])
    picture = Image.open(one.image).crop((10, 0, 30, 20)).resize((16, 16), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(picture) / 255).float().permute(2, 0, 1)
    pixels = (pixels - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    for caption, score in zip(captions, scored.scores, strict=True):
        tokens = clip_tokenizer()([caption], padding="max_length", max_length=TOKENS, return_tensors="pt")
        with torch.no_grad():
            logit = scorer.model(**tokens, pixel_values=pixels[None], pixel_mask=torch.ones(1, 16, 16).long()).logits
        assert score == pytest.approx(float(logit), rel=1e-4)
    assert again.scores == scored.scores
    assert scored.evaluations == 2


def test_captions_that_are_cut_are_said_to_be(matching: Path, tmp_path: Path) -> None:
    scorer = ClipScorer.from_pretrained(matching / "clip", name="tiny")
    long = "a very very long caption that goes on"
    one = item("x", save_noise(tmp_path / "x.png", 0), ["short", long])
    with pytest.warns(
        DiffclassWarning, match=f"The scorer 'tiny' reads {TOKENS} tokens and cuts longer captions: rows list"
    ):
        (scored,) = answers(scorer, [one])
    assert scored.facts == {"truncated": [1]}


def test_chance_ties_everything(tmp_path: Path) -> None:
    (scored,) = answers(Chance(), [item("x", save_grey(tmp_path / "x.png", 0.5), ["a", "b", "c"])])
    assert (scored.chosen, scored.evaluations) == ((0, 1, 2), 0)


def test_blind_scorers_follow_the_other_pictures(tmp_path: Path) -> None:
    # every other picture is bright, so that a scorer shown those alone says "bright" of a dark one
    captions = ["a thing of 0.1", "a thing of 0.9"]
    values = [0.1, 0.9, 0.9, 0.9]
    items = [
        item(str(i), save_grey(tmp_path / f"{i}.png", v), captions, target=int(v > 0.5)) for i, v in enumerate(values)
    ]
    blind = Blind(base=reader(), n_others=3)
    assert (blind.name, blind.seeded) == ("blind-reader", True)
    rows = compare([Part(name="p", items=tuple(items), setting="zsl")], [blind])["blind-reader", "p"]
    assert rows[0]["chosen"] == [1]
    assert {row["others"] for row in rows} == {3}
    assert {row["evaluations"] for row in rows} == {3 * 64}
    alone = dict(replace(blind, n_others=1).answer(
        [Asked(item=items[0], picture=open_picture(items[0].image), others=(open_picture(items[1].image),))], seed=0
    ))[0]  # fmt: skip
    (seeing,) = answers(reader(), [replace(items[0], image=items[1].image)], whole=True)
    assert alone.scores == pytest.approx(seeing.scores)
