"""Moments and cumulants of samples: unbiased, symmetric tensors with standard errors.

A moment is a mean, ⟨x_{i1} ⋯ x_{ik}⟩. Cumulants come as k-statistics, the only symmetric functions of the samples whose expectation
is the cumulant whatever the density is (R. A. Fisher, Proc. London Math. Soc. 30, 199 (1930)). With N samples, u = x − x̄ and
S_I = Σ_s Π_{i ∈ I} u_{s,i},

    κ_i    = x̄_i,    κ_ij = S_ij/(N − 1),    κ_ijk = N S_ijk/((N − 1)(N − 2)),
    κ_ijkl = [N (N + 1) S_ijkl − (N − 1)(S_ij S_kl + S_ik S_jl + S_il S_jk)]/((N − 1)(N − 2)(N − 3)).

Standard errors are those of the jackknife: (N − 1)/N times the squared spread of what is found without one sample, on the average
no smaller than the variance of the statistic (B. Efron and C. Stein, Ann. Stat. 9, 586 (1981)). Nothing is computed N times: the sums
of the others, about their own mean, are those of all but for powers of the sample v = u_s that is left out,

    S'_I = S_I + Σ_{A ⊂ I, 1 ≤ |A| ≤ k − 2} v_A S_{I∖A}/(N − 1)^|A| − (N^k − N)/(N − 1)^k v_I,    v_A = Π_{a ∈ A} v_a.

Samples count as independent: of correlated ones, thin them first (`fieldtheory.sampling`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from math import log

import numpy as np

from . import memory
from .arrays import as_count, as_samples
from .errors import InputError
from .packing import colex_indices, colex_rank
from .tensors import PackedTensor, SymmetricTensor

_HIGHEST = 4
_TOGETHER = 2**20  # products of samples formed at a time
_LARGEST = log(np.finfo(np.float64).max)


@dataclass(frozen=True, eq=False, repr=False)
class SampledTensor(PackedTensor):
    """A statistic of samples; as any `SymmetricTensor`, and it knows its standard error.

    Attributes
    ----------
    error : SymmetricTensor
        Standard errors of the entries, computed when they are first asked for.
    """

    spread: Callable[[], np.ndarray] = field(repr=False)

    @cached_property
    def error(self) -> SymmetricTensor:
        """Standard errors of the entries."""
        return SymmetricTensor.from_packed(self.spread(), self.n_dim, self.order)


def moments(samples, order: int) -> SampledTensor:
    """⟨x_{i1} ⋯ x_{ik}⟩ of samples, about the origin.

    Parameters
    ----------
    samples : array_like, shape (n_samples, n_dim)
        Independent draws.
    order : int
        k ≥ 1.

    Returns
    -------
    SampledTensor
        All unique entries, in powers of the units of the samples; ``.error`` holds their standard errors.

    Raises
    ------
    InputError
        Bad samples, order < 1, or products that overflow.

    Examples
    --------
    >>> m = moments([[1.0, 0.0], [3.0, 2.0]], order=2)
    >>> m[0, 0], m[0, 1], m.error[0, 1]
    (5.0, 3.0, 3.0)
    """
    order = as_count(order, "order")
    x = as_samples(samples)
    _refuse_overflow(x, order)
    mean = _sums(x, order) / len(x)
    return _sampled(mean, x.shape[1], order, lambda: _spread_of_mean(x, mean, order))


def cumulants(samples, order: int) -> SampledTensor:
    """⟪x_{i1} ⋯ x_{ik}⟫ of samples by k-statistics, unbiased at any number of samples.

    Parameters
    ----------
    samples : array_like, shape (n_samples, n_dim)
        Independent draws, more than `order` of them.
    order : {1, 2, 3, 4}
        k; order 1 is the mean, order 2 the covariance.

    Returns
    -------
    SampledTensor
        All unique entries, in powers of the units of the samples; ``.error`` holds their standard errors, by the jackknife.

    Raises
    ------
    InputError
        Bad or too few samples, another order, or products that overflow.

    Examples
    --------
    >>> round(cumulants([[1.0], [2.0], [3.0], [6.0]], order=3)[0, 0, 0], 12)
    12.0
    """
    order = as_count(order, "order")
    if order > _HIGHEST:
        raise InputError(f"order must be 1 … {_HIGHEST} for cumulants, got {order}; use moments for higher ones.")
    if order == 1:
        return moments(samples, 1)
    x = as_samples(samples, min_samples=order + 1)
    u = x - x.mean(axis=0)
    _refuse_overflow(u, order)
    sums = {k: _sums(u, k) for k in range(2, order + 1)}
    found = _k_statistic(sums, order, len(x), x.shape[1])
    return _sampled(found, x.shape[1], order, lambda: _jackknife(u, sums, found, order))


def _sampled(values: np.ndarray, n_dim: int, order: int, spread: Callable[[], np.ndarray]) -> SampledTensor:
    values.setflags(write=False)
    return SampledTensor(values, n_dim, order, spread)


def _refuse_overflow(x: np.ndarray, order: int) -> None:
    """Squares of products are needed for the errors."""
    largest = np.abs(x).max()
    if largest > 0 and 2 * order * log(largest) + log(len(x)) > _LARGEST - 10:
        raise InputError(f"samples must have powers of order {2 * order} that floating point can hold, the largest entry is {largest:.3g}; "
                         "multiply the columns by constants.")


def _sums(x: np.ndarray, order: int) -> np.ndarray:
    """S_I = Σ_s Π_{i ∈ I} x_si of all unique entries, from products over the first half of I and over the rest."""
    half, I = order // 2, colex_indices(x.shape[1], order)
    first, last = colex_indices(x.shape[1], half), colex_indices(x.shape[1], order - half)
    memory.require(8 * len(first) * len(last), f"products of order {order} in {x.shape[1]} variables", "lower the order")
    total = np.zeros((len(first), len(last)))
    for rows in _chunks(x, len(first) + len(last)):
        total += _products(rows, first).T @ _products(rows, last)
    return total[colex_rank(I[:, :half]), colex_rank(I[:, half:])]


def _products(x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Π_{i ∈ I} x_si for each row s and index tuple I."""
    product = np.ones((len(x), len(indices)))
    for column in indices.T:
        product *= x[:, column]
    return product


def _k_statistic(sums: dict[int, np.ndarray], order: int, N: int, n_dim: int) -> np.ndarray:
    """κ of N samples from their sums, shape (..., n_entries)."""
    S = sums[order]
    if order == 2:
        return S / (N - 1)
    if order == 3:
        return N / (N - 1) / (N - 2) * S
    i, j, k, l = colex_indices(n_dim, 4).T
    pairs = sum(_pair(sums[2], *p) * _pair(sums[2], *q) for p, q in (((i, j), (k, l)), ((i, k), (j, l)), ((i, l), (j, k))))
    return (N * (N + 1) / (N - 1) * S - pairs) / (N - 2) / (N - 3)


def _pair(S: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """S_ij, i ≤ j, along the last axis."""
    return S[..., colex_rank(np.column_stack([i, j]))]


def _jackknife(u: np.ndarray, sums: dict[int, np.ndarray], found: np.ndarray, order: int) -> np.ndarray:
    N, n_dim = u.shape
    total, squares = np.zeros(found.size), np.zeros(found.size)
    for rows in _chunks(u, (order + 2) * found.size):
        others = {k: _without(rows, sums, k, N) for k in ((2, 4) if order == 4 else (order,))}
        change = _k_statistic(others, order, N - 1, n_dim) - found
        total += change.sum(axis=0)
        squares += np.sum(change**2, axis=0)
    return np.sqrt((N - 1) / N * np.maximum(squares - total**2 / N, 0.0))


def _without(v: np.ndarray, sums: dict[int, np.ndarray], k: int, N: int) -> np.ndarray:
    """S'_I of order k when one sample is left out, for each row of v; see the module."""
    I = colex_indices(v.shape[1], k)
    total = sums[k] - (float(N) ** k - N) / float(N - 1) ** k * _products(v, I)
    for r in range(1, k - 1):
        for A in combinations(range(k), r):
            rest = colex_rank(np.delete(I, A, axis=1))
            total += _products(v, I[:, A]) * (sums[k - r][rest] / (N - 1) ** r)
    return total


def _spread_of_mean(x: np.ndarray, mean: np.ndarray, order: int) -> np.ndarray:
    """Standard error of a mean of products."""
    I, squares = colex_indices(x.shape[1], order), np.zeros(mean.size)
    for rows in _chunks(x, mean.size):
        squares += np.sum((_products(rows, I) - mean) ** 2, axis=0)
    return np.sqrt(squares / len(x) / (len(x) - 1))


def _chunks(x: np.ndarray, n_products: int) -> Iterator[np.ndarray]:
    """Rows of x, so many at a time that their products fit well."""
    rows = max(1, _TOGETHER // n_products)
    return (x[start : start + rows] for start in range(0, len(x), rows))
