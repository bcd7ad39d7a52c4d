"""A classifier's settings as plain values, as diffclass.json keeps them under "classifier", and back."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from diffclass.decide.aggregate import Aggregate, MajorityVote, Mean
from diffclass.decide.published import ClarkJaini, SiftAndRefine, SuccessiveHalving
from diffclass.decide.race import Exhaustive, PairedRace
from diffclass.decide.stopping import Calibrated
from diffclass.decide.voting import VoteRace
from diffclass.errors import ConfigError, InputError
from diffclass.evidence import (
    Clean,
    NoisedApproximate,
    NoisedConditional,
    NoisedExact,
    Objective,
    Race,
    Target,
    as_table,
)
from diffclass.evidence.objective import (
    EDMOfficialWeight,
    EDMWeight,
    LikelihoodWeight,
    LogNormal,
    LogUniform,
    SimpleWeight,
    TabulatedProposal,
    TabulatedWeight,
    UniformTimeWeight,
)

__all__ = ["SETTINGS", "choice_settings", "settings_of", "stored_options"]

SETTINGS = (
    *("weight", "weight_mean", "weight_std", "weight_sigma_data", "proposal", "proposal_mean", "proposal_std"),
    *("sigma_range", "distance", "antithetic", "n_draws", "block", "stopping", "race", "temperature"),
)  # that `settings_of` writes; others are `choice_settings`'s
_CALIBRATED_FOR = {"objective", "target", "classes", "prompts", "aggregate"}  # another of these voids a calibration
_WEIGHTS: dict[type, str] = {
    LikelihoodWeight: "likelihood",
    EDMWeight: "edm",
    EDMOfficialWeight: "edm_official",
    UniformTimeWeight: "ddpm",
    SimpleWeight: "simple",
}
_PROPOSALS: dict[type, str] = {LogUniform: "log-uniform", LogNormal: "log-normal"}
_RACES: dict[str, type[Race]] = {
    kind.__name__: kind for kind in (PairedRace, Exhaustive, SuccessiveHalving, SiftAndRefine, ClarkJaini, VoteRace)
}
_TARGETS: dict[str, type[Target]] = {
    kind.__name__: kind for kind in (Clean, NoisedExact, NoisedApproximate, NoisedConditional)
}


def settings_of(
    *, objective: Objective, race: Race, temperature: float | None, sigma_data: float
) -> dict[str, Any]:  # fmt: skip
    """Return what is measured, when it stops and how sure to be, as plain values for JSON.

    Args:
        objective: `Objective.from_settings` reads it back.
        race: `stored_options` reads it back. A `PairedRace` that differs from the default in its draws and block alone
            is these two numbers.
        temperature: of the log-odds; None where there is none.
        sigma_data: [model units] standard deviation of the data, which the reader will know.

    Raises:
        InputError: the weight, the proposal or the race is of a class of the caller's own, which no reader knows.
    """
    return {**_objective_settings(objective, sigma_data), **_race_settings(race), "temperature": temperature}


def choice_settings(*, aggregate: Aggregate, target: Target, prior: Any, seed: int, batch_size: int) -> dict[str, Any]:
    """Return a classifier's other choices as plain values, where they differ from what is usual.

    Args:
        aggregate: mean or vote.
        target: clean or noised.
        prior: of each class; None: uniform.
        seed: of the noise.
        batch_size: network evaluations a call.

    Raises:
        InputError: the aggregate or target is of a class of the caller's own.
    """
    found: dict[str, Any] = {"batch_size": batch_size}
    if type(aggregate) not in (Mean, MajorityVote):
        raise InputError(_foreign("aggregate", aggregate, ("Mean", "MajorityVote")))
    if isinstance(aggregate, MajorityVote):
        found["aggregate"] = "vote"
    if type(target) not in _TARGETS.values():
        raise InputError(_foreign("target", target, _TARGETS))
    if not isinstance(target, Clean):
        found["target"] = {"kind": type(target).__name__, "tau": target.tau}
    if prior is not None:
        found["prior"] = [float(p) for p in prior]
    if seed:
        found["seed"] = seed
    return found


def stored_options(stored: Mapping[str, Any], given: Mapping[str, Any], *, same_model: bool) -> dict[str, Any]:
    """Return the stored choices that hold beside those that are given, as arguments of `DiffusionClassifier`.

    A stopping rule and a temperature hold for the model's own objective, classes, aggregate, target and budget, and are
    left out with any other; the rule for the prior that it was stored with.

    Args:
        stored: what `settings_of` and `choice_settings` wrote.
        given: arguments of the constructor.
        same_model: whether the network and the size of its images are those that were stored.

    Raises:
        ConfigError: the file holds what no version of diffclass wrote.
    """
    found: dict[str, Any] = {}
    if "classes" not in given and "prompts" not in given:
        found |= {"classes": tuple(stored["classes"])} if "classes" in stored else {}
        found |= {"prior": tuple(stored["prior"])} if "prior" in stored else {}
    found |= {"seed": int(stored["seed"])} if "seed" in stored else {}
    if stored.get("aggregate") == "vote":
        found["aggregate"] = MajorityVote()
    if "target" in stored:
        found["target"] = _read_target(stored["target"])
    if given.get("race") is None and "aggregate" not in given and "race" in stored:
        found["race"] = _read_race(stored["race"])
    if same_model and _CALIBRATED_FOR.isdisjoint(given):
        found |= _calibration(stored, given)
    return found


def _calibration(stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the race and the temperature that were learned for a model's own settings, as far as they still hold."""
    race, n_draws = given.get("race"), int(stored.get("n_draws", 256))
    found: dict[str, Any] = {}
    if race is None and given.get("prior") is None and stored.get("stopping") is not None:
        found["race"] = PairedRace.calibrated(Calibrated.from_dict(stored["stopping"]))
    if race is None or race.n_draws == n_draws:
        found["temperature"] = stored.get("temperature")
    return found


def _objective_settings(objective: Objective, sigma_data: float) -> dict[str, Any]:
    weight, proposal = objective.weight, objective.proposal
    settings: dict[str, Any] = {}
    if isinstance(weight, TabulatedWeight):
        settings["weight"] = as_table(weight)
    elif type(weight) in _WEIGHTS:
        settings["weight"] = _WEIGHTS[type(weight)]
    if isinstance(weight, EDMWeight | EDMOfficialWeight):
        settings |= {"weight_mean": weight.p_mean, "weight_std": weight.p_std}
        settings |= {} if weight.sigma_data == sigma_data else {"weight_sigma_data": weight.sigma_data}
    if isinstance(proposal, TabulatedProposal):
        settings["proposal"] = as_table(proposal)
    elif type(proposal) in _PROPOSALS:
        settings["proposal"] = _PROPOSALS[type(proposal)]
    if isinstance(proposal, LogNormal):
        settings |= {"proposal_mean": proposal.mean, "proposal_std": proposal.std}
    settings |= {} if objective.sigma_range is None else {"sigma_range": list(objective.sigma_range)}
    settings |= {} if objective.distance == "l2" else {"distance": objective.distance}
    settings["antithetic"] = objective.antithetic
    if Objective.from_settings(settings, sigma_data=sigma_data) != objective:
        raise InputError(
            f"An objective can be saved if its weight and proposal are diffclass's own, {', '.join(_WEIGHTS.values())} "
            f"and {', '.join(_PROPOSALS.values())} or tables of them. Got {weight!r} and {proposal!r}. "
            "Tabulate them (TabulatedWeight, TabulatedProposal)."
        )
    return settings


def _race_settings(race: Race) -> dict[str, Any]:
    if type(race) not in _RACES.values():
        raise InputError(_foreign("race", race, _RACES))
    plain: dict[str, Any] = {"n_draws": race.n_draws, "block": race.block}
    if isinstance(race, PairedRace) and race.stopping is not None:
        return {**plain, "stopping": race.stopping.as_dict()}
    if isinstance(race, PairedRace) and race == PairedRace(**plain):
        return plain
    values: Any = race
    return {**plain, "race": {"kind": type(race).__name__, **asdict(values)}}


def _read_race(told: Any) -> Race:
    kind: Any = _known("race", told, _RACES)
    values = {key: value for key, value in told.items() if key != "kind"}
    names = {field.name for field in fields(kind)}
    if set(values) != names:
        raise ConfigError(
            f"A stored {kind.__name__} needs the keys {', '.join(sorted(names))}. Got {', '.join(sorted(values))}."
        )
    try:
        if "stages" in values:
            values["stages"] = tuple((int(draws), int(keep)) for draws, keep in values["stages"])
        return kind(**values)
    except (TypeError, ValueError) as error:
        why = str(error) if isinstance(error, InputError) else f"one of its values is of another kind in {values}."
        raise ConfigError(f"A stored {kind.__name__} cannot be read: {why}") from error


def _read_target(told: Any) -> Target:
    kind = _known("target", told, _TARGETS)
    tau = told.get("tau") if isinstance(told, Mapping) else None
    if not isinstance(tau, int | float):
        raise ConfigError(f"A stored {kind.__name__} needs a 'tau', the noise in the input. Got {tau!r}.")
    return kind(tau=float(tau))


def _known(what: str, told: Any, kinds: Mapping[str, type]) -> Any:
    """Return the class that a stored part names."""
    kind = told.get("kind") if isinstance(told, Mapping) else told
    if not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(f"The stored {what} must be one of {', '.join(kinds)}. Got {kind!r}.")
    return kinds[kind]


def _foreign(what: str, value: object, kinds: Any) -> str:
    return (
        f"A classifier can be saved if its {what} is one of {', '.join(kinds)}. Got {type(value).__name__}, which no "
        "reader of the directory would know."
    )
