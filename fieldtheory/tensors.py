"""Symmetric tensors, stored once per unique entry.

A symmetric tensor T of order k in n_dim variables has C(n_dim + k − 1, k) unique entries T_{i1 ≤ … ≤ ik}. They are kept in
colexicographic order, in which the entry (i1 ≤ … ≤ ik) has

    rank = Σ_{j=1..k} C(i_j + j − 1, j)

whatever n_dim is: adding a variable appends entries, and the first index runs fastest. Entry i stands for the k!/Π_a α_a!
positions of the full tensor that are permutations of it (α_a: how often index a occurs), its *multiplicity*; packed values are
entries of the tensor, not multiplied by it. The norm is the Frobenius norm of the full tensor: unlike the plain sum over unique
entries it does not change under rotations.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from math import comb, factorial, log10

import numpy as np

from .arrays import _as_real, _refuse_non_finite, as_count, as_covariance
from .errors import InputError

_LARGEST_BYTES = 8e9


def packed_size(n_dim: int, order: int) -> int:
    """Number of unique entries, C(n_dim + order − 1, order); `InputError` where they would exceed 8 GB."""
    fewer = min(n_dim - 1, order)
    size = comb(n_dim + order - 1, order) if fewer < 64 else 2**64  # a lower bound, without endless products
    if 8 * size > _LARGEST_BYTES:
        raise InputError(f"couplings must fit in memory; those of order {order} in {n_dim} variables have more than "
                         f"10^{int((size.bit_length() - 1) * log10(2))} unique entries and take more than 8 GB. Lower the order or "
                         "the number of variables.")
    return size


@lru_cache(maxsize=64)
def colex_indices(n_dim: int, order: int) -> np.ndarray:
    """All index tuples i1 ≤ … ≤ ik in colexicographic order, shape (packed_size, order), read-only."""
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


def symmetrize(array) -> np.ndarray:
    """Average of a dense tensor over all permutations of its axes."""
    array = np.asarray(array, dtype=np.float64)
    axes = list(permutations(range(array.ndim)))
    return sum(array.transpose(p) for p in axes) / len(axes)


def _as_indices(indices) -> np.ndarray:
    """Whole numbers as they are; numpy would cut 0.7 to 0 unasked."""
    array = _as_real(indices, "indices")
    if not np.array_equal(array, np.floor(array)):
        raise InputError(f"indices must be whole numbers, got {indices!r}.")
    return array.astype(np.intp)


@dataclass(frozen=True, eq=False)
class SymmetricTensor:
    """A symmetric tensor of order k, kept as its unique entries.

    Build it with `from_dense`, `from_packed` or `from_entries`.

    Attributes
    ----------
    packed : ndarray of float64, shape (C(n_dim + order − 1, order),)
        Unique entries in colexicographic order, read-only.
    n_dim, order : int
    """

    packed: np.ndarray
    n_dim: int
    order: int

    @classmethod
    def from_packed(cls, values, n_dim: int, order: int) -> SymmetricTensor:
        """From unique entries in colexicographic order; raises `InputError` on a wrong number of them."""
        n_dim, order = as_count(n_dim, "n_dim"), as_count(order, "order", minimum=0)
        values = np.array(_as_real(values, "packed entries"))
        if values.shape != (packed_size(n_dim, order),):
            raise InputError(f"a coupling of order {order} in {n_dim} variables must have {packed_size(n_dim, order)} unique "
                             f"entries, got an array of shape {values.shape}.")
        _refuse_non_finite(values, f"coupling of order {order}")
        values.setflags(write=False)
        return cls(values, n_dim, order)

    @classmethod
    def from_dense(cls, array) -> SymmetricTensor:
        """From a full symmetric array of shape (n_dim,)*order; raises `InputError` if it is not symmetric."""
        array = _as_real(array, "coupling")
        order = array.ndim
        if order == 0 or len(set(array.shape)) > 1:
            raise InputError(f"a dense coupling must have shape (n_dim,)*order with order at least 1, got {array.shape}.")
        _refuse_non_finite(array, f"coupling of order {order}")
        asymmetry = max((np.abs(array - array.swapaxes(j, j + 1)).max(initial=0) for j in range(order - 1)), default=0.0)
        if asymmetry > 1e-12 * np.abs(array).max(initial=0):
            raise InputError(f"coupling of order {order} must be symmetric; its largest asymmetry is {asymmetry:.1e}. Average "
                             "over permutations with `fieldtheory.tensors.symmetrize`.")
        return cls.from_packed(array[tuple(colex_indices(array.shape[0], order).T)], array.shape[0], order)

    @classmethod
    def from_entries(cls, indices: Iterable, values, n_dim: int) -> SymmetricTensor:
        """From some entries, all others zero.

        Parameters
        ----------
        indices : array_like of int, shape (n_entries, order)
            Index tuples in any order; tuples that are permutations of each other name the same entry and may occur once.
        values : array_like, shape (n_entries,)
        """
        n_dim = as_count(n_dim, "n_dim")
        indices = np.sort(np.atleast_2d(_as_indices(indices)), axis=1)
        values = np.atleast_1d(_as_real(values, "values"))
        if values.shape != indices.shape[:1]:
            raise InputError(f"values must be one number per index tuple, got {values.shape} for {len(indices)} tuples.")
        if indices.size and not (indices.min() >= 0 and indices.max() < n_dim):
            raise InputError(f"indices must lie in 0 … {n_dim - 1}, got {indices.min()} … {indices.max()}.")
        rank = colex_rank(indices)
        if np.unique(rank).size != rank.size:
            raise InputError("indices must name each entry once; two tuples are permutations of each other, add their values.")
        packed = np.zeros(packed_size(n_dim, indices.shape[1]))
        packed[rank] = values
        return cls.from_packed(packed, n_dim, indices.shape[1])

    @classmethod
    def symmetrized(cls, array: np.ndarray, n_dim: int) -> SymmetricTensor:
        """From a full array, averaged over all permutations of its axes; only the unique entries are formed."""
        indices = colex_indices(n_dim, np.ndim(array))
        axes = list(permutations(range(np.ndim(array))))
        packed = sum(array[tuple(indices[:, p].T)] for p in axes) / len(axes)
        return cls.from_packed(np.atleast_1d(packed), n_dim, np.ndim(array))

    @classmethod
    def zeros(cls, n_dim: int, order: int) -> SymmetricTensor:
        """The tensor without entries."""
        return cls.from_packed(np.zeros(packed_size(n_dim, order)), n_dim, order)

    @property
    def indices(self) -> np.ndarray:
        """Index tuples i1 ≤ … ≤ ik of the entries, shape (n_entries, order)."""
        return colex_indices(self.n_dim, self.order)

    @property
    def values(self) -> np.ndarray:
        """The entries that `indices` names, shape (n_entries,)."""
        return self.packed

    @property
    def multiplicity(self) -> np.ndarray:
        """Positions of the full tensor that each entry stands for, shape (n_entries,)."""
        return multiplicity(self.indices)

    def dense(self) -> np.ndarray:
        """The full array, shape (n_dim,)*order; refused when it would exceed 8 GB."""
        if 8.0 * self.n_dim**self.order > _LARGEST_BYTES:
            raise InputError(f"the dense tensor must fit in memory; order {self.order} in {self.n_dim} variables takes "
                             f"{8e-9 * self.n_dim**self.order:.0f} GB. Work with `packed` and `indices`.")
        full = np.empty((self.n_dim,) * self.order)
        for p in permutations(range(self.order)):
            full[tuple(self.indices[:, p].T)] = self.packed
        return full

    def inner(self, other: SymmetricTensor, metric=None) -> float:
        """Σ over all positions of T·T', each leg contracted with `metric` (n_dim, n_dim), the identity by default."""
        self._require_like(other)
        if metric is not None:
            root = np.linalg.cholesky(as_covariance(metric, "metric"))
            return self.transform(root).inner(other.transform(root))
        return float(np.sum(self.multiplicity * self.packed * other.packed))

    def norm(self, metric=None) -> float:
        """Frobenius norm of the full tensor, with legs contracted by `metric` where one is given."""
        return float(np.sqrt(max(self.inner(self, metric), 0.0)))

    def transform(self, matrix: np.ndarray) -> SymmetricTensor:
        """T[M, …, M], every leg contracted with the first axis of M of shape (n_dim, n_new)."""
        if np.ndim(matrix) != 2 or len(matrix) != self.n_dim:
            raise InputError(f"matrix must have shape ({self.n_dim}, n_new), got {np.shape(matrix)}.")
        if self.order == 0:
            return SymmetricTensor.from_packed(self.packed, matrix.shape[1], 0)
        full = self.dense()
        for _ in range(self.order):  # contract the first leg, the new one goes last: after k turns all are new
            full = np.tensordot(full, matrix, axes=(0, 0))
        n_new = matrix.shape[1]
        return SymmetricTensor.from_packed(full[tuple(colex_indices(n_new, self.order).T)], n_new, self.order)

    def contract(self, other: SymmetricTensor) -> SymmetricTensor:
        """R_I = Σ_J T_{I∪J} B_J, contraction with a symmetric tensor B of lower or equal order."""
        if other.n_dim != self.n_dim or other.order > self.order:
            raise InputError(f"a tensor must be contracted with one of the same n_dim {self.n_dim} and of order at most "
                             f"{self.order}, got n_dim {other.n_dim} and order {other.order}.")
        rest = colex_indices(self.n_dim, self.order - other.order)
        result = np.zeros(len(rest))
        for J, weight in zip(other.indices, other.packed * other.multiplicity):
            if weight != 0.0:
                joined = np.column_stack([rest, np.broadcast_to(J, (len(rest), other.order))])
                result += weight * self.packed[colex_rank(np.sort(joined, axis=1))]
        return SymmetricTensor.from_packed(result, self.n_dim, self.order - other.order)

    def __add__(self, other: SymmetricTensor) -> SymmetricTensor:
        if not isinstance(other, SymmetricTensor):
            return NotImplemented
        self._require_like(other)
        return SymmetricTensor.from_packed(self.packed + other.packed, self.n_dim, self.order)

    def __sub__(self, other: SymmetricTensor) -> SymmetricTensor:
        return self + (-1.0) * other

    def __mul__(self, factor: float) -> SymmetricTensor:
        return SymmetricTensor.from_packed(factor * self.packed, self.n_dim, self.order)

    __rmul__ = __mul__

    def __neg__(self) -> SymmetricTensor:
        return -1.0 * self

    def rank(self, index) -> int:
        """Position in `packed` of the entry at a full tuple of indices, in any order."""
        index = np.sort(np.atleast_1d(_as_indices(index)))
        if index.shape != (self.order,) or (index.size and not (index[0] >= 0 and index[-1] < self.n_dim)):
            raise InputError(f"an entry must be named by {self.order} indices in 0 … {self.n_dim - 1}, got {index.tolist()}.")
        return int(colex_rank(index))

    def __getitem__(self, index) -> float:
        """The entry at a full tuple of indices, in any order."""
        return float(self.packed[self.rank(index)])

    def __repr__(self) -> str:
        return f"SymmetricTensor(order={self.order}, n_dim={self.n_dim}, norm={self.norm():.4g})"

    def _require_like(self, other: SymmetricTensor) -> None:
        if (self.n_dim, self.order) != (other.n_dim, other.order):
            raise InputError(f"tensors must agree in n_dim and order, got ({self.n_dim}, {self.order}) and "
                             f"({other.n_dim}, {other.order}).")


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
