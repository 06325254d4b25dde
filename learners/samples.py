"""Samples that a learner has accepted: checked, without constant columns, held in memory or read from a file when they are needed.

Pages of a mapped file count as memory of the process that touched them until it gives them back; a system may map two megabytes around
a single row. A pass over all rows therefore returns pages every few megabytes, and random rows are read through the file instead.
"""

from __future__ import annotations

import copy
import hashlib
import mmap
import os
from collections.abc import Callable, Iterator

import numpy as np

from fieldtheory.arrays import Columns, as_samples
from fieldtheory.errors import InputError

from .data import fingerprint

_CHUNK = 2**22  # numbers that are read at once when all rows are gone through


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
        self._array, self._transform = array, None
        as_samples(array[:min_samples], min_samples=min_samples)
        self._file = _opened(array)
        self._survey()

    def __len__(self) -> int:
        return len(self._array)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """These rows in ascending order, shape (n_indices, n_varying), float64 and transformed."""
        indices = np.sort(indices)
        rows = self._array[indices] if self._file is None else self._read(indices)
        rows = self.columns.drop(rows.astype(np.float64, copy=False))
        return rows if self._transform is None else self._transform(rows)

    def _read(self, indices: np.ndarray) -> np.ndarray:
        rows = np.empty((len(indices), self._array.shape[1]), dtype=self._array.dtype)
        first = _position(self._array)
        for row, place in zip(rows, (first + indices.astype(np.int64) * self._array.strides[0]).tolist()):
            os.preadv(self._file.fileno(), [row], place)
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
            _release(self._array)
            if not np.isfinite(rows).all():
                row, column = np.argwhere(~np.isfinite(rows))[0]
                raise InputError(f"samples must be finite, the first NaN or infinite entry is at index {(int(first + row), int(column))}; "
                                 "remove or impute such rows.")
            yield rows


def _owners(array: np.memmap) -> tuple[np.memmap, mmap.mmap]:
    """The array that was mapped, of which this one may be a view, and the map."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array, array.base


def _position(array: np.memmap) -> int:
    """Of the first row in its file, in bytes."""
    mapped, _ = _owners(array)
    return mapped.offset + array.ctypes.data - mapped.ctypes.data


def _opened(array: np.memmap):
    """The file, if it holds each row in one piece and this process has not changed its copy of it."""
    whole_rows = array.strides[1] == array.dtype.itemsize
    return open(array.filename, "rb", buffering=0) if array.filename and array.mode != "c" and whole_rows else None


def _release(array: np.memmap) -> None:
    """Give back all pages but those of a private copy, which exist nowhere else."""
    owner = _owners(array)[1]
    if array.mode != "c" and isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)


Samples = HeldSamples | MappedSamples
