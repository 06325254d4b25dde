"""Unique entries of a symmetrized tensor, from a matrix whose rows are symmetric pairs of its legs.

Both kernels gather: every unique entry is written once, the average over the ways to divide its legs between rows and columns.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .packing import packed_size


def symmetrized_cubic(total: np.ndarray, n: int) -> np.ndarray:
    """T_ijk of Sym Σ T_(ij),k from a matrix over pairs and single directions, shape (n_pairs, n)."""
    packed = np.empty(packed_size(n, 3))
    _cubic(total, n, packed)
    return packed


def symmetrized_quartic(total: np.ndarray, n: int) -> np.ndarray:
    """T_ijkl of Sym Σ T_(ij),(kl) from a matrix over pairs and pairs, not symmetric itself."""
    packed = np.empty(packed_size(n, 4))
    _quartic(total, n, packed)
    return packed


@njit(cache=True)
def _cubic(total, n, packed):
    e = 0
    for k in range(n):
        for j in range(k + 1):
            for i in range(j + 1):
                packed[e] = (total[_pair(i, j), k] + total[_pair(i, k), j] + total[_pair(j, k), i]) / 3.0
                e += 1


@njit(cache=True)
def _quartic(total, n, packed):
    e = 0
    for l in range(n):
        for k in range(l + 1):
            for j in range(k + 1):
                for i in range(j + 1):
                    packed[e] = (_both(total, _pair(i, j), _pair(k, l)) + _both(total, _pair(i, k), _pair(j, l))
                                 + _both(total, _pair(j, k), _pair(i, l))) / 6.0
                    e += 1


@njit(cache=True)
def _pair(i, j):
    """Colexicographic rank of i ≤ j."""
    return j * (j + 1) // 2 + i


@njit(cache=True)
def _both(total, a, b):
    return total[a, b] + total[b, a]
