"""The same verbs over several processes or machines."""

from diffclass.scale.cluster import answer_on_ray

__all__ = ["answer_on_ray"]
