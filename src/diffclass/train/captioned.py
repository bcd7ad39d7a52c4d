"""A UNet that reads captions, trained together with its text encoder."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from diffclass.denoisers.text_to_image import PipelineDenoiser
from diffclass.denoisers.text_to_image.pixels import PIXEL_TEXT, TextParts, small_tokenizer
from diffclass.errors import ConfigError
from diffclass.train.recipe import NetworkPart

__all__ = ["CaptionedNetwork", "build_captioned"]


@final
class CaptionedNetwork(nn.Module):
    """A network that is told a caption by its number, as the training loop tells a class.

    Args:
        unet: a UNet2DConditionModel.
        text_encoder: a CLIPTextModel.
        tokenizer: a CLIP tokenizer.
        captions: texts by number; after the last comes the empty one.
    """

    def __init__(self, unet: nn.Module, text_encoder: nn.Module, tokenizer: Any, captions: Sequence[str]) -> None:
        super().__init__()
        self.unet, self.text_encoder, self.tokenizer = unet, text_encoder, tokenizer
        length = tokenizer.model_max_length
        found = tokenizer([*captions, ""]).input_ids
        longest = max(map(len, found))
        if longest > length:
            raise ConfigError(f"A caption has {longest} tokens and the tokenizer reads {length}. Shorten the captions.")
        tokens = tokenizer([*captions, ""], padding="max_length", max_length=length, return_tensors="pt")
        self.register_buffer("token_ids", tokens.input_ids)

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> Any:
        """Call the UNet; a caption of the batch is embedded once, however often it is there."""
        told, place = torch.unique(class_labels, return_inverse=True)
        token_ids: Any = self.token_ids
        states = self.text_encoder(token_ids[told]).last_hidden_state
        return self.unet(sample, timestep, encoder_hidden_states=states[place])

    @property
    def parts(self) -> TextParts:
        """Return what is saved."""
        return TextParts(tokenizer=self.tokenizer, text_encoder=self.text_encoder, unet=self.unet)

    def as_denoiser(self, *, device: torch.device, **options: Any) -> PipelineDenoiser:
        """Return the denoiser of these weights; it reads any text."""
        return PipelineDenoiser(
            family=PIXEL_TEXT, pipe=self.parts, network=self.unet, vae=None, device=device, **options
        )


def build_captioned(part: NetworkPart, options: Mapping[str, Any], captions: Sequence[str]) -> CaptionedNetwork:
    """Build a UNet and a text encoder with random weights, and a tokenizer for the words of the captions.

    Args:
        part: of the recipe; part.text holds arguments of CLIPTextConfig, of which max_position_embeddings says how many
            tokens a caption may have.
        options: sizes and channels of the UNet.
        captions: texts by number.

    Raises:
        ConfigError: diffusers or transformers refuse the options.
    """
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = small_tokenizer(captions, length=part.text.get("max_position_embeddings", 16))
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    try:
        config = CLIPTextConfig(
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **{"max_position_embeddings": tokenizer.model_max_length, **sizes, **part.text},
        )
        encoder = CLIPTextModel(config)
        unet = UNet2DConditionModel(**options, cross_attention_dim=config.hidden_size, **part.options)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ConfigError(f"diffusers cannot build UNet2DConditionModel from these options: {error}.") from error
    return CaptionedNetwork(unet, encoder, tokenizer, captions)
