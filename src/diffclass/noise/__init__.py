"""Noise that depends on nothing but its seed, its image and its draw."""

from diffclass.noise.counter import epsilon, epsilons, image_key, placement, smoothing

__all__ = ["epsilon", "epsilons", "image_key", "placement", "smoothing"]
