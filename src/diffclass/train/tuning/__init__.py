"""Training that starts from a model, and baselines trained on captions."""

from diffclass.train.tuning.recipe import TuningRecipe, load_any_recipe
from diffclass.train.tuning.run import run_tuning

__all__ = ["TuningRecipe", "load_any_recipe", "run_tuning"]
