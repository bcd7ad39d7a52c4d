"""Noise that depends on nothing but its seed, its image and its draw."""

from diffclass.noise.counter import derived_key, epsilon, epsilons, image_key, placement, smoothing

__all__ = ["derived_key", "epsilon", "epsilons", "image_key", "placement", "smoothing"]
