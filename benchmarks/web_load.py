"""Many clients of the page's API at once, beside one: latency, throughput, memory, and whether every answer is right.

    python benchmarks/web_load.py --model digits --clients 32 --seconds 60 --out runs/bench-web

The server is `diffclass web` in a process of its own, on loopback; clients are threads of this process with a
connection each, which send the next picture when the last one is answered. First one client alone, then all of them,
for the same time. Pictures are test digits; what the server must say was asked of the library before. A request that is
refused as busy is sent again after what Retry-After says, and counted.
"""

import http.client
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click


@dataclass
class Tally:
    """What the clients of one part of the run saw."""

    latencies: list[float] = field(default_factory=list)
    busy: int = 0
    wrong: int = 0
    lost: int = 0

    def summary(self, seconds: float) -> dict[str, Any]:
        """Return the numbers of a part."""
        times = sorted(self.latencies)
        nearest = {f"p{q}_ms": round(1e3 * times[min(len(times) - 1, len(times) * q // 100)], 1) for q in (50, 95)}
        mean = round(1e3 * statistics.fmean(times), 1)
        counts = {"answers": len(times), "busy": self.busy, "wrong": self.wrong, "lost": self.lost}
        return {**counts, "per_second": round(len(times) / seconds, 2), "mean_ms": mean, **nearest}


@contextmanager
def server(model: str, threads: int, clients: int) -> Iterator[tuple[str, int]]:
    """Run `diffclass web`; say where, and as which process."""
    command = [sys.executable, "-m", "diffclass", "web", "--port", "0", "--model", model, "--threads", str(threads)]
    process = subprocess.Popen([*command, "--waiting", str(2 * clients)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            sys.exit("The server did not start.")
        yield json.loads(line)["url"], process.pid
    finally:
        process.terminate()
        process.wait(20)


def memory(pid: int) -> dict[str, float]:
    """[MB] Resident size of a process, now and at most; empty where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return {}
    found = dict(re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", text))
    return {"now": round(int(found["VmRSS"]) / 1024), "peak": round(int(found["VmHWM"]) / 1024)}


def pictures(model: str, n: int, threads: int) -> list[tuple[bytes, str | None]]:
    """Return test digits as PNG files, and what the library says of each at the server's batch size."""
    import numpy as np
    import torch
    from PIL import Image

    from diffclass.data import load_image, open_dataset
    from diffclass.web import Offer

    torch.set_num_threads(threads)
    test = open_dataset("digits", split="test")
    classifier = Offer([model]).classifier(model)
    files = []
    for index in range(n):
        out = BytesIO()
        Image.fromarray((np.asarray(test[index].read()) * 255).round().astype(np.uint8)).save(out, format="PNG")
        files.append(out.getvalue())
    shape = classifier.denoiser.space.image_shape
    decisions = classifier.classify(torch.stack([load_image(content, shape) for content in files]))
    return [(content, decision.label) for content, decision in zip(files, decisions, strict=True)]


def client(
    url: str, model: str, files: Sequence[tuple[bytes, str | None]], first: int, end: float, tally: Tally
) -> None:
    """Send pictures one after another until the time is over."""
    place, turn = urlsplit(url), first
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    while time.monotonic() < end:
        content, label = files[turn % len(files)]
        started = time.monotonic()
        try:
            connection.request("POST", f"/api/v1/classify?model={model}", body=content)
            response = connection.getresponse()
            said = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            tally.lost += 1
            connection.close()
            continue
        if response.status == 503:
            tally.busy += 1
            time.sleep(float(response.headers["retry-after"]))
            continue
        tally.latencies.append(time.monotonic() - started)
        tally.wrong += response.status != 200 or said["label"] != label
        turn += 1
    connection.close()


def part(
    url: str, model: str, files: Sequence[tuple[bytes, str | None]], clients: int, seconds: float
) -> dict[str, Any]:
    """Let so many clients loose for so long."""
    tallies = [Tally() for _ in range(clients)]
    started = time.monotonic()
    threads = [
        threading.Thread(target=client, args=(url, model, files, 7 * i, started + seconds, tally))
        for i, tally in enumerate(tallies)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = Tally([one for tally in tallies for one in tally.latencies])
    for name in ("busy", "wrong", "lost"):
        setattr(whole, name, sum(getattr(tally, name) for tally in tallies))
    return {"clients": clients, **whole.summary(time.monotonic() - started)}


@click.command()
@click.option("--model", default="digits", show_default=True)
@click.option("--clients", type=click.IntRange(1, 256), default=32, show_default=True)
@click.option("--seconds", type=click.FloatRange(1, 600), default=60.0, show_default=True, help="Of each part.")
@click.option("--pictures", "n", type=click.IntRange(1, 500), default=100, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of the server.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of web_load.json.")
def main(model: str, clients: int, seconds: float, n: int, threads: int, out: Path | None) -> None:
    """Measure a server on this computer."""
    files = pictures(model, n, threads)
    with server(model, threads, clients) as (url, pid):
        part(url, model, files, 1, 1.0)  # loads the model
        before = memory(pid)
        alone = part(url, model, files, 1, seconds)
        together = part(url, model, files, clients, seconds)
        found = {
            "model": model, "threads": threads, "seconds": seconds, "alone": alone, "together": together,
            "throughput_ratio": round(together["per_second"] / alone["per_second"], 2),
            "server_megabytes": {"before": before.get("now"), "after": memory(pid).get("now"),
                                 "peak": memory(pid).get("peak")},
        }  # fmt: skip
    text = json.dumps(found, indent=2)
    click.echo(text)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "web_load.json").write_text(text + "\n", encoding="utf-8")
    if together["wrong"] or together["lost"] or alone["wrong"] or alone["lost"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
