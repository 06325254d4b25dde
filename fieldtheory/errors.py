"""The named errors and warnings of the physics.

Every error is one sentence: what was expected, what came, what to do. All errors derive from `FieldTheoryError`, which is a
`ValueError`, so that a script can catch everything this package refuses in one place.
"""


class FieldTheoryError(ValueError):
    """Anything this package refuses to compute."""


class InputError(FieldTheoryError):
    """An argument is not what it should be: wrong shape, not finite, empty, constant."""


class NotNormalizableError(FieldTheoryError):
    """exp S cannot be integrated, or is not known to be integrable, where the request needs a density."""


class GaugeError(FieldTheoryError):
    """Two actions whose couplings mean different things were to be compared or added."""


class FileFormatError(FieldTheoryError):
    """A file is damaged, of another kind, or from another version."""


class RegimeWarning(UserWarning):
    """A formula is used near or beyond the border of the regime it was derived in."""


class ConvergenceWarning(UserWarning):
    """A sampler or an optimizer stopped before its own diagnostics were satisfied."""
