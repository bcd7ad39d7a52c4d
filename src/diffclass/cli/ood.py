"""`diffclass ood`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffclass.cli.options import (
    model_options,
    out_option,
    output_options,
    picture_options,
    pipeline_options,
    prompt_options,
)

if TYPE_CHECKING:
    from rich.table import Table

    from diffclass.bench.foreign import Foreign, Sets

__all__ = ["ood"]

_MADE = ("noise", "constant", "inverted", "upside-down")  # a test compares them with bench.foreign_sets
_DRAWS = 32
_NAMED = 5  # failures
_EXAMPLES = """\b
Examples:
  diffclass ood digits --model digits-mixture --out out/ood
  diffclass ood xrays.npz --model pneumonia --outside noise --outside photographs --outside mnist:test --convert
"""


@click.command(epilog=_EXAMPLES)
@click.argument("dataset")
@model_options
@prompt_options
@pipeline_options
@click.option(
    "--split", help="Part of DATASET that stands for the model's own pictures. [default: test, if it has splits]"
)
@click.option(
    "--fit-on", metavar="PATH[:SPLIT]",
    help="Pictures of the same kind that the model was not trained on, to fit the score on: never those that it is "
    "judged by. [default: the validation split of DATASET]",
)  # fmt: skip
@click.option(
    "--outside", "names", multiple=True, metavar="NAME|PATH[:SPLIT]",
    help=f"Pictures from outside: a folder of them, a data set, or made here ({', '.join(_MADE)}); give several. "
    "[default: all of those made here]",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(min=2), help="At most so many pictures of each set.")
@click.option("--draws", type=click.IntRange(min=4), help=f"Draws for each class. [default: {_DRAWS}, in whole blocks]")
@click.option("--one-sided", is_flag=True, help="Call errors that are too small usual: black pictures pass then.")
@picture_options("crop")
@out_option("Keep results.jsonl, summary.json, run.json and ood.png here; the same command goes on from them.")
@output_options
def ood(
    dataset: str, split: str | None, fit_on: str | None, names: tuple[str, ...], limit: int | None, draws: int | None,
    one_sided: bool, out: Path | None, as_json: bool, quiet: bool, resize: Any, convert: bool, **settings: Any,
) -> None:  # fmt: skip
    """Measure how well a model tells out-of-distribution pictures from its own, with AUROC and FPR95.

    The score of a picture is the error of its best class, in standard deviations of validation pictures at each noise
    level. DATASET is the model's own data, as in `diffclass evaluate`; labels are not used. A picture that was made
    larger or smaller to fit the model is foreign for that too.
    """
    from diffclass.bench.foreign import measure_foreign
    from diffclass.bench.foreign_figure import draw_foreign
    from diffclass.cli.build import at_speed, build_classifier
    from diffclass.cli.render import fail_items, note, on_interrupt, show, stages, working
    from diffclass.errors import InputError
    from diffclass.robust.supervised import is_supervised

    if is_supervised(settings["model"]):
        raise InputError("A supervised network has no errors to score pictures by. Give a diffusion model as --model.")
    speed = {name: settings.pop(name) for name in ("batch_size", "compile")}
    with working(f"loading {settings['model']}"):
        classifier = build_classifier(**settings)
    assert classifier.race is not None
    pictures: dict[str, Any] = {"resize": resize, "convert": convert}
    shape, seed = classifier.denoiser.space.image_shape, classifier.seed
    sets = _sets(dataset, split, fit_on, names or _MADE, shape, limit=limit, seed=seed, pictures=pictures)
    block = classifier.race.block
    n_draws = -(-_DRAWS // block) * block if draws is None else draws
    n_images = sum(map(len, (sets.fit, sets.inside, *sets.outside.values())))
    with working("preparing the network"):
        classifier = at_speed(classifier, n_images=n_images, out=out, **speed)
    if sets.fit.split == "train":
        note("The score is fitted on a training split: if the model was trained on it, its errors are too small, and "
             "every other picture looks foreign. Try --fit-on with other pictures.")  # fmt: skip
    if out is not None:
        on_interrupt(f"Stopped. '{out}' keeps what is measured, and the same command goes on from there.")
    with stages() as update:
        found = measure_foreign(
            classifier, sets, n_draws=n_draws, both_sides=not one_sided, out=out, progress=update, **pictures
        )
    show([_table(found, Path(settings["model"]).name)], found.summary(), as_json=as_json)
    if out is not None:
        title = f"{Path(settings['model']).name}: {sets.inside.name} and pictures from outside"
        note(f"drawn: {draw_foreign(found, out / 'ood.png', title=title)}")
    failures = [(item, f"{name}: {error}") for name, item, error in found.failures]
    fail_items(failures[:_NAMED], of=found.n_images, n=len(failures))


def _sets(
    dataset: str, split: str | None, fit_on: str | None, names: tuple[str, ...], shape: tuple[int, int, int], *,
    limit: int | None, seed: int, pictures: dict[str, Any],
) -> "Sets":  # fmt: skip
    """Open the pictures, the outside ones after a limit to those that they are made of."""
    from diffclass.bench.foreign import Sets
    from diffclass.bench.foreign_sets import open_outside, with_split
    from diffclass.data.unlabelled import open_pictures

    inside = open_pictures(dataset, split=split)
    if fit_on is not None:
        path, part = with_split(fit_on)
        fit = open_pictures(path, split=part, default="validation")
    elif inside.split is None:
        raise click.UsageError(f"'{dataset}' has no validation split. Give pictures to fit the score on with --fit-on.")
    else:
        fit = open_pictures(dataset, split="validation")
    few = inside.at_most(limit, seed=seed)
    outside = open_outside(names, few, shape, n=limit or len(few), seed=seed, **pictures)
    return Sets(fit=fit, inside=inside, outside=outside).at_most(limit, seed=seed)


def _table(found: "Foreign", model: str) -> "Table":
    """Show how well each set is told apart."""
    from rich.markup import escape

    from diffclass.cli.render import table

    inside, score = len(found.inside), found.score
    title = f"{model}: {inside} pictures inside, score fitted on {score.n} others"
    made = table("outside", ">pictures", ">AUROC", ">95% interval", ">FPR95", ">95% interval", title=escape(title))
    for name, one in found.sets.items():
        if one is None:
            made.add_row(escape(name), "—", "—", "", "—", "")
            continue
        a, f = one.auroc, one.fpr95
        made.add_row(
            escape(name), f"{len(one.scores):,}", f"[bold]{a.value:.3f}[/]", f"{a.low:.3f} – {a.high:.3f}",
            f"[bold]{f.value:.1%}[/]", f"{f.low:.1%} – {f.high:.1%}",
        )  # fmt: skip
    lines = [
        "AUROC: how often a picture from outside scores higher than one inside; 0.5 is chance.",
        "FPR95: the share from outside that passes where 95% of those inside do, the threshold taken as given.",
    ]
    if found.n_shared:
        lines.append(f"{found.n_shared} pictures inside are left out: the score was fitted on the same pictures.")
    made.caption, made.caption_justify = escape("\n".join(lines)), "left"
    return made
