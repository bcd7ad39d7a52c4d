"""Wall clock against a plain loop, and how much of the machine's matrix-product speed the network reaches.

    python benchmarks/speed.py --model cifar10 --data path/to/cifar10-jpeg --out runs/bench-speed

The plain loop is written the way published scripts work: one image after the other, one class after the other, the
draws of that class in batches, without compiling. It has the same network, noise levels, noise and weights as the
engine, and in half precision also the layout and the group norms with which diffclass loads networks: only batching,
compiling and racing tell them apart. Throughput is compared with the largest matrix-product speed measured here, in
the same number format. A row that is done is not run again.
"""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import diffclass
from diffclass.data import open_dataset, versions, write_json_atomic
from diffclass.decide import DiffusionClassifier, Exhaustive, PairedRace
from diffclass.denoisers import Denoiser
from diffclass.denoisers.compiled import compile_denoiser, is_compiled
from diffclass.denoisers.pixel import PixelDenoiser
from diffclass.denoisers.throughput import evaluations_per_second
from diffclass.evidence import Draws, Race
from diffclass.noise import image_key
from diffclass.stats.interval import wilson

Row = dict[str, Any]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def plain_loop(classifier: DiffusionClassifier, images: Tensor, *, batch: int) -> Row:
    """Classify image by image, class by class."""
    denoiser, objective, race = classifier.denoiser, classifier.objective, classifier.race
    assert objective is not None
    assert race is not None
    span = classifier.engine().sigma_range()
    conditions = denoiser.condition_on(classifier.classes_)
    labels = []
    started = time.perf_counter()
    for image in images:
        draws = Draws.place(
            objective, span, n=race.n_draws, block=race.block, seed=classifier.seed, key=image_key(image)
        )  # fmt: skip
        x = denoiser.encode(image[None].to(denoiser.device))
        epsilon = draws.epsilon(range(len(draws)), tuple(x.shape[1:])).to(denoiser.device)
        sigmas = torch.tensor(draws.sigmas, dtype=torch.float32, device=denoiser.device)
        weights = torch.tensor(draws.weights, dtype=torch.float64)
        total = []
        for c in range(len(classifier.classes_)):
            errors = []
            for first in range(0, len(draws), batch):
                sigma = sigmas[first : first + batch]
                noisy = x + sigma[:, None, None, None] * epsilon[first : first + batch]
                classes = torch.full((len(sigma),), c, device=denoiser.device)
                denoised = denoiser(noisy, sigma, conditions[classes])
                errors.append((denoised - x).square().flatten(1).sum(1).cpu())
            total.append(float((weights * torch.cat(errors).double()).mean()))
        labels.append(classifier.classes_[int(np.argmin(total))])
    n = len(images) * race.n_draws * len(classifier.classes_)
    return {"labels": labels, "evaluations": n, "seconds": time.perf_counter() - started}


class Clock:
    """The time that a network's calls take: of the CPU's, which does not wait for a GPU."""

    def __init__(self, network: nn.Module) -> None:
        self.seconds, self.calls = 0.0, 0
        self._started = 0.0
        self._hooks = [network.register_forward_pre_hook(self._start), network.register_forward_hook(self._stop)]

    def _start(self, *_: Any) -> None:
        self._started = time.perf_counter()

    def _stop(self, *_: Any) -> None:
        self.seconds, self.calls = self.seconds + time.perf_counter() - self._started, self.calls + 1

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


def engine_run(classifier: DiffusionClassifier, images: Tensor) -> Row:
    """Classify with the engine, and time the network in it."""
    denoiser: Any = classifier.denoiser
    assert isinstance(denoiser.network, nn.Module)
    classifier.classify(images[:1])  # warm up
    clock = Clock(denoiser.network)
    started = time.perf_counter()
    decisions = classifier.classify(images)
    seconds = time.perf_counter() - started
    clock.remove()
    row: Row = {
        "labels": [decision.leader for decision in decisions], "evaluations": sum(d.evaluations for d in decisions),
        "seconds": seconds, "batches": clock.calls, "compiled": is_compiled(denoiser),
    }  # fmt: skip
    if denoiser.device.type == "cpu":
        row["seconds_in_network"] = clock.seconds
    return row


@torch.inference_mode()
def flops_per_evaluation(denoiser: Denoiser, n: int = 8) -> float:
    """Count the floating-point operations of an evaluation's matrix products, attention included, and convolutions."""
    device = denoiser.device
    told = denoiser.condition_on(denoiser.classes or ("cat", "dog"))
    conditions = told[torch.zeros(n, dtype=torch.int64, device=device)]
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # a CPU's fused one is not counted
        denoiser(torch.zeros(n, *denoiser.space.shape, device=device), torch.ones(n, device=device), conditions)
    return counter.get_total_flops() / n


@torch.inference_mode()
def matmul_flops(device: torch.device, dtype: torch.dtype, *, seconds: float = 0.5) -> float:
    """Measure the largest matrix-product speed [floating-point operations a second] over square sizes."""
    best = 0.0
    for size in (1024, 2048, 4096, 8192) if device.type == "cuda" else (512, 1024, 2048):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        times: list[float] = []
        while len(times) < 4 or sum(times) < seconds:
            wait(device)
            started = time.perf_counter()
            torch.mm(a, b)
            wait(device)
            times.append(time.perf_counter() - started)
        best = max(best, 2 * size**3 / min(times[1:]))
    return best


def race_of(base: DiffusionClassifier, draws: int) -> Race:
    """Return the model's own race, or one with another budget."""
    assert base.race is not None
    return base.race if base.race.n_draws == draws else PairedRace(n_draws=draws, block=base.race.block)


def measured(path: Path, run: Callable[[], Row]) -> Row:
    """Run once, and keep the result."""
    if not path.is_file():
        click.echo(f"{path.stem} ...", err=True)
        write_json_atomic(path, run())
    return json.loads(path.read_text())


def rows_of(
    base: dict[str, DiffusionClassifier], images: Tensor, *, draws: int, plain_batch: int, compiling: bool, out: Path
) -> dict[str, Row]:
    """Measure every row of the table."""
    half = base["bfloat16"]
    assert half.race is not None
    exhaustive = Exhaustive(n_draws=draws, block=half.race.block)
    rows: dict[str, Row] = {}
    for dtype, classifier in base.items():
        plain = replace(classifier, race=exhaustive)
        rows[f"plain loop, {dtype}"] = measured(
            out / f"plain-{dtype}.json", lambda plain=plain: plain_loop(plain, images, batch=plain_batch)
        )  # fmt: skip
    for name, race in (("exhaustive", exhaustive), ("race", race_of(half, draws))):
        for compiled in (False, True)[: 1 + compiling]:
            title = f"engine, {name}, bfloat16{', compiled' if compiled else ''}"
            path = out / f"engine-{name}{'-compiled' if compiled else ''}.json"

            def run(compiled: bool = compiled, race: Race = race) -> Row:
                denoiser = half.denoiser
                fast = compile_denoiser(denoiser, batch_size=half.batch_size) if compiled else denoiser
                return engine_run(replace(half, denoiser=fast, race=race), images)

            rows[title] = measured(path, run)
    return rows


def utilisation(denoiser: PixelDenoiser, rows: dict[str, Row], *, batch_size: int, compiling: bool) -> Row:
    """Compare the network's throughput, alone and in the engine, with matrix products of the same number format."""
    assert denoiser.dtype is not None
    flops, peak = flops_per_evaluation(denoiser), matmul_flops(denoiser.device, denoiser.dtype)
    found: Row = {"flops_per_evaluation": flops, "matmul_flops": peak, "dtype": str(denoiser.dtype), "rows": {}}
    alone = {"network alone, full batches": evaluations_per_second(denoiser, batch_size, seconds=1.0)}
    if compiling:
        fast = compile_denoiser(denoiser, batch_size=batch_size)
        alone["network alone, full batches, compiled"] = evaluations_per_second(fast, batch_size, seconds=1.0)
    for name, rate in alone.items():
        found["rows"][name] = {"evaluations_per_second": rate, "of_peak": rate * flops / peak, "outside": None}
    for name, row in rows.items():
        if "batches" in row:
            rate, inside = row["evaluations"] / row["seconds"], row.get("seconds_in_network")
            outside = None if inside is None else 1 - inside / row["seconds"]
            found["rows"][name] = {"evaluations_per_second": rate, "of_peak": rate * flops / peak, "outside": outside}
    return found


def table_of(rows: dict[str, Row], truth: list[str]) -> list[Row]:
    """Compare every row with the two plain loops."""
    names = list(rows)
    slow, half, n = rows[names[0]], rows[names[1]], len(truth)
    table = []
    for name, row in rows.items():
        same = sum(a == b for a, b in zip(row["labels"], slow["labels"], strict=True))
        right = sum(a == b for a, b in zip(row["labels"], truth, strict=True))
        agreement, accuracy = wilson(same, n), wilson(right, n)
        table.append(
            {
                "name": name, "seconds": row["seconds"], "evaluations": row["evaluations"],
                "evaluations_per_second": row["evaluations"] / row["seconds"],
                "speedup_float32": slow["seconds"] / row["seconds"],
                "speedup_bfloat16": half["seconds"] / row["seconds"],
                "agreement": [agreement.value, agreement.low, agreement.high, n],
                "accuracy": [accuracy.value, accuracy.low, accuracy.high, n],
            }
        )  # fmt: skip
    return table


def show(table: list[Row], use: Row) -> None:
    """Print both tables."""
    click.echo(
        f"| | seconds | evaluations/s | against float32 loop | bfloat16 loop | same label | accuracy |\n|{'---|' * 7}"
    )
    for row in table:
        speeds = [f"{row['speedup_float32']:.1f}x", f"{row['speedup_bfloat16']:.1f}x"]
        shares = ["{:.3f} ({:.3f} to {:.3f})".format(*row[key]) for key in ("agreement", "accuracy")]
        cells = [row["name"], f"{row['seconds']:.1f}", f"{row['evaluations_per_second']:,.0f}", *speeds, *shares]
        click.echo(f"| {' | '.join(cells)} |")
    flops, peak = use["flops_per_evaluation"], use["matmul_flops"]
    click.echo(
        f"\n{flops / 1e6:,.1f} MFLOP an evaluation; matrix products in {use['dtype']}: {peak / 1e9:,.0f} GFLOP/s\n"
    )
    click.echo(f"| | evaluations/s | of matrix-product speed | time outside the network |\n|{'---|' * 4}")
    for name, row in use["rows"].items():
        outside = "" if row["outside"] is None else f"{row['outside']:.1%}"
        click.echo(f"| {name} | {row['evaluations_per_second']:,.0f} | {row['of_peak']:.1%} | {outside} |")


@click.command()
@click.option("--model", default="digits", show_default=True)
@click.option("--data", default="digits", show_default=True)
@click.option("--images", default=20, show_default=True)
@click.option("--draws", default=128, show_default=True, help="Draws a class of the plain loop, and the race's budget.")
@click.option("--plain-batch", default=32, show_default=True, help="Draws a call of the plain loop.")
@click.option("--batch-size", default=256, show_default=True, help="Of the engine.")
@click.option("--compile/--no-compile", "compiling", default=True, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--threads", default=0, help="CPU threads; 0: all cores.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(
    model: str, data: str, images: int, draws: int, plain_batch: int, batch_size: int, compiling: bool, device: str,
    threads: int, seed: int, out: Path,
) -> None:  # fmt: skip
    """Compare the engine with a plain loop, and with the machine."""
    if threads:
        torch.set_num_threads(threads)
    options: dict[str, Any] = {"device": device, "batch_size": batch_size, "seed": seed}
    base = {
        dtype: DiffusionClassifier.from_pretrained(model, dtype=dtype, **options) for dtype in ("float32", "bfloat16")
    }
    half = base["bfloat16"]
    dataset = open_dataset(data, split="test", classes=half.classes_).sample(images, seed=seed)
    batch, labels = dataset.array(half.denoiser.space.image_shape)
    out.mkdir(parents=True, exist_ok=True)
    rows = rows_of(base, batch, draws=draws, plain_batch=plain_batch, compiling=compiling, out=out)
    table = table_of(rows, [half.classes_[i] for i in labels.tolist()])
    denoiser = half.denoiser
    assert isinstance(denoiser, PixelDenoiser)
    use = utilisation(denoiser, rows, batch_size=batch_size, compiling=compiling)
    settings = {
        "model": model, "images": images, "draws": draws, "plain_batch": plain_batch, "batch_size": batch_size,
        "seed": seed, "race": repr(race_of(half, draws)), "threads": torch.get_num_threads(),
        "versions": versions(device=str(denoiser.device)), "diffclass": diffclass.__version__,
    }  # fmt: skip
    write_json_atomic(out / "table.json", {"settings": settings, "table": table, "utilisation": use})
    show(table, use)


if __name__ == "__main__":
    main()
