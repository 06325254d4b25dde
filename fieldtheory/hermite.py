"""Products of normalized Hermite polynomials, the basis in which estimation is well conditioned.

h_n(x) = He_n(x)/√n!, so that h_n' = √n h_{n−1} and E[h_m h_n] = δ_mn under a standard Gaussian. There is one basis function
φ_α(w) = Π_i h_{α_i}(w_i) of degree |α| = k for each unique entry of a symmetric tensor of order k: its index tuple i1 ≤ … ≤ ik
lists variable i as often as α_i. Derivatives stay in the basis, ∂_i φ_α = √α_i φ_{α − e_i}. The constant function comes first,
then degree by degree in colexicographic order.
"""

from __future__ import annotations

from functools import lru_cache
from math import factorial

import numpy as np
from scipy import sparse

from .tensors import colex_indices, colex_rank, multiplicity, packed_size


def n_features(n_dim: int, degree: int) -> int:
    """Number of basis functions up to `degree`, the constant included."""
    return sum(packed_size(n_dim, k) for k in range(degree + 1))


def features(w: np.ndarray, degree: int) -> np.ndarray:
    """φ_α(w) for all |α| ≤ degree; w of shape (n, n_dim) gives (n, n_features)."""
    table = np.array([np.ones_like(w), w])[: degree + 1]  # h_n of every variable, by n
    for n in range(1, degree):
        table = np.concatenate([table, ((w * table[n] - np.sqrt(n) * table[n - 1]) / np.sqrt(n + 1))[None]])
    return np.concatenate([_of_degree(table, w.shape[1], k) for k in range(degree + 1)], axis=1)


def _of_degree(table: np.ndarray, n_dim: int, k: int) -> np.ndarray:
    indices, exponents = colex_indices(n_dim, k), _exponents(n_dim, k)
    block = np.ones((table.shape[1], len(indices)))
    for j in range(k):
        for n in range(1, k + 1):
            chosen = np.flatnonzero(exponents[:, j] == n)
            block[:, chosen] *= table[n][:, indices[chosen, j]]
    return block


@lru_cache(maxsize=32)
def _exponents(n_dim: int, k: int) -> np.ndarray:
    """α_i at the last occurrence of each variable in an index tuple, 0 elsewhere; shape (n_entries, k)."""
    indices = colex_indices(n_dim, k)
    counts = (indices[:, :, None] == indices[:, None, :]).sum(axis=2)
    last = np.ones(indices.shape, dtype=bool)
    last[:, :-1] = indices[:, 1:] != indices[:, :-1]
    return counts * last


@lru_cache(maxsize=8)
def derivatives(n_dim: int, degree: int) -> list[sparse.csr_array]:
    """D_i with ∂_i φ = D_i φ for each variable: features up to `degree` from features up to degree − 1."""
    entries: list[list] = [[] for _ in range(n_dim)]
    for k in range(1, degree + 1):
        indices = colex_indices(n_dim, k)
        here, lower = n_features(n_dim, k - 1), n_features(n_dim, k - 2) if k > 1 else 0
        for i in range(n_dim):
            count = (indices == i).sum(axis=1)
            rows = np.flatnonzero(count)
            entries[i].append((np.sqrt(count[rows]), here + rows, lower + colex_rank(_without(indices[rows], i))))
    shape = (n_features(n_dim, degree), n_features(n_dim, degree - 1))
    return [_sparse(parts, shape) for parts in entries]


def _sparse(parts: list, shape: tuple[int, int]) -> sparse.csr_array:
    values, rows, columns = (np.concatenate(p) for p in zip(*parts))
    return sparse.csr_array((values, (rows, columns)), shape=shape)


def _without(indices: np.ndarray, i: int) -> np.ndarray:
    """Each row without its first occurrence of i."""
    keep = np.arange(indices.shape[1]) != (indices == i).argmax(axis=1)[:, None]
    return indices[keep].reshape(len(indices), -1)


@lru_cache(maxsize=8)
def to_powers(n_dim: int, degree: int) -> sparse.csr_array:
    """Matrix from coefficients c_α of Σ c_α φ_α to packed couplings of plain powers, constant and all orders in one vector.

    c_α φ_α is a normal-ordered power with tensor entry c_α Π√α_i!/k!; undoing the normal order, exp(−½∇²), closes pairs of equal
    legs: a coupling of order k feeds order k − 2 with −k(k − 1)/2 times its trace, and so on.
    """
    scale = np.concatenate([entry_scale(n_dim, k) for k in range(degree + 1)])
    heat = sparse.csr_array(sparse.eye_array(len(scale)))
    trace, power = _half_laplacian(n_dim, degree), heat
    for j in range(1, degree // 2 + 1):
        power = trace @ power * (-1.0 / j)
        heat = heat + power
    return sparse.csr_array(heat @ sparse.diags_array(scale))


def entry_scale(n_dim: int, k: int) -> np.ndarray:
    """Tensor entries of a normal-ordered power φ_α, Π√α_i!/k! = 1/√(k! multiplicity)."""
    return 1.0 / np.sqrt(factorial(k) * multiplicity(colex_indices(n_dim, k)))


def _half_laplacian(n_dim: int, degree: int) -> sparse.csr_array:
    """½∇² on packed couplings: order k to order k − 2 with k(k − 1)/2 times the trace over two legs."""
    values, rows, columns = [], [], []
    for k in range(2, degree + 1):
        rest = colex_indices(n_dim, k - 2)
        start, source = n_features(n_dim, k - 3) if k > 2 else 0, n_features(n_dim, k - 1)
        for i in range(n_dim):
            joined = np.sort(np.column_stack([rest, np.full((len(rest), 2), i)]), axis=1)
            values.append(np.full(len(rest), 0.5 * k * (k - 1)))
            rows.append(start + np.arange(len(rest)))
            columns.append(source + colex_rank(joined))
    size = n_features(n_dim, degree)
    if not values:
        return sparse.csr_array((size, size))
    return _sparse([(np.concatenate(values), np.concatenate(rows), np.concatenate(columns))], (size, size))
