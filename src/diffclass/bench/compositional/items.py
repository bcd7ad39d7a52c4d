"""Pictures with the captions that compete for them, read from a folder."""

from collections.abc import Iterator
from pathlib import Path

from diffclass.bench.compositional.candidates import candidates_of
from diffclass.bench.compositional.concepts import FOLDERS, check_task, concepts, scene_of
from diffclass.bench.compositional.item import Candidate, Item
from diffclass.bench.compositional.rendered import METADATA, RUN_FILE, metadata_rows
from diffclass.data.formats import PICTURES, listed
from diffclass.errors import InputError

__all__ = ["read_items"]


def read_items(directory: Path, *, task: str, split: str, setting: str, seed: int = 0) -> list[Item]:
    """Read the pictures of a split, each with its candidates.

    The folder is one that `diffclass data concept-binding` made, or has the authors' layout: train, ID_val, ID_test,
    OOD_val and OOD_test (in any case), in them a folder for each class ("blue cube"), ordered pair
    ("blue_cube_red_sphere/blue cube") or relation ("cube_left_cone/cube left cone", or "cube left cone" alone). The
    splits may be in the folder itself or in one named by the task. A picture of two objects is an item for each order
    in which it is listed, with the same cluster. In the authors' layout, pictures of one name in the folders of both
    orders are taken for the same: where they are not, intervals are somewhat wide.

    Args:
        directory: of the data set.
        task: one of concepts.TASKS.
        split: one of concepts.SPLITS.
        setting: "zsl" or "gzsl".
        seed: of the candidates.

    Raises:
        InputError: there is no such task, split, setting or folder, it is unfinished, or holds what is no concept.
    """
    check_task(task, split)
    folder = _split_folder(directory, task, split)
    known = {concept.key: concept for concept in concepts(task, split)}
    asked: dict[str, tuple[tuple[Candidate, ...], int]] = {}
    items = []
    for image, key, cluster in _rows(folder, task):
        if key not in known:
            raise InputError(
                f"The folder '{folder}' holds pictures of '{key}', which is not in {task}, {split}. It has: "
                f"{listed(sorted(known), 5)}."
            )
        if key not in asked:
            asked[key] = candidates_of(known[key], task=task, split=split, setting=setting, seed=seed)
        candidates, target = asked[key]
        name = f"{image.relative_to(folder).as_posix()}:{key}"
        items.append(
            Item(key=name, image=image, candidates=candidates, target=target, task=task, split=split, cluster=cluster)
        )
    if not items:
        raise InputError(f"The folder '{folder}' has no pictures.")
    return items


def _split_folder(directory: Path, task: str, split: str) -> Path:
    """Find the folder of a split, whatever its case."""
    if not directory.is_dir():
        raise InputError(f"The data set '{directory}' does not exist. Make it with diffclass data concept-binding.")
    home = directory / task if (directory / task).is_dir() else directory
    inside = sorted(path for path in home.iterdir() if path.is_dir())
    wanted = FOLDERS[split].lower()
    found = next((path for path in inside if path.name.lower() == wanted), None)
    if found is None:
        names = listed([path.name for path in inside])
        raise InputError(f"The folder '{home}' has no split {FOLDERS[split]}. It has: {names}.")
    if (home / RUN_FILE).is_file() and not (found / METADATA).is_file():
        raise InputError(f"The data set '{home}' is unfinished. Run the command that makes it again, to go on.")
    return found


def _rows(folder: Path, task: str) -> Iterator[tuple[Path, str, str]]:
    """Yield picture, key of its concept, and cluster."""
    if (folder / METADATA).is_file():
        for row in metadata_rows(folder / METADATA):
            yield folder / row["file_name"], row["concept"], row["file_name"]
        return
    pictures = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in PICTURES)
    for image in pictures:
        parts = image.relative_to(folder).parts[:-1]
        if not parts:
            raise InputError(f"The picture '{image}' must be in the folder of its class.")
        key = parts[0] if task == "pair" else parts[-1].replace(" ", "_")
        yield image, key, f"{scene_of(key)}/{image.name}"
