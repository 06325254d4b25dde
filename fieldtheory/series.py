"""Truncated Taylor algebra: an action seen through a smooth map.

Let f(u) = Σ_{d ≥ 1} f_d[u, …, u] be the displacement that a map makes around a base point, f(0) = 0. The couplings of S∘f
follow from those of S by choosing, for each leg of A^(m), the degree d it enters with:

    A'^(n) = Sym Σ_m Σ_{d_1 ≥ … ≥ d_m, Σ d = n} (m!/Π_d c_d!) A^(m)[f_{d_1}, …, f_{d_m}],

with c_d the number of legs of degree d. Since every d ≥ 1, orders above n never contribute to A'^(n): **truncation at order K
commutes with the composition**, and a chain of maps may be cut at K after each, provided each is expanded around the image of
the base point. In absolute coordinates f(0) ≠ 0, every dropped order feeds all lower ones, and the cut is wrong in all of them.

For an affine map only d = 1 occurs and this is the affine pullback; for a quadratic layer each leg may split in two, which is
the diagrammatic rule of C. Merger et al., Phys. Rev. X 13, 041033 (2023).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import factorial

import numpy as np

from .errors import InputError
from .tensors import SymmetricTensor


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
    composed = {}
    for n in range(order + 1):
        full = np.zeros((n_in,) * n)
        for m, T in couplings.items():
            for degrees, weight in _splittings(n, m, sorted(series, reverse=True)):
                full = full + weight * _contract_legs(T, [series[d] for d in degrees])
        composed[n] = SymmetricTensor.symmetrized(full, n_in)
    return composed


def _contract_legs(T: SymmetricTensor, maps: list[np.ndarray]) -> np.ndarray:
    full = T.dense() if T.order else T.packed[0]
    for f in maps:  # the first leg is contracted, the new ones go last
        full = np.tensordot(full, f, axes=(0, 0))
    return full


def _splittings(n: int, n_legs: int, degrees: list[int]) -> Iterator[tuple[list[int], int]]:
    """Ways to give `n_legs` legs degrees that add up to n, largest first, each with its number of arrangements."""
    for parts in _partitions(n, n_legs, degrees):
        weight = factorial(n_legs)
        for d in set(parts):
            weight //= factorial(parts.count(d))
        yield parts, weight


def _partitions(n: int, n_parts: int, degrees: list[int]) -> Iterator[list[int]]:
    if n_parts == 0:
        if n == 0:
            yield []
        return
    for i, d in enumerate(degrees):
        if d <= n:
            for rest in _partitions(n - d, n_parts - 1, degrees[i:]):
                yield [d, *rest]


def _check_series(series: Mapping[int, np.ndarray]) -> int:
    if 1 not in series or min(series) < 1:
        raise InputError(f"series must hold the parts of degree 1 and above of a displacement, got degrees {sorted(series)}; "
                         "expand the map around the base point, so that its degree 0 vanishes.")
    n_out, n_in = series[1].shape
    for d, f in series.items():
        if f.shape != (n_out,) + (n_in,) * d:
            raise InputError(f"the part of degree {d} must have shape {(n_out,) + (n_in,) * d}, got {f.shape}.")
    return n_in
