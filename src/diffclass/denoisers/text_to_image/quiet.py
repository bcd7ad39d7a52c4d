"""Keep diffusers and transformers from talking over us while a model is loaded."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["libraries_quiet"]


@contextmanager
def libraries_quiet() -> Iterator[None]:
    """Silence the warnings, log lines and progress bars of diffusers and transformers; errors still come through."""
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    logs = (diffusers_log, transformers_log)
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    try:
        for log in logs:
            log.set_verbosity_error()
            log.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, (verbosity, bars) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()
