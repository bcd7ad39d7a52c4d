"""`diffclass push`."""

from pathlib import Path

import click

from diffclass.cli.options import output_options

__all__ = ["push"]

_EXAMPLES = """\b
Examples:
  diffclass calibrate digits digits --split test --out runs/digits
  diffclass push runs/digits/model owner/digits --private
"""


@click.command(epilog=_EXAMPLES)
@click.argument("model")
@click.argument("repository")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--message", help="What the hub's history says.")
@output_options
def push(model: str, repository: str, private: bool, message: str | None, as_json: bool, quiet: bool) -> None:
    """Upload a model directory to the Hugging Face hub, with its classifier, figures and card.

    MODEL is a directory with a diffclass.json or a bundled name; REPOSITORY is owner/name, made if it is not there.
    Log in with `hf auth login` before.
    """
    from diffclass.cli.render import note, show, table, working
    from diffclass.decide.saving import push_directory
    from diffclass.denoisers.catalogue import read_card

    own = (Path(model) / "diffclass.json").is_file()  # a fine-tuned or supervised model has no card to be read
    path = Path(model) if own else read_card(model).path
    with working(f"uploading {model}"):
        address = push_directory(path, repository, private=private or None, commit_message=message)
    made = table("model", "uploaded to")
    made.add_row(str(model), address)
    show([made], {"model": str(path), "repository": repository, "commit": address}, as_json=as_json)
    note(f"uploaded: {address}")
