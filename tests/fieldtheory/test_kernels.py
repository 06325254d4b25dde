"""Kernels against sums over monomials, for every kind of coupling, with one lane and with many; compiled against plain Python."""

import networkx as nx
import numpy as np
import pytest
import scipy.sparse

import fieldtheory as ft
from fieldtheory import _kernels
from fieldtheory.packing import packed_size


def dense(n_dim, *orders, seed=0):
    rng = np.random.default_rng(seed)
    return {k: ft.SymmetricTensor.from_packed(rng.normal(size=packed_size(n_dim, k)), n_dim, k) for k in orders}


def few(n_dim, order, n_entries, seed=0):
    """Entries at random places; storage sparse whatever the size."""
    rng = np.random.default_rng(seed)
    indices = np.unique(np.sort(rng.integers(n_dim, size=(n_entries, order)), axis=1), axis=0)
    return {order: ft.SymmetricTensor.from_entries(indices, rng.normal(size=len(indices)), n_dim).to("sparse")}


COUPLINGS = {
    "linear": dense(3, 1),
    "one variable, order 6": dense(1, 1, 2, 3, 4, 5, 6),
    "one square": dense(7, 2),
    "one square per variable": dense(6, 3),
    "order 4": dense(5, 1, 2, 3, 4),
    "order 6": dense(3, 2, 4, 5, 6),
    "order 4, every product of pairs": dense(14, 2, 4),
    "order 3, no square of its own": dense(16, 1, 3),
    "large matrices": dense(18, 2, 3, 4),
    "lattice": ft.theories.phi4(nx.cycle_graph(20), 1.0, 2.0).couplings,
    "few triples": few(9, 3, 20),
    "few of order 5": few(6, 5, 15),
    "dense pairs, few quadruples": {**dense(8, 1, 2), **few(8, 4, 12)},
    "few pairs, dense triples": {**few(5, 2, 3), **dense(5, 3)},
    "nothing": {2: ft.SymmetricTensor.zeros(3, 2)},
}


def by_monomials(couplings, x):
    """S, ∇S and ∇²S at points x (n, n_dim): exponents, coefficients, powers."""
    n, n_dim = x.shape
    value, score, hessian = np.zeros(n), np.zeros((n, n_dim)), np.zeros((n, n_dim, n_dim))
    for T in couplings.values():
        present = np.flatnonzero(T.values)
        for index, c in zip(T.indices[present], (T.values * T.multiplicity)[present]):
            alpha = np.bincount(index, minlength=n_dim)
            value += c * np.prod(x**alpha, axis=1)
            for i in np.flatnonzero(alpha):
                once = alpha - np.eye(n_dim, dtype=int)[i]
                score[:, i] += c * alpha[i] * np.prod(x**once, axis=1)
                for j in np.flatnonzero(once):
                    hessian[:, i, j] += c * alpha[i] * once[j] * np.prod(x ** (once - np.eye(n_dim, dtype=int)[j]), axis=1)
    return value, score, hessian


@pytest.mark.parametrize("n_points", [1, 5, 200])
@pytest.mark.parametrize("case", COUPLINGS)
def test_all_derivatives_are_those_of_the_monomials(case, n_points):
    S, rng = ft.Action(COUPLINGS[case]), np.random.default_rng(1)
    x, v = rng.normal(size=(2, n_points, S.n_dim))
    value, score, hessian = by_monomials(S.couplings, x)
    scale = 1e-12 * (1 + np.abs(hessian).max())
    np.testing.assert_allclose(S(x), value, rtol=1e-11, atol=scale)
    np.testing.assert_allclose(S.score(x), score, rtol=1e-11, atol=scale)
    np.testing.assert_allclose(S.hessian(x), hessian, rtol=1e-11, atol=scale)
    np.testing.assert_allclose(S.hessian_vector(x, v), np.einsum("nij,nj->ni", hessian, v), rtol=1e-10, atol=10 * scale)


@pytest.mark.filterwarnings("ignore::numba.core.errors.NumbaPerformanceWarning")
@pytest.mark.parametrize("n_lanes", [1, 3])
@pytest.mark.parametrize("case", ["order 4", "large matrices", "lattice", "few triples"])
def test_compiled_kernels_are_their_python_bodies(case, n_lanes, monkeypatch):
    S = ft.Action(COUPLINGS[case])
    x, v = np.random.default_rng(2).normal(size=(2, S.n_dim, n_lanes))
    found = []
    for plain in (False, True):
        if plain:
            for name in dir(_kernels):
                if hasattr(getattr(_kernels, name), "py_func"):
                    monkeypatch.setattr(_kernels, name, getattr(_kernels, name).py_func)
        value, score, product, second = np.zeros(n_lanes), np.empty_like(x), np.empty_like(x), np.empty((S.n_dim, *x.shape))
        _kernels.value_and_score(S.polynomial, x, value, score)
        _kernels.hessian_vector(S.polynomial, x, v, product)
        _kernels.hessian(S.polynomial, x, second)
        found.append((value, score, product, second))
    for compiled, interpreted in zip(*found):
        np.testing.assert_allclose(compiled, interpreted, rtol=1e-11, atol=1e-11)


def test_couplings_go_where_they_are_cheap():
    lattice, full = (ft.Action(COUPLINGS[case]).polynomial for case in ("lattice", "order 4"))
    assert lattice.sizes.size == 0 and lattice.bonds.size == 20 and lattice.weights.size == 0 and lattice.onsite.shape == (4, 20)
    assert full.weights.size == 0 and full.sizes.size == 5
    assert ft.Action(COUPLINGS["nothing"]).polynomial.onsite.shape == (1, 3)


def test_calculus_on_a_lattice_of_a_hundred_thousand_sites():
    S = ft.theories.phi4(ft.theories.lattice((316, 316)), 1.0, 4.0)
    n, rng = S.n_dim, np.random.default_rng(5)
    x = rng.normal(size=n)
    assert ft.normalizability.normalizability(S).how == "exact"
    doubled = S.pullback(2 * scipy.sparse.eye_array(n), np.ones(n))
    assert doubled(x) == pytest.approx(S(2 * x + 1) + n * np.log(2), rel=1e-12)
    half = S.restrict({i: x[i] for i in range(0, n, 2)})
    assert half(x[1::2]) == pytest.approx(S(x), rel=1e-12)
    assert S.recenter(x)(x + 1) == pytest.approx(S(x + 1), rel=1e-12)
    pair = ft.calculus.direct_sum(S, S)
    assert pair(np.concatenate([x, x])) == pytest.approx(2 * S(x), rel=1e-12)
    assert all(T.storage == "sparse" for action in (doubled, half, pair) for k, T in action.couplings.items() if k > 1)


def test_a_lattice_of_a_hundred_thousand_sites():
    S = ft.theories.phi4(ft.theories.lattice((316, 316)), 1.0, 4.0)
    x = np.random.default_rng(3).normal(size=S.n_dim)
    field = x.reshape(316, 316)
    bonds = sum(np.sum((field - np.roll(field, 1, axis)) ** 2) for axis in (0, 1))
    assert S(x) == pytest.approx(-0.5 * bonds - np.sum(x**2 / 2 + x**4 / 6), rel=1e-12)
    neighbours = sum(np.roll(field, shift, axis) for shift in (-1, 1) for axis in (0, 1))
    np.testing.assert_allclose(S.score(x), (neighbours - 5 * field - 2 / 3 * field**3).ravel(), atol=1e-12)
    v = np.random.default_rng(4).normal(size=S.n_dim)
    u = v.reshape(316, 316)
    pulled = sum(np.roll(u, shift, axis) for shift in (-1, 1) for axis in (0, 1))
    np.testing.assert_allclose(S.hessian_vector(x, v), (pulled - 5 * u - 2 * field**2 * u).ravel(), atol=1e-12)
    with pytest.raises(ft.errors.InputError, match=r"the Hessian in 99856 variables must fit in memory, 80 GB .*; use hessian_vector"):
        S.hessian(x)
