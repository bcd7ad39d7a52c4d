"""`diffclass certify`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffclass.cli.elsewhere import choose_elsewhere, scale_options, take_scale
from diffclass.cli.options import model_options, out_option, output_options, picture_options, race_options

if TYPE_CHECKING:
    from rich.table import Table

    from diffclass.bench.certified import Certified
    from diffclass.data.datasets import Dataset
    from diffclass.robust import Smoothable

__all__ = ["certify"]

_EXAMPLES = """\b
Examples:
  diffclass certify photo.png --model cifar10 --sigma 0.25 --radius 0.25
  diffclass certify path/to/mnist --split test --model mnist-mixture --sigma 0.25 --sigma 0.5 --limit 500 --out out/m
"""


@click.command(epilog=_EXAMPLES)
@click.argument("targets", nargs=-1, required=True, metavar="IMAGE...|DATASET")
@model_options
@click.option(
    "--sigma", "sigmas", type=float, multiple=True, default=(0.25,), show_default=True,
    help="Std of the smoothing noise, pixels being in 0..1. May be given several times.",
)  # fmt: skip
@click.option("--n", type=int, default=10_000, show_default=True, help="Noisy copies, at most, that prove a radius.")
@click.option("--n0", type=int, help="Noisy copies that choose the label. [default: 100, or 20 with --radius]")
@click.option("--alpha", type=float, default=0.001, show_default=True, help="Chance that a certificate is false.")
@click.option("--radius", type=float, help="Stop as soon as this radius is proved or out of reach.")
@click.option(
    "--noised",
    type=click.Choice(["epndc", "apndc", "apndc-class", "exact"]),
    help="How copies are classified: exact posterior, denoised once first (apndc-class: told the class), or by the "
    "density itself, which mixtures have. [default: exact for mixtures, else apndc]",
)
@click.option(
    "--weight",
    type=click.Choice(["likelihood", "edm", "edm_official", "ddpm", "simple"]),
    help="Of noise levels in races. edm_official has the error of the code that Chen et al. published. [default: the "
    "model's]",
)
@click.option(
    "--denoise-with", metavar="MODEL",
    help="Denoise copies once by this model, and label them by --model, a network that `diffclass baseline` trained.",
)  # fmt: skip
@race_options
@click.option("--split", help="Which part of the data set: train, validation or test.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many images, each class in its proportion.")
@picture_options("refuse")
@scale_options
@click.option("--figure", type=click.Path(dir_okay=False, path_type=Path), help="Draw certified accuracy.")
@out_option("Keep results.jsonl, cohen-SIGMA.tsv, summary.json and run.json here; the same command goes on from them.")
@output_options
def certify(
    targets: tuple[str, ...], split: str | None, limit: int | None, figure: Path | None, out: Path | None,
    as_json: bool, quiet: bool, sigmas: tuple[float, ...], n: int, n0: int | None, alpha: float, radius: float | None,
    noised: str | None, weight: str | None, denoise_with: str | None, resize: Any, convert: bool, **settings: Any,
) -> None:  # fmt: skip
    """Prove within which radius no change of a picture alters its label, by randomized smoothing.

    The label is the one that most noisy copies of the picture get. With probability 1 - alpha it is the same for every
    picture within the radius (L2, pixels in 0..1). For a network, every copy is a race: choose --n with care. Run the
    same command again to go on after an interruption, in the middle of a picture too.
    """
    from diffclass.bench.certified_figure import draw_certified
    from diffclass.bench.certifying import certify_dataset, certify_items
    from diffclass.bench.figure import check_figure_path
    from diffclass.bench.pictures import picture_items
    from diffclass.cli.render import fail_items, note, on_interrupt, progress, show, working
    from diffclass.robust import Smoothing

    if figure is not None:
        check_figure_path(figure)
    scale = take_scale(settings, out=out)
    smoothing = Smoothing(n0=n0 if n0 is not None else 100 if radius is None else 20, n=n, alpha=alpha, radius=radius)
    chosen: dict[str, Any] = {"weight": weight, "noised": noised, "denoise_with": denoise_with}
    with working(f"loading {settings['model']}"):
        subject = _subject(settings, out=out, n_copies=smoothing.n0 + n, **chosen)
    if out is not None:
        on_interrupt(f"Stopped. '{out}' keeps what is done, and the same command goes on from there.")
    options: dict[str, Any] = {"sigmas": sigmas, "settings": smoothing, "resize": resize, "convert": convert}
    data = _dataset(targets, split, subject.classes)
    if data is None and (scale["shard"], scale["engine"]) != (None, "local"):
        raise click.BadParameter("pictures by name are certified here. Give a data set.", param_hint="'--shard'")
    with progress("certifying: noisy copies") as update:
        if data is None:
            certified = certify_items(subject, picture_items(targets)[:limit], out=out, progress=update, **options)
        else:
            arguments = {"settings": settings, "chosen": chosen, "options": options, "dataset": targets[0],
                         "split": split, "limit": limit, "speed": _speed(subject)}  # fmt: skip
            certified = certify_dataset(
                subject, data, limit=limit, seed=subject.seed, out=out, progress=update, shard=scale["shard"],
                elsewhere=choose_elsewhere(_certifier, arguments, scale, gpu=subject.device.type == "cuda"), **options,
            )  # fmt: skip
    tables = [_certificates(certified)] if data is None else [_accuracies(certified), _costs(certified)]
    if len(certified.failures) < certified.n_images:
        show(tables, certified.rows if data is None else certified.summary(), as_json=as_json)
    if figure is not None:
        note(f"drawn: {draw_certified(certified, figure, title=Path(settings['model']).name)}")
    fail_items(certified.failures, of=certified.n_images)


def _subject(
    settings: dict[str, Any], *, weight: str | None, noised: str | None, denoise_with: str | None, out: Path | None,
    n_copies: int,
) -> "Smoothable":  # fmt: skip
    """Load what is smoothed: a diffusion classifier, or a supervised network."""
    from diffclass.robust import SmoothedDiffusion

    subject = _baseline(settings, refused=(noised, weight), denoise_with=denoise_with)
    if subject is not None:
        return subject
    classifier = _classifier(settings, weight=weight, noised=noised, out=out, n_copies=n_copies)
    return SmoothedDiffusion(classifier, noised=noised)


def _speed(subject: "Smoothable") -> dict[str, Any]:
    """Return how a classifier's network is called, for another process to do the same."""
    from diffclass.cli.build import speed_of
    from diffclass.robust import SmoothedDiffusion

    return speed_of(subject.classifier) if isinstance(subject, SmoothedDiffusion) else {}


def _certifier(
    *, settings: Mapping[str, Any], chosen: Mapping[str, Any], options: Mapping[str, Any], speed: Mapping[str, Any],
    dataset: str, split: str | None, limit: int | None,
) -> Callable[[Sequence[int]], list[dict[str, Any]]]:  # fmt: skip
    """Load the model and the data in another process, and return what certifies images by their indices."""
    from diffclass.bench.certifying import certify_items
    from diffclass.data.datasets import open_dataset

    subject = _subject({**settings, "threads": None, **speed}, out=None, n_copies=1, **chosen)
    part = open_dataset(dataset, split=split, classes=subject.classes).at_most(limit, seed=subject.seed)

    def certified(indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the rows of these images, at every sigma."""
        rows = certify_items(subject, {i: part[i] for i in indices}, names=part.classes, **options).rows
        return [dict(row) for row in rows]

    return certified


def _baseline(
    settings: dict[str, Any], *, refused: tuple[str | None, ...], denoise_with: str | None
) -> "Smoothable | None":  # fmt: skip
    """Load a supervised network, behind a denoiser or not; None if the model is none."""
    from diffclass.cli.build import use_threads
    from diffclass.denoisers import load
    from diffclass.denoisers.catalogue import choose_device
    from diffclass.errors import InputError
    from diffclass.robust.supervised import SmoothedNetwork, SupervisedNetwork, is_supervised

    model, device = settings["model"], settings["device"]
    if not is_supervised(model):
        if denoise_with is not None:
            raise InputError(f"--denoise-with needs a --model that `diffclass baseline` trained. Got {model!r}.")
        return None
    if any(option is not None for option in refused):
        raise InputError("--noised and --weight are of diffusion classifiers, and --model is a supervised network.")
    use_threads(settings["threads"])
    denoiser = None if denoise_with is None else load(denoise_with, device=device, dtype=settings["dtype"])
    network = SupervisedNetwork.load(model, device=choose_device(device))
    return SmoothedNetwork(network, denoiser=denoiser, seed=settings["seed"])


def _classifier(
    settings: dict[str, Any], *, weight: str | None, noised: str | None, out: Path | None, n_copies: int
) -> Any:
    """Load a model as a classifier, with another weight if one is named, and at speed if its network will be called."""
    from dataclasses import replace

    from diffclass.cli.build import at_speed, build_classifier
    from diffclass.evidence import Objective
    from diffclass.robust import natural_noised

    speed = {name: settings[name] for name in ("batch_size", "compile")}
    classifier = build_classifier(**{name: value for name, value in settings.items() if name not in speed})
    if weight is not None:
        assert classifier.objective is not None
        named = Objective.from_settings({"weight": weight}, sigma_data=classifier.denoiser.space.data_std)
        classifier = replace(classifier, objective=replace(classifier.objective, weight=named.weight), temperature=None)
    if (noised or natural_noised(classifier.denoiser)) == "exact":
        return classifier
    return at_speed(classifier, n_images=n_copies, out=out, **speed)


def _dataset(targets: Sequence[str], split: str | None, classes: tuple[str, ...]) -> "Dataset | None":
    """Open what is named as a data set; None if it is pictures, or a folder of them."""
    from diffclass.data.datasets import open_dataset
    from diffclass.data.formats import PICTURES

    one = Path(targets[0])
    pictures = one.is_dir() and any(path.suffix.lower() in PICTURES for path in one.iterdir())
    if len(targets) > 1 or (split is None and (one.suffix.lower() in PICTURES or pictures)):
        return None
    return open_dataset(targets[0], split=split, classes=classes)


def _accuracies(certified: "Certified") -> "Table":
    """Show certified accuracy at each radius."""
    from diffclass.cli.render import table

    columns = [f">sigma {result.sigma:g} (95%)" for result in certified.results]
    made = table(">radius", *columns, title="certified accuracy")
    for radius in certified.radii:
        estimates = [result.certified_accuracy(radius) for result in certified.results]
        cells = ["—" if e is None else f"{e.value:.1%} ({e.low:.1%} – {e.high:.1%})" for e in estimates]
        made.add_row(f"{radius:g}", *cells)
    return made


def _costs(certified: "Certified") -> "Table":
    """Show what there is to say of each sigma beside."""
    from diffclass.cli.render import table

    made = table(">sigma", ">images", ">average radius", ">abstained", ">copies", ">evals", ">s", title="an image")
    for result in certified.results:
        radius, abstained = result.average_radius, result.abstentions
        made.add_row(
            f"{result.sigma:g}",
            f"{len(result.radii):,}",
            "—" if radius is None else f"{radius.value:.3f} ({radius.low:.3f} – {radius.high:.3f})",
            "—" if abstained is None else f"{abstained.value:.1%}",
            *(f"{values.mean():,.0f}" if len(values) else "—" for values in (result.copies, result.evaluations)),
            f"{result.seconds.mean():.2f}" if len(result.seconds) else "—",
        )
    return made


def _certificates(certified: "Certified") -> "Table":
    """Show the certificate of each picture."""
    from rich.markup import escape

    from diffclass.cli.render import table

    made = table("image", ">sigma", "label", ">radius", ">p at least", ">copies", "ended by", ">evals")
    for row in certified.rows:
        if "error" not in row:
            label = "[yellow]none[/]" if row["label"] is None else f"[bold]{escape(row['label'])}[/]"
            numbers = (f"{row['radius']:.3f}", f"{row['p_lower']:.4f}", f"{row['n0'] + row['n']:,}")
            cells = (*numbers, row["reason"], f"{row['evaluations']:,}")
            made.add_row(escape(row["image"]), f"{row['sigma']:g}", label, *cells)
    return made
