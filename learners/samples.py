"""Samples that a learner has accepted: checked, without constant columns, held in memory or read from a file when they are needed.

What was read from a mapped file once counts as memory of this process until it is given back, so that a pass over the file, or enough
random rows, would fill it. Pages are therefore released after every few megabytes; the system keeps them in its cache as long as there
is room.
"""

from __future__ import annotations

import copy
import hashlib
import mmap
from collections.abc import Callable, Iterator

import numpy as np

from fieldtheory.arrays import Columns, as_samples
from fieldtheory.errors import InputError

from .data import fingerprint

_CHUNK = 2**24  # numbers that are read at once when all rows are gone through
_NEIGHBOURHOOD = 2**16  # bytes that the system maps around a page that is read
_HELD = 2**27  # bytes that may be mapped before they are given back


class HeldSamples:
    """Samples in memory.

    Parameters
    ----------
    rows : ndarray of float64, shape (n_samples, n_varying)

    Attributes
    ----------
    mean : ndarray, shape (n_varying,)
    covariance : ndarray, shape (n_varying, n_varying)
    fingerprint : str
        sha256 of the shape and all values.
    """

    def __init__(self, rows: np.ndarray):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def mean(self) -> np.ndarray:
        """Of each column."""
        return self.rows.mean(axis=0)

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased; infinite or NaN where squares overflow."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.cov(self.rows, rowvar=False)

    @property
    def fingerprint(self) -> str:
        """Equal for equal samples."""
        return fingerprint(self.rows)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """These rows."""
        return self.rows[indices]

    def transformed(self, transform: Callable[[np.ndarray], np.ndarray]) -> HeldSamples:
        """A function of every row."""
        return HeldSamples(transform(self.rows))


class MappedSamples:
    """Checked samples in a file; one pass over them finds what a fit has to know in advance.

    Parameters
    ----------
    array : memmap, shape (n_samples, n_dim)
        Of any real dtype, as `numpy.memmap` or ``numpy.load(path, mmap_mode="r")`` give it.
    min_samples : int
        Fewer rows than this are refused.

    Attributes
    ----------
    columns : Columns
        Those that vary.
    mean : ndarray, shape (n_varying,)
    covariance : ndarray, shape (n_varying, n_varying)
    fingerprint : str
        sha256 of all values as float64.

    Raises
    ------
    InputError
        Not a table of finite real numbers, too few rows, or nothing that varies.
    """

    def __init__(self, array: np.memmap, min_samples: int = 2):
        self._array, self._mapped, self._transform = array, 0, None
        as_samples(array[:min_samples], min_samples=min_samples)
        self._survey()

    def __len__(self) -> int:
        return len(self._array)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """These rows in ascending order, shape (n_indices, n_varying), float64 and transformed."""
        per_row = max(_NEIGHBOURHOOD, self._array.strides[0])
        parts = np.array_split(np.sort(indices), 1 + len(indices) * per_row // _HELD)
        rows = np.concatenate([self._part(part, per_row) for part in parts])
        return rows if self._transform is None else self._transform(rows)

    def _part(self, indices: np.ndarray, per_row: int) -> np.ndarray:
        rows = self.columns.drop(np.asarray(self._array[indices], dtype=np.float64))
        self._release_after(len(indices) * per_row)
        return rows

    def transformed(self, transform: Callable[[np.ndarray], np.ndarray]) -> MappedSamples:
        """The same samples, with a function of the varying columns applied to every row that is taken."""
        view = copy.copy(self)
        view._transform = transform
        return view

    def _survey(self) -> None:
        """Columns, mean, covariance and fingerprint; sums are taken around the first row, so that they do not cancel."""
        n_samples, n_dim = self._array.shape
        origin = np.array(self._array[0], dtype=np.float64)
        lowest, highest, total, products = origin.copy(), origin.copy(), np.zeros(n_dim), np.zeros((n_dim, n_dim))
        digest = hashlib.sha256(str(self._array.shape).encode())
        for rows in self._chunks():
            digest.update(rows)
            np.minimum(lowest, rows.min(axis=0), out=lowest)
            np.maximum(highest, rows.max(axis=0), out=highest)
            with np.errstate(over="ignore", invalid="ignore"):
                rows -= origin
                total += rows.sum(axis=0)
                products += rows.T @ rows
        kept = Columns.of(np.stack([lowest, highest])).kept
        self.columns, self.fingerprint = Columns(kept, origin), digest.hexdigest()
        shift = total[kept] / n_samples
        self.mean = origin[kept] + shift
        with np.errstate(over="ignore", invalid="ignore"):
            self.covariance = (products[np.ix_(kept, kept)] - n_samples * np.outer(shift, shift)) / (n_samples - 1)

    def _chunks(self) -> Iterator[np.ndarray]:
        """All rows in order, float64 copies, checked."""
        size = max(1, _CHUNK // self._array.shape[1])
        for first in range(0, len(self), size):
            rows = np.array(self._array[first : first + size], dtype=np.float64, order="C")
            self._release_after(rows.size * self._array.dtype.itemsize)
            if not np.isfinite(rows).all():
                row, column = np.argwhere(~np.isfinite(rows))[0]
                raise InputError(f"samples must be finite, the first NaN or infinite entry is at index {(int(first + row), int(column))}; "
                                 "remove or impute such rows.")
            yield rows

    def _release_after(self, n_bytes: int) -> None:
        """Give pages back once enough of them may be mapped."""
        self._mapped += n_bytes
        owner = self._array
        while isinstance(owner, np.ndarray):
            owner = owner.base
        if self._mapped > _HELD and isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") and self._array.mode != "c":
            owner.madvise(mmap.MADV_DONTNEED)
            self._mapped = 0


Samples = HeldSamples | MappedSamples
