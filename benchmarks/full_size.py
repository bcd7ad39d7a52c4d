"""Published architectures at their full size: seconds an evaluation, share of the machine's speed, peak memory.

    python benchmarks/full_size.py --family sd1.5 --batch-size 1 --evaluations 2 --out runs/full-size.json

Networks have their published configurations and random weights, so nothing is downloaded and no answer means anything.
The same evaluations (one image, two prompts) go through the engine and the family's adapter, and through a plain loop
as published scripts have it: the network as it is, one class after the other, in float32 and in bfloat16. One
evaluation alone goes through the adapter, cold, and has no plain loop beside it. Floating-point operations are those of
matrix products and convolutions, and the speed that they are compared with is the largest of matrix products measured
here in the same number format. Peak memory is of the GPU, or the resident size of the process, with its libraries.

A row that is in the file is not measured again.
"""

import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import torch
from architectures import ARCHITECTURES, Architecture
from memory import peak_megabytes
from speed import engine_run, matmul_flops, plain_loop, wait

import diffclass
from diffclass.data import write_json_atomic
from diffclass.decide import DiffusionClassifier, Exhaustive
from diffclass.denoisers import PipelineDenoiser
from diffclass.denoisers.catalogue import choose_device
from diffclass.denoisers.precision import fastest_dtype, place_network
from diffclass.train.run import hardware

Row = dict[str, Any]
PROMPTS = ("a cat", "a dog")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ROOM = 1.3  # times the weights: what else a small batch needs, roughly


def available_bytes(device: torch.device) -> int | None:
    """Return the memory that is free on a device, if it can be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), None)


@contextmanager
def peak_memory(device: torch.device, row: Row) -> Iterator[None]:
    """Put into a row the largest memory [bytes] while something runs."""
    reset = Path("/proc/self/clear_refs")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif reset.exists():
        reset.write_text("5")  # the peak resident size starts anew
    yield
    row["peak_bytes"] = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident()


def peak_resident() -> int:
    """[bytes] Largest resident size since it was reset, or of this process where it cannot be."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return int(peak_megabytes() * 2**20)
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def classifier_of(denoiser: PipelineDenoiser, evaluations: int, batch_size: int) -> DiffusionClassifier:
    """Ask for so many evaluations of one image, half of them for each of two prompts."""
    race = Exhaustive(n_draws=evaluations // len(PROMPTS), block=1)
    return DiffusionClassifier(denoiser=denoiser, classes=PROMPTS, race=race, batch_size=batch_size)


@torch.inference_mode()
def one_call(denoiser: PipelineDenoiser) -> Row:
    """Evaluate once, cold."""
    conditions = denoiser.condition_on(PROMPTS[:1])
    noisy = torch.randn(1, *denoiser.space.shape, generator=torch.Generator().manual_seed(0)).to(denoiser.device)
    sigma = torch.ones(1, device=denoiser.device)
    wait(denoiser.device)
    started = time.perf_counter()
    denoiser(noisy, sigma, conditions)
    wait(denoiser.device)
    return {"seconds": time.perf_counter() - started, "evaluations": 1}


def measure(architecture: Architecture, name: str, settings: Row, device: torch.device) -> Row:
    """Build a network and measure one row; the network is gone afterwards."""
    dtype, n, batch_size = DTYPES[settings["dtype"]], settings["evaluations"], settings["batch_size"]
    row: Row = {}
    with peak_memory(device, row):
        network = architecture.fill(device, dtype)
        row["weights"] = sum(p.numel() for p in network.parameters())
        if name != "plain loop":  # which has the network as it is
            place_network(network, device=device, dtype=dtype)
        denoiser = architecture.denoiser(network, device)
        image = torch.rand(1, *denoiser.space.image_shape, generator=torch.Generator().manual_seed(0))
        if n == 1:
            found = one_call(denoiser)
        elif name == "engine":
            found = engine_run(classifier_of(denoiser, n, batch_size), image)
        else:
            warm = classifier_of(denoiser, len(PROMPTS) * min(batch_size, n // len(PROMPTS)), batch_size)
            plain_loop(warm, image, batch=batch_size)
            found = plain_loop(classifier_of(denoiser, n, batch_size), image, batch=batch_size)
    del network, denoiser
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return row | {key: found[key] for key in ("seconds", "evaluations", "seconds_in_network") if key in found}


def rows_of(families: tuple[str, ...], options: Row, plain: bool, device: torch.device) -> Iterator[tuple[str, Row]]:
    """List what is measured: name of a row, and what tells it from others in a file."""
    machine = {"device": str(device), "hardware": hardware(device), "torch": torch.__version__}
    for family in families:
        kinds = [("adapter" if options["evaluations"] == 1 else "engine", options["dtype"])]
        if plain and options["evaluations"] > 1:
            kinds += [("plain loop", "float32"), ("plain loop", "bfloat16")]
        for name, dtype in kinds:
            yield name, {**options, **machine, "family": family, "row": name, "dtype": dtype}


def refuse_what_does_not_fit(architecture: Architecture, dtype: torch.dtype, device: torch.device) -> None:
    """Tell before the machine does."""
    free, wanted = available_bytes(device), int(ROOM * architecture.weights * dtype.itemsize)
    if free is not None and wanted > free:
        raise click.ClickException(
            f"{architecture.title} in {str(dtype).removeprefix('torch.')} needs about {wanted / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free. Use another --dtype, --family or machine."
        )


def run(
    out: Path, planned: list[tuple[str, Row]], device: torch.device, speed: Callable[[torch.dtype], float]
) -> list[Row]:
    """Measure what is not in the file yet, and return the rows that were asked for."""
    rows: list[Row] = json.loads(out.read_text())["rows"] if out.is_file() else []
    wanted = []
    for name, settings in planned:
        known = next((row for row in rows if all(row.get(key) == value for key, value in settings.items())), None)
        if known is None:
            architecture, dtype = ARCHITECTURES[settings["family"]], DTYPES[settings["dtype"]]
            refuse_what_does_not_fit(architecture, dtype, device)
            click.echo(f"{architecture.title}, {name}, {settings['dtype']} ...", err=True)
            found = measure(architecture, name, settings, device)
            flops, peak = architecture.flops(), speed(dtype)
            each = found["seconds"] / found["evaluations"]
            known = settings | found | {
                "seconds_per_evaluation": each, "flops_per_evaluation": flops, "flops_per_second": flops / each,
                "matmul_flops": peak, "of_peak": flops / each / peak, "diffclass": diffclass.__version__,
            }  # fmt: skip
            rows.append(known)
            out.parent.mkdir(parents=True, exist_ok=True)
            write_json_atomic(out, {"rows": rows})
        wanted.append(known)
    return wanted


def show(rows: list[Row]) -> None:
    """Print the table."""
    head = ["architecture", "weights", "", "number format", "seconds an evaluation", "TFLOP/s", "of matrix products",
            "peak [GB]"]  # fmt: skip
    click.echo(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        cells = [
            ARCHITECTURES[row["family"]].title, f"{row['weights'] / 1e6:,.0f} M", row["row"], row["dtype"],
            f"{row['seconds_per_evaluation']:.3g}", f"{row['flops_per_second'] / 1e12:.3g}", f"{row['of_peak']:.1%}",
            f"{row['peak_bytes'] / 1e9:.2f}",
        ]  # fmt: skip
        click.echo(f"| {' | '.join(cells)} |")
    if rows:
        one = rows[0]
        click.echo(f"\n{one['hardware']}, torch {one['torch']}, batches of {one['batch_size']}")


@click.command()
@click.option("--family", "families", multiple=True, default=["sd1.5"], show_default=True,
              type=click.Choice(list(ARCHITECTURES)), help="May be given several times.")  # fmt: skip
@click.option("--batch-size", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--dtype", default="auto", show_default=True, type=click.Choice(["auto", *DTYPES]), help="Of the engine.")
@click.option("--evaluations", default=8, show_default=True, type=click.IntRange(min=1),
              help="1, or a multiple of twice the batch size.")  # fmt: skip
@click.option("--plain/--no-plain", default=True, show_default=True, help="Measure the plain loops too.")
@click.option("--device", default="auto", show_default=True)
@click.option("--threads", default=0, help="CPU threads; 0: all cores.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON file; the same command goes on.")
def main(
    families: tuple[str, ...], batch_size: int, dtype: str, evaluations: int, plain: bool, device: str, threads: int,
    out: Path,
) -> None:  # fmt: skip
    """Measure full-size networks through the engine, beside a plain loop."""
    if evaluations > 1 and evaluations % (2 * batch_size):
        raise click.BadParameter(
            f"must be 1, or a multiple of twice the batch size ({2 * batch_size}). Got {evaluations}.",
            param_hint="'--evaluations'",
        )
    if threads:
        torch.set_num_threads(threads)
    place = choose_device(device)
    chosen = fastest_dtype(place) if dtype == "auto" else DTYPES[dtype]
    peaks: dict[torch.dtype, float] = {}

    def speed(dtype: torch.dtype) -> float:
        if dtype not in peaks:
            peaks[dtype] = matmul_flops(place, dtype)
        return peaks[dtype]

    options = {"dtype": str(chosen).removeprefix("torch."), "evaluations": evaluations, "batch_size": batch_size}
    planned = list(rows_of(families, options, plain, place))
    show(run(out, planned, place, speed))


if __name__ == "__main__":
    main()
