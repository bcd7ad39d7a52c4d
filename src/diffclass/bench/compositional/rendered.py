"""Data sets of rendered pictures: every split of a task, made once, continued where it was stopped."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, final

from diffclass.bench.compositional.concepts import FOLDERS, SPLITS, Concept, check_task, concepts, paraphrases
from diffclass.data.scenes.making import Job, make_pictures
from diffclass.data.scenes.rendering import Renderer
from diffclass.data.scenes.scene import SIZES
from diffclass.errors import RangeError, ResultError

__all__ = ["IMAGES_PER_CLASS", "METADATA", "RUN_FILE", "ConceptPictures", "metadata_rows", "summary"]

IMAGES_PER_CLASS: Mapping[str, int] = {"single": 100, "pair": 50, "relation": 40, "depth": 40}  # as the authors trained
METADATA = "metadata.jsonl"  # of a split: what Hugging Face's imagefolder reads
RUN_FILE = "run.jsonl"  # of a task: its configuration


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptPictures:
    """What the pictures of one task are, whatever folder they are in.

    The same values give the same scenes. A larger number of images adds pictures to those that a smaller one gives.

    Args:
        task: one of concepts.TASKS.
        size: height and width [pixels], 64 to 256.
        images_per_class: training pictures of each class or caption; of each pair, in both orders.
        evaluation_images: pictures of each other split, at least; equally many of each class.
        samples: of light a pixel.
        seed: of the scenes.
        sizes: of objects; a large one is twice a small one.

    Raises:
        InputError: there is no such task.
        RangeError: there would be no pictures.
    """

    task: str
    size: int = 64
    images_per_class: int | None = None
    evaluation_images: int = 300
    samples: int = 24
    seed: int = 0
    sizes: tuple[str, ...] = tuple(SIZES)

    def __post_init__(self) -> None:
        check_task(self.task, "train")
        counts = {"images of a class": self.train_per_class, "images of an evaluation split": self.evaluation_images}
        for name, count in counts.items():
            if count < 1:
                raise RangeError(f"The {name} must be at least 1. Got {count}.")

    @property
    def train_per_class(self) -> int:
        """Training pictures of a concept."""
        return IMAGES_PER_CLASS[self.task] if self.images_per_class is None else self.images_per_class

    def plan(self, folder: Path) -> list[Job]:
        """List every picture, in folders named as the authors' are.

        A pair is rendered once: its folder is named by the order in which its objects stand in the list of classes.
        """
        return [job for split in SPLITS for job, _ in self._split_jobs(folder, split)]

    def render(self, out: Path, *, workers: int = 1) -> Iterator[tuple[int, int]]:
        """Make what is missing, yield how many pictures are done and of how many, and list them for training.

        Pictures are in out/TASK/SPLIT, each with its scene's record beside it. The same call goes on where an earlier
        one was stopped.

        Raises:
            MissingExtra: mitsuba is not installed.
            RangeError: the size or the samples are out of range.
            ResultError: the folder holds other pictures, or cannot be written.
        """
        from diffclass.data.results import ResultFile

        folder = out / self.task
        jobs = self.plan(folder)
        with Renderer(self.size, self.samples) as renderer:
            version = renderer.version
        with ResultFile(folder / RUN_FILE, self._config(version)):  # refuses other pictures, and another run
            missing = [job for job in jobs if not job.is_done]
            done = len(jobs) - len(missing)
            yield done, len(jobs)
            for _ in make_pictures(missing, size=self.size, samples=self.samples, workers=workers):
                done += 1
                yield done, len(jobs)
            for split in SPLITS:
                _write_lines(folder / FOLDERS[split] / METADATA, self._metadata(folder, split))

    def _config(self, version: str) -> dict[str, Any]:
        """Everything that the pictures depend on."""
        return {
            "task": self.task, "size": self.size, "images_per_class": self.train_per_class,
            "evaluation_images": self.evaluation_images, "samples": self.samples, "seed": self.seed,
            "object_sizes": list(self.sizes), "renderer": f"mitsuba {version}",
        }  # fmt: skip

    def _groups(self, split: str) -> list[list[Concept]]:
        """Return the concepts that share pictures, the one that names their folder first: of a pair, both orders."""
        found: dict[Any, list[Concept]] = {}
        for concept in concepts(self.task, split):
            found.setdefault(frozenset(concept.wanted) if self.task == "pair" else concept.key, []).append(concept)
        return list(found.values())

    def _split_jobs(self, folder: Path, split: str) -> list[tuple[Job, list[Concept]]]:
        """List the pictures of a split, each with the concepts that it shows."""
        groups = self._groups(split)
        count = self.train_per_class if split == "train" else ceil(self.evaluation_images / len(groups))
        jobs = []
        for group in groups:
            concept = group[0]
            for index in range(count):
                job = Job(
                    path=folder / FOLDERS[split] / concept.folder / f"{index:06d}.png",
                    seed=f"{self.seed}/{self.task}/{split}/{concept.key}/{index}",
                    wanted=concept.wanted,
                    relation=concept.relation,
                    sizes=self.sizes,
                    about=(("task", self.task), ("split", split), ("concept", concept.key)),
                )
                jobs.append((job, group))
        return jobs

    def _metadata(self, folder: Path, split: str) -> list[dict[str, Any]]:
        """Return a line for every picture and caption of the split that it was made for.

        In training, one also for every other caption of the split that is true of it: a relation seen from the other
        object, which learning must not take for false.
        """
        home = folder / FOLDERS[split]
        found = []
        for job, group in self._split_jobs(folder, split):
            others = paraphrases(group[0], self.task, split) if split == "train" else ()
            name = job.path.relative_to(home).as_posix()
            for one in (*group, *others):
                found.append({"file_name": name, "text": one.caption, "concept": one.key, **one.fields})
        return found


def metadata_rows(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a split.

    Raises:
        ResultError: the file is damaged.
    """
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append({**row, "file_name": str(row["file_name"]), "concept": str(row["concept"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ResultError(f"Line {number} of '{path}' is damaged. Run the command that made it again.") from error
    return rows


def summary(out: Path, task: str) -> list[dict[str, Any]]:
    """Count the captions, pictures and items of every split of a finished task."""
    found = []
    for split in SPLITS:
        rows = metadata_rows(out / task / FOLDERS[split] / METADATA)
        captions, pictures = ({row[name] for row in rows} for name in ("concept", "file_name"))
        found.append({"split": split, "captions": len(captions), "pictures": len(pictures), "items": len(rows)})
    return found


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write JSON lines so that a reader sees all of them or none."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        scratch.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise ResultError(f"The file '{path}' cannot be written: {error.strerror or error}.") from error
