"""What an explanation has to be better than: chance, edges, a supervised network's gradients, and shuffled weights."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from torch import Tensor, nn

from diffclass.decide import DiffusionClassifier
from diffclass.decide.calibration import probabilities
from diffclass.denoisers import PixelDenoiser
from diffclass.errors import MissingExtra, UnsupportedModel
from diffclass.evidence import DifferentiableEvidence
from diffclass.explain.metric import Judge
from diffclass.noise import image_key, placement
from diffclass.types import Images

__all__ = ["grad_cam", "integrated_gradients", "own_judge", "random_map", "shuffled", "sobel_map"]

Image = Float[Tensor, "channel height width"]  # [image units]
Map = Float64[ndarray, "height width"]
Logits = Callable[[Images], Float[Tensor, "batch class"]]


def random_map(image: Image, *, seed: int = 0) -> Map:
    """Return uniform numbers: a map that knows nothing."""
    return placement(seed, image_key(image), 0).random(tuple(image.shape[1:]))


def sobel_map(image: Image) -> Map:
    """Return the size of the gradient of the grey image: a map that knows the image and no model.

    Source:
        Sobel and Feldman 1968; as a control of explanations: Adebayo et al. 2018, section 5 (arXiv:1810.03292).
    """
    from scipy.ndimage import sobel

    grey = image.double().mean(dim=0).numpy()
    return np.hypot(sobel(grey, axis=0), sobel(grey, axis=1))


def integrated_gradients(logits: Logits, image: Image, label: int, *, steps: int = 32) -> Map:
    """Return integrated gradients of a class's logit from a black image, added up over channels.

    Args:
        logits: of a network that gives gradients.
        image: in [0, 1].
        label: index of the class.
        steps: of the integral.

    Raises:
        MissingExtra: captum is not installed.

    Source:
        Sundararajan, Taly and Yan 2017, equation 1 (arXiv:1703.01365).
    """
    found: Tensor = _captum().IntegratedGradients(logits).attribute(image[None], target=label, n_steps=steps)
    return found[0].detach().double().sum(dim=0).cpu().numpy()


def grad_cam(logits: Logits, layer: nn.Module, image: Image, label: int) -> Map:
    """Return Grad-CAM of a class's logit at a layer, enlarged to the image; what speaks against the class is cut off.

    Args:
        logits: of a network that gives gradients.
        layer: of that network, whose output has channels, height and width.
        image: in [0, 1].
        label: index of the class.

    Raises:
        MissingExtra: captum is not installed.

    Source:
        Selvaraju et al. 2017, equations 1 and 2 (arXiv:1610.02391).
    """
    captum, asked = _captum(), image[None].clone().requires_grad_()  # the network's weights may ask for no gradient
    found = captum.LayerGradCam(logits, layer).attribute(asked, target=label, relu_attributions=True)
    size = (int(image.shape[1]), int(image.shape[2]))
    large = captum.LayerAttribution.interpolate(found, size, interpolate_mode="bilinear")
    return large[0, 0].detach().double().cpu().numpy()


def _captum() -> Any:
    try:
        from captum import attr
    except ImportError as error:
        raise MissingExtra("Maps of supervised networks need captum: pip install 'diffclass[explain]'.") from error
    return attr


def shuffled(classifier: DiffusionClassifier, *, seed: int = 0) -> DiffusionClassifier:
    """Return a classifier whose network has the same numbers in each weight, in random order.

    A map that is the same for it does not depend on what the network has learned.

    Raises:
        UnsupportedModel: the model is no network of pixels.

    Source:
        Adebayo et al. 2018, section 3.1 (arXiv:1810.03292), all layers at once; they draw weights anew.
    """
    denoiser = classifier.denoiser
    if not isinstance(denoiser, PixelDenoiser) or not isinstance(denoiser.network, nn.Module):
        raise UnsupportedModel(
            f"Weights can be shuffled in networks of pixels alone. Got a {type(denoiser).__name__}. "
            "Leave the check out."
        )
    network = deepcopy(denoiser.network)
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            order = torch.from_numpy(random.permutation(parameter.numel())).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))
    return replace(classifier, denoiser=replace(denoiser, network=network), temperature=None)


def own_judge(classifier: DiffusionClassifier, image: Image, *, n_draws: int = 16) -> Judge:
    """Return the classifier as a judge of images near one image, all of them on that image's draws.

    What differs between two images is then the images and not the noise. Probabilities are the softmax of the log
    joints over the classifier's temperature, 1 if it has none.

    Args:
        classifier: of any denoiser.
        image: whose draws are taken.
        n_draws: draws of each class, whole blocks of the race.
    """
    evidence = DifferentiableEvidence(engine=classifier.engine())
    draws = evidence.draws(image_key(image), n=n_draws)

    def judge(images: Images) -> Float64[ndarray, "batch class"]:
        with torch.inference_mode():
            joint = evidence(images, [draws] * len(images))
        return probabilities(joint.cpu().numpy(), classifier.temperature or 1.0)

    return judge
