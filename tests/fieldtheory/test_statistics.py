"""Moments and cumulants against scipy, partitions by brute force, enumerated samples, closed forms, and the scatter of their own values."""

from itertools import permutations, product
from math import factorial

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import quad
from scipy.stats import kstat

import fieldtheory as ft
from fieldtheory.errors import InputError

ORDERS = [1, 2, 3, 4]


def skewed(n_samples, n_dim, seed=0):
    rng = np.random.default_rng(seed)
    return rng.gamma(2.0, size=(n_samples, n_dim)) @ rng.normal(size=(n_dim, n_dim)) + rng.normal(size=n_dim)


def partitions(elements):
    """All ways to divide a tuple into blocks."""
    if not elements:
        yield []
        return
    first, rest = elements[0], elements[1:]
    for blocks in partitions(rest):
        yield [(first,), *blocks]
        yield from ([*blocks[:b], (first, *blocks[b]), *blocks[b + 1 :]] for b in range(len(blocks)))


def cumulant_by_partitions(index, product_of_means):
    """Σ over partitions of (−1)^(m−1) (m − 1)! times the product of the means of its m blocks."""
    return sum((-1) ** (len(p) - 1) * factorial(len(p) - 1) * product_of_means([[index[a] for a in block] for block in p])
               for p in partitions(tuple(range(len(index)))))


def over_distinct_samples(x):
    """Products of means, unbiased: the average over different samples for different blocks."""
    def mean(blocks):
        return np.mean([np.prod([x[s, block].prod() for s, block in zip(chosen, blocks)])
                        for chosen in permutations(range(len(x)), len(blocks))])

    return mean


@pytest.mark.parametrize("order", ORDERS)
def test_one_variable_agrees_with_scipy(order):
    x = skewed(30, 1)
    assert ft.cumulants(x, order).values[0] == pytest.approx(kstat(x[:, 0], order), rel=1e-11)


@pytest.mark.parametrize("order", ORDERS)
def test_brute_force_over_distinct_samples(order):
    x = skewed(6, 2, seed=order)
    found = ft.cumulants(x, order)
    for index, value in zip(found.indices, found.values):
        assert value == pytest.approx(cumulant_by_partitions(index, over_distinct_samples(x)), rel=1e-9, abs=1e-10)


@pytest.mark.parametrize("order", ORDERS)
def test_order_by_order_where_it_is_known_otherwise(order):
    x = skewed(40, 3)
    expected = {1: x.mean(axis=0), 2: np.cov(x.T), 3: np.einsum("si,sj,sk->ijk", *[x - x.mean(axis=0)] * 3) * 40 / (39 * 38)}
    if order in expected:
        np.testing.assert_allclose(ft.cumulants(x, order).dense(), expected[order], rtol=1e-10, atol=1e-12)
    letters = "ijkl"[:order]
    raw = np.einsum(",".join(f"s{a}" for a in letters) + "->" + letters, *[x] * order) / 40
    np.testing.assert_allclose(ft.moments(x, order).dense(), raw, rtol=1e-11)


@pytest.mark.parametrize("order", ORDERS)
def test_unbiased_over_all_samples_of_a_discrete_density(order):
    """The mean over all 3⁵ samples of five, weighted, is the cumulant that sympy finds from the generating function, exactly."""
    points, weights = np.array([[0, 1], [2, -1], [1, 3]]), [sympy.Rational(1, 2), sympy.Rational(1, 3), sympy.Rational(1, 6)]
    j = sympy.symbols("j0:2")
    generating = sympy.log(sum(w * sympy.exp(sum(int(a) * b for a, b in zip(x, j))) for w, x in zip(weights, points)))
    chance = np.array([float(w) for w in weights])
    samples = list(product(range(3), repeat=5))
    mean = sum(chance[list(s)].prod() * ft.cumulants(points[list(s)], order).values for s in samples)
    for index, value in zip(ft.SymmetricTensor.zeros(2, order).indices, mean):
        exact = sympy.diff(generating, *[j[i] for i in index]).subs(dict.fromkeys(j, 0))
        assert value == pytest.approx(float(exact), abs=1e-12)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("statistic", [ft.cumulants, ft.moments])
def test_equivariant_under_linear_maps(statistic, order):
    x, M, b = skewed(25, 3), np.random.default_rng(1).normal(size=(3, 2)), np.array([3.0, -7.0])
    expected = statistic(x, order).transform(M).packed
    np.testing.assert_allclose(statistic(x @ M, order).packed, expected, rtol=1e-9, atol=1e-9)
    if statistic is ft.cumulants:
        np.testing.assert_allclose(statistic(x @ M + b, order).packed, expected + (b if order == 1 else 0), rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(x=arrays(np.float64, (7, 2), elements=st.floats(-10, 10)), order=st.sampled_from([2, 3, 4]),
       shift=st.floats(-5, 5), scale=st.floats(0.1, 4), seed=st.integers(0, 99))
def test_cumulants_and_errors_ignore_order_and_origin_and_scale_with_the_unit(x, order, shift, scale, seed):
    shuffled = np.random.default_rng(seed).permutation(x)
    found, moved = ft.cumulants(x, order), ft.cumulants(scale * (shuffled + shift), order)
    size = (10 * scale) ** order
    np.testing.assert_allclose(moved.values, scale**order * found.values, rtol=1e-7, atol=1e-9 * size)
    np.testing.assert_allclose(moved.error.values, scale**order * found.error.values, rtol=1e-5, atol=1e-6 * size)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("statistic", [ft.cumulants, ft.moments])
def test_errors_are_the_jackknife_of_the_values(statistic, order):
    x = skewed(12, 3, seed=order)
    without = np.array([statistic(np.delete(x, s, axis=0), order).values for s in range(12)])
    expected = np.sqrt(11 / 12 * np.sum((without - without.mean(axis=0)) ** 2, axis=0))
    np.testing.assert_allclose(statistic(x, order).error.packed, expected, rtol=1e-9)


def test_long_samples_are_summed_in_parts():
    x = skewed(3000, 4)
    parts, whole = ft.statistics._TOGETHER, [ft.cumulants(x, 4), ft.moments(x, 3)]
    try:
        ft.statistics._TOGETHER = 10_000
        for one, other in zip(whole, [ft.cumulants(x, 4), ft.moments(x, 3)]):
            np.testing.assert_allclose(one.values, other.values, rtol=1e-10)
            np.testing.assert_allclose(one.error.values, other.error.values, rtol=1e-10)
    finally:
        ft.statistics._TOGETHER = parts


@pytest.mark.parametrize("order", ORDERS)
def test_errors_against_the_scatter_over_samples(order):
    """400 samples of 60: the mean square of the errors within 5 of its own standard errors, plus the known bias.

    The variance of 400 values has the relative error √((kurtosis − 1)/400), taken from the values themselves; false alarms 6e-7 for each of
    the 2 to 5 entries. The jackknife is biased upwards by O(1/60), for which 10 % is allowed.
    """
    rng = np.random.default_rng(7 + order)
    found = [ft.cumulants(rng.gamma(2.0, size=(60, 2)) @ [[1.0, 0.3], [0.0, 0.5]], order) for _ in range(400)]
    values, squares = (np.array(part) for part in ([T.values for T in found], [T.error.values**2 for T in found]))
    centred = (values - values.mean(axis=0)) ** 2
    scatter, spread = centred.mean(axis=0), centred.std(axis=0) / 20
    noise = np.hypot(spread, squares.std(axis=0) / 20)
    assert np.all(np.abs(squares.mean(axis=0) - scatter) < 5 * noise + 0.1 * scatter)


def test_gaussian_samples():
    """Var κ̂_ij = (Σ_ii Σ_jj + Σ_ij²)/(N − 1); orders 3 and 4 vanish within their errors: |z| < 5 for 50 entries, false alarm 3e-5."""
    C = np.array([[1.0, 0.6, 0.0], [0.6, 2.0, -0.5], [0.0, -0.5, 0.3]])
    x = np.random.default_rng(0).multivariate_normal([5.0, 0.0, -3.0], C, size=20_000)
    second = ft.cumulants(x, 2)
    expected = np.sqrt((np.outer(np.diag(C), np.diag(C)) + C**2) / 19_999)
    np.testing.assert_allclose(second.error.dense(), expected, rtol=0.07)  # (u² − 1)² has kurtosis 15: 5 × ½ √(14/20,000)
    assert np.abs((second.dense() - C) / second.error.dense()).max() < 5
    for order in (3, 4):
        higher = ft.cumulants(x, order)
        assert np.abs(higher.values / higher.error.values).max() < 5


def test_samples_of_a_theory_have_its_cumulants():
    """One cubic and quartic site against quadrature; |z| < 4.5, false alarm 3e-5 for the four."""
    S = ft.theories.one_site(cubic=0.5, quartic=1.0)
    x = ft.sample(S, 40_000, seed=0, n_chains=64)
    m = [quad(lambda y, k=k: y**k * np.exp(S([y])), -12, 12)[0] for k in range(5)]
    means = {k: m[k] / m[0] for k in range(1, 5)}
    for order in ORDERS:
        exact = cumulant_by_partitions((0,) * order, lambda blocks: np.prod([means[len(block)] for block in blocks]))
        found = ft.cumulants(x, order)
        assert abs(found.values[0] - exact) < 4.5 * found.error.values[0] / np.sqrt(0.9)


def test_constant_columns_have_no_cumulants():
    x = np.column_stack([np.full(10, 3.0), skewed(10, 1)])
    found = ft.cumulants(x, 3)
    assert found[0, 0, 1] == 0 and found.error[0, 1, 1] == 0 and found[1, 1, 1] != 0


def test_a_scaled_statistic_is_a_plain_tensor():
    found = ft.cumulants(skewed(20, 2), 3)
    assert isinstance(found, ft.SymmetricTensor) and repr(found).startswith("SymmetricTensor(order=3, n_dim=2")
    assert (2.0 * found).values == pytest.approx(2 * found.values) and not hasattr(2.0 * found, "error")


good = skewed(20, 2)
REFUSED = {
    "order": (lambda: ft.cumulants(good, 5), "order must be 1 … 4 for cumulants, got 5; use moments"),
    "no order": (lambda: ft.moments(good, 0), "order must be a whole number of at least 1, got 0"),
    "few": (lambda: ft.cumulants(good[:4], 4), r"samples must hold at least 5 rows and one column, got shape \(4, 2\)"),
    "nan": (lambda: ft.cumulants(np.where(good > 0, good, np.nan), 2), "samples must be finite"),
    "one row": (lambda: ft.moments(good[:1], 2), "at least 2 rows"),
    "rank": (lambda: ft.moments(good[:, 0], 2), "array of rank 1"),
    "overflow": (lambda: ft.cumulants(1e60 * good, 4), r"powers of order 8 that floating point can hold, the largest entry is .*e\+60"),
    "many": (lambda: ft.moments(np.ones((3, 3000)), 4), "order 4 in 3000 variables must fit in memory"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    request, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        request()
