"""A symmetric tensor from what it does to single directions.

A form T[v, …, v] of order m is a polynomial with C(n_dim + m − 1, m) coefficients, and its values at the points

    v = e_{i1} + … + e_{im},    i1 ≤ … ≤ im,

as many as there are, determine it: written out, T[v, …, v] = Σ over all choices of one e from each place of T_{…}. A direction meets only
entries whose indices are among its own, at most C(2m − 1, m) of them, so that the equations are sparse. This is how derivatives
along lines, which automatic differentiation gives, become couplings.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy import sparse

from . import memory
from .packing import colex_indices, colex_rank, packed_size
from .tensors import SymmetricTensor


def directions(n_dim: int, order: int) -> np.ndarray:
    """The points e_{i1} + … + e_{im} in the order of the entries they determine, shape (packed_size(n_dim, m), n_dim)."""
    memory.require(8 * packed_size(n_dim, order) * n_dim, f"the directions that determine order {order} in {n_dim} variables",
                   "ask for the coupling along a few directions")
    indices, points = colex_indices(n_dim, order), np.zeros((packed_size(n_dim, order), n_dim))
    for column in indices.T:
        points[np.arange(len(points)), column] += 1.0
    return points


def from_slopes(slopes: np.ndarray, order: int) -> SymmetricTensor:
    """The tensor T of order m + 1 from the vectors T[v, …, v, ·] at `directions` of order m.

    Parameters
    ----------
    slopes : ndarray, shape (packed_size(n_dim, order − 1), n_dim)
        T[v, …, v, ·]; what is not symmetric between the open leg and the others is averaged out.
    order : int
        m + 1.
    """
    n_dim = slopes.shape[1]
    entries = _entries_of_forms(slopes, n_dim, order - 1)
    indices = colex_indices(n_dim, order)
    open_leg = [entries[colex_rank(np.delete(indices, p, axis=1)), indices[:, p]] for p in range(order)]
    return SymmetricTensor.from_packed(np.mean(open_leg, axis=0), n_dim, order)


def _entries_of_forms(values: np.ndarray, n_dim: int, order: int) -> np.ndarray:
    """Unique entries of forms of one order from their values at `directions`; one form for each column."""
    indices = colex_indices(n_dim, order)
    columns = np.concatenate([colex_rank(np.sort(indices[:, list(p)], axis=1)) for p in product(range(order), repeat=order)])
    rows = np.tile(np.arange(len(indices)), order**order if order else 1)
    matrix = sparse.csc_array((np.ones(len(rows)), (rows, columns)), shape=(len(indices), len(indices)))
    return sparse.linalg.splu(matrix).solve(values)
