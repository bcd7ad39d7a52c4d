"""Measuring: answers for whole sets of pictures, with metrics, and figures of single answers."""

from diffclass.bench.answers import Answer, answer_items
from diffclass.bench.evaluation import Evaluation, evaluate

__all__ = ["Answer", "Evaluation", "answer_items", "evaluate"]
