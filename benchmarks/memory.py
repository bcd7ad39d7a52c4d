"""Peak memory against the number of images, classes and draws: each point in a process of its own.

    python benchmarks/memory.py --out runs/bench-memory

The network is a stand-in that costs next to nothing, on 3 x 32 x 32 pixels, because what is measured is what the engine
keeps. Images are made one by one, and answers are dropped as they come. Memory should follow the batch, not the images;
every open race has its matrix of errors (draws x classes x 4 bytes), which is part of its answer.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

RACES = ("exhaustive", "paired")


def peak_megabytes() -> float:
    """[MB] Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def measure(images: int, classes: int, draws: int, *, race: str, batch_size: int, device: str) -> dict[str, float]:
    """Classify with a network that costs nothing, and return the peak before and after."""
    import torch
    from torch import Tensor, nn

    from diffclass.decide import DiffusionClassifier, Exhaustive, PairedRace
    from diffclass.denoisers import EDM, PixelDenoiser, Space

    class Output:
        def __init__(self, sample: Tensor) -> None:
            self.sample = sample

    class StandIn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.linspace(-1, 1, classes))

        def forward(self, sample: Tensor, time: Tensor, class_labels: Tensor) -> Output:
            return Output(sample * self.shift[class_labels][:, None, None, None])

    torch.set_num_threads(1)
    denoiser = PixelDenoiser(
        network=StandIn().to(device), parametrisation=EDM(), space=Space(channels=3, height=32, width=32),
        sigma_range=(0.05, 10.0), classes=tuple(map(str, range(classes))),
    )  # fmt: skip
    rule = Exhaustive(n_draws=draws) if race == "exhaustive" else PairedRace(n_draws=draws)
    classifier = DiffusionClassifier(denoiser=denoiser, race=rule, batch_size=batch_size)

    def source(n: int) -> Iterator[tuple[int, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for index in range(n):
            yield index, torch.rand(3, 32, 32, generator=generator)

    warm = DiffusionClassifier(denoiser=denoiser, race=Exhaustive(n_draws=4), batch_size=batch_size)
    for _ in warm.engine().run(source(2)):
        pass
    before, evaluations = peak_megabytes(), 0
    for finished in classifier.engine().run(source(images)):
        evaluations += finished.evidence.evaluations
    found = {
        "before": before,
        "peak": peak_megabytes(),
        "evaluations": evaluations,
        "matrix": draws * classes * 4 / 2**20,
    }
    if device == "cuda":
        found["gpu_peak"] = torch.cuda.max_memory_allocated() / 2**20
    return found


@click.command()
@click.option("--images", default=[4, 16, 64], multiple=True, show_default=True)
@click.option("--classes", default=[10, 100, 1000], multiple=True, show_default=True)
@click.option("--draws", default=[64, 256, 1024], multiple=True, show_default=True)
@click.option("--race", type=click.Choice(RACES), default="exhaustive", show_default=True)
@click.option("--batch-size", default=256, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
@click.option("--point", type=int, nargs=3, hidden=True)
def main(
    images: tuple[int, ...], classes: tuple[int, ...], draws: tuple[int, ...], race: str, batch_size: int, device: str,
    out: Path | None, point: tuple[int, int, int] | None,
) -> None:  # fmt: skip
    """Measure one point after the other; the first of each list is the one that the other lists are varied at."""
    if point is not None:
        click.echo(json.dumps(measure(*point, race=race, batch_size=batch_size, device=device)))
        return
    base = (images[0], classes[0], draws[0])
    points = [base]
    for axis, values in enumerate((images, classes, draws)):
        points += [(*base[:axis], value, *base[axis + 1 :]) for value in values[1:]]  # type: ignore[misc]
    rows: list[dict[str, Any]] = []
    click.echo(
        f"| images | classes | draws | evaluations | peak [MB] | above start [MB] | a matrix [MB] |\n|{'---|' * 7}"
    )
    for one in points:
        options = ["--race", race, "--batch-size", str(batch_size), "--device", device]
        command = [sys.executable, __file__, "--point", *map(str, one), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise click.ClickException(done.stderr.strip().splitlines()[-1])
        row = dict(zip(("images", "classes", "draws"), one, strict=True)) | json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        numbers = [f"{row['peak']:.0f}", f"{row['peak'] - row['before']:.1f}", f"{row['matrix']:.2f}"]
        click.echo(f"| {' | '.join([*map(str, one), str(row['evaluations']), *numbers])} |")
    if out is not None:
        from diffclass.data import versions, write_json_atomic

        settings = {"race": race, "batch_size": batch_size, "device": device, "versions": versions()}
        write_json_atomic(out / "memory.json", {"settings": settings, "points": rows})


if __name__ == "__main__":
    main()
