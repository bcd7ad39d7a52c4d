"""`diffclass report`."""

from pathlib import Path

import click

from diffclass.cli.options import output_options

__all__ = ["report"]

_EXAMPLES = """\b
Examples:
  diffclass evaluate digits --split test --model digits --out runs/test
  diffclass report runs/test
  diffclass evaluate digits --split validation --model digits --out runs/validation
  diffclass report runs/test --validation runs/validation --alpha 0.1
"""


@click.command(epilog=_EXAMPLES)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--validation", type=click.Path(path_type=Path), metavar="RUN",
    help="A run of the same model on other pictures, to fit a temperature, isotonic maps and conformal sets on.",
)  # fmt: skip
@click.option(
    "--alpha", type=float, help="Make conformal sets that miss so large a share of labels. Needs --validation."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of intervals that resample.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The page. [default: RUN/report.html]")
@output_options
def report(
    run: Path, validation: Path | None, alpha: float | None, seed: int, out: Path | None, as_json: bool, quiet: bool
) -> None:
    """Make one page of a run: figures with intervals, mistakes, calibration, uncertainty and examples.

    RUN is the folder that `diffclass evaluate --out` wrote. The page holds its
    pictures and refers to nothing outside.
    """
    from diffclass.bench.page import write_page
    from diffclass.bench.report import make_report
    from diffclass.bench.run import Run
    from diffclass.cli.estimates import estimates_table, selective_table
    from diffclass.cli.render import note, show, working

    with working("reading the run"):
        read = Run.load(run)
        other = None if validation is None else Run.load(validation)
        made = make_report(read, validation=other, alpha=alpha, seed=seed)
    path = out or run / "report.html"
    with working("drawing"):
        missing = write_page(made, path)
    summary = made.summary()
    tables = [estimates_table(summary["metrics"], title=read.title), selective_table(summary["selective"])]
    show(tables, {"page": str(path), "missing": missing, **summary}, as_json=as_json)
    for sentence in missing:
        note(f"Without pictures: {sentence}")
    note(f"saved: {path}")
