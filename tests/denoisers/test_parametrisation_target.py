"""What a network is trained to predict, against each parametrisation's own definition."""

import pytest
import torch
from torch import Tensor

from diffclass.denoisers.parametrisation import EDM, X0, Epsilon, Flow, Parametrisation, V
from diffclass.denoisers.schedule import DiscreteSchedule

SCHEDULE = DiscreteSchedule.from_alphas_cumprod(torch.linspace(0.999, 0.01, 50).double())
X, EPSILON = torch.randn(3, 2, 4, 4, dtype=torch.float64), torch.randn(3, 2, 4, 4, dtype=torch.float64)
SIGMA = torch.tensor([0.05, 1.0, 9.0], dtype=torch.float64)
COLUMN = SIGMA[:, None, None, None]
ALPHA = 1 / (1 + COLUMN**2).sqrt()

TARGETS: dict[str, tuple[Parametrisation, Tensor]] = {
    "the noise": (Epsilon(SCHEDULE), EPSILON),
    "v = alpha epsilon - sigma_vp x": (V(SCHEDULE), ALPHA * EPSILON - COLUMN * ALPHA * X),
    "the image": (X0(SCHEDULE), X),
    "epsilon - x": (Flow(), EPSILON - X),
    "EDM's F": (
        EDM(0.5),
        (X - 0.25 / (COLUMN**2 + 0.25) * (X + COLUMN * EPSILON)) * (COLUMN**2 + 0.25).sqrt() / (0.5 * COLUMN),
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_the_target_of_a_prediction(name: str) -> None:
    parametrisation, wanted = TARGETS[name]
    found = parametrisation.target(X, X + COLUMN * EPSILON, SIGMA)
    assert torch.allclose(found, wanted, atol=1e-9)
