"""`diffclass web`."""

import json
import sys
from importlib.util import find_spec

import click

from diffclass.cli.options import output_options

__all__ = ["web"]

_EXAMPLES = """\b
Examples:
  diffclass web
  diffclass web --model models/mine --model cifar10
  diffclass web --host 0.0.0.0 --token auto
"""


@click.command(epilog=_EXAMPLES)
@click.option(
    "--model", "models", multiple=True, metavar="MODEL",
    help="Offer this one: a bundled name, directory, safetensors file or owner/name. May be given several times. "
    "[default: all that come with the package]",
)  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto takes a GPU where there is one.")
@click.option(
    "--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto", show_default=True,
    help="Number format of networks.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of the noise.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="Evaluations a network call. [default: 256, or 64 on a CPU]"
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: all cores]")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Where to listen; beyond this computer with --token."
)
@click.option("--port", type=int, default=8765, show_default=True, help="0 takes one that is free.")
@click.option("--token", help="That requests must bear, 16 characters or more; auto makes one.")
@click.option("--allow-host", "hosts", multiple=True, metavar="NAME", help="A name that this computer is called by.")
@click.option(
    "--waiting", default=64, show_default=True, help="Pictures in hand at once; others are told to come back."
)
@click.option("--max-upload", default=10.0, show_default=True, help="[MB] Largest picture file.")
@output_options
def web(
    models: tuple[str, ...], device: str, dtype: str, seed: int, batch_size: int | None,
    threads: int | None, host: str, port: int, token: str | None, hosts: tuple[str, ...], waiting: int,
    max_upload: float, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Serve a page to classify pictures on, and the same as a JSON API.

    The page shows the race of the classes while it runs, the answer with its evidence, and certificates. Nothing
    that is sent is kept. Only this computer can reach it, unless --host says otherwise; then whoever comes needs the
    token.
    """
    from diffclass.cli.build import use_threads
    from diffclass.cli.render import on_interrupt, working
    from diffclass.errors import MissingExtra

    if any(find_spec(name) is None for name in ("fastapi", "uvicorn")):
        raise MissingExtra("The page needs fastapi and uvicorn: pip install 'diffclass[web]'.")
    from diffclass.web import Address, Limits, Offer, create_app, make_token, serve

    address = Address(host=host, port=port, token=make_token() if token == "auto" else token)
    limits = Limits(waiting=waiting, upload=round(max_upload * 2**20))
    with address.listen() as listener:
        use_threads(threads)
        with working("loading"):
            offer = Offer(models, device=device, dtype=dtype, seed=seed, batch_size=batch_size)
            app = create_app(offer, limits=limits, token=address.token, hosts=[*hosts, address.name])
        url = address.url(listener.getsockname()[1])
        here = f"diffclass is at {url}  (stop it with Ctrl-C)"
        click.echo(json.dumps({"url": url}) if as_json or not sys.stdout.isatty() else here)
        on_interrupt("Stopped.")
        serve(app, listener)
