"""Latents of a data set: encoded once, and kept beside the checkpoint so that a resumed run need not do it again."""

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from diffclass.data.datasets import Dataset
from diffclass.data.images import Resize
from diffclass.denoisers import PipelineDenoiser
from diffclass.errors import ResultError

__all__ = ["encode_once"]

_BATCH = 8  # images
_NOTE_EVERY = 400  # images


def encode_once(
    denoiser: PipelineDenoiser, images: Dataset, *, resize: Resize, flip: bool, identity: str, cache: Path,
    note: Callable[[str], None],
) -> Float32[Tensor, "image view _ _ _"]:  # fmt: skip
    """Return the latents of all images, and of their mirror images beside them.

    Args:
        denoiser: whose `encode` is used.
        images: the pictures.
        resize: "refuse", "crop" or "stretch" those of another size.
        flip: whether mirror images are wanted too.
        identity: what the latents depend on besides.
        cache: a file that keeps them; one of other images or another model is replaced.
        note: called with a line now and then.

    Raises:
        InputError: a picture cannot be used.
        ResultError: the file could not be written.
    """
    from safetensors.torch import save_file

    content = repr((identity, images.fingerprint, denoiser.space, resize, flip))
    key = blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    kept = _read(cache, key)
    if kept is not None:
        return kept
    made = []
    for first in range(0, len(images), _BATCH):
        items = (images[i] for i in range(first, min(first + _BATCH, len(images))))
        batch = torch.stack([item.load(denoiser.space.image_shape, resize=resize, convert=True) for item in items])
        views = [batch, batch.flip(-1)] if flip else [batch]
        with torch.no_grad():
            made.append(torch.stack([denoiser.encode(view.to(denoiser.device)).cpu() for view in views], dim=1))
        if first % _NOTE_EVERY == 0:
            note(f"encoding: {first} of {len(images)} images")
    latents = torch.cat(made).contiguous()
    part = cache.with_suffix(".part")
    try:
        save_file({"latents": latents}, part, metadata={"key": key})
        part.replace(cache)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ResultError(f"The latents could not be kept in {cache}: {error}.") from error
    return latents


def _read(cache: Path, key: str) -> Tensor | None:
    """Read what was kept, if it is of these images and this model."""
    from safetensors import SafetensorError, safe_open

    if not cache.is_file():
        return None
    try:
        with safe_open(cache, framework="pt") as file:
            return file.get_tensor("latents") if (file.metadata() or {}).get("key") == key else None
    except (SafetensorError, OSError):
        return None
