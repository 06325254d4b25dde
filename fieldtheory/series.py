"""Truncated Taylor algebra: an action seen through a smooth map.

Let f(u) = Σ_{d ≥ 1} f_d[u, …, u] be the displacement that a map makes around a base point, f(0) = 0. The couplings of S∘f
follow from those of S by choosing, for each leg of A^(m), the degree d it enters with:

    A'^(n) = Sym Σ_m Σ_{d_1 + … + d_m = n} A^(m)[f_{d_1}, …, f_{d_m}].

Since every d ≥ 1, orders above n never contribute to A'^(n): **truncation at order K commutes with the composition**, and a chain
of maps may be cut at K after each, provided each is expanded around the image of the base point. In absolute coordinates
f(0) ≠ 0, every dropped order feeds all lower ones, and the cut is wrong in all of them.

The legs are replaced one after the other. What has been replaced is a homogeneous polynomial in u, kept as the coefficients of its
monomials u_{i1 ≤ … ≤ ig}; what has not is symmetric still: neither is ever written out as a full tensor, and a part whose degree
can only exceed K is dropped at once. For an affine map only d = 1 occurs and this is the affine pullback; for a quadratic layer
each leg may split in two, which is the diagrammatic rule of C. Merger et al., Phys. Rev. X 13, 041033 (2023).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from math import comb, factorial

import numpy as np
from scipy import sparse

from .errors import InputError
from .tensors import SymmetricTensor, colex_indices, colex_rank, multiplicity, packed_size

_LARGEST_KEPT = 2**20


def compose(couplings: Mapping[int, SymmetricTensor], series: Mapping[int, np.ndarray],
            order: int) -> dict[int, SymmetricTensor]:
    """Couplings of u ↦ S(f(u)) up to `order`.

    Parameters
    ----------
    couplings : mapping of int to SymmetricTensor
        A^(m) of S around f's image of the base point; those above `order` are not needed.
    series : mapping of int to ndarray
        f_d by degree d ≥ 1, shape (n_out,) + (n_in,)*d; they need not be symmetric.
    order : int
        K.

    Returns
    -------
    dict of int to SymmetricTensor
        A'^(n) for n = 0 … K, in n_in variables.

    Raises
    ------
    InputError
        f has a part of degree 0, or shapes do not fit.
    """
    n_in = _check_series(series)
    maps = {d: _monomials(f) for d, f in sorted(series.items()) if f.any()}
    composed = {n: np.zeros(packed_size(n_in, n)) for n in range(order + 1)}
    for T in couplings.values():
        for n, coefficients in _through(T, maps, n_in, order).items():
            composed[n] += coefficients
    return {n: SymmetricTensor.from_packed(c / multiplicity(colex_indices(n_in, n)), n_in, n) for n, c in composed.items()}


def _through(T: SymmetricTensor, maps: Mapping[int, np.ndarray], n_in: int, order: int) -> dict[int, np.ndarray]:
    """Coefficients of the monomials of T[f, …, f] by degree up to `order`, one leg after the other."""
    parts = {0: T.packed[None]}  # by degree g in u: (monomials of degree g, unique entries of the legs left)
    for left in range(T.order - 1, -1, -1):
        replaced: dict[int, np.ndarray] = {}
        for g, part in parts.items():
            legs = np.take(part, product_ranks(T.n_dim, left, 1), axis=1)  # the next leg apart from those left
            for d, f in maps.items():
                if g + d + left <= order:  # every leg left adds a degree at least
                    pairs = (legs @ f).swapaxes(1, 2).reshape(-1, legs.shape[1])
                    replaced[g + d] = replaced.get(g + d, 0.0) + product_matrix(n_in, g, d) @ pairs
        parts = replaced
    return {g: part[:, 0] for g, part in parts.items() if g <= order}


def _kept_while_small(table: Callable) -> Callable:
    """Remember tables of up to 2^20 products of monomials; larger ones are made anew."""
    kept = lru_cache(maxsize=64)(table)

    @wraps(table)
    def look_up(n_dim: int, first: int, second: int):
        small = packed_size(n_dim, first) * packed_size(n_dim, second) <= _LARGEST_KEPT
        return (kept if small else table)(n_dim, first, second)

    return look_up


@_kept_while_small
def product_ranks(n_dim: int, first: int, second: int) -> np.ndarray:
    """Rank of u_I u_J = u_{I ∪ J} for all index tuples I, J of two orders, shape (size of first, size of second)."""
    indices, added = colex_indices(n_dim, first), colex_indices(n_dim, second)
    if second != 1:
        ranks = np.broadcast_to(np.arange(len(indices))[:, None], (len(indices), len(added)))
        for j, index in enumerate(added.T):
            ranks = product_ranks(n_dim, first + j, 1)[ranks, index]
        return ranks
    joined = np.empty((len(indices), n_dim, first + 1), dtype=np.intp)
    joined[..., :first], joined[..., first] = indices[:, None], added[:, 0]
    return colex_rank(np.sort(joined, axis=-1))


@_kept_while_small
def product_matrix(n_dim: int, first: int, second: int) -> sparse.csr_array:
    """What adds up the products u_I u_J that are one monomial, (size of first + second, size of first · size of second)."""
    return _adding(product_ranks(n_dim, first, second).ravel(), packed_size(n_dim, first + second))


def _adding(ranks: np.ndarray, size: int) -> sparse.csr_array:
    """The matrix that adds position j to row ranks[j]."""
    return sparse.csr_array((np.ones(len(ranks)), (ranks, np.arange(len(ranks)))), shape=(size, len(ranks)))


def _monomials(f: np.ndarray) -> np.ndarray:
    """Coefficients of the monomials of f_d[u, …, u], shape (n_out, packed_size(n_in, d))."""
    n_out, *shape = f.shape
    positions = np.sort(np.indices(shape).reshape(len(shape), -1).T, axis=1)
    return (_adding(colex_rank(positions), packed_size(shape[0], len(shape))) @ f.reshape(n_out, -1).T).T


def shifted(couplings: Mapping[int, SymmetricTensor], c: np.ndarray) -> dict[int, SymmetricTensor]:
    """Couplings around a base point that is moved by c, A'^(k) = Σ_{m ≥ k} C(m, k) A^(m)[·, …, ·, c, …, c]."""
    vector, shifted = SymmetricTensor.from_packed(c, c.size, 1), {}
    for m, T in couplings.items():
        for k in range(m, -1, -1):
            term = comb(m, k) * T
            shifted[k] = shifted[k] + term if k in shifted else term
            if k == 0 or not c.any():
                break
            T = T.contract(vector)
    return dict(sorted(shifted.items()))


def gaussian_average(couplings: Mapping[int, SymmetricTensor], covariance: np.ndarray, sign: float) -> dict[int, SymmetricTensor]:
    """exp(± ½ Σ·∇²) of a polynomial: sign + averages over shifts N(0, Σ), − undoes it."""
    pair, averaged = SymmetricTensor.from_dense(covariance), {}
    for m, T in couplings.items():
        for j in range(m // 2 + 1):
            k = m - 2 * j
            term = (sign**j * factorial(m) / (factorial(k) * factorial(j) * 2**j)) * T
            averaged[k] = averaged[k] + term if k in averaged else term
            if j < m // 2:
                T = T.contract(pair)
    return dict(sorted(averaged.items()))


def _check_series(series: Mapping[int, np.ndarray]) -> int:
    if 1 not in series or min(series) < 1:
        raise InputError(f"series must hold the parts of degree 1 and above of a displacement, got degrees {sorted(series)}; "
                         "expand the map around the base point, so that its degree 0 vanishes.")
    n_out, n_in = series[1].shape
    for d, f in series.items():
        if f.shape != (n_out,) + (n_in,) * d:
            raise InputError(f"the part of degree {d} must have shape {(n_out,) + (n_in,) * d}, got {f.shape}.")
    return n_in
