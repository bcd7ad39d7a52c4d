"""Text-to-image models, and class-conditional ones on latents: diffusers pipelines as denoisers, a file a family."""

from diffclass.denoisers.text_to_image.denoiser import PipelineDenoiser
from diffclass.denoisers.text_to_image.family import Family
from diffclass.denoisers.text_to_image.loading import PipelineOptions, load_pipeline
from diffclass.denoisers.text_to_image.table import FAMILIES, family_of

__all__ = ["FAMILIES", "Family", "PipelineDenoiser", "PipelineOptions", "family_of", "load_pipeline"]
