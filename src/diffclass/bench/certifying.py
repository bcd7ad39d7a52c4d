"""Certificates of many images: a row each on the disk, and an image in progress that survives being killed."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any, final

from torch import Tensor

from diffclass.bench.certified import Certified
from diffclass.bench.recording import recording, smoothable_configuration
from diffclass.bench.shards import Elsewhere, Shard, adopt, gather
from diffclass.data.datasets import Dataset, Item, Progress
from diffclass.data.images import Resize
from diffclass.data.results import ResultFile, versions, write_json_atomic
from diffclass.decide.classifier import DiffusionClassifier
from diffclass.errors import ConditionError, DiffclassError, InputError, ResultError
from diffclass.robust import Certification, CopyClassifier, Smoothable, SmoothedDiffusion, Smoothing

__all__ = ["certify_dataset", "certify_items"]

_HEADINGS = "idx\tlabel\tpredict\tradius\tcorrect\ttime"
_KEEP_EVERY = 1.0  # [seconds] between writes of the counts of a picture in progress


def certify_dataset(
    classifier: DiffusionClassifier | Smoothable,
    dataset: Dataset,
    *,
    limit: int | None = None,
    seed: int = 0,
    shard: Shard | None = None,
    out: Path | None = None,
    **options: Any,
) -> Certified:
    """Certify a labelled set; see `certify_items`.

    Args:
        classifier: that knows the classes of the set.
        dataset: of which the truth is taken.
        limit: certify at most so many images, picked at random with each class in its proportion.
        seed: of that choice.
        shard: certify these of the images alone, into a folder of their own within `out`. The same call without it
            takes over what shards have finished, and certifies the rest.
        out: see `certify_items`.
        options: any other argument of `certify_items`.
    """
    part = dataset.at_most(limit, seed=seed)
    chosen = {} if limit is None else {"limit": limit, "seed": seed}
    described = {"name": part.name, "split": part.split, "n": len(part), "fingerprint": part.fingerprint, **chosen}
    about, indices = {"dataset": described}, range(len(part))
    if shard is not None:
        indices, out = shard.indices(len(part)), None if out is None else shard.folder(out)
        about |= {"shard": str(shard)}
    items = {index: part[index] for index in indices}
    return certify_items(classifier, items, names=part.classes, about=about, out=out, **options)


def certify_items(
    classifier: DiffusionClassifier | Smoothable,
    items: Sequence[Item] | Mapping[int, Item],
    *,
    sigmas: Sequence[float],
    settings: Smoothing,
    noised: str | None = None,
    names: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
    resize: Resize = "refuse",
    convert: bool = False,
    elsewhere: Elsewhere | None = None,
) -> Certified:
    """Certify pictures one by one, at every sigma.

    The same call with the same `out` goes on where an earlier one was stopped, in the middle of a picture too, and ends
    with the very rows of an unbroken run. A picture that cannot be opened becomes a row with its "error".

    Args:
        classifier: of clean images, or whatever else can be smoothed; its seed is that of the smoothing noise too.
        items: with ids that differ; a mapping gives each the index of its row.
        sigmas: [image units] of the smoothing noise, each once.
        settings: how many copies, and when to stop.
        noised: "epndc", "apndc", "apndc-class" or "exact"; None chooses (`copy_classifier`).
        names: of the classes that the items' labels count.
        about: what else the run depends on, for its configuration.
        out: folder of results.jsonl, run.json, cohen-*.tsv, summary.json; nothing is kept if None.
        progress: called with the noisy copies done, as if every picture took as many as it may, and of how many.
        resize: "refuse", "crop" or "stretch" pictures of another size than the model's.
        convert: allow grey to become colour and colour grey.
        elsewhere: who certifies the pictures that have no row yet; this process if None.

    Raises:
        RangeError: a sigma or a setting cannot be used with the model.
        ResultError: `out` holds another run, or cannot be written; it keeps what was finished.
    """
    subject = classifier if isinstance(classifier, Smoothable) else SmoothedDiffusion(classifier, noised=noised)
    _check(sigmas, names, subject.classes)
    copies = [_copies(subject, sigma, settings) for sigma in sigmas]
    pictures: dict[str, Any] = {"resize": resize, "convert": convert}
    parts = {"smoothing": {"sigmas": list(sigmas), "noised": subject.noised, **asdict(settings)}, "pictures": pictures}
    config = smoothable_configuration(subject) | parts | dict(about or {})
    numbered = items if isinstance(items, Mapping) else dict(enumerate(items))
    with recording(out, config, versions(device=str(subject.device))) as results:
        adopt(results)
        desk = _Desk(results, subject.classes, progress, n_total=len(items) * len(sigmas))
        if elsewhere is not None:
            desk.gather(elsewhere, numbered, sigmas, settings)
        desk.reopen(sigmas)
        for index, item in numbered.items():
            truth = None if item.label is None or not names else names[item.label]
            todo = [one for one in copies if _row_id(item, one.sigma) not in results.done]
            heads = [_head(index, item, truth, one.sigma) for one in todo]
            desk.n_done += len(copies) - len(todo)
            try:
                prepared = item.prepare(subject.image_shape, **pictures) if todo else None
            except DiffclassError as error:
                results.append([{**head, "error": str(error)} for head in heads])
                desk.n_done += len(todo)
                continue
            for one, head in zip(todo, heads, strict=True):
                assert prepared is not None
                head |= {"changes": list(prepared.changes)}
                desk.certify(head, prepared.image, one, settings, seed=subject.seed)
        desk.clear()
        wanted = {item.id for item in numbered.values()}
        rows = (row for row in results.rows() if row["image"] in wanted)
        certified = Certified.from_rows(rows, sigmas=sigmas, seconds=desk.seconds, config=config)
        if out is not None:
            write_json_atomic(out / "summary.json", certified.summary())
    return certified


def _copies(subject: Smoothable, sigma: float, settings: Smoothing) -> CopyClassifier:
    """Return what labels noisy copies, after checking that so many of them prove something."""
    copies = subject.copies(sigma)
    settings.plan(sigma)
    return copies


def _check(sigmas: Sequence[float], names: Sequence[str], classes: Sequence[str]) -> None:
    """Refuse what no certificate can be made for."""
    if not sigmas or len(set(sigmas)) < len(sigmas):
        raise InputError(
            f"The 'sigma' of certify must be given at least once, and each value once. Got {list(sigmas)}."
        )
    if unknown := [name for name in names if name not in classes]:
        raise ConditionError(f"The classes of the images must be among the classifier's. Got {unknown[0]!r}.")


@final
class _Desk:
    """Where certificates are made: what is finished, what is in progress, and how long it took.

    Wall times are kept out of results.jsonl, whose rows are the same however often the run was stopped.
    """

    def __init__(self, results: ResultFile, classes: Sequence[str], progress: Progress | None, *, n_total: int) -> None:
        self._results, self._classes, self._progress = results, list(classes), progress
        self._folder, self._n_total = results.path.parent, n_total
        self.n_done = 0
        self.seconds: dict[str, float] = {}

    def certify(
        self, head: Mapping[str, Any], image: Tensor, copies: CopyClassifier, settings: Smoothing, *, seed: int
    ) -> None:
        """Finish one picture at one sigma, going on from what was counted of it before."""
        kept = self._kept(head["id"])
        work = Certification(copies, image, settings, seed=seed, state=kept.get("state"))
        started = saved = time.monotonic()
        before = kept.get("seconds", 0.0)
        while work.reason is None:
            work.advance()
            now = time.monotonic()
            if now - saved >= _KEEP_EVERY:
                state = {"id": head["id"], "state": work.state(), "seconds": before + now - started}
                write_json_atomic(self._folder / "progress.json", state)
                saved = now
            self.tell(work.selection.n + work.votes.n, settings)
        self.n_done += 1
        row = {**head, **work.certificate().row()}
        self.seconds[head["id"]] = before + time.monotonic() - started
        _write(self._table(copies.sigma), self._line(row), "a")  # before the row: a row has its line
        self._results.append([row])

    def gather(
        self, elsewhere: Elsewhere, items: Mapping[int, Item], sigmas: Sequence[float], settings: Smoothing
    ) -> None:
        """Have others certify the pictures that are not finished."""
        done = self._results.done
        todo = [index for index, item in items.items() if any(_row_id(item, sigma) not in done for sigma in sigmas)]
        for count in gather(elsewhere, todo, self._results):
            self.n_done = count
            self.tell(0, settings)
        self.n_done = 0

    def tell(self, copies: int, settings: Smoothing) -> None:
        """Say how far it is: pictures that are finished, and copies of the one in progress."""
        if self._progress is not None:
            most = settings.n0 + settings.n
            self._progress(self.n_done * most + copies, self._n_total * most)

    def _kept(self, name: str) -> dict[str, Any]:
        """Return what an earlier run had counted of a row."""
        path = self._folder / "progress.json"
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ResultError(f"The file '{path}' is damaged. Delete it, and its picture is started again.") from error
        return kept if kept["id"] == name else {}

    def clear(self) -> None:
        """Forget the picture in progress: there is none."""
        (self._folder / "progress.json").unlink(missing_ok=True)

    def reopen(self, sigmas: Sequence[float]) -> None:
        """Write the tables anew from the rows, with the times that earlier ones held."""
        for sigma in sigmas:
            path = self._table(sigma)
            shards = sorted(self._folder.glob(f"shards/*/{path.name}"))
            try:
                lines = [line for p in [*shards, path] if p.is_file() for line in p.read_text("utf-8").splitlines()]
            except OSError as error:
                raise ResultError(f"The file '{path}' cannot be read: {error.strerror}.") from error
            times = {cells[0]: cells[5] for cells in (line.split("\t") for line in lines) if len(cells) == 6}
            rows = [row for row in self._results.rows() if row["sigma"] == sigma and "error" not in row]
            for row in rows:
                self.seconds[row["id"]] = _seconds(times.get(str(row["index"]), ""))
            _write(path, "".join([f"{_HEADINGS}\n", *map(self._line, rows)]), "w")

    def _table(self, sigma: float) -> Path:
        return self._folder / f"cohen-{sigma:g}.tsv"

    def _line(self, row: Mapping[str, Any]) -> str:
        """Return a row as a line of Cohen's table: -1 where there is no label."""
        truth, label = row["truth"], row["label"]
        seconds = timedelta(seconds=self.seconds[row["id"]])
        indices = [-1 if name is None else self._classes.index(name) for name in (truth, label)]
        cells = [row["index"], *indices, f"{row['radius']:.6g}", int(label is not None and label == truth), seconds]
        return "\t".join(map(str, cells)) + "\n"


def _row_id(item: Item, sigma: float) -> str:
    return f"{item.id} at sigma {sigma:g}"


def _head(index: int, item: Item, truth: str | None, sigma: float) -> dict[str, Any]:
    return {"id": _row_id(item, sigma), "index": index, "image": item.id, "truth": truth, "sigma": sigma}


def _seconds(text: str) -> float:
    """Read what str(timedelta) wrote; 0 where nothing legible is."""
    days, _, clock = text.rpartition(", ")
    try:
        hours, minutes, seconds = map(float, clock.split(":"))
        return (float(days.split()[0]) * 86_400 if days else 0.0) + hours * 3600 + minutes * 60 + seconds
    except (ValueError, IndexError):
        return 0.0


def _write(path: Path, text: str, mode: str) -> None:
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ResultError(f"The file '{path}' cannot be written: {error.strerror or error}.") from error
