"""From options to a classifier."""

from dataclasses import replace
from math import ceil, log2
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffclass.decide.classifier import DiffusionClassifier
    from diffclass.evidence.race import Race

__all__ = ["build_classifier", "build_race", "use_threads"]


def build_classifier(
    *,
    model: str,
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
    batch_size: int | None = None,
    threads: int | None = None,
    race: str = "paired",
    draws: int | None = None,
    delta: float = 0.01,
    vote: bool = False,
    labels: tuple[str, ...] | None = None,
) -> "DiffusionClassifier":
    """Load a model as a classifier; what the options leave open is the model's own choice."""
    from diffclass.decide.aggregate import MajorityVote
    from diffclass.decide.classifier import DiffusionClassifier

    use_threads(threads)
    options: dict[str, Any] = {"seed": seed}
    if labels is not None:
        options["classes"] = labels
    if vote:
        options["aggregate"] = MajorityVote()
    classifier = DiffusionClassifier.from_pretrained(model, device=device, dtype=dtype, **options)
    on_cpu = classifier.denoiser.device.type == "cpu"
    return replace(
        classifier,
        race=build_race(classifier, race, draws=draws, delta=delta),
        batch_size=batch_size or (64 if on_cpu else 256),
    )


def build_race(classifier: "DiffusionClassifier", race: str, *, draws: int | None, delta: float) -> "Race":
    """Build a race by name, with the model's own draws and block where `draws` is None.

    "halving" halves the classes each time the draws double, down to one at the end.
    """
    from diffclass.decide.race import Exhaustive, PairedRace, SuccessiveHalving

    assert classifier.race is not None
    n_draws, block = draws or classifier.race.n_draws, classifier.race.block
    if race == "exhaustive":
        return Exhaustive(n_draws=n_draws, block=block)
    if race == "paired":
        return PairedRace(n_draws=n_draws, block=block, delta=delta)
    n_classes = len(classifier.classes_)
    rounds = ceil(log2(n_classes))
    stages: dict[int, int] = {}
    for done in range(1, rounds + 1):
        upto = max(1, ceil(n_draws / 2 ** (rounds - done) / block)) * block
        stages[min(upto, n_draws)] = ceil(n_classes / 2**done)
    return SuccessiveHalving(stages=tuple(stages.items()))


def use_threads(threads: int | None) -> None:
    """Give torch so many CPU threads."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
