"""`diffclass attack`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffclass.cli.elsewhere import choose_elsewhere, scale_options, take_scale
from diffclass.cli.options import model_options, out_option, output_options, picture_options, race_options

if TYPE_CHECKING:
    from rich.table import Table

    from diffclass.bench.attacked import Attacked
    from diffclass.decide import DiffusionClassifier
    from diffclass.robust.attack import Attack
    from diffclass.robust.gradient import Defence

__all__ = ["attack"]

_WIDE = 1024  # evaluations a call of mixtures

_EXAMPLES = """\b
Examples:
  diffclass attack digits --split test --model digits-mixture --threat linf:0.1 --limit 50
  diffclass attack path/to/mnist --split test --model mnist-mixture --threat l2:0.5 --limit 100 --out out/l2
"""


@click.command(epilog=_EXAMPLES)
@click.argument("dataset")
@model_options
@click.option("--threat", required=True, metavar="NORM:RADIUS", help="linf:8/255 or l2:0.5, pixels being in 0..1.")
@click.option(
    "--attacks", metavar="NAMES",
    help="Some of apgd-ce, apgd-dlr, apgd-t, apgd-exact (mixtures), square, random, transfer, reroll, by commas. "
    "[default: all that the model allows but apgd-dlr]",
)  # fmt: skip
@click.option("--steps", type=int, default=50, show_default=True, help="Gradient steps of a restart.")
@click.option("--restarts", type=int, default=1, show_default=True, help="Of attacks by gradients.")
@click.option("--queries", type=int, default=500, show_default=True, help="Looks of square and random.")
@click.option(
    "--noise", type=click.Choice(["fixed", "fresh"]), default="fixed", show_default=True,
    help="Of the attacker's looks: the same draws at every step, or new ones.",
)  # fmt: skip
@click.option("--eot", type=int, default=1, show_default=True, help="Sets of draws that a look averages over.")
@click.option("--attack-draws", type=int, help="Draws in a set, for every class. [default: the classifier's]")
@click.option("--purify", is_flag=True, help="Put likelihood maximisation in front of the classifier.")
@click.option("--purify-steps", type=int, default=5, show_default=True, help="Its steps.")
@click.option("--transfer-from", metavar="MODEL", help="Another model, whose gradients the attack transfer climbs.")
@click.option("--checks/--no-checks", default=True, show_default=True, help="Examine the gradients themselves.")
@race_options
@click.option("--split", help="Which part of the data set: train, validation or test.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many images, each class in its proportion.")
@picture_options("refuse")
@scale_options
@out_option("Keep results.jsonl, summary.json and run.json here; the same command goes on from them.")
@output_options
def attack(
    dataset: str, split: str | None, limit: int | None, out: Path | None, as_json: bool, quiet: bool, resize: Any,
    convert: bool, transfer_from: str | None, **settings: Any,
) -> None:  # fmt: skip
    """Search for small changes of pictures that fool a model, by exact gradients and without.

    What an attack finds is judged by the classifier itself. That none finds anything proves nothing: `diffclass
    certify` proves. Run the same command again to go on after an interruption.
    """
    from diffclass.bench.attacking import attack_dataset
    from diffclass.cli.render import fail_items, note, on_interrupt, progress, show, working
    from diffclass.data.datasets import open_dataset

    scale = take_scale(settings, out=out)
    with working(f"loading {settings['model']}"):
        defence, other, plan = _prepared(settings, transfer_from)
    part = open_dataset(dataset, split=split, classes=defence.classifier.classes_)
    if out is not None:
        on_interrupt(f"Stopped. '{out}' keeps what is done, and the same command goes on from there.")
    pictures: dict[str, Any] = {"resize": resize, "convert": convert}
    arguments = {"settings": settings, "transfer_from": transfer_from, "dataset": dataset, "split": split,
                 "limit": limit, "pictures": pictures}  # fmt: skip
    on_gpu = defence.classifier.denoiser.device.type == "cuda"
    with progress(f"attacking {part.name}") as update:
        attacked = attack_dataset(
            defence, part, plan, other=other, limit=limit, seed=settings["seed"], out=out, progress=update,
            shard=scale["shard"], elsewhere=choose_elsewhere(_attacker, arguments, scale, gpu=on_gpu), **pictures,
        )  # fmt: skip
    if len(attacked.failures) < attacked.n_images:
        show([_accuracies(attacked), *_checks(attacked)], attacked.summary(), as_json=as_json)
        for sign in attacked.signs:
            note(f"Take care: {sign}")
    fail_items(attacked.failures, of=attacked.n_images)


def _prepared(settings: dict[str, Any], transfer_from: str | None) -> "tuple[Defence, Defence | None, Attack]":
    """Load what is attacked and what gradients are taken from, and choose the attacks."""
    from dataclasses import replace

    from diffclass.robust.gradient import Defence

    plan = _plan(settings)  # read before anything is loaded
    defence = Defence(classifier=_classifier(settings), purifier=_purifier(settings))
    other = None
    if transfer_from is not None:
        named = {"model": transfer_from, "labels": defence.classifier.classes_}
        other = Defence(classifier=_classifier({**settings, **named}))
    plan = replace(plan, attacks=_names(settings, defence, plan, transfer=other is not None))
    return defence, other, plan


def _attacker(
    *, settings: Mapping[str, Any], transfer_from: str | None, dataset: str, split: str | None, limit: int | None,
    pictures: Mapping[str, Any],
) -> Callable[[Sequence[int]], list[dict[str, Any]]]:  # fmt: skip
    """Load the models and the data in another process, and return what attacks images by their indices."""
    from diffclass.bench.attacking import attack_rows, labelled_part
    from diffclass.data.datasets import open_dataset

    defence, other, plan = _prepared({**settings, "threads": None}, transfer_from)
    opened = open_dataset(dataset, split=split, classes=defence.classifier.classes_)
    part = labelled_part(defence, opened, limit, settings["seed"])

    def attacked(indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the rows of these images."""
        return list(attack_rows(defence, part, indices, plan, other=other, **pictures))

    return attacked


def _classifier(settings: dict[str, Any]) -> "DiffusionClassifier":
    """Load a model as a classifier; gradients go through networks as they are, not compiled."""
    from dataclasses import replace

    from diffclass.cli.build import build_classifier
    from diffclass.denoisers.analytic import ExactDenoiser

    names = ("model", "device", "dtype", "seed", "threads", "race", "draws", "delta", "vote")
    asked = settings["batch_size"] if isinstance(settings["batch_size"], int) else None
    classifier = build_classifier(
        **{name: settings[name] for name in names}, labels=settings.get("labels"), batch_size=asked
    )
    wide = asked is None and isinstance(classifier.denoiser, ExactDenoiser)  # which has a call a class
    return replace(classifier, batch_size=_WIDE) if wide else classifier


def _plan(settings: dict[str, Any]) -> "Attack":
    """Read the attack before anything is loaded."""
    from diffclass.robust.attack import Attack
    from diffclass.robust.gradient import Access
    from diffclass.robust.threat import Threat

    named = settings["attacks"]
    names: dict[str, Any] = {} if named is None else {"attacks": tuple(name.strip() for name in named.split(","))}
    return Attack(
        threat=Threat.parse(settings["threat"]),
        access=Access(noise=settings["noise"], eot=settings["eot"], n_draws=settings["attack_draws"]),
        seed=settings["seed"],
        **{name: settings[name] for name in ("steps", "restarts", "queries", "checks")},
        **names,
    )


def _names(settings: dict[str, Any], defence: "Defence", plan: "Attack", *, transfer: bool) -> tuple[str, ...]:
    """Return the attacks that were named, or all that can be run."""
    from diffclass.robust.attack import default_attacks

    return plan.attacks if settings["attacks"] else default_attacks(defence, plan.threat, transfer=transfer)


def _purifier(settings: dict[str, Any]) -> Any:
    """Build the purifier, if there is to be one."""
    from diffclass.robust.purify import LikelihoodMaximisation

    if not settings["purify"]:
        return None
    return LikelihoodMaximisation(n_steps=settings["purify_steps"], seed=settings["seed"])


def _accuracies(attacked: "Attacked") -> "Table":
    """Show accuracy under each attack, and under all together."""
    from diffclass.cli.render import table

    made = table(
        "attack", ">accuracy (95%)", ">on its own noise", ">gradients", ">evals",
        title=f"{attacked.config['attack']['threat']}, {attacked.n_images - len(attacked.failures)} images",
    )  # fmt: skip
    made.add_row("none", _estimate(attacked.clean), "", "", "")
    for one in attacked.attacks:
        cells = (f"{one.own_noise.value:.1%}", f"{one.gradients:,.0f}", f"{one.evaluations:,.0f}")
        made.add_row(one.attack, _estimate(one.accuracy), *cells)
    made.add_row("[bold]all[/]", _estimate(attacked.robust), "", "", "")
    return made


def _estimate(estimate: Any) -> str:
    return "—" if estimate is None else f"{estimate.value:.1%} ({estimate.low:.1%} – {estimate.high:.1%})"


def _checks(attacked: "Attacked") -> list["Table"]:
    """Show what was found out about the gradients."""
    from diffclass.cli.render import table

    if not attacked.checks:
        return []
    made = table("check of the gradients", ">value", title="checks")
    made.add_row("off finite differences by (median)", f"{attacked.checks['finite_difference_error']:.2%}")
    made.add_row("cosine on two sets of draws (median)", f"{attacked.checks['agreement']:.3f}")
    made.add_row("fooled with 8 times the budget", f"{attacked.checks['large_budget_fooled']:.1%}")
    return [made]
