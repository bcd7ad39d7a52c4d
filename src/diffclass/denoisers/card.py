"""What is known of a model: the content of its diffclass.json, and a card to show."""

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, final

from diffclass.denoisers.protocol import Space
from diffclass.errors import UnsupportedModel, WeightsMissing

__all__ = ["ModelCard", "card_of", "check_keys", "figures_table", "front_matter", "read_json", "read_metadata"]

_FORMAT = 1
_LICENCES = {  # of the hub's identifiers, those that are named so
    *("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0"),
    *("cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "openrail"),
    *("openrail++", "creativeml-openrail-m", "unknown"),
}
_NAMES = {
    "auc": "AUC",
    "nll": "negative log-likelihood [nats]",
    "ece": "expected calibration error (15 bins)",
    "evaluations_per_image": "network evaluations an image",
    "draws_per_image": "draws an image",
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a person wants to know before using a model.

    Args:
        name: by which `load` finds it.
        kind: "network" or "mixture".
        classes: what it tells apart.
        shape: [pixels] channels, height and width of its images.
        size_bytes: of its weights.
        licence: of its weights.
        data: what it was trained on.
        figures: measured numbers, as diffclass.json holds them.
        path: its directory.
        description: the first paragraph of its README.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    size_bytes: int
    licence: str
    data: str
    figures: Mapping[str, Any]
    path: Path
    description: str


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        WeightsMissing: there is no such file.
        UnsupportedModel: it is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsMissing(f"The model directory {str(path.parent)!r} holds no {path.name!r}.") from error
    except (ValueError, OSError) as error:
        raise UnsupportedModel(f"The file {str(path)!r} must be JSON: {error}.") from error
    if not isinstance(content, dict):
        raise UnsupportedModel(f"The file {str(path)!r} must hold a JSON object. Got {type(content).__name__}.")
    return content


def read_metadata(directory: Path) -> dict[str, Any]:
    """Read diffclass.json.

    Raises:
        UnsupportedModel: it was written by a later version, or lacks what every model has.
    """
    path = directory / "diffclass.json"
    metadata = read_json(path)
    if metadata.get("format") != _FORMAT:
        raise UnsupportedModel(
            f"The file {str(path)!r} must have format {_FORMAT}. Got {metadata.get('format')!r}; "
            "another version of diffclass may have written it."
        )
    missing = [key for key in ("name", "classes", "space", "sigma_range") if key not in metadata]
    if missing:
        raise UnsupportedModel(f"The file {str(path)!r} lacks {', '.join(map(repr, missing))}.")
    check_keys(metadata["space"], Space, f"The 'space' of {str(path)!r}")
    return metadata


def check_keys(values: Any, cls: type, what: str) -> None:
    """Check that a JSON object holds the fields of a dataclass.

    Raises:
        UnsupportedModel: it is no object, lacks a field, or has one that the dataclass has not.
    """
    known = {field.name: field for field in fields(cls)}
    if not isinstance(values, Mapping):
        raise UnsupportedModel(f"{what} must be a JSON object. Got {values!r}.")
    wanted = [name for name, field in known.items() if field.default is MISSING and field.default_factory is MISSING]
    faults = [f"lacks {name!r}" for name in wanted if name not in values]
    faults += [f"has {name!r}, which is unknown" for name in values if name not in known]
    if faults:
        raise UnsupportedModel(f"{what} must hold {', '.join(known)}. It {faults[0]}.")


def card_of(directory: Path) -> ModelCard:
    """Read the card of a model directory, without its weights.

    Raises:
        ModelError: files are missing or cannot be read.
    """
    metadata = read_metadata(directory)
    space = metadata["space"]
    text = (directory / "text_encoder").is_dir()
    whole = text or (directory / "model_index.json").is_file() or "weights_of" in metadata  # not of one network
    mixture = not whole and read_json(directory / "config.json").get("_class_name") == "MixtureDenoiser"
    readme = directory / "README.md"
    return ModelCard(
        name=metadata["name"],
        kind="mixture" if mixture else "network",
        classes=tuple(metadata["classes"]),
        shape=(space["channels"], space["height"], space["width"]),
        size_bytes=sum(path.stat().st_size for path in directory.rglob("*.safetensors")),
        licence=metadata.get("licence", "unknown"),
        data=metadata.get("data", "unknown"),
        figures=metadata.get("figures", {}),
        path=directory,
        description=_first_paragraph(readme.read_text(encoding="utf-8")) if readme.is_file() else "",
    )


def front_matter(metadata: Mapping[str, Any]) -> list[str]:
    """Return the lines of the YAML header by which the Hugging Face hub knows what a model is.

    Args:
        metadata: the content of diffclass.json; "licence" may be one of the hub's identifiers or any name, and
            "datasets" and "base_model" are identifiers on the hub.
    """
    reads_text = "prompts" in metadata or not metadata.get("classes")
    licence = str(metadata.get("licence", "unknown"))
    identifier = re.sub(r"[^a-z0-9.+]+", "-", licence.lower()).strip("-")
    lines = [
        "---",
        "library_name: diffclass",
        f"pipeline_tag: {'zero-shot-image-classification' if reads_text else 'image-classification'}",
        "tags: [diffclass, image-classification, diffusion]",
    ]
    if identifier in _LICENCES:
        lines.append(f"license: {identifier}")
    else:
        lines += ["license: other", f"license_name: {json.dumps(identifier)}"]
    lines += [f"datasets: {json.dumps(list(metadata['datasets']))}"] if metadata.get("datasets") else []
    lines += [f"base_model: {json.dumps(metadata['base_model'])}"] if metadata.get("base_model") else []
    return [*lines, "---"]


def figures_table(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table of measured figures: split -> name -> value, low, high and n."""
    lines = ["| split | figure | value | 95% interval | images |", "|---|---|---|---|---|"]
    for split, rows in figures.items():
        for key, e in rows.items():
            name = _NAMES.get(key, key.replace("_", " "))
            lines.append(f"| {split} | {name} | {e['value']:.4g} | {e['low']:.4g} to {e['high']:.4g} | {e['n']} |")
    return lines


def _first_paragraph(markdown: str) -> str:
    """Return the first paragraph after the YAML front matter and the headings, on one line."""
    text = markdown.strip()
    if text.startswith("---\n"):
        text = text[4:].partition("\n---")[2]
    paragraphs = (paragraph.strip() for paragraph in text.split("\n\n"))
    plain = (
        " ".join(line for line in paragraph.splitlines() if not line.startswith("#")).strip()
        for paragraph in paragraphs
    )
    return next((paragraph for paragraph in plain if paragraph), "")
