"""Fine-tuning of text-to-image models, all weights or a LoRA: each family in its own prediction, as it was trained."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from diffclass.data.captions import CaptionedSet
from diffclass.denoisers import PipelineDenoiser, load
from diffclass.denoisers.text_to_image.files import require_peft
from diffclass.denoisers.text_to_image.tokens import check_prompts
from diffclass.errors import ConfigError, InputError, UnsupportedModel
from diffclass.evidence import Objective
from diffclass.train.captioned_run import caption_table
from diffclass.train.crew import Crew
from diffclass.train.loop import Progress, pick_indices, random_at
from diffclass.train.run import training_facts
from diffclass.train.tuning.latents import encode_once
from diffclass.train.tuning.loop import tune
from diffclass.train.tuning.recipe import LoraPart, TuningRecipe
from diffclass.train.tuning.saving import save_tuned

__all__ = ["TextToImageTask", "open_start", "run_text_to_image"]

_SIDES = {"left", "right"}

Report = Callable[[Progress], None]
Note = Callable[[str], None]


def open_start(recipe: TuningRecipe, device: torch.device) -> PipelineDenoiser:
    """Open the model to start from, with fresh low-rank matrices if the recipe wants them.

    Args:
        recipe: of the kind "text-to-image".
        device: where its network goes.

    Raises:
        MissingExtra: a LoRA is wanted and peft is not installed.
        ConfigError: the recipe names no model, or does not fit it.
        ModelError: the model cannot be used.
    """
    start = recipe.start
    if start.model is None:
        raise ConfigError(f"The recipe '{recipe.name}' names no model to start from. Give one with --from.")
    if recipe.lora is not None:
        require_peft()
    half = recipe.lora is not None and device.type == "cuda"  # frozen weights need no more
    options = {key: value for key, value in {"vae": start.vae, "size": start.size}.items() if value is not None}
    denoiser = load(start.model, device=device, dtype=torch.bfloat16 if half else torch.float32, **options)
    if not isinstance(denoiser, PipelineDenoiser) or denoiser.classes:
        raise UnsupportedModel(
            f"A text-to-image recipe starts from a model that reads text, and {start.model!r} does not."
        )
    if recipe.train.caption_dropout and (recipe.train.text_encoder or denoiser.family.null is None):
        raise ConfigError(
            "A 'caption_dropout' needs a model that knows the empty prompt, and text encoders as they are. Set it to 0."
        )
    if recipe.lora is not None:
        _add_lora(denoiser, recipe.lora, recipe.train.seed)
    return denoiser


def _add_lora(denoiser: PipelineDenoiser, lora: LoraPart, seed: int) -> None:
    """Put low-rank matrices beside the frozen weights of the network; their product is zero at first."""
    from peft import LoraConfig

    if getattr(type(denoiser.pipe), "save_lora_weights", None) is None:
        raise ConfigError(f"diffusers has no LoRA for a {type(denoiser.pipe).__name__}. Leave [lora] out.")
    alpha = lora.rank if lora.alpha is None else lora.alpha
    config = LoraConfig(r=lora.rank, lora_alpha=alpha, target_modules=list(lora.targets), init_lora_weights="gaussian")
    network: Any = denoiser.network
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network.add_adapter(config)
    except ValueError as error:
        raise ConfigError(
            f"No layer of the network ends with the 'targets' of [lora]. Got {', '.join(lora.targets)}."
        ) from error
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


@final
class TextToImageTask:
    """A text-to-image model with captioned images, whose latents and, if encoders are frozen, embeddings are kept.

    Noise levels come from the density in which the model is asked as a classifier (uniform over the schedule's times,
    or a flow's logit-normal times), one in each of batch_size strata. The loss is the squared error of the network's
    own output.

    Args:
        denoiser: from `open_start`.
        data: captioned images.
        recipe: of the kind "text-to-image".
        cache: file that keeps the latents.
        note: called with a line now and then.

    Raises:
        InputError: a picture or caption cannot be used.
        ResultError: the latents could not be kept.
    """

    def __init__(
        self, denoiser: PipelineDenoiser, data: CaptionedSet, recipe: TuningRecipe, cache: Path, note: Note
    ) -> None:
        self.denoiser, self._recipe, self._texts = denoiser, recipe, data.texts
        sided = next((text for text in data.texts if _SIDES & set(text.lower().split())), None)
        if recipe.data.flip and sided is not None:
            raise InputError(f"The caption {sided!r} says left or right, and 'flip' mirrors pictures. Set it to false.")
        self._prompts = caption_table(data, data.texts)[torch.from_numpy(data.images.labels.copy())]
        self._latents = encode_once(
            denoiser, data.images, resize=recipe.data.resize, flip=recipe.data.flip, identity=repr(recipe.start),
            cache=cache, note=note,
        )  # fmt: skip
        if denoiser.vae is not None:
            denoiser.vae.to("cpu")
        objective = Objective.from_settings(denoiser.metadata["classifier"], sigma_data=denoiser.space.data_std)
        self._proposal, self._range = objective.proposal, objective.sigma_range or denoiser.sigma_range
        self._conditions = None
        if recipe.train.text_encoder:
            check_prompts(self._texts, denoiser.pipe, denoiser.family.limits(denoiser.pipe))
        else:
            self._conditions = denoiser.condition_on(self._texts)
        self._prepare()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.denoiser.device

    def _prepare(self) -> None:
        """Let go of what is frozen."""
        network: Any = self.denoiser.network
        network.train()
        if self._recipe.train.checkpointing:
            network.enable_gradient_checkpointing()
        if self._recipe.lora is None:
            network.requires_grad_(True)
        if self._recipe.train.text_encoder:
            for encoder in self._encoders().values():
                encoder.to(self.device).float().train().requires_grad_(True)

    def _encoders(self) -> dict[str, nn.Module]:
        parts = self.denoiser.pipe.components
        return {name: part for name, part in parts.items() if name.startswith("text_encoder") and part is not None}

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Return what is trained: the network or its low-rank matrices, and perhaps the text encoders."""
        parts = {"network": self.denoiser.network}
        if self._recipe.train.text_encoder:
            parts |= self._encoders()
        return {
            f"{part}.{name}": parameter
            for part, module in parts.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    def loss(self, step: int, part: int) -> Tensor:
        """Return the mean squared error of the network's output on one batch."""
        train, denoiser, space = self._recipe.train, self.denoiser, self.denoiser.space
        random = random_at(train.seed, 2, step, part)
        images = pick_indices(len(self._latents), train.batch_size, train.seed, step * train.accumulate + part)
        n = len(images)
        views = torch.randint(self._latents.shape[1], (n,), generator=random)
        x = self._latents[images, views]
        quantile = (torch.randperm(n, generator=random) + torch.rand(n, generator=random)) / n
        levels = self._proposal.sigma(quantile.double().numpy(), *self._range)
        sigma = torch.from_numpy(np.asarray(levels)).float()
        noisy = x + sigma[:, None, None, None] * torch.randn(x.shape, generator=random)
        told = self._prompts[images, torch.randint(self._prompts.shape[1], (n,), generator=random)]
        dropped = torch.rand(n, generator=random) < train.caption_dropout
        x, noisy, sigma = (tensor.to(self.device) for tensor in (x, noisy, sigma))
        sample, time = denoiser.parametrisation.prepare(noisy, sigma)
        given = self._told(told, dropped)
        size = space.height, space.width
        output = denoiser.family.call(denoiser.network, sample.to(denoiser.dtype), time, given, size)
        output = output[:, : x.shape[1]].float()  # learned variances come after
        return mse_loss(output, denoiser.parametrisation.target(x, noisy, sigma))

    def _told(self, told: Int64[Tensor, " batch"], dropped: Tensor) -> Mapping[str, Tensor]:
        """Embed the captions of a batch, or find what was embedded before."""
        if self._conditions is None:
            return self.denoiser.family.embed(self.denoiser.pipe, [self._texts[i] for i in told], self.device)
        given = dict(self._conditions[told.to(self.device)].tensors)
        null = self._conditions.null
        if null is None or not bool(dropped.any()):
            return given
        for name, tensor in given.items():
            where = dropped.to(self.device).view(-1, *[1] * (tensor.ndim - 1))
            given[name] = torch.where(where, null[name], tensor)
        return given


def run_text_to_image(
    recipe: TuningRecipe, train_set: CaptionedSet, out: Path, crew: Crew, device: torch.device, facts: dict[str, Any],
    report: Report, note: Note,
) -> Path:  # fmt: skip
    """Fine-tune a text-to-image model and write a directory: a whole pipeline, or a LoRA.

    Args:
        recipe: of the kind "text-to-image".
        train_set: captioned images.
        out: folder of the checkpoint, the latents and, in out/model, of the result.
        crew: of processes that train together.
        device: where to train.
        facts: for the card.
        report: called with the progress.
        note: called with a line about each other part of the run.

    Returns:
        The model directory.
    """
    denoiser = open_start(recipe, device)
    with crew.in_turn():  # the first one writes the latents, the others read them
        task = TextToImageTask(denoiser, train_set, recipe, out / "latents.safetensors", note)
    seconds = tune(
        task, recipe.train, steps=facts["steps"], identity=repr((recipe.identity, train_set.fingerprint)),
        checkpoint=out / "checkpoint.pt", report=report, crew=crew,
    )  # fmt: skip
    if not crew.leads:
        return out / "model"
    facts |= {"figures": {}, "training": training_facts(seconds, device)}
    return save_tuned(out / "model", denoiser, facts, lora=recipe.lora is not None)
