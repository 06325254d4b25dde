"""Polynomials as dictionaries: where text, sympy and Gaussian integrals meet the couplings.

A monomial u_i u_j u_k is the ascending tuple (i, j, k), the constant is (), and

    P(u) = Σ_I c_I u_{i1} ⋯ u_{ik},    c_I = k!/Πα! · A^(k)_I,

with each unique I once, so c_I carries the multiplicity that the coupling A^(k)_I does not. Coefficients stay exact — whole
numbers, fractions, sympy expressions — and become float64 once, at the end, by the correctly rounded quotient c_I / (k!/Πα!).
Hence the way from float64 to c_I and back is the identity, and nothing depends on the order in which terms are summed.

Products of sums grow without warning, so an `Expansion` counts the products it forms and refuses before it would take long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import groupby
from math import comb, factorial

import numpy as np

from .errors import InputError
from .tensors import SymmetricTensor

MAX_ORDER = 20  # 20! is the last multiplicity that fits in 64 bits
MAX_PRODUCTS = 500_000
_MAX_BITS = 4096

Terms = dict[tuple[int, ...], object]


class Expansion:
    """Arithmetic of polynomials that ends in time.

    Parameters
    ----------
    n_products : int
        How many products of two terms may be formed, a few microseconds each.
    advice : str
        What to do where they do not suffice.
    """

    def __init__(self, n_products: int = MAX_PRODUCTS, advice: str = "give the action as a sum of monomials"):
        self.limit = self.n_products = n_products
        self.advice = advice

    def add(self, total: Terms, p: Terms, factor=1) -> None:
        """total += factor · p, in place."""
        for monomial, c in p.items():
            known = total.get(monomial)
            total[monomial] = factor * c if known is None else _short(known + factor * c)
            if not total[monomial]:
                del total[monomial]

    def multiply(self, *factors: Terms) -> Terms:
        """P Q ⋯; raises `InputError` where that takes too long or exceeds order 20."""
        index, coefficient, sums = [], 1, []
        for p in factors:
            if len(p) == 1:
                [(monomial, c)] = p.items()
                index.extend(monomial)
                coefficient = coefficient if c == 1 else _short(c * coefficient)
            else:
                sums.append(p)
        product = {ordered(index): coefficient}
        for p in sums:
            product = self._multiply(product, p)
        return product

    def _multiply(self, p: Terms, q: Terms) -> Terms:
        self.spend(len(p) * len(q))
        product: Terms = {}
        for a, c in p.items():
            for b, d in q.items():
                monomial = ordered(a + b)
                known = product.get(monomial)
                product[monomial] = _short(c * d if known is None else known + c * d)
        return {monomial: c for monomial, c in product.items() if c}

    def power(self, p: Terms, exponent: int) -> Terms:
        """P^n for n = 0 … 20; raises `InputError` for any other n."""
        if not 0 <= exponent <= MAX_ORDER:
            found = exponent if exponent.bit_length() < 64 else "more than 2^63"
            raise InputError(f"exponents must be whole numbers from 0 to {MAX_ORDER}, got {found}.")
        self._require(len(p) * comb(len(p) + exponent - 1, exponent - 1) if exponent > 1 else 0)  # if no two terms are alike
        return self.multiply(*[p] * exponent)

    def spend(self, n_products: int) -> None:
        """Count products that are about to be formed; raises `InputError` where they are too many."""
        self._require(n_products)
        self.n_products -= n_products

    def _require(self, n_products: int) -> None:
        if n_products > self.n_products:
            raise InputError(f"expanding must take at most {self.limit:,} products of terms, this takes more; {self.advice}.")


def _short(c):
    """An exact number as it is; digits that pile up without end are refused."""
    if isinstance(c, int | Fraction) and c.numerator.bit_length() + c.denominator.bit_length() > _MAX_BITS:
        raise InputError(f"coefficients must fit into {_MAX_BITS:,} bits before they are rounded, one takes more; round its "
                         "factors first.")
    return c


def ordered(index: Sequence[int]) -> tuple[int, ...]:
    """The monomial of these variables; raises `InputError` beyond order 20."""
    if len(index) > MAX_ORDER:
        raise InputError(f"an action must be of order at most {MAX_ORDER}, got a term of order {len(index)}.")
    return tuple(sorted(index))


def runs(monomial: Sequence[int]) -> list[tuple[int, int]]:
    """(0, 1, 1) → (0, 1), (1, 2): each variable with its exponent."""
    return [(i, sum(1 for _ in run)) for i, run in groupby(monomial)]


def multiplicity(monomial: tuple[int, ...]) -> int:
    """k!/Πα!: how many entries of the full tensor a monomial stands for."""
    count = factorial(len(monomial))
    for _, exponent in runs(monomial):
        count //= factorial(exponent)
    return count


def to_couplings(polynomial: Terms, n_dim: int) -> dict[int, SymmetricTensor]:
    """A^(k)_I = c_I/(k!/Πα!), rounded once; an order 1 of zeros where nothing depends on the variables."""
    rows: dict[int, list] = {}
    for monomial, c in polynomial.items():
        rows.setdefault(len(monomial), []).append((monomial, rounded(c, multiplicity(monomial))))
    if not any(rows):
        rows[1] = []
    return {k: _tensor(k, entries, n_dim) for k, entries in sorted(rows.items())}


def rounded(c: int | Fraction, divisor: int = 1) -> float:
    """The float64 nearest to c/divisor."""
    try:
        return c.numerator / (c.denominator * divisor)  # Python divides whole numbers correctly rounded
    except OverflowError:
        raise InputError("coefficients must fit into float64, one exceeds 1.8e308.") from None


def _tensor(order: int, entries: list, n_dim: int) -> SymmetricTensor:
    indices = np.array([monomial for monomial, _ in entries], dtype=np.intp).reshape(len(entries), order)
    return SymmetricTensor.from_entries(indices, np.array([value for _, value in entries], dtype=np.float64), n_dim)


def from_couplings(couplings: Mapping[int, SymmetricTensor]) -> dict[tuple[int, ...], Fraction]:
    """c_I = k!/Πα! · A^(k)_I, exactly, entries that are zero left out."""
    return {monomial: multiplicity(monomial) * Fraction(value) for monomial, value in entries(couplings)}


def entries(couplings: Mapping[int, SymmetricTensor]):
    """(I, A^(k)_I) for the entries that are not zero, by ascending order."""
    for _, T in sorted(couplings.items()):
        for index, value in zip(map(tuple, T.indices.tolist()), T.values.tolist()):
            if value:
                yield index, value
