"""Images and data sets in, results out; every name is imported when it is first used (PEP 562).

images: any picture as a tensor in [0, 1], with what was done to it. datasets: folders, parquet, MedMNIST and CSV as one
record. results: resumable result files. formats: where each format keeps its splits, ids, labels and pictures.
archives: the same for CIFAR's and downsampled ImageNet's own files. layouts, imagenet: for other published sets.
medical: CheXpert and ISIC, selected as published. pickled: pickles read without running them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffclass.data.datasets import Dataset, Item, dataset_splits, open_dataset
    from diffclass.data.images import Prepared, check_images, load_image, prepare_image
    from diffclass.data.results import ResultFile, read_results, versions, write_json_atomic

__all__ = [
    "Dataset",
    "Item",
    "Prepared",
    "ResultFile",
    "check_images",
    "dataset_splits",
    "load_image",
    "open_dataset",
    "prepare_image",
    "read_results",
    "versions",
    "write_json_atomic",
]

_HOMES = {
    "datasets": ("Dataset", "Item", "dataset_splits", "open_dataset"),
    "images": ("Prepared", "check_images", "load_image", "prepare_image"),
    "results": ("ResultFile", "read_results", "versions", "write_json_atomic"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"diffclass.data.{home}"), name)
    raise AttributeError(f"module 'diffclass.data' has no attribute {name!r}")
