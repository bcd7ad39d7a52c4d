"""Requests that nobody should send, by the thousand: the server must answer each with a result or one sentence.

    python benchmarks/fuzz_web.py --requests 10000 --out runs/fuzz-web

The requests are those of the tests (tests/web_fuzzing.py), made by hypothesis from a seed: damaged pictures, parameters
of any kind, strange headers. An answer that is neither ends the run with the request, shrunk.
"""

import json
import resource
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def peak_megabytes() -> float:
    """[MB] Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


@click.command()
@click.option("--requests", "n", type=click.IntRange(min=1), default=10_000, show_default=True)
@click.option("--seed", "chosen", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of fuzz_web.json.")
def main(n: int, chosen: int, out: Path | None) -> None:
    """Send requests made at random, and count the answers."""
    from hypothesis import HealthCheck, given, seed, settings

    from tiny_web import client_of, tiny_app
    from web_fuzzing import REQUESTS, check

    warnings.simplefilter("ignore")
    statuses: Counter[int] = Counter()
    started = time.monotonic()
    with client_of(tiny_app()) as client:
        client.post("/api/v1/classify?model=tiny&sample=digits-1")
        before = peak_megabytes()

        @seed(chosen)
        @settings(max_examples=n, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(request=REQUESTS)
        def send(request: dict[str, Any]) -> None:
            statuses[check(client, request)] += 1

        send()
        health = client.get("/healthz").json()
    found = {
        "requests": sum(statuses.values()),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "seconds": round(time.monotonic() - started, 1),
        "megabytes": {"before": round(before), "peak": round(peak_megabytes())},
        "in_hand": health["pictures"] + health["certificates"],
        "seed": chosen,
    }
    text = json.dumps(found, indent=2)
    click.echo(text)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "fuzz_web.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
