"""Samples from files, their fingerprint, and disjoint halves of them.

Files are read without executing anything in them: ``.npy`` and ``.npz`` without pickles, ``.csv`` with or without one header line,
HDF5 (``.h5``, ``.hdf5``, and netCDF 4, ``.nc``) where h5py is installed.
"""

from __future__ import annotations

import csv
import hashlib
import zipfile
from pathlib import Path

import numpy as np

from fieldtheory.arrays import as_count, as_samples
from fieldtheory.errors import FieldTheoryError, FileFormatError, InputError


def load_samples(path, key: str | None = None) -> np.ndarray:
    """Read samples, one per row.

    Parameters
    ----------
    path : path-like
        ``.npy``, ``.npz``, ``.csv``, ``.h5``, ``.hdf5`` or ``.nc``.
    key : str, optional
        Which array of an ``.npz`` or HDF5 file; by default the only one.

    Returns
    -------
    ndarray of float64, shape (n_samples, n_dim)

    Raises
    ------
    FileFormatError
        Missing, damaged, or not what its name says.
    InputError
        The array in it is not a table of finite real numbers.
    """
    path = Path(path)
    if path.suffix.lower() not in _READERS:
        raise FileFormatError(f"{path} must be one of {', '.join(_READERS)}, got {path.suffix or 'no extension'}; convert it "
                              "first.")
    if not path.is_file():
        raise FileFormatError(f"{path} must be a file, there is none; check the path.")
    try:
        array = _READERS[path.suffix.lower()](path, key)
    except FieldTheoryError:
        raise
    except (ValueError, OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile, csv.Error, UnicodeDecodeError, SyntaxError):
        raise FileFormatError(f"{path} must be a complete {path.suffix} file of numbers, it is damaged or of another format; "
                              "write it again.") from None
    return as_samples(array, str(path))


def _read_npy(path: Path, key: str | None):
    array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise FileFormatError(f"{path} must be a single .npy array, it is an archive; rename it to .npz.")
    return array


def _read_npz(path: Path, key: str | None):
    with np.load(path, allow_pickle=False) as archive:
        return archive[_one_name(path, archive.files, key)]


def _read_csv(path: Path, key: str | None):
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    if rows and not _is_numeric(rows[0]):
        rows = rows[1:]
    if not rows or len({len(row) for row in rows}) > 1:
        raise FileFormatError(f"{path} must be a table of numbers separated by commas, its rows have different lengths or there "
                              "are none.")
    for number, row in enumerate(rows):
        if not _is_numeric(row):
            raise FileFormatError(f"{path} must hold numbers only below its header, row {number + 1} is {','.join(row)[:60]!r}.")
    return np.array(rows, dtype=np.float64)


def _is_numeric(row: list[str]) -> bool:
    try:
        [float(cell) for cell in row]
    except ValueError:
        return False
    return True


def _read_hdf5(path: Path, key: str | None):
    try:
        import h5py
    except ImportError:
        raise InputError(f"{path} needs h5py to be read, it is not installed; pip install h5py, or save a .npy.") from None
    names: list[str] = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        return file[_one_name(path, names, key)][...]


def _one_name(path: Path, names: list[str], key: str | None) -> str:
    if key is None and len(names) == 1:
        return names[0]
    if key not in names:
        wanted = "one of its arrays must be chosen with key" if key is None else f"it has no array {key!r}"
        raise InputError(f"{path} holds {', '.join(map(repr, names)) or 'no arrays'}; {wanted}.")
    return key


_READERS = {".npy": _read_npy, ".npz": _read_npz, ".csv": _read_csv, ".h5": _read_hdf5, ".hdf5": _read_hdf5, ".nc": _read_hdf5}


def fingerprint(samples: np.ndarray) -> str:
    """sha256 of the shape and the float64 values, hexadecimal."""
    array = np.ascontiguousarray(samples, dtype="<f8")
    return hashlib.sha256(str(array.shape).encode() + array.tobytes()).hexdigest()


def disjoint_halves(n_total: int, n_samples: int, seed) -> tuple[np.ndarray, np.ndarray]:
    """Indices of two disjoint random sets of `n_samples` rows each.

    Parameters
    ----------
    n_total : int
        Rows to choose from.
    n_samples : int
        N per half.
    seed : int or sequence of int
        For `numpy.random.default_rng`.

    Raises
    ------
    InputError
        2 N > n_total: the halves would overlap.
    """
    n_samples = as_count(n_samples, "n_samples")
    if 2 * n_samples > n_total:
        raise InputError(f"n_samples must be at most {n_total // 2}, half of the {n_total} samples, got {n_samples}; the halves "
                         "would overlap.")
    chosen = np.random.default_rng(seed).permutation(n_total)[: 2 * n_samples]
    return chosen[:n_samples], chosen[n_samples:]
