"""Symmetric tensors, stored once per unique entry.

There are two storages behind one class. *Packed* tensors keep all C(n_dim + k − 1, k) unique entries in colexicographic order
(`fieldtheory.packing`), *sparse* ones keep the index tuples and values of some, all others being zero: the couplings of a lattice theory
with 10⁵ sites. `indices`, `values` and `multiplicity` belong together in either. Nobody has to choose: what is given entry by entry is
kept sparse where that is the smaller storage of a large tensor. `bytes_as` says what the other storage would take, `to` converts, and what
would not fit is refused beforehand.

Values are entries of the tensor, not multiplied by their multiplicity. The norm is the Frobenius norm of the full tensor: unlike the
plain sum over unique entries it does not change under rotations.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations, permutations
from math import comb

import numpy as np
from scipy import sparse

from . import memory
from .arrays import _as_real, _refuse_non_finite, as_count, as_covariance, as_vector
from .errors import InputError
from .packing import (
    colex_argsort,
    colex_indices,
    colex_rank,
    contraction_matrix,
    entry_count,
    leg_matrix,
    multiplicity,
    packed_multiplicity,
    packed_size,
    positions,
    sum_equal,
    symmetrize,
)

__all__ = ["SymmetricTensor", "colex_indices", "colex_rank", "contraction_matrix", "leg_matrix", "multiplicity", "packed_size",
           "symmetrize"]

_STORAGES = ("packed", "sparse")
_SMALL = 2**17  # entries up to which a packed tensor is never worth avoiding: 1 MB


class SymmetricTensor:
    """A symmetric tensor of order k, kept as its unique entries.

    Build it with `from_dense`, `from_packed`, `from_entries` or `from_monomials`.

    Attributes
    ----------
    n_dim, order : int
    storage : {"packed", "sparse"}
    indices : ndarray of int, shape (n_entries, order)
        Index tuples i1 ≤ … ≤ ik of the stored entries, colexicographically.
    values : ndarray of float64, shape (n_entries,)
        The entries they name, read-only.
    """

    storage: str
    indices: np.ndarray
    values: np.ndarray
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
        return _owned(values, n_dim, order)

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
        """From some entries, all others zero; sparse where that is the smaller storage of a large tensor.

        Parameters
        ----------
        indices : array_like of int, shape (n_entries, order)
            Index tuples in any order; tuples that are permutations of each other name the same entry and may occur once.
        values : array_like, shape (n_entries,)
        n_dim : int
        """
        indices, values = _checked_entries(indices, values, as_count(n_dim, "n_dim"))
        by_colex = colex_argsort(indices)
        indices, values = indices[by_colex], values[by_colex]
        if np.any(np.all(indices[1:] == indices[:-1], axis=1)):
            raise InputError("indices must name each entry once; two tuples are permutations of each other, add their values.")
        return _economical(indices, values, int(n_dim))

    @classmethod
    def from_monomials(cls, indices: Iterable, coefficients, n_dim: int) -> SymmetricTensor:
        """From the polynomial Σ c x_{i1} ⋯ x_{ik}: A_I = (sum of the c of I's permutations)/multiplicity; parameters as `from_entries`."""
        return _of_monomials(*_checked_entries(indices, coefficients, as_count(n_dim, "n_dim")), int(n_dim))

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
        n_dim, order = as_count(n_dim, "n_dim"), as_count(order, "order", minimum=0)
        return _economical(np.empty((0, order), dtype=np.intp), np.empty(0), n_dim)

    @property
    def multiplicity(self) -> np.ndarray:
        """Positions of the full tensor that each stored entry stands for, shape (n_entries,)."""
        return multiplicity(self.indices)

    @property
    def packed(self) -> np.ndarray:
        """All unique entries in colexicographic order, shape (C(n_dim + order − 1, order),); refused where they would not fit."""
        return self.to("packed").values

    def bytes_as(self, storage: str) -> int:
        """What the tensor takes in a storage, "packed" or "sparse"."""
        if storage not in _STORAGES:
            raise InputError(f"storage must be one of {', '.join(_STORAGES)}, got {storage!r}.")
        if storage == "packed":
            return 8 * entry_count(self.n_dim, self.order)
        return 8 * (1 + self.order) * int(np.count_nonzero(self.values))

    def to(self, storage: str) -> SymmetricTensor:
        """The same tensor in a storage, "packed" or "sparse" (without its zeros); refused where it would not fit, see `bytes_as`."""
        memory.require(self.bytes_as(storage), f"the {storage} tensor", "keep the other storage")
        if storage == self.storage == "packed":
            return self
        present = np.flatnonzero(self.values)
        build = _pack if storage == "packed" else SparseTensor
        return build(self.indices[present], self.values[present], self.n_dim, self.order)

    def dense(self) -> np.ndarray:
        """The full array, shape (n_dim,)*order; refused where it would not fit in memory."""
        memory.require(8 * self.n_dim**self.order, f"the dense tensor of order {self.order} in {self.n_dim} variables",
                       "work with `values` and `indices`")
        full = np.zeros((self.n_dim,) * self.order)
        for p in permutations(range(self.order)):
            full[tuple(self.indices[:, p].T)] = self.values
        return full

    def inner(self, other: SymmetricTensor, metric=None) -> float:
        """Σ over all positions of T·T', each leg contracted with `metric` (n_dim, n_dim), the identity by default."""
        self._require_like(other)
        if metric is not None:
            root = np.linalg.cholesky(as_covariance(metric, "metric"))
            return self.transform(root).inner(other.transform(root))
        if self.storage == "packed" != other.storage:
            return other.inner(self)
        theirs = other.values if self.storage == "packed" else other.at(self.indices)
        return float(np.einsum("i,i,i", self.multiplicity, self.values, theirs))

    def norm(self, metric=None) -> float:
        """Frobenius norm of the full tensor, with legs contracted by `metric` where one is given."""
        return float(np.sqrt(max(self.inner(self, metric), 0.0)))

    def at(self, indices: np.ndarray) -> np.ndarray:
        """Entries at ascending index tuples, shape (n, order) → (n,)."""
        raise TypeError(f"{type(self).__name__} must define at()")

    def transform(self, matrix) -> SymmetricTensor:
        """T[M, …, M], every leg contracted with the first axis of M.

        Parameters
        ----------
        matrix : array_like or scipy sparse array, shape (n_dim, n_new)
            Where its rows and the tensor have few entries, each index is replaced by those it leads to; else the full tensor is formed.
        """
        if np.ndim(matrix) != 2 or matrix.shape[0] != self.n_dim:
            raise InputError(f"matrix must have shape ({self.n_dim}, n_new), got {np.shape(matrix)}.")
        M = sparse.csr_array(matrix)
        chosen = np.flatnonzero(self.values)
        index, coefficient = self.indices[chosen], (self.values * self.multiplicity)[chosen]
        terms = int(np.diff(M.indptr)[index].prod(axis=1, dtype=float).sum())
        if terms > self.n_dim**self.order:
            return self._transform_full(M.toarray())
        memory.require(8 * (1 + self.order) * terms, "the transformed coupling", "use a matrix with fewer entries per row")
        for leg in range(self.order):
            source, column, entry = _entries_of_rows(M, index[:, leg])
            index, coefficient = index[source], coefficient[source] * entry
            index[:, leg] = column
        return _of_monomials(index, coefficient, M.shape[1])

    def _transform_full(self, matrix: np.ndarray) -> SymmetricTensor:
        """Contract the first leg, put the new one last: after k turns all are new."""
        full, n_new = self.dense(), matrix.shape[1]
        for _ in range(self.order):
            full = np.tensordot(full, matrix, axes=(0, 0))
        return SymmetricTensor.from_packed(full[tuple(colex_indices(n_new, self.order).T)], n_new, self.order)

    def contract(self, *others):
        """R_I = Σ_J T_{I∪J} B_J with symmetric tensors B; or T[v_1, …, v_r, ·, …] with vectors, as a number or a dense array."""
        result, given = self, [isinstance(other, SymmetricTensor) for other in others]
        for other, is_tensor in zip(others, given):
            other = other if is_tensor else _as_tensor(other, self.n_dim)
            if other.n_dim != self.n_dim or other.order > result.order:
                raise InputError(f"a tensor must be contracted with one of the same n_dim {self.n_dim} and of order at most "
                                 f"{result.order}, got n_dim {other.n_dim} and order {other.order}.")
            result = result._contract(other)
        return result if all(given) else result.dense() if result.order else float(result.values[0])

    def __add__(self, other: SymmetricTensor) -> SymmetricTensor:
        if not isinstance(other, SymmetricTensor):
            return NotImplemented
        self._require_like(other)
        if "packed" in (self.storage, other.storage):
            return _owned(self.packed + other.packed, self.n_dim, self.order)
        return _economical(*sum_equal(np.concatenate([self.indices, other.indices]), np.concatenate([self.values, other.values])),
                           self.n_dim)

    def __sub__(self, other: SymmetricTensor) -> SymmetricTensor:
        return self + (-1.0) * other

    def __mul__(self, factor: float) -> SymmetricTensor:
        return self._scaled(factor)

    __rmul__ = __mul__

    def __neg__(self) -> SymmetricTensor:
        return -1.0 * self

    def with_values(self, values) -> SymmetricTensor:
        """The tensor with other values at the stored entries, shape (n_entries,)."""
        raise TypeError(f"{type(self).__name__} must define with_values()")

    def rank(self, index) -> int:
        """Position in `packed` of the entry at a full tuple of indices, in any order."""
        return int(colex_rank(self._one(index)))

    def __getitem__(self, index) -> float:
        """The entry at a full tuple of indices, in any order."""
        return float(self.at(self._one(index)[None])[0])

    def _one(self, index) -> np.ndarray:
        index = np.sort(np.atleast_1d(_as_indices(index)))
        if index.shape != (self.order,) or (index.size and not (index[0] >= 0 and index[-1] < self.n_dim)):
            raise InputError(f"an entry must be named by {self.order} indices in 0 … {self.n_dim - 1}, got {index.tolist()}.")
        return index

    def __repr__(self) -> str:
        kept = "" if self.storage == "packed" else f", {self.values.size} entries"
        return f"SymmetricTensor(order={self.order}, n_dim={self.n_dim}{kept}, norm={self.norm():.4g})"

    def _require_like(self, other: SymmetricTensor) -> None:
        if (self.n_dim, self.order) != (other.n_dim, other.order):
            raise InputError(f"tensors must agree in n_dim and order, got ({self.n_dim}, {self.order}) and "
                             f"({other.n_dim}, {other.order}).")


@dataclass(frozen=True, eq=False, repr=False)
class PackedTensor(SymmetricTensor):
    """All unique entries in colexicographic order."""

    values: np.ndarray
    n_dim: int
    order: int
    storage = "packed"

    @property
    def indices(self) -> np.ndarray:
        """All index tuples."""
        return colex_indices(self.n_dim, self.order)

    @property
    def multiplicity(self) -> np.ndarray:
        """Of all entries, without forming their index tuples."""
        return packed_multiplicity(self.n_dim, self.order)

    def at(self, indices: np.ndarray) -> np.ndarray:
        """Entries at ascending index tuples."""
        return self.values[colex_rank(indices)]

    def with_values(self, values) -> SymmetricTensor:
        """The tensor with other values."""
        return SymmetricTensor.from_packed(values, self.n_dim, self.order)

    def _scaled(self, factor: float) -> SymmetricTensor:
        return _owned(factor * self.values, self.n_dim, self.order)

    def _contract(self, other: SymmetricTensor) -> SymmetricTensor:
        rest = colex_indices(self.n_dim, self.order - other.order)
        result = np.zeros(len(rest))
        for J, weight in zip(other.indices, other.values * other.multiplicity):
            if weight != 0.0:
                joined = np.column_stack([rest, np.broadcast_to(J, (len(rest), other.order))])
                result += weight * self.values[colex_rank(np.sort(joined, axis=1))]
        return SymmetricTensor.from_packed(result, self.n_dim, self.order - other.order)


@dataclass(frozen=True, eq=False, repr=False)
class SparseTensor(SymmetricTensor):
    """Some entries, all others zero: distinct ascending index tuples in colexicographic order, and values."""

    indices: np.ndarray
    values: np.ndarray
    n_dim: int
    order: int
    storage = "sparse"

    def __post_init__(self):
        for array in (self.indices, self.values):
            array.setflags(write=False)

    def at(self, indices: np.ndarray) -> np.ndarray:
        """Entries at ascending index tuples, 0 where none is stored."""
        if indices is self.indices:
            return self.values
        return np.append(self.values, 0.0)[positions(indices, self.indices)]

    def with_values(self, values) -> SymmetricTensor:
        """The tensor with other values at the stored entries."""
        values = np.array(_as_real(values, "values"))
        if values.shape != self.values.shape:
            raise InputError(f"values must be one number per stored entry, {self.values.size} in all, got shape {values.shape}.")
        _refuse_non_finite(values, f"coupling of order {self.order}")
        return SparseTensor(self.indices, values, self.n_dim, self.order)

    def _scaled(self, factor: float) -> SymmetricTensor:
        return self.with_values(factor * self.values)

    def _contract(self, other: SymmetricTensor) -> SymmetricTensor:
        """As a polynomial: choose which factors of each monomial are closed with B; all choices weigh the same."""
        k, r = self.order, other.order
        weights, rest, closed = self.values * self.multiplicity / comb(k, r), [np.empty((0, k - r), dtype=np.intp)], [np.empty(0)]
        for chosen in combinations(range(k), r):
            rest.append(np.delete(self.indices, chosen, axis=1))
            closed.append(weights * other.at(self.indices[:, chosen]))
        return _of_monomials(np.concatenate(rest), np.concatenate(closed), self.n_dim)


def _as_tensor(vector, n_dim: int) -> SymmetricTensor:
    return SymmetricTensor.from_packed(as_vector(vector, n_dim, "vector"), n_dim, 1)


def _as_indices(indices) -> np.ndarray:
    """Whole numbers as they are; numpy would cut 0.7 to 0 unasked."""
    array = _as_real(indices, "indices")
    if not np.array_equal(array, np.floor(array)):
        raise InputError(f"indices must be whole numbers, got {indices!r}.")
    return array.astype(np.intp)


def _checked_entries(indices, values, n_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Ascending index tuples and their values."""
    indices = np.sort(np.atleast_2d(_as_indices(indices)), axis=1)
    values = np.atleast_1d(_as_real(values, "values"))
    if values.shape != indices.shape[:1]:
        raise InputError(f"values must be one number per index tuple, got {values.shape} for {len(indices)} tuples.")
    if indices.size and not (indices.min() >= 0 and indices.max() < n_dim):
        raise InputError(f"indices must lie in 0 … {n_dim - 1}, got {indices.min()} … {indices.max()}.")
    _refuse_non_finite(values, f"coupling of order {indices.shape[1]}")
    return indices, values


def _of_monomials(indices: np.ndarray, coefficients: np.ndarray, n_dim: int) -> SymmetricTensor:
    indices, coefficients = sum_equal(indices, coefficients)
    return _economical(indices, coefficients / multiplicity(indices), n_dim)


def _entries_of_rows(rows: sparse.csr_array, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All entries of the chosen rows one after the other: which choice each belongs to, its column and its value."""
    count = np.diff(rows.indptr)[chosen]
    source = np.repeat(np.arange(len(chosen)), count)
    place = np.arange(len(source)) + (rows.indptr[chosen] - np.cumsum(count) + count)[source]
    return source, rows.indices[place], rows.data[place]


def _economical(indices: np.ndarray, values: np.ndarray, n_dim: int) -> SymmetricTensor:
    """Distinct ascending tuples in colexicographic order in the smaller storage; a small tensor is packed."""
    order = indices.shape[1]
    if entry_count(n_dim, order) <= max(_SMALL, (1 + order) * len(values)):
        return _pack(indices, values, n_dim, order)
    return SparseTensor(indices, values, n_dim, order)


def _owned(values: np.ndarray, n_dim: int, order: int) -> SymmetricTensor:
    """A packed tensor of an array that nobody else holds."""
    _refuse_non_finite(values, f"coupling of order {order}")
    values.setflags(write=False)
    return PackedTensor(values, n_dim, order)


def _pack(indices: np.ndarray, values: np.ndarray, n_dim: int, order: int) -> SymmetricTensor:
    packed = np.zeros(packed_size(n_dim, order))
    packed[colex_rank(indices)] = values
    return _owned(packed, n_dim, order)
