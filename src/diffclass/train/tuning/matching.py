"""ViLT on captions: the score of an image with its own caption is to be the highest among wrong ones."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from diffclass.data.captions import CaptionedSet
from diffclass.train.loop import pick_indices, random_at
from diffclass.train.tuning.batches import CaptionNumbers
from diffclass.train.tuning.encoders import Encoder
from diffclass.train.tuning.recipe import TuningPart

__all__ = ["MatchingTask", "matching_scores"]


def matching_scores(
    model: Any, pixels: Mapping[str, Tensor], tokens: Mapping[str, Tensor]
) -> Float[Tensor, "batch prompt"]:
    """Score each image with each of its captions; the patches of an image are embedded once.

    Args:
        model: a ViltForImageAndTextRetrieval.
        pixels: pixel_values and pixel_mask of the images.
        tokens: input_ids and attention_mask, each [image, prompt, token].
    """
    config, vilt = model.config, model.vilt
    patches, mask, _ = vilt.embeddings.visual_embed(
        pixels["pixel_values"], pixels["pixel_mask"], max_image_length=config.max_image_length
    )
    n, width = tokens["input_ids"].shape[:2]
    found = vilt(
        image_embeds=patches.repeat_interleave(width, dim=0),
        pixel_mask=mask.repeat_interleave(width, dim=0),
        **{name: values.flatten(0, 1) for name, values in tokens.items()},
    )
    with torch.autocast(mask.device.type, enabled=False):  # captions differ by less than bfloat16 tells at first
        return model.rank_output(vilt.pooler(found.last_hidden_state.float())).view(n, width)


@final
class MatchingTask:
    """A ViLT with captioned images, each beside wrong captions.

    Args:
        encoder: a matching one.
        data: captioned images.
        train: of the recipe.
        device: where it computes.

    Raises:
        InputError: a picture is broken, or a caption too long.
        ConditionError: every caption is true of an image.

    Source:
        Kim et al. 2021, section 4.4, fine-tuning for retrieval (arXiv:2102.03334): 15 wrong captions, cross-entropy.
    """

    def __init__(self, encoder: Encoder, data: CaptionedSet, train: TuningPart, device: torch.device) -> None:
        self.encoder, self.device, self._train = encoder, device, train
        self._captions = CaptionNumbers.of(data)
        self._captions.with_negatives(torch.arange(len(self._captions.labels)), 1, random_at(0))
        self._tokens = encoder.tokens(self._captions.texts)
        self._pixels = [encoder.picture(item) for item in data.images]
        encoder.model.to(device).train()
        if train.checkpointing:
            encoder.checkpoint_activations()

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Return all weights."""
        return dict(self.encoder.model.named_parameters())

    def loss(self, step: int, part: int) -> Tensor:
        """Return the cross-entropy of the true caption among the wrong ones."""
        train = self._train
        random = random_at(train.seed, 2, step, part)
        images = pick_indices(len(self._pixels), train.batch_size, train.seed, step * train.accumulate + part)
        prompts = self._captions.with_negatives(images, train.negatives, random)
        pixels = self.encoder.batch([self._pixels[i] for i in images], self.device)
        tokens = {name: values[prompts].to(self.device) for name, values in self._tokens.items()}
        scores = matching_scores(self.encoder.model, pixels, tokens)
        return cross_entropy(scores, torch.zeros(len(scores), dtype=torch.int64, device=self.device))

    @torch.no_grad()
    def scores(self, image: Tensor, texts: Sequence[str]) -> Float[Tensor, " prompt"]:
        """Return how well texts fit a picture as `Encoder.picture` gives it."""
        tokens = {name: values[None].to(self.device) for name, values in self.encoder.tokens(texts).items()}
        return matching_scores(self.encoder.model, self.encoder.batch([image], self.device), tokens)[0]
