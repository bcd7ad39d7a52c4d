"""Whether a model reads all of a prompt."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from diffclass.errors import ConditionError, DiffclassWarning

__all__ = ["check_prompts"]


def check_prompts(prompts: Sequence[str], pipe: Any, limits: Mapping[str, int]) -> None:
    """Check prompts before they are embedded: a tokenizer would cut what is too long without a word.

    A prompt that one of several tokenizers reads in full is fit to use; that another cuts it is a warning.

    Args:
        prompts: to embed.
        pipe: the pipeline with its tokenizers.
        limits: tokens that each tokenizer reads, by its attribute.

    Raises:
        ConditionError: there is no prompt, one is empty, one is there twice, or one is too long for every tokenizer.
    """
    if not prompts:
        raise ConditionError("There must be at least one prompt. Got none.")
    for prompt in prompts:
        if not prompt.strip():
            raise ConditionError(f"A prompt must have words in it. Got {prompt!r}.")
    twice = [prompt for prompt, count in Counter(prompts).items() if count > 1]
    if twice:
        raise ConditionError(f"Every prompt must differ from the others. Got {twice[0]!r} twice.")
    for prompt in prompts:
        lengths = {name: len(getattr(pipe, name)(prompt).input_ids) for name in limits}
        cut = [name for name, limit in limits.items() if lengths[name] > limit]
        if not cut:
            continue
        longest = max(cut, key=lambda name: limits[name])
        if len(cut) == len(limits):
            raise ConditionError(
                f"The prompt {_short(prompt)} has {lengths[longest]} tokens and the model reads {limits[longest]}. "
                "Shorten it."
            )
        warnings.warn(
            f"The prompt {_short(prompt)} has {lengths[longest]} tokens, of which one of the model's text encoders "
            f"({longest}) reads {limits[longest]}; another reads all of it.",
            DiffclassWarning,
            stacklevel=3,
        )


def _short(prompt: str) -> str:
    """Quote the beginning of a prompt."""
    return repr(prompt if len(prompt) <= 40 else f"{prompt[:37]}...")
