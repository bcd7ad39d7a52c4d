"""From options to a classifier."""

import json
from collections.abc import Mapping
from dataclasses import replace
from math import ceil, log2
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffclass.decide.classifier import DiffusionClassifier
    from diffclass.decide.first_look import FirstLook
    from diffclass.evidence.race import Race
    from diffclass.robust.supervised import SupervisedNetwork

__all__ = [
    "at_speed",
    "build_classifier",
    "build_race",
    "own_directory",
    "speed_of",
    "supervised_network",
    "use_threads",
]

_MUCH_ON_A_CPU = 2_000_000  # images x draws x classes: about where compiling, once, is paid back by bundled networks
_MUCH_ON_A_GPU = 50_000_000


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
    labels: str | tuple[str, ...] | None = None,
    templates: tuple[str, ...] = (),
    prompts: Path | None = None,
    first: str | None = None,
    keep: int | None = None,
    **pipeline: Any,
) -> "DiffusionClassifier":
    """Load a model as a classifier; what the options leave open is the model's own choice."""
    from diffclass.decide.aggregate import MajorityVote
    from diffclass.decide.classifier import DiffusionClassifier

    use_threads(threads)
    options: dict[str, Any] = {"seed": seed, **_told(labels, templates, prompts), **pipeline}
    if vote:
        options["aggregate"] = MajorityVote()
    classifier = DiffusionClassifier.from_pretrained(model, device=device, dtype=dtype, **options)
    on_cpu = classifier.denoiser.device.type == "cpu"
    return replace(
        classifier,
        first_look=_first_look(first, keep, classifier),
        race=build_race(classifier, race, draws=draws, delta=delta),
        batch_size=batch_size or min(classifier.batch_size, 64 if on_cpu else 256),
    )


def _first_look(first: str | None, keep: int | None, classifier: "DiffusionClassifier") -> "FirstLook | None":
    """Load the encoder that guesses before the race."""
    from diffclass.decide.first_look import FirstLook
    from diffclass.errors import InputError

    if first is None:
        if keep is not None:
            raise InputError("--keep needs a model that says which classes to keep. Give one with --first.")
        return None
    return FirstLook.from_pretrained(first, keep=keep, device=classifier.denoiser.device)


def _told(labels: str | tuple[str, ...] | None, templates: tuple[str, ...], prompts: Path | None) -> dict[str, Any]:
    """Say which classes there are, and what a model that reads text is told for them."""
    from diffclass.decide.prompts import Prompts
    from diffclass.errors import InputError

    if prompts is not None:
        if labels is not None or templates:
            raise InputError("--prompts says which classes there are. Leave --labels and --template out.")
        return {"prompts": Prompts.from_csv(prompts)}
    names = tuple(name.strip() for name in labels.split(",")) if isinstance(labels, str) else labels
    told: dict[str, Any] = {} if names is None else {"classes": names}
    if templates:
        if labels is None:
            raise InputError("--template needs the classes that it is filled with. Give them with --labels.")
        told["templates"] = templates
    return told


def at_speed(
    classifier: "DiffusionClassifier",
    *,
    n_images: int,
    batch_size: int | str | None = None,
    compile: bool | None = None,
    out: Path | None = None,
) -> "DiffusionClassifier":
    """Choose the batch size and whether to compile, where the options leave it open, by how much there is to do.

    Both change the last bits of an answer. So they are decided from the size of the whole set at the start, are in
    run.json, and a run that goes on takes what it finds there.

    Args:
        classifier: with its race.
        n_images: of the whole set, done or not.
        batch_size: a number, "auto" to measure the fastest, or None.
        compile: None to decide by the work.
        out: folder of the run.
    """
    from diffclass.denoisers.compiled import compile_denoiser
    from diffclass.denoisers.throughput import best_batch_size

    assert classifier.race is not None
    on_cpu = classifier.denoiser.device.type == "cpu"
    cells = n_images * classifier.race.n_draws * len(classifier.classes_)
    much = n_images > 1 and cells >= (_MUCH_ON_A_CPU if on_cpu else _MUCH_ON_A_GPU)
    earlier = _earlier(out)
    if batch_size is None or batch_size == "auto":
        kept, auto = earlier.get("batch_size"), much or batch_size == "auto"
        batch_size = kept or (best_batch_size(classifier.denoiser) if auto else classifier.batch_size)
    compile = earlier.get("compiled", much) if compile is None else compile
    assert isinstance(batch_size, int)
    denoiser = compile_denoiser(classifier.denoiser, batch_size=batch_size) if compile else classifier.denoiser
    return replace(classifier, denoiser=denoiser, batch_size=batch_size)


def speed_of(classifier: "DiffusionClassifier") -> dict[str, Any]:
    """Return the choices of `at_speed`, for another process to make the same."""
    from diffclass.denoisers.compiled import is_compiled

    return {"batch_size": classifier.batch_size, "compile": is_compiled(classifier.denoiser)}


def _earlier(out: Path | None) -> dict[str, Any]:
    """Read how the run in a folder was started, if there is one."""
    try:
        found = json.loads(((out or Path()) / "run.json").read_text(encoding="utf-8"))["config"]["machine"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if out is not None and isinstance(found, dict) else {}


def build_race(classifier: "DiffusionClassifier", race: str, *, draws: int | None, delta: float) -> "Race":
    """Build a race by name, with the model's own draws and block where `draws` is None.

    "halving" halves the classes each time the draws double, down to one at the end. "sift-refine" and "clark-jaini"
    have the published numbers of draws where `draws` is None. Where votes decide, "paired" is a race on votes.
    """
    from diffclass.decide.aggregate import MajorityVote
    from diffclass.decide.published import ClarkJaini, SiftAndRefine, SuccessiveHalving
    from diffclass.decide.race import Exhaustive, PairedRace
    from diffclass.decide.voting import VoteRace

    assert classifier.race is not None
    n_draws, block = draws or classifier.race.n_draws, classifier.race.block
    if race == "exhaustive":
        return Exhaustive(n_draws=n_draws, block=block)
    if race == "paired" and isinstance(classifier.aggregate, MajorityVote):
        return VoteRace(n_draws=n_draws, block=block, delta=delta)
    if race == "paired":
        own = classifier.race
        if isinstance(own, PairedRace) and own.stopping is not None and (own.n_draws, own.delta) == (n_draws, delta):
            return own  # with the stopping rule that was learned for it
        return PairedRace(n_draws=n_draws, block=block, delta=delta)
    if race == "sift-refine":
        sift = SiftAndRefine.published(classifier.denoiser.space.dimension)
        return sift if draws is None else replace(sift, n_draws=draws, n_sift=min(draws, sift.n_sift))
    if race == "clark-jaini":
        return ClarkJaini() if draws is None else ClarkJaini(n_draws=draws)
    n_classes = len(classifier.classes_)
    rounds = ceil(log2(n_classes))
    stages: dict[int, int] = {}
    for done in range(1, rounds + 1):
        upto = max(1, ceil(n_draws / 2 ** (rounds - done) / block)) * block
        stages[min(upto, n_draws)] = ceil(n_classes / 2**done)
    return SuccessiveHalving(stages=tuple(stages.items()))


def supervised_network(settings: Mapping[str, Any]) -> "SupervisedNetwork | None":
    """Load a model that is a supervised network, refusing the options that it cannot heed; None if it is another."""
    from diffclass.denoisers.catalogue import choose_device
    from diffclass.errors import InputError
    from diffclass.robust.supervised import SupervisedNetwork, is_supervised

    if not is_supervised(settings["model"]):
        return None
    usual: dict[str, Any] = {"race": "paired", "draws": None, "vote": False, "labels": None, "templates": (),
                             "prompts": None, "first": None, "keep": None}  # fmt: skip
    given = [name for name, value in usual.items() if settings.get(name, value) != value]
    if given:
        raise InputError(
            f"--{given[0].removesuffix('s') if given[0] == 'templates' else given[0]} is of diffusion classifiers, and "
            "--model is a supervised network."
        )
    use_threads(settings["threads"])
    return SupervisedNetwork.load(settings["model"], device=choose_device(settings["device"]))


def use_threads(threads: int | None) -> None:
    """Give torch so many CPU threads."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def own_directory(model: str, option: str) -> Path:
    """Return the directory of a model that an option is about to change; one that was named by its path."""
    import click

    from diffclass.denoisers.catalogue import read_card
    from diffclass.robust.supervised import is_supervised

    path = Path(model) if is_supervised(model) else read_card(model).path
    if Path(model).resolve() != path.resolve():
        raise click.BadParameter("only a directory of your own can be changed.", param_hint=f"'{option}'")
    return path
