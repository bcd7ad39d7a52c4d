"""Several scorers asked the same: rows on the disk as they are measured, which a later start goes on from."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from diffclass.bench.compositional.asking import Answered, Window, answer, windows_of
from diffclass.bench.compositional.part import Part
from diffclass.bench.compositional.picture import Crop
from diffclass.bench.compositional.scorer import Scorer
from diffclass.bench.recording import recording
from diffclass.bench.shards import Elsewhere, Shard, adopt
from diffclass.data.results import ResultFile, errors_path, versions
from diffclass.errors import InputError, RangeError, ResultError

__all__ = ["Rows", "answer_windows", "compare"]

Rows = dict[tuple[str, str], list[dict[str, Any]]]  # by (scorer, part)
Progress = Callable[[str, int, int], None]  # what is being measured, items done, of how many


def compare(
    parts: Sequence[Part],
    scorers: Sequence[Scorer],
    *,
    seeds: int = 1,
    seed: int = 0,
    out: Path | None = None,
    crop: Crop = "crop",
    whole: bool = False,
    progress: Progress | None = None,
    shard: Shard | None = None,
    elsewhere: Elsewhere | None = None,
) -> Rows:
    """Ask every scorer every item, with the same crop and the same captions.

    Each scorer and part has a folder out/SCORER/PART with a row an item and seed (results.jsonl), what produced it
    (run.json) and, for diffusion models, the errors behind each row (errors/). The same call goes on where an earlier
    one was stopped. A picture that cannot be opened, or a caption that a model cannot read, becomes a row with its
    "error".

    Items are answered in windows, the same ones whoever answers them: but for the time they took, the rows of shards
    and of other processes are those of one process.

    Args:
        parts: with names that differ.
        scorers: with names that differ.
        seeds: how many seeds of noise; scorers without noise are asked once.
        seed: the first of them, and of the pictures that blind scorers are shown.
        out: folder of the run; nothing is kept if None.
        crop: what all scorers see of a picture: the centred "crop", or all of it with "stretch".
        whole: measure every caption on every draw, for what is computed from the errors afterwards.
        progress: called with what is being measured, and how far it is.
        shard: answer these of the windows alone, into a folder of their own within `out`. The same call without it
            takes over what shards have answered, and answers the rest.
        elsewhere: who answers the windows that are not answered yet, as `answer_windows` does; this process if None.

    Returns:
        The rows of each (scorer, part), in the order of their ids; with a shard, its own.

    Raises:
        InputError: two have one name, an item has fewer captions than a schedule keeps, or a blind scorer has nothing
            else to look at.
        ResultError: a folder holds another run, or cannot be written, or others saw other data.
    """
    if seeds < 1:
        raise RangeError(f"The 'seeds' parameter of compare must be at least 1. Got {seeds}.")
    for kind, names in (("Scorers", [one.name for one in scorers]), ("Parts", [one.name for one in parts])):
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InputError(f"{kind} need names that differ, as their answers are kept by name. Got {twice!r} twice.")
    windows = windows_of(parts, scorers, seeds=seeds, seed=seed)
    mine = range(len(windows)) if shard is None else shard.indices(len(windows))
    run: dict[str, Any] = {"crop": crop, "whole": whole}
    with ExitStack() as stack:
        files = _opened(stack, parts, scorers, out, shard, run | {"others": seed})
        todo = [index for index in mine if not set(windows[index].ids) <= files[windows[index].place].done]
        if elsewhere is None:
            found = answer(windows, todo, seed=seed, keep=out is not None, **run)
        else:
            found = (Answered.unpacked(values) for several in (elsewhere(todo) if todo else ()) for values in several)
        asked = [windows[index] for index in mine]
        for window in _told(found, windows, todo, asked, progress, together=elsewhere is not None):
            _keep(windows[window.index], window, files[windows[window.index].place])
        return {place: _wanted(results, place, asked) for place, results in files.items()}


def answer_windows(
    parts: Sequence[Part], scorers: Sequence[Scorer], *, seeds: int = 1, seed: int = 0, crop: Crop = "crop",
    whole: bool = False, keep: bool = True,
) -> Callable[[Sequence[int]], list[dict[str, Any]]]:  # fmt: skip
    """Return what answers windows of `compare` by their indices: for processes that answer `elsewhere`.

    Args:
        parts: as in `compare`, as the other options are.
        scorers: that this process has opened.
        seeds: of noise.
        seed: the first of them.
        crop: what scorers see of a picture.
        whole: measure every caption on every draw.
        keep: send the errors behind the rows of diffusion models, too.
    """
    windows = windows_of(parts, scorers, seeds=seeds, seed=seed)

    def answered(indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return plain values, which JSON holds."""
        found = answer(windows, indices, seed=seed, crop=crop, whole=whole, keep=keep)
        return [window.packed() for window in found]

    return answered


def _opened(
    stack: ExitStack, parts: Sequence[Part], scorers: Sequence[Scorer], out: Path | None, shard: Shard | None,
    run: Mapping[str, Any],
) -> dict[tuple[str, str], ResultFile]:  # fmt: skip
    """Open the result file of every scorer and part, with what shards have left."""
    home = out if out is None or shard is None else shard.folder(out)
    files: dict[tuple[str, str], ResultFile] = {}
    produced = versions()
    for scorer in scorers:
        configuration = scorer.configuration()
        for part in parts:
            config = {"scorer": configuration, "part": part.name, "setting": part.setting, "items": part.fingerprint}
            config |= {"n": len(part.items), "crop": run["crop"], "whole": run["whole"] or part.comparable}
            config |= {"others": run["others"]} if scorer.n_others else {}
            config |= {} if shard is None else {"shard": str(shard)}
            folder = None if home is None else home / scorer.name / part.name
            results = stack.enter_context(recording(folder, config, produced))
            if home is not None:
                adopt(results, home=home)
            files[scorer.name, part.name] = results
    return files


def _told(
    found: Iterable[Answered], windows: Sequence[Window], todo: Sequence[int], asked: Sequence[Window],
    progress: Progress | None, *, together: bool,
) -> Iterator[Answered]:  # fmt: skip
    """Pass on answers, and tell how far each scorer and part is; or all of them together, where they come mixed."""
    if progress is None or not todo:
        yield from found
        return

    def name(window: Window) -> str:
        return "all scorers" if together else ", ".join(window.place)

    total, left = Counter[str](), Counter[str]()
    for window in asked:
        total[name(window)] += len(window.items)
    for index in todo:
        left[name(windows[index])] += len(windows[index].items)
    first = name(windows[todo[0]])
    progress(first, total[first] - left[first], total[first])
    for answered in found:
        yield answered
        one = name(windows[answered.index])
        left[one] -= len(windows[answered.index].items)
        progress(one, total[one] - left[one], total[one])


def _keep(window: Window, answered: Answered, results: ResultFile) -> None:
    """Write the rows of a window and, before them, the errors that are behind them."""
    if {row["id"] for row in answered.rows} != set(window.ids):
        raise ResultError(
            f"Another process was asked for items of '{window.part.name}' and answered others. Let all of them see the "
            "same data."
        )
    rows = [row for row in answered.rows if row["id"] not in results.done]
    for row in rows:
        if row["id"] in answered.errors:
            path = errors_path(results.path.parent, row["id"])
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(answered.errors[row["id"]])
            except OSError as error:
                raise ResultError(f"The file '{path}' cannot be written: {error.strerror or error}.") from error
    results.append(rows)


def _wanted(results: ResultFile, place: tuple[str, str], asked: Sequence[Window]) -> list[dict[str, Any]]:
    """Return the rows that were asked for; an earlier start may have left others."""
    ids = {id for window in asked if window.place == place for id in window.ids}
    return sorted((row for row in results.rows() if row["id"] in ids), key=lambda row: row["id"])
