"""Benchmarks with more than one comparison an item: Winoground, What'sUp, Self-Bench and released candidate files."""

import csv
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from diffclass.bench.compositional.benchmarks.source import image_of, pair_item, read_file, read_lines, texts
from diffclass.bench.compositional.concepts import scene_of
from diffclass.bench.compositional.item import Candidate, Item
from diffclass.bench.compositional.part import Part
from diffclass.errors import InputError

__all__ = ["candidate_prompts", "read_cobi", "read_self_bench", "read_whatsup", "read_winoground"]


def read_winoground(path: Path) -> list[Part]:
    """Read Winoground: 400 pairs of pictures and captions, scored by text, image and group score; ties fail.

    The copy has examples.jsonl or data.json (in it or in data), and images/NAME.png, NAME as the entry's image_0 and
    image_1 say, or ex_ID_img_0 and ex_ID_img_1. Its task is the collapsed tag: Object, Relation or Both.

    Source:
        Thrush et al. 2022 (arXiv:2204.03162).
    """
    files = [folder / name for folder in (path, path / "data") for name in ("examples.jsonl", "data.json")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise InputError(f"'{path}' holds neither examples.jsonl nor data.json.")
    entries = list(read_lines(file)) if file.suffix == ".jsonl" else read_file(file, list)
    items = []
    for entry in entries:
        number = entry.get("id")
        captions = texts(entry, file, number, "caption_0", "caption_1")
        task = str(entry.get("collapsed_tag") or "all")
        for side in (0, 1):
            named = entry.get(f"image_{side}")
            stem = named if isinstance(named, str) else f"ex_{number}_img_{side}"
            name = stem if stem.endswith(".png") else f"{stem}.png"
            image = image_of(number, path / "images" / name, file.parent / "images" / name)
            items.append(
                pair_item(
                    f"{number}/{side}", image, captions, target=side, task=task, split="winoground",
                    cluster=str(number),
                )
            )  # fmt: skip
    return [Part(name="winoground", items=tuple(items), setting="winoground", metric="winoground", ties="wrong")]


_CONTROLLED = {"a": "controlled_images_dataset.json", "b": "controlled_clevr_dataset.json"}
_TWO_WAY = {
    "coco-one": ("coco_qa_one_obj.json", "val2017", 12), "coco-two": ("coco_qa_two_obj.json", "val2017", 12),
    "vg-one": ("vg_qa_one_obj.json", "vg_images", 0), "vg-two": ("vg_qa_two_obj.json", "vg_images", 0),
}  # fmt: skip
_TIED = "a tie counts as wrong; the published code takes the first of tied captions, which is the true one"


def read_whatsup(path: Path) -> list[Part]:
    """Read What'sUp: subsets A and B (four captions; individual, pair and set accuracy) and four sets of two captions.

    The copy has the published JSON files, and the pictures where these say, with or without the leading "data/".

    Source:
        Kamath, Hessel and Chang 2023 (arXiv:2310.19785).
    """
    parts = [_controlled(path, name, path / file) for name, file in _CONTROLLED.items() if (path / file).is_file()]
    for name, (filename, folder, digits) in _TWO_WAY.items():
        if (file := path / filename).is_file():
            items = []
            for number, entry in enumerate(read_file(file, list)):
                if not isinstance(entry, list) or len(entry) != 3:
                    raise InputError(f"The entry {number} of '{file}' must be [picture, true, false]. Got {entry!r}.")
                picture = f"{str(entry[0]).zfill(digits)}.jpg"
                image = image_of(number, path / folder / picture)
                items.append(pair_item(str(number), image, entry[1:], task=name, split="whatsup", cluster=picture))
            parts.append(Part(name=f"whatsup.{name}", items=tuple(items), setting="whatsup", ties="wrong", note=_TIED))
    if not parts:
        wanted = [*_CONTROLLED.values(), *(one[0] for one in _TWO_WAY.values())]
        raise InputError(f"'{path}' holds none of the files {', '.join(wanted)}.")
    return parts


def _controlled(path: Path, name: str, file: Path) -> Part:
    """Read a controlled subset; names of pictures are OBJECT_RELATION_..._OTHER."""
    items: list[Item] = []
    groups: dict[str, str] = {}
    for number, entry in enumerate(read_file(file, list)):
        (place,) = texts(entry, file, number, "image_path")
        options = entry.get("caption_options")
        if not isinstance(options, list) or len(options) != 4:
            raise InputError(f"The entry {number} of '{file}' must have four caption_options. Got {options!r}.")
        image = image_of(number, path / place, path / place.removeprefix("data/"))
        words = image.stem.split("_")
        objects = f"{words[0]}+{words[-1]}"
        key = f"{name}/{number}"
        groups[key] = f"{objects}|{'sides' if words[1] in ('left', 'right') else 'other'}"
        items.append(pair_item(key, image, options, task=name, split="whatsup", cluster=objects))
    return Part(
        name=f"whatsup.{name}", items=tuple(items), setting="whatsup", metric="sets", ties="wrong", groups=groups,
        note=_TIED,
    )  # fmt: skip


_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
_RELATIONS = ("left of", "right of", "above", "below")
_NUMBERS = ("one", "two", "three", "four")


def read_self_bench(path: Path) -> list[Part]:
    """Read Self-Bench: generated pictures of GenEval's prompts, a part for each kind of prompt, scored by accuracy.

    The copy has folders (of any depth) with metadata.jsonl, whose first line has "tag" and "prompt", and samples/*.png:
    one generator's. Candidates are the prompt with its colour, relation, number or pair of colours replaced, and for
    one or two objects the prompts of all others of the copy. Pictures that correct.json lists, a JSON list of paths
    from the copy, are kept alone where that file is there: the human filter. A tie is wrong.

    Source:
        Jeong et al. 2025 (pictures, numbers of candidates); Ghosh et al. 2023 (arXiv:2310.11513; prompts, colours).
    """
    kept = set(read_file(path / "correct.json", list)) if (path / "correct.json").is_file() else None
    found: dict[str, list[tuple[str, Path]]] = {}
    for file in sorted(path.rglob("metadata.jsonl")):
        entry = next(read_lines(file), {})
        tag, prompt = texts(entry, file, 1, "tag", "prompt")
        for image in sorted((file.parent / "samples").glob("*.png")):
            if kept is None or image.relative_to(path).as_posix() in kept:
                found.setdefault(tag, []).append((prompt, image))
    if not found:
        raise InputError(f"'{path}' holds no metadata.jsonl beside a folder samples with pictures that are kept.")
    note = "all pictures" if kept is None else f"the {len(kept)} pictures of correct.json"
    parts = []
    for tag, pictures in sorted(found.items()):
        prompts = list(dict.fromkeys(prompt for prompt, _ in pictures))
        items = []
        for prompt, image in pictures:
            captions = candidate_prompts(tag, prompt, prompts)
            key = image.relative_to(path).as_posix()
            target = captions.index(prompt)
            items.append(pair_item(key, image, captions, target=target, task=tag, split="self-bench", cluster=key))
        parts.append(Part(name=f"self-bench.{tag}", items=tuple(items), setting="self-bench", ties="wrong", note=note))
    return parts


def candidate_prompts(tag: str, prompt: str, prompts: Sequence[str]) -> list[str]:
    """Return the prompts that one of GenEval's is compared with, itself included."""
    swaps = {"colors": (_COLOURS, 1), "color_attr": (_COLOURS, 2), "position": (_RELATIONS, 1)}
    swaps["counting"] = (_NUMBERS, 1)
    if tag not in swaps:
        return list(prompts)
    words, times = swaps[tag]
    pattern = re.compile(rf"\b({'|'.join(words)})\b")
    places = list(pattern.finditer(prompt))[:times]
    if len(places) < times:
        raise InputError(f"The prompt {prompt!r} of Self-Bench's {tag} must name {times} of {', '.join(words)}.")
    made = []
    for choice in product(words, repeat=times):
        text, end = "", 0
        for place, word in zip(places, choice, strict=True):
            text, end = text + prompt[end : place.start()] + word, place.end()
        made.append(text + prompt[end:])
    return made


def read_cobi(path: Path) -> list[Part]:
    """Read the released two-object or relational pictures with their candidate files.

    The copy is one split: PAIR.csv (columns prompt, classname and classidx in their usual or in lower-case names, the
    true caption first) beside PAIR/TARGET/*.png. Tags are read off the classes and the folder's name: of
    COLOUR_SHAPE_COLOUR_SHAPE the second object's colour or shape, of SHAPE_RELATION_SHAPE the relation flipped or the
    shapes exchanged; all else is "random". Nothing is marked as seen.

    Source:
        Pearson et al. 2025 (aclanthology.org/2025.starsem-1.9), the files of their two-object and relational tasks.
    """
    items: list[Item] = []
    for file in sorted(path.glob("*.csv")):
        captions, names = _candidate_file(file)
        folder = path / file.stem / names[0]
        pictures = sorted(folder.glob("*.png"))
        if not pictures:
            others = sorted(p.name for p in (path / file.stem).glob("*") if p.is_dir())
            raise InputError(
                f"Row 0 of '{file}' must be the true caption, that of the folder of pictures: it names {names[0]!r}, "
                f"and the folders are {', '.join(map(repr, others)) or 'missing'}."
            )
        tags = _pair_tags(file.stem, names)
        candidates = tuple(Candidate(c, t, seen=False) for c, t in zip(captions, tags, strict=True))
        scene = scene_of(file.stem)  # the same pictures serve both orders
        for picture in pictures:
            key = picture.relative_to(path).as_posix()
            items.append(Item(key, picture, candidates, 0, "cobi", path.name, f"{scene}/{picture.name}"))
    if not items:
        raise InputError(f"'{path}' holds no PAIR.csv with a folder PAIR beside it.")
    return [Part(name="cobi", items=tuple(items), setting="cobi")]


def _candidate_file(file: Path) -> tuple[list[str], list[str]]:
    """Return captions and names of a candidate file, in its order."""
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows: list[dict[str, Any]] = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The file '{file}' cannot be read as CSV: {error}.") from error
    columns = rows[0].keys() if rows else ()
    name = next((column for column in ("class_name", "classname") if column in columns), None)
    if name is None or "prompt" not in columns:
        got = ", ".join(map(str, columns)) or "none"
        raise InputError(f"The file '{file}' must have the columns prompt and class_name. Got {got}.")
    return [row["prompt"].strip() for row in rows], [row[name].strip() for row in rows]


def _pair_tags(folder: str, names: Sequence[str]) -> list[str]:
    """Say of each candidate what it shares with the picture, whose folder is named by its pair or its relation."""
    words = folder.split("_")
    swaps = {}
    if len(words) == 4:
        swaps = {f"{words[2]} {words[1]}": "colour swap", f"{words[0]} {words[3]}": "shape swap"}
    elif len(words) == 3:
        flipped = {"left": "right", "right": "left"}.get(words[1], "")
        swaps = {
            f"{words[0]} {flipped} {words[2]}": "relation flip",
            f"{words[2]} {words[1]} {words[0]}": "object swap",
        }
    return ["target" if i == 0 else swaps.get(name, "random") for i, name in enumerate(names)]
