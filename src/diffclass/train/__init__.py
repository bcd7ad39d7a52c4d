"""From-scratch training: recipes, one readable loop, and the card at the end."""

from diffclass.train.loop import Progress, TrainingSet, edm_loss, train_network
from diffclass.train.recipe import Recipe, list_recipes, load_recipe
from diffclass.train.run import run_recipe

__all__ = [
    "Progress",
    "Recipe",
    "TrainingSet",
    "edm_loss",
    "list_recipes",
    "load_recipe",
    "run_recipe",
    "train_network",
]
