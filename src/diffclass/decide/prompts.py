"""What a text-to-image model is told for each class: prompts made of templates, or read from a file."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from diffclass.denoisers import Conditions, Denoiser
from diffclass.errors import ConditionError, InputError

__all__ = ["DEFAULT_TEMPLATE", "Prompts", "check_classes"]

DEFAULT_TEMPLATE = "a photo of a {}."
_COLUMNS = ("prompt", "classname", "classidx")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """One prompt for each class and template.

    A draw takes one template, for all classes alike, so that classes stay paired: they differ by the class and not by
    the words around it. The evidence is the mean over templates.

    Args:
        classes: names.
        texts: prompts, template by template, each in the order of the classes.

    Raises:
        ConditionError: a prompt is missing or empty, or two classes share one.

    Source:
        Li et al. 2023, section 4 (arXiv:2303.16203), for one template.
    """

    classes: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        check_classes(self.classes)
        if not self.texts or any(len(row) != len(self.classes) for row in self.texts):
            raise ConditionError("There must be a prompt for each class and template.")
        for row in self.texts:
            for name, text in zip(self.classes, row, strict=True):
                if not text.strip():
                    raise ConditionError(f"The prompt of {name!r} must have words in it. Got {text!r}.")
                if row.count(text) > 1:
                    other = self.classes[len(row) - 1 - row[::-1].index(text)]
                    raise ConditionError(
                        f"The classes {name!r} and {other!r} must differ in their prompt. Got {text!r}."
                    )

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def from_templates(cls, classes: Sequence[str], templates: Sequence[str] = (DEFAULT_TEMPLATE,)) -> "Prompts":
        """Put the class names in the place of {} in each template.

        Raises:
            ConditionError: a template has no {}, or is there twice.
        """
        names = tuple(classes)
        check_classes(names)
        for template in templates:
            if "{}" not in template:
                raise ConditionError(
                    f"A template must hold {{}} where the class goes, as in {DEFAULT_TEMPLATE!r}. Got {template!r}."
                )
        if len(set(templates)) < len(templates):
            twice = next(template for template in templates if list(templates).count(template) > 1)
            raise ConditionError(f"Every template must be given once. {twice!r} is there more than once.")
        texts = tuple(tuple(template.replace("{}", name) for name in names) for template in templates)
        return cls(classes=names, texts=texts)

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> "Prompts":
        """Read a file with the columns prompt, classname and classidx, a row a prompt.

        Classes come in the order of classidx. Where several rows have one classidx, every class must have as many, and
        the first prompts of all classes belong together, the second ones, and so on.

        Raises:
            InputError: the file is missing, or no such table.
            ConditionError: classes have different numbers of prompts, or two share one.

        Source:
            The format of the prompt files that come with Li et al. 2023 (arXiv:2303.16203).
        """
        rows = _read(Path(path))
        found: dict[int, list[str]] = {}
        names: dict[int, str] = {}
        for number, row in enumerate(rows, start=2):
            try:
                index = int(row["classidx"])
            except (TypeError, ValueError):
                raise InputError(
                    f"The 'classidx' in line {number} of '{path}' must be a whole number. Got {row['classidx']!r}."
                ) from None
            if names.setdefault(index, row["classname"].strip()) != row["classname"].strip():
                raise InputError(f"Class {index} of '{path}' must have one name. Got {names[index]!r} and another.")
            found.setdefault(index, []).append(row["prompt"].strip())
        order = sorted(found)
        counts = {len(found[index]) for index in order}
        if len(counts) > 1:
            raise ConditionError(
                f"Every class of '{path}' must have the same number of prompts, so that classes stay paired. "
                f"Got {min(counts)} to {max(counts)}."
            )
        texts = tuple(zip(*(found[index] for index in order), strict=True))
        return cls(classes=tuple(names[index] for index in order), texts=texts)

    def embed(self, denoiser: Denoiser) -> Conditions:
        """Embed every prompt once: the classes of the first template, then those of the second, and so on."""
        flat = [text for row in self.texts for text in row]
        unique = list(dict.fromkeys(flat))
        conditions = denoiser.condition_on(unique)
        if len(unique) == len(flat):
            return conditions
        return conditions[torch.tensor([unique.index(text) for text in flat], device=denoiser.device)]


def check_classes(names: Sequence[str]) -> None:
    """Refuse class names that no classifier could choose among.

    Raises:
        ConditionError: there are fewer than two, one is there twice, or one is empty.
    """
    if len(names) < 2:
        raise ConditionError(f"A classifier needs at least two classes. Got {len(names)}.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise ConditionError(f"Every class must be named once. {twice!r} is there more than once.")
    if not all(name.strip() for name in names):
        raise ConditionError(f"Every class must have a name. Got {next(n for n in names if not n.strip())!r}.")


def _read(path: Path) -> list[dict[str, str]]:
    """Read the rows of a prompt file."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            missing = [column for column in _COLUMNS if column not in (table.fieldnames or ())]
            rows = [] if missing else [row for row in table if any(row.values())]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The prompt file '{path}' cannot be read as a CSV file: {error}.") from error
    if missing:
        raise InputError(
            f"The prompt file '{path}' must have the columns {', '.join(_COLUMNS)}. It lacks {missing[0]}."
        )
    if any(row[column] is None for row in rows for column in _COLUMNS):
        raise InputError(f"Every row of the prompt file '{path}' must have {len(_COLUMNS)} columns.")
    return rows
