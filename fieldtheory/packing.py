"""The order in which unique entries of a symmetric tensor are kept.

Index tuples i1 ≤ … ≤ ik come in colexicographic order, in which a tuple has

    rank = Σ_{j=1..k} C(i_j + j − 1, j)

whatever n_dim is: adding a variable appends entries, and the first index runs fastest. A tuple stands for the k!/Π_a α_a! positions
of the full tensor that are permutations of it (α_a: how often index a occurs), its *multiplicity*. The coefficient of the
monomial x_{i1} ⋯ x_{ik} is multiplicity times entry.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise, permutations
from math import comb, factorial

import numpy as np

from . import memory

_CACHED = 2**18  # entries of the largest tables that are kept


def entry_count(n_dim: int, order: int) -> int:
    """C(n_dim + order − 1, order), or 2^64 where it is more than that and its factors are many."""
    return comb(n_dim + order - 1, order) if min(n_dim - 1, order) < 64 else 2**64


def packed_size(n_dim: int, order: int) -> int:
    """Number of unique entries, C(n_dim + order − 1, order); `InputError` where they would not fit in memory."""
    size = entry_count(n_dim, order)
    memory.require(8 * size, f"packed couplings of order {order} in {n_dim} variables",
                   "lower the order or the number of variables, or give couplings of few entries with from_entries")
    return size


def colex_indices(n_dim: int, order: int) -> np.ndarray:
    """All index tuples i1 ≤ … ≤ ik in colexicographic order, shape (packed_size, order), read-only."""
    size = packed_size(n_dim, order) * order
    memory.require(8 * size, f"the indices of all entries of order {order} in {n_dim} variables", "work with `packed` alone")
    return _cached_indices(n_dim, order) if size <= _CACHED else _make_indices(n_dim, order)


@lru_cache(maxsize=64)
def _cached_indices(n_dim: int, order: int) -> np.ndarray:
    return _make_indices(n_dim, order)


def _make_indices(n_dim: int, order: int) -> np.ndarray:
    if order == 0:
        indices = np.zeros((1, 0), dtype=np.intp)
    else:
        lower = colex_indices(n_dim, order - 1)
        blocks = [lower[: packed_size(last + 1, order - 1)] for last in range(n_dim)]
        last = np.repeat(np.arange(n_dim), [len(block) for block in blocks])
        indices = np.column_stack([np.concatenate(blocks), last])
    indices.setflags(write=False)
    return indices


def colex_rank(indices: np.ndarray) -> np.ndarray:
    """Rank Σ_j C(i_j + j − 1, j) of ascending index tuples, shape (..., order) → (...)."""
    rank = np.zeros(indices.shape[:-1], dtype=np.intp)
    for j in range(indices.shape[-1]):
        binomial = np.ones_like(rank)
        for r in range(j + 1):  # C(i + r, r + 1) is whole at every step
            binomial = binomial * (indices[..., j] + r) // (r + 1)
        rank += binomial
    return rank


def multiplicity(indices: np.ndarray) -> np.ndarray:
    """k!/Π α! for ascending index tuples, shape (..., order) → (...)."""
    order = indices.shape[-1]
    run = np.ones(indices.shape[:-1], dtype=np.int64)
    repeats = run.copy()
    for j in range(1, order):
        run = np.where(indices[..., j] == indices[..., j - 1], run + 1, 1)
        repeats *= run
    return factorial(order) // repeats


def packed_multiplicity(n_dim: int, order: int) -> np.ndarray:
    """Multiplicity of all entries in colexicographic order, shape (packed_size,), without their index tuples."""
    repeats, _ = _repeats(n_dim, order, np.int32 if order <= 12 else np.int64)  # 12! < 2^31
    return factorial(order) // repeats


def _repeats(n_dim: int, order: int, dtype) -> tuple[np.ndarray, np.ndarray]:
    """Π α! and the length of the last run of equal indices, for all entries.

    The entries with last index l are those of one order less with no index above l; in the last block of them the run goes on.
    """
    if order == 0:
        return np.ones(1, dtype=dtype), np.zeros(1, dtype=dtype)
    lower, run = _repeats(n_dim, order - 1, dtype)
    sizes = [0 if order > 1 else 1, *(packed_size(last + 1, order - 1) for last in range(n_dim))]
    repeats, runs = [], []
    for begin, end in pairwise(sizes):
        longer = run[begin:end] + 1
        repeats += [lower[:begin], lower[begin:end] * longer]
        runs += [np.ones(begin, dtype=dtype), longer]
    return np.concatenate(repeats), np.concatenate(runs)


def symmetrize(array) -> np.ndarray:
    """Average of a dense tensor over all permutations of its axes."""
    array = np.asarray(array, dtype=np.float64)
    axes = list(permutations(range(array.ndim)))
    return sum(array.transpose(p) for p in axes) / len(axes)


def sum_equal(indices: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index tuples sorted within and among each other, each once, and the sums of their values."""
    indices = np.sort(indices, axis=1)
    by_colex = colex_argsort(indices)
    indices, values = indices[by_colex], values[by_colex]
    starts = np.flatnonzero(np.concatenate([[True], np.any(indices[1:] != indices[:-1], axis=1)])[: len(indices)])
    return indices[starts], np.add.reduceat(values, starts) if starts.size else values


def colex_argsort(indices: np.ndarray) -> np.ndarray:
    """The permutation that sorts index tuples colexicographically, stable; no rank is formed that could overflow."""
    return np.lexsort(indices.T) if indices.shape[1] else np.arange(len(indices))


def positions(wanted: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Row of `stored`, distinct tuples, that equals each row of `wanted`; −1 where there is none."""
    both = np.concatenate([stored, wanted])
    by_colex = colex_argsort(both)
    ordered = both[by_colex]
    group = np.cumsum(np.concatenate([[True], np.any(ordered[1:] != ordered[:-1], axis=1)])[: len(both)]) - 1
    first = by_colex[np.unique(group, return_index=True)[1]]  # the stored row comes first among equals
    found = np.empty(len(both), dtype=np.intp)
    found[by_colex] = np.where(first < len(stored), first, -1)[group]
    return found[len(stored):]


def leg_matrix(matrix: np.ndarray, order: int) -> np.ndarray:
    """The map T → T[M, …, M] on packed entries: shape (packed_size(n_new, order), packed_size(n_dim, order)).

    Row I and column J hold Σ over the distinct orderings J' of J of Π_a M[J'_a, I_a].
    """
    n_dim, n_new = matrix.shape
    old, new = colex_indices(n_dim, order), colex_indices(n_new, order)
    total = np.zeros((len(new), len(old)))
    for p in permutations(range(order)):
        term = np.ones_like(total)
        for a in range(order):
            term *= matrix[old[:, p[a]][None, :], new[:, a][:, None]]
        total += term
    return total * (multiplicity(old) / factorial(order))


def contraction_matrix(vector: np.ndarray, order: int) -> np.ndarray:
    """The map T → T[c] of order k to order k − 1 on packed entries."""
    rest = colex_indices(vector.size, order - 1)
    matrix = np.zeros((len(rest), packed_size(vector.size, order)))
    for j, c in enumerate(vector):
        joined = np.sort(np.column_stack([rest, np.full(len(rest), j)]), axis=1)
        matrix[np.arange(len(rest)), colex_rank(joined)] += c
    return matrix
