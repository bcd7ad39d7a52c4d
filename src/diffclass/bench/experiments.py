"""Published experiments as data: their settings, and the figures that came out, from published.toml."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, final

from diffclass.decide.published import PUBLISHED
from diffclass.errors import InputError
from diffclass.stats.interval import Estimate, wilson

__all__ = ["Certified", "Experiment", "Figure", "Paper", "PublishedData", "PublishedModel", "ZeroShot", "experiments",
           "find_experiment"]  # fmt: skip

_TABLE = Path(__file__).with_name("published.toml")
Notes = tuple[str, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """Where figures come from.

    Args:
        title: authors, year, title.
        link: "arXiv:...".
        differs: what is done otherwise here than in the published code, for every experiment of the paper.
        uncertain: what could not be found out.
    """

    title: str
    link: str
    differs: Notes = ()
    uncertain: Notes = ()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedModel:
    """The model that was measured.

    Args:
        brief: for tables.
        title: for people.
        weights: parameters of the network that is told the class.
        size: [pixels] height and width of the images that it sees.
        id: on the Hugging Face hub; None where the model must be converted first.
        make: the command that converts it.
        rate: network evaluations a second ("value"), and on what ("on"), as somebody reported.
        note: what to know before looking for it.
    """

    brief: str
    title: str
    weights: int
    size: int
    id: str | None = None
    make: str | None = None
    rate: Mapping[str, Any] | None = None
    note: str | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedData:
    """The data set that was measured on.

    Args:
        layout: what `find_layout` calls it.
        title: for people.
        split: the part that was measured on.
        images: in that part, as published.
        classes: of the set.
        files: that tell its folder.
    """

    layout: str
    title: str
    split: str
    images: int
    classes: int
    files: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A published number: an accuracy, or the certified accuracy at a radius.

    Args:
        value: in 0 to 1.
        read: "read" in the paper, its code or a statement of its authors, or "recalled" and not compared since.
        radius: [image units] of a certified accuracy.
        sigma: [image units] with which it was certified.
    """

    value: float
    read: Literal["read", "recalled"]
    radius: float | None = None
    sigma: float | None = None

    @property
    def measure(self) -> str:
        """What was measured."""
        if self.radius is None:
            return "accuracy"
        return f"certified at {self.radius:g} (sigma {self.sigma:g})"

    def estimate(self, n: int) -> Estimate:
        """Return the figure with the interval of a share of n images."""
        return wilson(round(self.value * n), n)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroShot:
    """Settings of a zero-shot classification.

    The error of a draw at time t in [0, 1] of the network's schedule counts as exp(-decay t).

    Args:
        template: prompt with {} in the place of the class.
        distance: "l2" or "l1".
        space: of the error: "epsilon" (of the noise, divided by the noise level), or "x" (of the clean latent).
        decay: of the weight.
        stages: of `SuccessiveHalving.published`; None: Clark and Jaini's paired tests.
    """

    template: str
    distance: Literal["l2", "l1"] = "l2"
    space: Literal["epsilon", "x"] = "epsilon"
    decay: float = 0.0
    stages: str | None = None

    @property
    def draws(self) -> int:
        """Draws of a class that is never dropped."""
        return 2000 if self.stages is None else PUBLISHED[self.stages][-1][0]

    def evaluations(self, n_classes: int, draws: int | None = None) -> int:
        """Return the network evaluations of an image, or the most of them where a test stops early."""
        if self.stages is None or draws is not None:
            return (draws or self.draws) * n_classes
        total, before, alive = 0, 0, n_classes
        for upto, keep in PUBLISHED[self.stages]:
            total, before, alive = total + (upto - before) * alive, upto, min(alive, keep)
        return total


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """Settings of a certification by randomized smoothing.

    Args:
        sigmas: [image units] of the smoothing noise, as published.
        n0: copies that choose the label.
        n: copies that bound its probability.
        alpha: chance that a certificate is false.
        noised: how copies are classified; "apndc" needs a network without classes, else it is "apndc-class".
        weight: of noise levels.
        draws: noise levels in a race, even in sigma.
        race: "exhaustive" or "sift-refine".
        selection: of the images: "first", "every" or "stratified".
        scale: published pixels a side of one here: noise is divided by it, radii are multiplied.
        sigma_max: [model units] end of the noise range.
    """

    sigmas: tuple[float, ...]
    n0: int
    n: int
    alpha: float
    noised: str
    weight: str
    draws: int
    race: Literal["exhaustive", "sift-refine"]
    selection: str
    scale: float = 1.0
    sigma_max: float = 3.0

    def evaluations(self, n_classes: int) -> int:
        """Return the most network evaluations of an image at one sigma."""
        return (self.n0 + self.n) * (n_classes * self.draws + 1)


_KINDS: Mapping[str, Any] = {"zeroshot": ZeroShot, "certified": Certified}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One published measurement.

    Args:
        name: that `diffclass reproduce` takes.
        paper: it is published in.
        model: that was measured.
        data: that it was measured on.
        images: on how many.
        figures: that came out.
        settings: everything else, by kind.
        differs: what is done otherwise here, besides what `paper` says.
        uncertain: what could not be found out, besides what `paper` says.
    """

    name: str
    paper: Paper
    model: PublishedModel
    data: PublishedData
    images: int
    figures: tuple[Figure, ...]
    settings: ZeroShot | Certified
    differs: Notes = ()
    uncertain: Notes = field(default=())

    @property
    def evaluations(self) -> int:
        """The most network evaluations of the published measurement."""
        each = self.settings.evaluations(self.data.classes)
        sigmas = {figure.sigma for figure in self.figures}
        return self.images * each * len(sigmas)


@cache
def experiments() -> Mapping[str, Experiment]:
    """Return every published experiment, by name."""
    table = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
    papers = {name: Paper(**_frozen(row)) for name, row in table["papers"].items()}
    models = {name: PublishedModel(**row) for name, row in table["models"].items()}
    data = {name: PublishedData(layout=name, **row) for name, row in table["data"].items()}
    found: dict[str, Experiment] = {}
    for name, row in table["experiments"].items():
        rest = dict(row)
        kind, paper, model, part = (rest.pop(key) for key in ("kind", "paper", "model", "data"))
        figures = tuple(Figure(**figure) for figure in rest.pop("figures"))
        settings = _KINDS[kind](**_frozen(rest.pop("settings")))
        found[name] = Experiment(
            name=name, paper=papers[paper], model=models[model], data=data[part], figures=figures, settings=settings,
            **_frozen(rest),
        )  # fmt: skip
    return found


def find_experiment(name: str) -> Experiment:
    """Return a published experiment.

    Raises:
        InputError: there is none of that name.
    """
    known = experiments()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        raise InputError(
            f"The experiment must be one of those that `diffclass reproduce --list` shows. Got {name!r}."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )
    return known[name]


def _frozen(row: Mapping[str, Any]) -> dict[str, Any]:
    """Make tuples of the lists in a table."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
