"""Arrays that users hand in: samples, points, covariances, checked once and at the door.

Samples are real, finite and of shape (n_samples, n_dim); points have shape (..., n_dim). What passes here is float64 and can be
trusted further in. Columns that never vary carry no density: `Columns` leaves them out and puts them back.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

import numpy as np

from .errors import InputError


def as_samples(samples, name: str = "samples", min_samples: int = 2) -> np.ndarray:
    """Real, finite samples as a float64 array.

    Parameters
    ----------
    samples : array_like, shape (n_samples, n_dim)
        One row per sample.
    name : str
        What the argument is called in an error.
    min_samples : int
        Fewer rows than this are refused.

    Returns
    -------
    ndarray of float64, shape (n_samples, n_dim)

    Raises
    ------
    InputError
        Not numeric, complex, of another rank, empty, with too few rows, or not finite.
    """
    array = _as_real(samples, name)
    if array.ndim != 2:
        raise InputError(f"{name} must have shape (n_samples, n_dim), got an array of rank {array.ndim} and shape "
                         f"{array.shape}; reshape it to one row per sample.")
    if array.shape[1] == 0 or array.shape[0] < min_samples:
        raise InputError(f"{name} must hold at least {min_samples} rows and one column, got shape {array.shape}; "
                         "one row is one sample.")
    _refuse_non_finite(array, name)
    return array


def as_points(points, n_dim: int, name: str = "x") -> np.ndarray:
    """Real, finite points as a float64 array of shape (..., n_dim); raises `InputError` otherwise."""
    array = _as_real(points, name)
    if array.ndim == 0 or array.shape[-1] != n_dim:
        raise InputError(f"{name} must have shape (..., {n_dim}), got {array.shape}; the last axis runs over the {n_dim} "
                         "variables.")
    _refuse_non_finite(array, name)
    return array


def as_vector(vector, n_dim: int, name: str) -> np.ndarray:
    """One real, finite point as a float64 array of shape (n_dim,); raises `InputError` otherwise."""
    array = as_points(vector, n_dim, name)
    if array.ndim != 1:
        raise InputError(f"{name} must be one point of shape ({n_dim},), got shape {array.shape}.")
    return array


def as_covariance(covariance, name: str = "covariance") -> np.ndarray:
    """A symmetric positive definite matrix as float64, shape (n_dim, n_dim); raises `InputError` otherwise."""
    array = _as_real(covariance, name)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or array.size == 0:
        raise InputError(f"{name} must be a square matrix (n_dim, n_dim), got shape {array.shape}.")
    _refuse_non_finite(array, name)
    asymmetry = np.abs(array - array.T).max()
    if asymmetry > 1e-10 * np.abs(array).max():
        raise InputError(f"{name} must be symmetric, its largest asymmetry is {asymmetry:.1e}; use (C + C.T) / 2 if that is "
                         "rounding.")
    smallest = _smallest_eigenvalue(array)
    if smallest <= 0:
        raise InputError(f"{name} must be positive definite, its smallest eigenvalue is {smallest:.3g} in units of its diagonal; "
                         "leave out constant or dependent variables.")
    return 0.5 * (array + array.T)


def _smallest_eigenvalue(array: np.ndarray) -> float:
    """Of the matrix scaled to a unit diagonal, so that the units of the variables do not matter; of the diagonal if not positive."""
    diagonal = np.diag(array)
    if diagonal.min() <= 0:
        return float(diagonal.min())
    scale = np.sqrt(diagonal)
    return float(np.linalg.eigvalsh(array / scale[:, None] / scale)[0])


def as_count(value, name: str, minimum: int = 1) -> int:
    """A whole number of at least `minimum`; raises `InputError` otherwise."""
    whole = not isinstance(value, bool) and isinstance(value, int | np.integer)
    if not whole or value < minimum:
        raise InputError(f"{name} must be a whole number of at least {minimum}, got {value!r}.")
    return int(value)


def as_number(value, name: str) -> float:
    """One finite real number; raises `InputError` otherwise."""
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else np.nan
    except OverflowError:
        number = np.inf
    if not np.isfinite(number):
        raise InputError(f"{name} must be a finite number, got {value!r}.")
    return number


def _as_real(values, name: str) -> np.ndarray:
    if isinstance(values, np.ma.MaskedArray):
        values = values.astype(np.float64).filled(np.nan)  # asarray would bring back what the mask hides
    try:
        array = np.asarray(values)
    except ValueError:
        raise InputError(f"{name} must be a rectangular array of real numbers, got rows of different lengths.") from None
    if array.dtype.kind == "c":
        raise InputError(f"{name} must be real, got {array.dtype}; pass real and imaginary parts as separate columns.")
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name} must be an array of real numbers, got dtype {array.dtype}; convert it with "
                         ".astype(float).")
    return array.astype(np.float64, copy=False)


def _refuse_non_finite(array: np.ndarray, name: str) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum()):  # needs no memory; a sum may overflow where no entry does
            return
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(f"{name} must be finite, got {int(bad.sum())} NaN or infinite entries, the first at index "
                         f"{first}; remove or impute those rows.")


@dataclass(frozen=True)
class Columns:
    """Which columns vary, and what the others are stuck at.

    Attributes
    ----------
    kept : ndarray of int, shape (n_kept,)
        Indices of the columns that vary.
    constants : ndarray, shape (n_columns,)
        The first row of the samples: its entries outside `kept` are the constants.
    """

    kept: np.ndarray
    constants: np.ndarray

    @classmethod
    def of(cls, samples: np.ndarray, name: str = "samples") -> Columns:
        """Sort the columns of checked samples; `InputError` if none varies."""
        kept = np.flatnonzero(np.ptp(samples, axis=0) > 0)
        if kept.size == 0:
            raise InputError(f"{name} must vary, all {samples.shape[1]} columns are constant; there is no density to learn.")
        return cls(kept, samples[0].copy())

    @classmethod
    def all(cls, n_dim: int) -> Columns:
        """Nothing is left out."""
        return cls(np.arange(n_dim), np.zeros(n_dim))

    @property
    def dropped(self) -> np.ndarray:
        """Indices of the constant columns."""
        return np.setdiff1d(np.arange(self.constants.size), self.kept)

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the columns that vary, x0, x2, …; None if all vary."""
        return None if self.dropped.size == 0 else tuple(f"x{i}" for i in self.kept)

    def drop(self, samples: np.ndarray) -> np.ndarray:
        """(..., n_columns) → (..., n_kept)."""
        return samples[..., self.kept]

    def restore(self, samples: np.ndarray) -> np.ndarray:
        """(..., n_kept) → (..., n_columns), constants in their places."""
        full = np.broadcast_to(self.constants, (*samples.shape[:-1], self.constants.size)).copy()
        full[..., self.kept] = samples
        return full

    def describe(self) -> str:
        """One clause for a report: which columns were left out."""
        if self.dropped.size == 0:
            return "all columns vary"
        return f"constant columns left out: {', '.join(map(str, self.dropped))}"
