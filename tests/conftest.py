"""What every test shares: data, seeds, threads, and no network."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
if "PYTEST_XDIST_WORKER" in os.environ:  # processes share the cores: one each, and for what they start
    os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).parents[1]

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def threads() -> None:
    """Keep small tensors off many cores, where handing out the work costs more than doing it."""
    import torch

    torch.set_num_threads(min(4, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Start every test from the same global random state; the library itself never uses it."""
    import numpy as np
    import torch

    numpy_state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        np.random.seed(0)
        yield
    np.random.set_state(numpy_state)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets; a test that needs it is skipped where it is not."""
    folder = Path(os.environ.get("DIFFCLASS_DATA") or ROOT / "../shared/data").resolve()
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}: set DIFFCLASS_DATA to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny text-to-image pipeline of every family."""
    import tiny_pipelines

    home = tmp_path_factory.mktemp("pipelines")
    for name in tiny_pipelines.PIPELINES:
        tiny_pipelines.save(name, home)
    return home


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny CLIP and a tiny SigLIP."""
    import tiny_pipelines

    return tiny_pipelines.save_encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="session")
def matching(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two tiny CLIPs and a tiny ViLT."""
    import tiny_matching

    return tiny_matching.save_matching(tmp_path_factory.mktemp("matching"))
