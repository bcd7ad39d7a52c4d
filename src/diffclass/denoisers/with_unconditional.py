"""A class-conditional network and an unconditional one behind one call."""

from collections.abc import Mapping
from typing import Any, final, no_type_check

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

from diffclass.denoisers.pixel import network_class

__all__ = ["WithUnconditional"]


@final
class WithUnconditional(ModelMixin, ConfigMixin):
    """Answers for a class by one network, and without a class by another that was trained without classes.

    For networks that never saw a null class in training, such as EDM's, whose conditional and unconditional weights are
    published apart. Class id `num_classes` of the conditional network is the null class, and goes to the other one.

    Args:
        conditional: configuration of the network that is told the class, its "_class_name" included.
        unconditional: configuration of the other; images, times and answers are of the same kind.
    """

    @register_to_config
    def __init__(self, conditional: Mapping[str, Any], unconditional: Mapping[str, Any]) -> None:
        super().__init__()
        self.with_class = network_class(conditional["_class_name"]).from_config(dict(conditional))
        self.without_class = network_class(unconditional["_class_name"]).from_config(dict(unconditional))
        self.null_class = int(conditional["num_classes"])

    @no_type_check  # the wrapper of a checker would cut a compiled network into pieces
    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> UNet2DOutput:
        """Return the answer for one class an element, or for none."""
        null = class_labels == self.null_class
        if not bool(null.any()):
            return self.with_class(sample, timestep, class_labels)
        if bool(null.all()):
            return self.without_class(sample, timestep, class_labels)
        told = self.with_class(sample[~null], timestep[~null], class_labels[~null]).sample
        untold = self.without_class(sample[null], timestep[null], class_labels[null]).sample
        answer = told.new_empty(len(sample), *told.shape[1:])
        answer[~null], answer[null] = told, untold
        return UNet2DOutput(sample=answer)
