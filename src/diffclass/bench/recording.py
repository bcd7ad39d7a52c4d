"""Answers on the disk: a folder with a row an image, and what produced it."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffclass.bench.answers import Answer, answer_items
from diffclass.bench.network_answers import answer_by_network
from diffclass.data.datasets import Item
from diffclass.data.images import Resize
from diffclass.data.results import ResultFile, errors_path, write_json_atomic
from diffclass.decide.classifier import DiffusionClassifier
from diffclass.denoisers.compiled import is_compiled
from diffclass.errors import ResultError
from diffclass.robust import Smoothable, SmoothedDiffusion
from diffclass.robust.supervised import SmoothedNetwork, SupervisedNetwork

__all__ = ["configuration", "fingerprint", "record", "recording", "smoothable_configuration"]


@contextmanager
def recording(
    out: Path | None, config: Mapping[str, Any], produced: Mapping[str, Any], source: Mapping[str, Any] | None = None
) -> Iterator[ResultFile]:
    """Open the result file of a run, and say beside it in run.json what the run is.

    Args:
        out: folder of the run; one that is gone afterwards if None.
        config: everything that the answers depend on.
        produced: what `versions` says.
        source: where the pictures are; no part of the configuration, because they may move.

    Raises:
        ResultError: the folder holds a run of another configuration, or cannot be written.
    """
    if out is None:
        with TemporaryDirectory() as folder, ResultFile(Path(folder) / "results.jsonl", config) as results:
            yield results
        return
    with ResultFile(out / "results.jsonl", config) as results:
        found = {} if source is None else {"source": dict(source)}
        write_json_atomic(out / "run.json", {"config": results.config, "versions": produced, **found})
        yield results


def record(
    classifier: DiffusionClassifier | SupervisedNetwork,
    items: Iterable[Item],
    results: ResultFile,
    *,
    names: Sequence[str] = (),
    resize: Resize = "refuse",
    convert: bool = False,
    save_errors: bool = False,
    keep: list[Answer] | None = None,
    most_kept: int = 0,
) -> Iterator[int]:
    """Answer the pictures that have no row yet, and yield how many have one whenever rows have reached the disk.

    Args:
        classifier: which answers. A supervised network has no evidence to save or keep.
        items: with ids that differ.
        results: to which rows are added.
        names: of the classes that the items' labels count.
        resize: "refuse", "crop" or "stretch" pictures of another size than the model's.
        convert: allow grey to become colour and colour grey.
        save_errors: keep every error of every draw in a folder beside the rows.
        keep: a list to which the first answers are added, evidence included.
        most_kept: how many of them.
    """
    yield len(results)
    todo = (item for item in items if item.id not in results.done)
    if isinstance(classifier, SupervisedNetwork):
        for rows in answer_by_network(classifier, todo, names=names, resize=resize, convert=convert):
            results.append([answer.row() for answer in rows])
            yield len(results)
        return
    for answers in answer_items(classifier, todo, names=names, resize=resize, convert=convert):
        if save_errors:
            _save_errors(results.path.parent, answers)
        results.append([answer.row() for answer in answers])
        if keep is not None:
            keep.extend([answer for answer in answers if answer.decision is not None][: max(0, most_kept - len(keep))])
        yield len(results)


def configuration(classifier: DiffusionClassifier | SupervisedNetwork) -> dict[str, Any]:
    """Return everything about a classifier that its answers depend on, as plain values."""
    if isinstance(classifier, SupervisedNetwork):
        model = _described_network(classifier)
        return {"model": model, "classes": list(classifier.classes), "temperature": classifier.temperature}
    denoiser, first = classifier.denoiser, classifier.first_look
    metadata: Mapping[str, Any] = getattr(denoiser, "metadata", {})
    dtype = getattr(denoiser, "dtype", None)
    return {
        "model": {
            "name": metadata.get("name", type(denoiser).__name__),
            "weights": fingerprint(denoiser),
            "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
        },
        "classes": list(classifier.classes_),
        **({} if classifier.prompts is None else {"prompts": [list(row) for row in classifier.prompts.texts]}),
        **({} if first is None else {"first_look": {"model": first.name, "keep": first.keep}}),
        "objective": _plain(classifier.objective),
        "race": _plain(classifier.race),
        "aggregate": _plain(classifier.aggregate),
        "target": _plain(classifier.target),
        "prior": None if classifier.prior is None else [float(p) for p in classifier.prior],
        "temperature": classifier.temperature,
        "seed": classifier.seed,
        "machine": {"batch_size": classifier.batch_size, "compiled": is_compiled(denoiser)},  # for the last bits
    }


def smoothable_configuration(subject: Smoothable) -> dict[str, Any]:
    """Return everything about what is smoothed that its certificates depend on, as plain values."""
    if isinstance(subject, SmoothedDiffusion):
        return configuration(subject.classifier)
    assert isinstance(subject, SmoothedNetwork)
    network, denoiser = subject.network, subject.denoiser
    return {
        "model": _described_network(network),
        "denoiser": None if denoiser is None else {"weights": fingerprint(denoiser)},
        "classes": list(subject.classes),
        "seed": subject.seed,
    }


def _described_network(network: SupervisedNetwork) -> dict[str, Any]:
    name = network.metadata.get("name", type(network.network).__name__)
    return {"name": name, "weights": fingerprint(network), "sigma": network.sigma}


def fingerprint(denoiser: object) -> str:
    """Identify a model by the tensors it holds, in the number format it computes with."""
    digest = blake2b(digest_size=8)
    for name, tensor in _tensors(denoiser):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tensors(holder: object) -> Iterator[tuple[str, Tensor]]:
    """List the tensors of a model's networks and fields, in the order of their names."""
    slots = {name for kind in type(holder).__mro__ for name in getattr(kind, "__slots__", ())}
    if isinstance(holder, nn.Module):
        yield from sorted(holder.state_dict().items())
        return
    for name in sorted(slots | set(getattr(holder, "__dict__", {}))):
        value = getattr(holder, name, None)
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, nn.Module):
            yield from ((f"{name}.{key}", tensor) for key, tensor in sorted(value.state_dict().items()))


def _plain(value: Any) -> Any:
    """Name a part of a classifier by its class and its fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def _save_errors(folder: Path, answers: Iterable[Answer]) -> None:
    """Write the errors of each answer into the folder of a run."""
    try:
        for answer in answers:
            if answer.decision is None:
                continue
            evidence = answer.decision.evidence
            path = errors_path(folder, answer.id)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                np.savez_compressed(
                    file, id=answer.id, errors=evidence.errors, sigmas=evidence.draws.sigmas,
                    weights=evidence.draws.weights, log_prior=evidence.log_prior, classes=np.array(evidence.classes),
                )  # fmt: skip
    except OSError as error:
        raise ResultError(f"The folder '{folder / 'errors'}' cannot be written: {error.strerror or error}.") from error
