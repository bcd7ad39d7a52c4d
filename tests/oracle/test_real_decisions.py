"""On the mixture fitted to MNIST the truth is known for real pictures: the race must find it at its stated delta."""

from pathlib import Path

import pytest
import torch
from scipy.stats import binom

from diffclass.data import open_dataset
from diffclass.decide import DiffusionClassifier, PairedRace
from diffclass.denoisers import MixtureDenoiser, load
from diffclass.evidence import Clean, NoisedExact, Target

N, DELTA = 60, 0.01


@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_the_exact_winner_survives_the_race(tau: float, data_root: Path) -> None:
    model = load("mnist-mixture")
    assert isinstance(model, MixtureDenoiser)
    images, _ = open_dataset(data_root / "mnist", split="test").sample(N, seed=1).array((1, 28, 28))
    x = images + tau * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    exact = model.log_likelihood(x, tau=tau).argmax(dim=1).tolist()
    target: Target = NoisedExact(tau) if tau else Clean()
    race = PairedRace(n_draws=256, block=4, delta=DELTA, contract="population")
    classifier = DiffusionClassifier(denoiser=model, target=target, race=race)
    decisions = dict(classifier.stream(enumerate(x)))
    lost = sum(model.classes[exact[i]] not in decisions[i].survivors for i in range(N))
    assert lost <= binom.isf(1e-6, N, DELTA)  # more, once in a million seeds, if the promise holds
    decided = [i for i in range(N) if decisions[i].decided]
    assert len(decided) > 0.8 * N
    assert sum(decisions[i].label == model.classes[exact[i]] for i in decided) >= len(decided) - lost
