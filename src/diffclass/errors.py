"""What can go wrong, as a tree.

DiffclassError
├─ InputError (ValueError)          what the caller gave
│  ├─ ShapeError                    wrong number of axes, channels or pixels
│  ├─ RangeError                    a number outside its range, NaN included
│  └─ ConditionError                unknown class or prompt, duplicates, fewer than two
├─ ModelError (RuntimeError)        what a model directory holds
│  ├─ WeightsMissing
│  ├─ WeightsMismatch               truncated or altered weights
│  └─ UnsupportedModel              not a model that estimates E[x | noisy, class]
├─ NonFiniteError (ArithmeticError) the network returned NaN or infinity
├─ MissingExtra (ImportError)       an optional dependency is not installed
├─ ConfigError (ValueError)         a recipe or configuration file
├─ ResultError (OSError)            results could not be written or do not fit the run
└─ Busy                             a server has as much to do as it takes

Every message is one sentence that says what was wanted, what came and what to do.
"""

__all__ = [
    "Busy",
    "ConditionError",
    "ConfigError",
    "DiffclassError",
    "DiffclassWarning",
    "InputError",
    "MissingExtra",
    "ModelError",
    "NonFiniteError",
    "RangeError",
    "ResultError",
    "ShapeError",
    "SigmaRangeWarning",
    "UnsupportedModel",
    "WeightsMismatch",
    "WeightsMissing",
]


class DiffclassError(Exception):
    """Base of every error that diffclass raises on purpose."""


class InputError(DiffclassError, ValueError):
    """The caller's input cannot be used."""


class ShapeError(InputError):
    """An array has the wrong axes, channels or size."""


class RangeError(InputError):
    """A number is outside its range."""


class ConditionError(InputError):
    """The classes or prompts cannot be used."""


class ModelError(DiffclassError, RuntimeError):
    """A model cannot be used."""


class WeightsMissing(ModelError):
    """A model's files are not there."""


class WeightsMismatch(ModelError):
    """A model's weights are truncated, altered or of another network."""


class UnsupportedModel(ModelError):
    """The model is not a denoiser that this library can read."""


class NonFiniteError(DiffclassError, ArithmeticError):
    """A denoiser returned NaN or infinity."""


class MissingExtra(DiffclassError, ImportError):
    """An optional dependency is not installed."""


class ConfigError(DiffclassError, ValueError):
    """A recipe or configuration file is wrong."""


class ResultError(DiffclassError, OSError):
    """Results could not be written, or belong to another run."""


class Busy(DiffclassError):
    """A server has as much to do as it takes; the same request may succeed later."""


class DiffclassWarning(UserWarning):
    """Base of every warning that diffclass gives."""


class SigmaRangeWarning(DiffclassWarning):
    """Part of the noise range of an objective lies outside what the model was trained on."""
