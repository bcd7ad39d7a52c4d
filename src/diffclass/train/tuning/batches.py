"""Which images and captions meet in a batch: functions of a seed and a step, so that a run can be resumed."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Int64
from torch import Tensor

from diffclass.data.captions import CaptionedSet
from diffclass.errors import ConditionError

__all__ = ["CaptionNumbers"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaptionNumbers:
    """Images and captions by number.

    Args:
        texts: every caption.
        of_class: numbers of the captions of each class of images that are captioned alike.
        labels: class of each image.
        members: images of each class.
    """

    texts: tuple[str, ...]
    of_class: tuple[tuple[int, ...], ...]
    labels: Int64[Tensor, " image"]
    members: tuple[Int64[Tensor, " _"], ...]

    @classmethod
    def of(cls, data: CaptionedSet) -> "CaptionNumbers":
        """Number the images and captions of a set; classes without images count for nothing."""
        labels = torch.from_numpy(data.images.labels.copy())
        members = tuple(torch.nonzero(labels == label).flatten() for label in range(len(data.captions)))
        return cls(texts=data.texts, of_class=data.numbers, labels=labels, members=members)

    def check_distinct(self) -> None:
        """Check that a contrastive batch can be made.

        Raises:
            ConditionError: every two classes of images share a caption, or there is but one.
        """
        if not len(self._partnered()):
            there = sum(bool(len(member)) for member in self.members)
            raise ConditionError(
                "A contrastive batch needs images of at least two distinct classes, which share no caption. Got "
                f"{there} class{'es' if there != 1 else ''} of images that are captioned alike, and no two apart."
            )

    def distinct(
        self, batch_size: int, random: torch.Generator
    ) -> tuple[Int64[Tensor, " batch"], Int64[Tensor, " batch"]]:
        """Draw images of distinct classes, no two of which share a caption, and a caption of each.

        Classes come in random order, each with one image; a class that shares a caption with one before it is left out.
        A caption of one image is then false of all others, as the contrastive loss takes for granted.

        Args:
            batch_size: images at most.
            random: source of the draw.
        """
        partnered = self._partnered()
        first = int(partnered[torch.randint(len(partnered), (1,), generator=random)])
        order = [first, *torch.randperm(len(self.of_class), generator=random).tolist()]
        used: set[int] = set()
        images, prompts = [], []
        for label in order:
            numbers, members = self.of_class[label], self.members[label]
            if not len(members) or not used.isdisjoint(numbers):
                continue
            used.update(numbers)
            images.append(int(members[torch.randint(len(members), (1,), generator=random)]))
            prompts.append(numbers[int(torch.randint(len(numbers), (1,), generator=random))])
            if len(images) == batch_size:
                break
        return torch.tensor(images), torch.tensor(prompts)

    def with_negatives(
        self, images: Int64[Tensor, " batch"], n: int, random: torch.Generator
    ) -> Int64[Tensor, "batch prompt"]:
        """Draw for each image one caption that is true of it, and then n that are not.

        Args:
            images: by number.
            n: wrong captions an image; all there are, several times, if there are fewer.
            random: source of the draw.

        Raises:
            ConditionError: every caption is true of an image.
        """
        rows = []
        for label in self.labels[images].tolist():
            own = self.of_class[label]
            order = torch.randperm(len(self.texts), generator=random).tolist()
            wrong = [number for number in order if number not in own]
            if not wrong:
                raise ConditionError(
                    "Matching needs captions that are wrong of an image. Every caption is true of one."
                )
            true = own[int(torch.randint(len(own), (1,), generator=random))]
            rows.append([true, *(wrong * (n // len(wrong) + 1))[:n]])
        return torch.tensor(rows)

    def _partnered(self) -> Int64[Tensor, " _"]:
        """Return the classes with images for which there is another one without a common caption."""
        there = [label for label, member in enumerate(self.members) if len(member)]
        sharing: dict[int, set[int]] = {}
        for label in there:
            for number in self.of_class[label]:
                sharing.setdefault(number, set()).add(label)
        alone = [len(set().union(*(sharing[n] for n in self.of_class[label]))) for label in there]
        return torch.tensor([label for label, n in zip(there, alone, strict=True) if n < len(there)], dtype=torch.int64)
