"""CLIP on captions: each image is to be nearest to its own caption, and each caption to its own image."""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from diffclass.data.captions import CaptionedSet
from diffclass.train.loop import random_at
from diffclass.train.tuning.batches import CaptionNumbers
from diffclass.train.tuning.encoders import Encoder
from diffclass.train.tuning.recipe import TuningPart

__all__ = ["ContrastiveTask", "contrastive_loss"]

_LARGEST_SCALE = 100.0


def contrastive_loss(
    images: Float[Tensor, "batch _"], texts: Float[Tensor, "batch _"], log_scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Return the symmetric cross-entropy of scaled cosines; row i of images belongs to row i of texts.

    Source:
        Radford et al. 2021, Figure 3, and section 2.5 for the largest scale (arXiv:2103.00020).
    """
    scale = log_scale.exp().clamp(max=_LARGEST_SCALE)
    logits = scale * normalize(images, dim=-1) @ normalize(texts, dim=-1).T
    target = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


@final
class ContrastiveTask:
    """A CLIP with captioned images, in batches of distinct classes.

    Args:
        encoder: a contrastive one.
        data: captioned images.
        train: of the recipe.
        device: where it computes.

    Raises:
        InputError: a picture is broken, or a caption too long.
        ConditionError: no two classes of images are distinct.
    """

    def __init__(self, encoder: Encoder, data: CaptionedSet, train: TuningPart, device: torch.device) -> None:
        self.encoder, self.device, self._train = encoder, device, train
        self._captions = CaptionNumbers.of(data)
        self._captions.check_distinct()
        self._tokens = encoder.tokens(self._captions.texts)
        self._pixels = [encoder.picture(item) for item in data.images]
        encoder.model.to(device).train()
        if train.checkpointing:
            encoder.checkpoint_activations()

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Return all weights."""
        return dict(self.encoder.model.named_parameters())

    def loss(self, step: int, part: int) -> Tensor:
        """Return the contrastive loss of one batch."""
        random = random_at(self._train.seed, 2, step, part)
        images, prompts = self._captions.distinct(self._train.batch_size, random)
        pixels = self.encoder.batch([self._pixels[i] for i in images], self.device)
        tokens = {name: values[prompts].to(self.device) for name, values in self._tokens.items()}
        model = self.encoder.model
        seen = model.get_image_features(**pixels).pooler_output.float()
        read = model.get_text_features(**tokens).pooler_output.float()
        with torch.autocast(self.device.type, enabled=False):
            return contrastive_loss(seen, read, model.logit_scale)

    @torch.no_grad()
    def scores(self, image: Tensor, texts: Sequence[str]) -> Float[Tensor, " prompt"]:
        """Return how well texts fit a picture as `Encoder.picture` gives it."""
        model = self.encoder.model
        tokens = {name: values.to(self.device) for name, values in self.encoder.tokens(texts).items()}
        seen = model.get_image_features(**self.encoder.batch([image], self.device)).pooler_output
        read = model.get_text_features(**tokens).pooler_output
        return (normalize(seen.float(), dim=-1) @ normalize(read.float(), dim=-1).T)[0]
