"""A polynomial laid out for the kernels.

The couplings of order ≥ 1 are split into four parts, each for what it is good at (`fieldtheory._kernels` evaluates them):

*on-site*, S = Σ_i Σ_a c_ai x_i^a: no index at all, the potential of a lattice theory;

*bonds*, S = Σ_{i<j} c_ij x_i x_j, where the pairs are few;

*fibers*, for couplings of order 3 and above with few entries: those that share all indices but the first;

*squares*, for couplings with most of their entries: the entries (i ≤ j ≤ h ≤ …) with a common *head*, the indices after the first two,
are a quadratic form in the first h + 1 variables. In colexicographic order they lie together, as the pairs (i, j) do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

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
        q = h + 1 of group g, and its heads group_ptr[g]:group_ptr[g + 1] among those of all squares.
    square_heads, square_head_ptr : int arrays
        As heads and head_ptr.
    coefficients, starts : arrays
        The q (q + 1)/2 coefficients of x_i x_j of head f begin at starts[f].
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
    coefficients: np.ndarray
    starts: np.ndarray


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
    """Heads of all tensors, grouped by their smallest index, and their quadratic forms."""
    heads = [colex_indices(n_dim, T.order - 2) for T in tensors]
    sizes = [h[:, 0] + 1 if h.shape[1] else np.array([n_dim]) for h in heads]
    q = np.concatenate([_ints(), *sizes])
    starts = _pointers(q * (q + 1) // 2)[:-1]
    grouped = np.argsort(q, kind="stable")
    rows = [row for h in heads for row in h]
    counts = np.concatenate([_ints(), *(np.full(*h.shape) for h in heads)])
    found, per_group = np.unique(q, return_counts=True)
    coefficients = np.concatenate([np.empty(0), *(T.multiplicity * T.values for T in tensors)])
    return (found, _pointers(per_group), np.concatenate([_ints(), *(rows[i] for i in grouped)]), _pointers(counts[grouped]),
            coefficients, starts[grouped])


def _ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def _pointers(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
