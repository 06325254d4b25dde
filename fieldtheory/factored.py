"""A cubic coupling as a sum of products of vectors.

    T = Sym Σ_u U_u ⊗ V_u ⊗ W_u,

one term for each unit or product of the network it was read off (`fieldtheory.assembly`). With n_terms terms in n_dim variables it takes
3 · n_terms · n_dim numbers where the tensor has n_dim³/6, and a contraction with vectors costs n_terms · n_dim. The unique entries
are formed when they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

import numpy as np

from . import memory
from ._symmetrize import symmetrized_cubic
from .arrays import as_vector
from .packing import colex_indices, packed_size
from .tensors import SymmetricTensor

_BLOCK = 2**24  # numbers in a block of rows


@dataclass(frozen=True, eq=False, repr=False)
class FactoredCubic(SymmetricTensor):
    """A symmetric tensor of order 3 in factored form.

    Parameters
    ----------
    factors : (ndarray, ndarray, ndarray)
        U, V, W, each of shape (n_terms, n_dim).
    """

    factors: tuple[np.ndarray, np.ndarray, np.ndarray]
    storage = "factored"
    order = 3

    @property
    def n_dim(self) -> int:
        """Number of variables."""
        return self.factors[0].shape[1]

    @property
    def n_terms(self) -> int:
        """Number of products."""
        return len(self.factors[0])

    @property
    def indices(self) -> np.ndarray:
        """All index tuples."""
        return colex_indices(self.n_dim, 3)

    @cached_property
    def values(self) -> np.ndarray:
        """All unique entries; refused where they would not fit."""
        n, n_pairs = self.n_dim, packed_size(self.n_dim, 2)
        memory.require(16 * n * n_pairs, f"the unique entries of a cubic coupling in {n} variables", "contract it with vectors")
        first, second = colex_indices(n, 2).T
        total = np.zeros((n_pairs, n))
        for U, V, W in self._blocks(n_pairs):
            total += (0.5 * (V[:, first] * W[:, second] + V[:, second] * W[:, first])).T @ U
        values = symmetrized_cubic(total, n)
        values.setflags(write=False)
        return values

    @property
    def packed(self) -> np.ndarray:
        """All unique entries."""
        return self.values

    def to(self, storage: str) -> SymmetricTensor:
        """The same tensor as its unique entries, or those that are not zero."""
        return SymmetricTensor.from_packed(self.values, self.n_dim, 3).to(storage)

    def at(self, indices: np.ndarray) -> np.ndarray:
        """Entries at index tuples, from the factors."""
        found = np.empty(len(indices))
        for row, (i, j, k) in enumerate(indices):
            found[row] = sum(np.sum(self.factors[a][:, i] * self.factors[b][:, j] * self.factors[c][:, k])
                             for a, b, c in permutations(range(3))) / 6
        return found

    def with_values(self, values) -> SymmetricTensor:
        """Entries of their own, packed."""
        return SymmetricTensor.from_packed(values, self.n_dim, 3)

    def __mul__(self, factor: float) -> FactoredCubic:
        U, V, W = self.factors
        return FactoredCubic((factor * U, V, W))

    __rmul__ = __mul__

    def inner(self, other: SymmetricTensor, metric=None) -> float:
        """Σ over all positions of T·T'; of two factored tensors in many variables from the products of their factors."""
        both = isinstance(other, FactoredCubic) and metric is None
        if not both or self.n_dim**2 < 9 * max(self.n_terms, other.n_terms):
            return self.to("packed").inner(other.to("packed"), metric)
        self._require_like(other)
        return sum(_permanents([[a @ b.T for b in other.factors] for a in block]) for block in self._blocks(9 * max(other.n_terms, 1)))

    def _transform(self, matrix) -> FactoredCubic:
        return FactoredCubic(tuple(np.asarray(factor @ matrix) for factor in self.factors))

    def _contract(self, other: SymmetricTensor) -> SymmetricTensor:
        return self.to("packed").contract(other)

    def contract(self, *others):
        """T[v_1, …, v_r, ·, …] with vectors, the average over which factor each of them meets; other tensors meet the entries."""
        if len(others) > 3 or any(isinstance(other, SymmetricTensor) for other in others):
            return super().contract(*others)
        met = [[factor @ as_vector(v, self.n_dim, "vector") for factor in self.factors] for v in others]
        chosen = list(permutations(range(3), len(others)))
        result = 0.0
        for legs in chosen:
            weight = np.prod([products[leg] for leg, products in zip(legs, met)], axis=0)
            left = [self.factors[leg] for leg in range(3) if leg not in legs]
            result += np.sum(weight) if not left else weight @ left[0] if len(left) == 1 else left[0].T @ (weight[:, None] * left[1])
        return result / len(chosen) if len(others) != 1 else (result + result.T) / (2 * len(chosen))

    def __repr__(self) -> str:
        return f"SymmetricTensor(order=3, n_dim={self.n_dim}, {self.n_terms} products)"

    def _blocks(self, row_size: int):
        """The factors in blocks of rows, for work arrays of `row_size` numbers a row."""
        step = max(1, _BLOCK // row_size)
        for start in range(0, self.n_terms, step):
            yield [factor[start : start + step] for factor in self.factors]


def _permanents(gram: list[list[np.ndarray]]) -> float:
    """Σ over pairs of terms of the permanent of their 3 × 3 products, over 3!."""
    return float(sum(np.einsum("uv,uv,uv->", gram[0][a], gram[1][b], gram[2][c]) for a, b, c in permutations(range(3))) / 6)
