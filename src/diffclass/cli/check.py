"""`diffclass check`."""

import click

from diffclass.cli.options import output_options

__all__ = ["check"]


@click.command()
@click.argument("model")
@click.option("--device", default="auto", show_default=True, help="auto takes a GPU where there is one.")
@click.option(
    "--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True,
    help="Number format of networks.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of images and noise.")
@click.option("--data", metavar="DATASET", help="Try the model on images of this set rather than on random ones.")
@click.option("--split", help="Which part of the data set: train, validation or test.")
@output_options
def check(
    model: str, device: str, dtype: str, seed: int, data: str | None, split: str | None, as_json: bool, quiet: bool
) -> None:
    """Check that a model keeps what the classifier relies on: shapes, noise levels, classes, determinism.

    MODEL is a bundled name, a directory, or owner/name on the Hugging Face hub.
    """
    from diffclass.cli.render import show, table, working
    from diffclass.data.datasets import open_dataset
    from diffclass.denoisers.catalogue import load
    from diffclass.denoisers.conformance import check_denoiser

    with working(f"checking {model}"):
        denoiser = load(model, device=device, dtype=dtype)
        images = None
        if data is not None:
            part = open_dataset(data, split=split).sample(8, seed=seed)
            images, _ = part.array(denoiser.space.image_shape, resize="crop")
        report = check_denoiser(denoiser, seed=seed, images=images)
    made = table("check", "result", "detail", title=model)
    for one in report.checks:
        made.add_row(one.name, "[green]ok[/]" if one.passed else "[bold red]failed[/]", one.detail)
    checks = [{"name": one.name, "passed": one.passed, "detail": one.detail} for one in report.checks]
    show([made], {"model": model, "passed": report.passed, "checks": checks}, as_json=as_json)
    raise click.exceptions.Exit(0 if report.passed else 1)
