"""Networks that denoise pixels: diffusers' UNet2DModel and DiTTransformer2DModel, ours, or any called like them.

A network may be told the class late (`LateNetwork`): then all classes of a noisy image share its larger part.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from diffclass.denoisers.card import read_json, read_metadata
from diffclass.denoisers.parametrisation import Parametrisation
from diffclass.denoisers.precision import place_network
from diffclass.denoisers.protocol import Conditions, Space
from diffclass.denoisers.scheduler import parametrisation_of, read_parametrisation
from diffclass.denoisers.weights import fetch, find_weights, put_weights, read_weights
from diffclass.errors import ConditionError, RangeError, UnsupportedModel, WeightsMissing
from diffclass.types import Images, Latents, Sigmas

__all__ = ["LateNetwork", "PixelDenoiser", "load_pixel", "network_class"]

_DIFFUSERS = ("UNet2DModel", "DiTTransformer2DModel")
_OURS = {  # and the modules they are in
    "LateUNet2DModel": "late",
    "ADMUNet": "adm_unet",
    "SongUNet": "song_unet",
    "WithUnconditional": "with_unconditional",
}
_NETWORKS = (*_DIFFUSERS, *_OURS)
_CONSISTENCY = "Consistency models jump to the end of a trajectory instead of estimating the mean of the clean image"


@runtime_checkable
class LateNetwork(Protocol):
    """A network whose larger part is told no class."""

    def shared(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Return what all classes of a noisy image share."""
        ...

    def conditioned(self, features: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        """Return the answer for one class an element."""
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PixelDenoiser:
    """A class-conditional network on pixels, as a denoiser.

    Args:
        network: called as network(sample, time, class_labels=ids).sample. A module is put into evaluation mode.
        parametrisation: what the network's input, time and output mean.
        space: how its units relate to images.
        sigma_range: [model units] where it was trained.
        classes: names, in the order of the network's class ids.
        null_class: the id that stands for "no class", if it was trained with label dropout.
        clip: whether the answer is clipped to the range of images. It stops gradients there.
        metadata: the content of diffclass.json, if there was one.
    """

    network: Callable[..., Any]
    parametrisation: Parametrisation
    space: Space
    sigma_range: tuple[float, float]
    classes: tuple[str, ...]
    null_class: int | None = None
    clip: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise ConditionError(f"A denoiser must know at least two classes to tell apart. Got {list(self.classes)}.")
        twice = [name for name, count in Counter(self.classes).items() if count > 1]
        if twice:
            raise ConditionError(f"The classes of a denoiser must differ. Got {twice[0]!r} twice.")
        low, high = self.sigma_range
        if not 0 < low < high < float("inf"):
            raise RangeError(f"The 'sigma_range' of a denoiser must be 0 < low < high. Got {self.sigma_range}.")
        if isinstance(self.network, nn.Module):
            self.network.eval()

    @property
    def device(self) -> torch.device:
        """Where the network lives (the CPU for a function)."""
        return self._placement[0]

    @property
    def dtype(self) -> torch.dtype | None:
        """Number format of the network; None for a function, which is given what the caller gives."""
        return self._placement[1]

    @property
    def _placement(self) -> tuple[torch.device, torch.dtype | None]:
        if isinstance(self.network, nn.Module):
            for parameter in self.network.parameters():
                return parameter.device, parameter.dtype
        return torch.device("cpu"), None

    def encode(self, images: Images) -> Latents:
        """Convert images in [0, 1] to model units."""
        return self.space.to_model(images)

    def decode(self, latents: Latents) -> Images:
        """Convert back to images in [0, 1]."""
        return self.space.to_images(latents)

    def condition_on(self, prompts: Sequence[str]) -> Conditions:
        """Look up the ids of classes.

        Raises:
            ConditionError: the model does not know a class, or there is none.
        """
        unknown = [prompt for prompt in prompts if prompt not in self.classes]
        if unknown or not prompts:
            raise ConditionError(_unknown_class(unknown[0] if unknown else None, self.classes))
        ids = torch.tensor([self.classes.index(prompt) for prompt in prompts], device=self.device)
        null = None if self.null_class is None else {"class_labels": ids.new_tensor([self.null_class])}
        return Conditions({"class_labels": ids}, null)

    def __call__(self, noisy: Latents, sigma: Sigmas, conditions: Conditions) -> Latents:
        """Return E[x | noisy, class]: the network in its own dtype, everything around it in at least float32."""
        noisy, sample, time = self._prepared(noisy, sigma)
        output = self.network(sample, time, class_labels=conditions.tensors["class_labels"]).sample
        return self._denoised(noisy, sigma, output)

    def denoise_each(
        self,
        noisy: Float[Tensor, "group _ _ _"],
        sigma: Float[Tensor, " group"],
        conditions: Conditions,
        rows: Int64[Tensor, " batch"],
    ) -> Latents:
        """Return E[x | noisy[rows], class]; a `LateNetwork` runs its shared part once for each of `noisy`."""
        if not isinstance(self.network, LateNetwork):
            return self(noisy[rows], sigma[rows], conditions)
        noisy, sample, time = self._prepared(noisy, sigma)
        features = self.network.shared(sample, time)[rows]
        output = self.network.conditioned(features, time[rows], conditions.tensors["class_labels"])
        return self._denoised(noisy[rows], sigma[rows], output)

    def _prepared(self, noisy: Latents, sigma: Sigmas) -> tuple[Latents, Latents, Tensor]:
        """Return the noisy images in at least float32, and what the network gets for them."""
        device, dtype = self._placement
        noisy = noisy.to(torch.promote_types(noisy.dtype, torch.float32))
        sample, time = self.parametrisation.prepare(noisy, sigma)
        return noisy, sample if dtype is None else sample.to(device, dtype), time

    def _denoised(self, noisy: Latents, sigma: Sigmas, output: Tensor) -> Latents:
        """Turn the network's output into the clean image's mean."""
        output = output[:, : noisy.shape[1]].to(noisy.dtype)  # learned variances come after
        denoised = self.parametrisation.denoised(noisy, sigma, output)
        if self.clip and self.space.haar:  # pixels have ends, their sums and differences have none
            denoised = self.space.to_model(self.space.to_images(denoised).clamp(0, 1))
        elif self.clip:
            ends = self.space.offset, self.space.scale + self.space.offset
            denoised = denoised.clamp(min(ends), max(ends))
        return denoised


def _unknown_class(wanted: str | None, classes: tuple[str, ...]) -> str:
    """Say which classes there are."""
    known = ", ".join(map(repr, classes[:10])) + (f", ... ({len(classes)} in all)" if len(classes) > 10 else "")
    if wanted is None:
        return f"At least one class must be given, among {known}. Got none."
    near = get_close_matches(wanted, classes, n=1)
    return f"The classes must be among {known}. Got {wanted!r}." + (f" Did you mean {near[0]!r}?" if near else "")


def load_pixel(
    path_or_hub_id: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    classes: Sequence[str] | None = None,
) -> PixelDenoiser:
    """Load a network that denoises pixels.

    It reads directories that diffclass wrote (diffclass.json), diffusers pipelines (model_index.json), and a diffusers
    model with a scheduler_config.json beside it or in scheduler/.

    Args:
        path_or_hub_id: a directory, or "owner/name" on the Hugging Face hub.
        device: where the network goes.
        dtype: of the network; the preconditioning stays in float32.
        classes: names in the order of the network's ids, where the model has none ("0", "1", ... otherwise).

    Raises:
        ModelError: the files are missing or damaged, or it is no class-conditional denoiser of pixels.
        ConditionError: the number of classes is not the network's.
    """
    directory = Path(path_or_hub_id)
    if not directory.is_dir():
        directory = fetch(str(path_or_hub_id))
    if (directory / "diffclass.json").is_file():
        denoiser = _load_ours(directory, classes)
    else:
        denoiser = _load_diffusers(directory, classes)
    network = denoiser.network
    assert isinstance(network, nn.Module)
    place_network(network, device=device, dtype=dtype)
    return denoiser


def _load_ours(directory: Path, classes: Sequence[str] | None) -> PixelDenoiser:
    """Load a directory that `save_model` wrote."""
    metadata = read_metadata(directory)
    config = read_json(directory / "config.json")
    names = tuple(metadata["classes"] if classes is None else classes)
    if len(names) != len(metadata["classes"]):
        raise ConditionError(
            f"The 'classes' must be {len(metadata['classes'])} names for {metadata['name']!r}. Got {len(names)}."
        )
    try:
        low, high = map(float, metadata["sigma_range"])
    except (TypeError, ValueError) as error:
        raise UnsupportedModel(
            f"The 'sigma_range' of {str(directory / 'diffclass.json')!r} must be two numbers. "
            f"Got {metadata['sigma_range']!r}."
        ) from error
    return PixelDenoiser(
        parametrisation=read_parametrisation(metadata.get("parametrisation", {})),
        space=Space(**metadata["space"]),
        sigma_range=(low, high),
        classes=names,
        null_class=metadata.get("null_class"),
        clip=bool(metadata.get("clip", False)),
        metadata=metadata,
        network=_build(directory, config),
    )


def _load_diffusers(directory: Path, classes: Sequence[str] | None) -> PixelDenoiser:
    """Load a diffusers pipeline, or a bare model with its scheduler's configuration."""
    index = read_json(directory / "model_index.json") if (directory / "model_index.json").is_file() else {}
    home = _network_directory(directory, index)
    config = read_json(home / "config.json")
    parametrisation, sigma_range = parametrisation_of(_scheduler_config(directory, home))
    size = _check_pixels(config, home)
    names, null_class = _classes(config, index, classes)
    return PixelDenoiser(
        parametrisation=parametrisation,
        space=Space(channels=config["in_channels"], height=size[0], width=size[1]),
        sigma_range=sigma_range,
        classes=names,
        null_class=null_class,
        network=_build(home, config),
    )


def _network_directory(directory: Path, index: Mapping[str, Any]) -> Path:
    """Find where a pipeline keeps its network, and refuse those whose network does not see pixels."""
    if "Consistency" in str(index.get("_class_name")):
        raise UnsupportedModel(f"{_CONSISTENCY}: {index['_class_name']} is not supported.")
    if "vae" in index or (directory / "vae").is_dir():
        raise UnsupportedModel(
            f"The model in {str(directory)!r} denoises the latents of an autoencoder (it has a vae), not pixels. "
            "Load it with diffclass.load."
        )
    for part in ("unet", "transformer", "."):
        if (directory / part / "config.json").is_file():
            return directory / part
    raise WeightsMissing(
        f"The directory {str(directory)!r} holds no model. "
        "It must hold diffclass.json, model_index.json or config.json."
    )


def _scheduler_config(directory: Path, home: Path) -> dict[str, Any]:
    """Read the configuration of the scheduler, which alone says what the network predicts."""
    for path in (directory / "scheduler", home / "scheduler", directory, home, directory.parent / "scheduler"):
        if (path / "scheduler_config.json").is_file():
            return read_json(path / "scheduler_config.json")
    raise UnsupportedModel(
        f"The model in {str(directory)!r} must come with a scheduler_config.json, which says what its network "
        "predicts. Save the scheduler that it was trained with into scheduler/."
    )


def _check_pixels(config: Mapping[str, Any], home: Path) -> tuple[int, int]:
    """Check what a network's configuration can tell; return the height and width of its images."""
    name, channels, size = config.get("_class_name"), config.get("in_channels"), config.get("sample_size")
    if name not in _NETWORKS:
        raise UnsupportedModel(f"The network in {str(home)!r} must be one of {', '.join(_NETWORKS)}. Got {name!r}.")
    if channels not in (1, 3):
        raise UnsupportedModel(
            f"A network on pixels must take 1 or 3 channels. The one in {str(home)!r} takes {channels}; "
            "a network on latents needs the pipeline that it belongs to, with its autoencoder."
        )
    if config.get("out_channels", channels) not in (None, channels, 2 * channels):
        raise UnsupportedModel(
            f"A network of {channels} channels must return {channels}, or {2 * channels} with learned variances. "
            f"The one in {str(home)!r} returns {config['out_channels']}."
        )
    if config.get("time_embedding_type", "positional") != "positional":
        raise UnsupportedModel(
            f"The network in {str(home)!r} must embed time by position, so that it takes any noise level. "
            f"Got time_embedding_type {config['time_embedding_type']!r}."
        )
    if size is None:
        raise UnsupportedModel(f"The config.json in {str(home)!r} must have a sample_size, the size of its images.")
    height, width = size if isinstance(size, list) else (size, size)
    return height, width


def _classes(
    config: Mapping[str, Any], index: Mapping[str, Any], classes: Sequence[str] | None
) -> tuple[tuple[str, ...], int | None]:
    """Return the names of the classes, and the id of the null class if the network has one."""
    dit = config["_class_name"] == "DiTTransformer2DModel"
    n = config.get("num_embeds_ada_norm") if dit else config.get("num_class_embeds")
    if n is None or config.get("class_embed_type") is not None:
        raise UnsupportedModel(
            "A classifier needs a network that is told the class (num_class_embeds of a UNet2DModel, "
            "num_embeds_ada_norm of a DiT). This one has no class conditioning by number."
        )
    labels = index.get("id2label") or config.get("id2label")
    if classes is not None:
        names = tuple(classes)
    elif labels:
        names = tuple(labels[key] for key in sorted(labels, key=int))
    else:
        names = tuple(map(str, range(n)))
    extra = n - len(names)
    if extra not in ((0,) if dit else (0, 1)):
        wanted = f"{n}" if dit else f"{n}, or {n - 1} and a null class"
        raise ConditionError(f"The 'classes' must be as many as the network has ({wanted}). Got {len(names)}.")
    return names, len(names) if dit or extra else None


def _build(home: Path, config: Mapping[str, Any]) -> nn.Module:
    """Build a network and put its weights in, leaving the global random numbers as they were."""
    name = config.get("_class_name")
    if name not in _NETWORKS:
        raise UnsupportedModel(f"The network in {str(home)!r} must be one of {', '.join(_NETWORKS)}. Got {name!r}.")
    weights = find_weights(home)
    try:
        with torch.random.fork_rng(devices=[]):
            network = network_class(name).from_config(dict(config))
    except (TypeError, ValueError, AttributeError, KeyError, RuntimeError, ZeroDivisionError) as error:
        raise UnsupportedModel(f"diffusers cannot build the network in {str(home)!r}: {error}.") from error
    put_weights(network, read_weights(weights), source=weights)
    return network


def network_class(name: str) -> Any:
    """Return the class of a network, by the name that its config.json has: diffusers' or our own.

    Raises:
        ValueError: it is no network on pixels.
    """
    if name not in _NETWORKS:
        raise ValueError(f"{name!r} is no network on pixels")
    home = f"diffclass.denoisers.{_OURS[name]}" if name in _OURS else "diffusers"
    return getattr(import_module(home), name)
