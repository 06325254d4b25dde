"""A polynomial laid out for the kernels.

The couplings of order ≥ 1 are split into four parts, each for what it is good at (`fieldtheory._kernels` evaluates them):

*on-site*, S = Σ_i Σ_a c_ai x_i^a: no index at all, the potential of a lattice theory;

*bonds*, S = Σ_{i<j} c_ij x_i x_j, where the pairs are few;

*fibers*, for couplings of order 3 and above with few entries: those that share all indices but the first;

*squares*, for couplings with most of their entries: the entries (i ≤ j ≤ h ≤ …) with a common *head*, the indices after the first two,
as a symmetric matrix of size h + 1. Squares hold twice the unique entries; in colexicographic order the entries of a head lie together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from .packing import colex_indices, multiplicity
from .tensors import SymmetricTensor

_DENSE = 0.15  # share of non-zero entries that are not on-site above which squares beat fibers, measured on 64 lanes


class Polynomial(NamedTuple):
    """A polynomial without its constant, as the kernels read it.

    Attributes
    ----------
    onsite : ndarray, shape (highest power, n_dim)
        c_ai, the coefficient of x_i^a, in row a − 1.
    neighbours, bonds, bond_ptr : arrays
        i < j and c_ij for the bonds of site j, in bond_ptr[j]:bond_ptr[j + 1]; bond_ptr is empty where there are none.
    heads, head_ptr : int arrays
        The k − 1 head indices of fiber f are heads[head_ptr[f]:head_ptr[f + 1]].
    tails, weights, entry_ptr : arrays
        First index and coefficient of the entries of fiber f, in entry_ptr[f]:entry_ptr[f + 1].
    sizes, group_ptr : int arrays
        q of group g, and its heads group_ptr[g]:group_ptr[g + 1] among those of all squares.
    square_heads, square_head_ptr : int arrays
        As heads and head_ptr.
    squares, square_ptr : arrays
        The matrices of group g below each other, shape (n_heads q, q), in square_ptr[g]:square_ptr[g + 1].
    """

    onsite: np.ndarray
    neighbours: np.ndarray
    bonds: np.ndarray
    bond_ptr: np.ndarray
    heads: np.ndarray
    head_ptr: np.ndarray
    tails: np.ndarray
    weights: np.ndarray
    entry_ptr: np.ndarray
    sizes: np.ndarray
    group_ptr: np.ndarray
    square_heads: np.ndarray
    square_head_ptr: np.ndarray
    squares: np.ndarray
    square_ptr: np.ndarray


def polynomial(couplings: dict[int, SymmetricTensor], n_dim: int) -> Polynomial:
    """Sort the non-zero entries of all couplings of order ≥ 1 into the four parts."""
    onsite, few, many = np.zeros((max([1, *couplings]), n_dim)), {}, []
    for k, T in sorted(couplings.items()):
        if k > 1 and T.storage == "packed" and np.count_nonzero(T.values) - n_dim > _DENSE * T.values.size:
            many.append(T)
        elif k > 0:
            few[k] = _split_onsite(T, onsite)
    pairs = few.pop(2, None)
    return Polynomial(onsite[: _highest(onsite)], *_bonds(pairs, n_dim), *_fibers(few.values()), *_squares(many, n_dim))


def _highest(onsite: np.ndarray) -> int:
    return int(np.flatnonzero(onsite.any(axis=1)).max(initial=0)) + 1


def _split_onsite(T: SymmetricTensor, onsite: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move pure powers into `onsite`; indices and coefficients of what is left."""
    chosen = np.flatnonzero(T.values)
    indices, values = T.indices[chosen], T.values[chosen]
    pure = indices[:, 0] == indices[:, -1]
    onsite[T.order - 1, indices[pure, 0]] = values[pure]
    mixed = indices[~pure]
    return mixed, values[~pure] * multiplicity(mixed)


def _bonds(pairs, n_dim: int) -> tuple:
    if pairs is None or not len(pairs[1]):
        return np.empty(0, dtype=np.uint32), np.empty(0), _ints()
    indices, weights = pairs  # colexicographic: sorted by the larger site
    return indices[:, 0].astype(np.uint32), weights, _pointers(np.bincount(indices[:, 1], minlength=n_dim))


def _fibers(parts) -> tuple:
    grouped = [_fibers_of(indices, weights) for indices, weights in parts if len(weights)]
    if not grouped:
        return (_ints(), _ints(0), _ints(), np.empty(0), _ints(0))
    heads, tails, weights, counts = zip(*grouped)
    head_counts = np.concatenate([np.full(len(h), h.shape[1]) for h in heads])
    return (np.concatenate([h.ravel() for h in heads]).astype(np.int64), _pointers(head_counts),
            np.concatenate(tails).astype(np.int64), np.concatenate(weights), _pointers(np.concatenate(counts)))


def _fibers_of(indices: np.ndarray, weights: np.ndarray) -> tuple:
    heads = indices[:, 1:]
    starts = np.flatnonzero(np.concatenate([[True], np.any(heads[1:] != heads[:-1], axis=1)]))
    return heads[starts], indices[:, 0], weights, np.diff(np.append(starts, len(heads)))


def _squares(tensors: list[SymmetricTensor], n_dim: int) -> tuple:
    """Heads of all tensors, grouped by their smallest index, and their matrices."""
    found = [(h[0] if len(h) else n_dim - 1, T, row) for T in tensors for row, h in enumerate(colex_indices(n_dim, T.order - 2))]
    found.sort(key=lambda head: head[0])
    sizes = np.unique([h + 1 for h, *_ in found]).astype(np.int64)
    per_group = np.bincount([h for h, *_ in found], minlength=1)[sizes - 1] if found else _ints()
    heads = [colex_indices(n_dim, T.order - 2)[row] for _, T, row in found]
    square_ptr = _pointers(per_group * sizes**2)
    squares, starts = np.empty(square_ptr[-1]), _pointers(np.array([(h + 1) ** 2 for h, *_ in found], dtype=np.int64))
    for T in tensors:
        mine = [i for i, (_, other, _) in enumerate(found) if other is T]
        rows = np.array([found[i][2] for i in mine])
        places = np.empty(len(rows), dtype=np.int64)
        places[rows] = starts[mine]
        _unpack(T.values, colex_indices(n_dim, T.order - 2), n_dim, places, squares)
    flat = np.concatenate([_ints(), *heads]).astype(np.int64)
    return sizes, _pointers(per_group), flat, _pointers(np.array([len(h) for h in heads], dtype=np.int64)), squares, square_ptr


def _ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def _pointers(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


@njit(cache=True, error_model="numpy")
def _unpack(packed, heads, n_dim, places, squares):
    """Fill the matrix of every head, at places[head], from its run of packed entries, with multiplicities."""
    order = heads.shape[1] + 2
    total = 1.0
    for a in range(2, order + 1):
        total *= a
    e = 0
    for f in range(heads.shape[0]):
        h = heads[f, 0] if order > 2 else n_dim - 1
        q = h + 1
        repeats, run = 1.0, 1
        leading = 1  # how often the smallest head index is repeated
        for a in range(1, order - 2):
            run = run + 1 if heads[f, a] == heads[f, a - 1] else 1
            repeats *= run
            if run == a + 1:
                leading = run
        if order == 2:
            leading = 0
        for j in range(q):
            for i in range(j + 1):
                same = repeats
                if i == j:
                    same *= 2.0
                if j == h and order > 2:
                    same *= leading + 1
                    if i == j:
                        same *= (leading + 2) / 2.0
                weight = packed[e] * total / same
                e += 1
                squares[places[f] + i * q + j] = weight if i == j else 0.5 * weight
                squares[places[f] + j * q + i] = weight if i == j else 0.5 * weight
