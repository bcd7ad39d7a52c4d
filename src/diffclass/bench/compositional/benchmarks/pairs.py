"""Benchmarks of one true caption and one foil: SugarCrepe, VALSE, ARO and the CLEVR pairs of DiffusionITM."""

from collections.abc import Sequence
from pathlib import Path

from diffclass.bench.compositional.benchmarks.source import image_of, pair_item, read_file, texts
from diffclass.bench.compositional.item import Item
from diffclass.bench.compositional.part import Part
from diffclass.bench.compositional.picture import Box
from diffclass.errors import InputError

__all__ = ["read_aro", "read_clevr", "read_sugarcrepe", "read_valse"]

_SUGARCREPE = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
_VALSE = (
    "actant-swap", "action-replacement", "coreference-hard", "coreference-standard", "counting-adversarial",
    "counting-hard", "counting-small-quant", "existence", "foil-it", "plurals", "relations",
)  # fmt: skip
_CLEVR = (
    "binding_color_shape", "binding_shape_color", "pair_binding_color", "pair_binding_size", "recognition_color",
    "recognition_shape", "spatial",
)  # fmt: skip
_VOTES = 2  # of three annotators who found that a caption fits
_LEAST_ATTRIBUTES = 25  # items of a pair of attributes that is scored


def read_sugarcrepe(path: Path) -> list[Part]:
    """Read SugarCrepe: a part for each of its seven files, scored by accuracy; a tie is wrong.

    The copy has data/NAME.json (or NAME.json) and COCO's val2017 (or images).

    Source:
        Hsieh et al. 2023 (arXiv:2306.14610); strict comparison as in its evaluation.
    """
    parts = []
    for name, file in _files(path, _SUGARCREPE, "data"):
        items = []
        for key, entry in read_file(file, dict).items():
            filename, *captions = texts(entry, file, key, "filename", "caption", "negative_caption")
            image = image_of(key, path / "val2017" / filename, path / "images" / filename)
            items.append(pair_item(key, image, captions, task=name, split="sugarcrepe", cluster=filename))
        parts.append(Part(name=f"sugarcrepe.{name}", items=tuple(items), setting="sugarcrepe", ties="wrong"))
    return parts


def read_valse(path: Path) -> list[Part]:
    """Read VALSE: a part for each instrument, scored by pairwise accuracy of valid items; a tie is wrong.

    Valid are items whose caption at least two of three annotators found to fit. The copy has data/NAME.json (or
    NAME.json), and pictures in images, images/NAME or images/DATASET, DATASET as the entry names it.

    Source:
        Parcalabescu et al. 2022 (arXiv:2112.07566), acc_r.
    """
    parts = []
    for name, file in _files(path, _VALSE, "data"):
        entries = read_file(file, dict)
        items = []
        for key, entry in entries.items():
            if _votes(entry) < _VOTES:
                continue
            filename, *captions = texts(entry, file, key, "image_file", "caption", "foil")
            folders = [path / "images", path / "images" / name, path / "images" / str(entry.get("dataset"))]
            image = image_of(key, *(folder / filename for folder in folders))
            items.append(pair_item(key, image, captions, task=name, split="valse", cluster=filename))
        note = f"{len(items)} valid items of {len(entries)}"
        parts.append(Part(name=f"valse.{name}", items=tuple(items), setting="valse", ties="wrong", note=note))
    return parts


def _votes(entry: object) -> int:
    votes = entry.get("mturk") if isinstance(entry, dict) else None
    return int(votes.get("caption", 0)) if isinstance(votes, dict) else 0


def read_clevr(path: Path) -> list[Part]:
    """Read the CLEVR pairs of DiffusionITM: a part for each of seven files, scored by accuracy; a tie is wrong.

    The copy has captions/NAME.json and images. In "spatial" the second caption is the true one, as Jeong et al. read
    it; in all others the first.

    Source:
        Krojer et al. 2023 (arXiv:2305.16397); Jeong et al. 2025 (the order of "spatial").
    """
    parts = []
    for name, file in _files(path, _CLEVR, "captions"):
        items = []
        for filename, pairs in read_file(file, dict).items():
            image = image_of(filename, path / "images" / filename)
            for number, captions in enumerate(pairs):
                if not isinstance(captions, list) or len(captions) != 2:
                    raise InputError(f"The entry {filename!r} of '{file}' must hold pairs of captions. Got {captions}.")
                target = 1 if name == "spatial" else 0
                key = f"{filename}/{number}"
                items.append(pair_item(key, image, captions, target=target, task=name, split="clevr", cluster=filename))
        note = "the second caption is taken as the true one" if name == "spatial" else ""
        parts.append(Part(name=f"clevr.{name}", items=tuple(items), setting="clevr", ties="wrong", note=note))
    return parts


def read_aro(path: Path) -> list[Part]:
    """Read ARO's VG-Relation and VG-Attribution, scored by the mean over relations or pairs of attributes.

    A picture is cropped to its item's box before anything else. A tie is wrong, as the false caption comes first.
    Relations that are named in symmetric_relations.txt, a line each, are left out, as the paper does; without that
    file all are scored, and a note says so. Pairs of attributes need 25 items. COCO- and Flickr-Order are not read:
    their captions are shuffled anew, without a seed, whenever they are loaded.

    Source:
        Yuksekgonul et al. 2023 (arXiv:2210.01936).
    """
    parts = []
    if (file := path / "visual_genome_relation.json").is_file():
        symmetric, note = _symmetric(path / "symmetric_relations.txt")
        parts.append(_aro(path, file, "relation", 1, note, without=symmetric))
    if (file := path / "visual_genome_attribution.json").is_file():
        parts.append(_aro(path, file, "attribution", _LEAST_ATTRIBUTES, ""))
    if not parts:
        raise InputError(f"'{path}' holds no visual_genome_relation.json and no visual_genome_attribution.json.")
    return parts


def _aro(path: Path, file: Path, name: str, least: int, note: str, *, without: Sequence[str] = ()) -> Part:
    items: list[Item] = []
    groups: dict[str, str] = {}
    boxes: dict[str, Box] = {}
    for number, entry in enumerate(read_file(file, list)):
        key = f"{name}/{number}"
        filename, *captions = texts(entry, file, number, "image_path", "false_caption", "true_caption")
        if name == "relation":
            (group,) = texts(entry, file, number, "relation_name")
        else:
            group = "_".join(str(attribute) for attribute in entry.get("attributes", [])[:2])
        if group in without:
            continue
        try:
            left, top, wide, tall = (int(entry[f"bbox_{side}"]) for side in "xywh")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"The entry {number} of '{file}' must have whole numbers bbox_x, _y, _w, _h.") from error
        boxes[key], groups[key] = (left, top, wide, tall), group
        image = image_of(key, path / "images" / filename)
        items.append(pair_item(key, image, captions, target=1, task=name, split="aro", cluster=filename))
    return Part(
        name=f"aro.{name}", items=tuple(items), setting="aro", boxes=boxes, metric="macro", ties="wrong",
        groups=groups, least=least, note=note,
    )  # fmt: skip


def _symmetric(file: Path) -> tuple[list[str], str]:
    """Read which relations are left out."""
    if not file.is_file():
        return [], f"all relations are scored, the symmetric ones too: there is no {file.name}"
    names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return names, f"{len(names)} relations of {file.name} are left out"


def _files(path: Path, names: Sequence[str], folder: str) -> list[tuple[str, Path]]:
    """Find the files of a benchmark that are there."""
    places = [(name, place / f"{name}.json") for name in names for place in (path / folder, path)]
    found = {name: file for name, file in reversed(places) if file.is_file()}
    if not found:
        raise InputError(f"'{path}' holds none of the files {', '.join(f'{name}.json' for name in names)}.")
    return sorted(found.items())
