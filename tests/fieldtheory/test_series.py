"""Composition with maps: against sympy, against itself cut at any order, and against what goes wrong in absolute coordinates."""

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

import fieldtheory as ft
from fieldtheory.errors import InputError
from fieldtheory.series import compose, product_ranks
from fieldtheory.tensors import colex_indices, packed_size, symmetrize


def random_couplings(n_dim, order, seed, lowest=0):
    rng = np.random.default_rng(seed)
    return {k: ft.SymmetricTensor.from_packed(rng.normal(size=packed_size(n_dim, k)), n_dim, k) for k in range(lowest, order + 1)}


def random_map(n_out, n_in, degree, seed):
    rng = np.random.default_rng(seed)
    return {d: rng.normal(size=(n_out,) + (n_in,) * d) for d in range(1, degree + 1)}


def displacement(series, u):
    """Σ_d f_d[u, …, u], one leg at a time."""
    total = 0.0
    for d, f in series.items():
        for _ in range(d):
            f = f @ u
        total = total + f
    return total


def composed_map(outer, inner, order):
    """outer∘inner up to `order`, each output as an action of its own."""
    rows = [compose({d: ft.SymmetricTensor.from_dense(symmetrize(f[i])) for d, f in outer.items()}, inner, order)
            for i in range(len(outer[1]))]
    return {n: np.stack([row[n].dense() for row in rows]) for n in range(1, order + 1)}


# n_out, n_in, order of the action, degree of the map
SHAPES = {"one variable": (1, 1, 3, 2), "two to one": (2, 1, 3, 2), "one to three": (1, 3, 2, 3), "three": (3, 3, 3, 2),
          "linear map": (3, 2, 4, 1),
          "to order 15": (1, 1, 5, 3), "four to two, to order 8": (2, 4, 4, 2)}


@pytest.mark.parametrize("case", SHAPES)
def test_all_of_the_composed_polynomial_is_the_composed_function(case):
    n_out, n_in, order, degree = SHAPES[case]
    S, series = ft.Action(random_couplings(n_out, order, 0)), random_map(n_out, n_in, degree, 1)
    whole = ft.Action(compose(S.couplings, series, order * degree))
    points = np.random.default_rng(2).normal(size=(6, n_in))
    expected = S(np.array([displacement(series, u) for u in points]))
    np.testing.assert_allclose(whole(points), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_entry_by_entry_against_sympy():
    S, series = ft.Action(random_couplings(2, 3, 3)), random_map(2, 2, 2, 4)
    u = sympy.symbols("u:2")
    f = [sum(float(series[1][i, a]) * u[a] for a in range(2))
         + sum(float(series[2][i, a, b]) * u[a] * u[b] for a in range(2) for b in range(2)) for i in range(2)]
    expression = sum(float(w) * sympy.prod([f[i] for i in index]) for T in S.couplings.values()
                     for index, w in zip(T.indices.tolist(), T.packed * T.multiplicity))
    coefficients = sympy.Poly(sympy.expand(expression), *u).as_dict()
    found = compose(S.couplings, series, 4)
    for k in range(5):
        for index, value, m in zip(found[k].indices.tolist(), found[k].packed, found[k].multiplicity):
            assert value * m == pytest.approx(float(coefficients[index.count(0), index.count(1)]), rel=1e-11)


@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 3))
@settings(deadline=None)
def test_products_of_monomials_are_looked_up_right(n_dim, first, second):
    ranks = product_ranks(n_dim, first, second)
    joined = colex_indices(n_dim, first + second)
    for I, row in zip(colex_indices(n_dim, first).tolist(), ranks):
        for J, rank in zip(colex_indices(n_dim, second).tolist(), row):
            assert joined[rank].tolist() == sorted(I + J)


@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_the_cut_commutes_with_composition(n_dim, order, seed):
    couplings, series = random_couplings(n_dim, 6, seed), random_map(n_dim, n_dim, 3, seed + 1)
    whole = compose(couplings, series, 6)
    short = compose({k: T for k, T in couplings.items() if k <= order}, {d: f for d, f in series.items() if d <= order}, order)
    for k in range(order + 1):
        np.testing.assert_allclose(short[k].packed, whole[k].packed, rtol=1e-10, atol=1e-10)


@given(st.integers(1, 3), st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_composition_is_associative(n_dim, seed):
    couplings = random_couplings(n_dim, 4, seed)
    outer, inner = random_map(n_dim, n_dim, 2, seed + 1), random_map(n_dim, n_dim, 2, seed + 2)
    step_by_step = compose(compose(couplings, outer, 4), inner, 4)
    at_once = compose(couplings, composed_map(outer, inner, 4), 4)
    for k in range(5):
        np.testing.assert_allclose(step_by_step[k].packed, at_once[k].packed, rtol=1e-9, atol=1e-8)


def test_an_affine_map_is_the_pullback():
    S, M = ft.Action(random_couplings(3, 4, 0)), np.random.default_rng(1).normal(size=(3, 3))
    expected, found = S.pullback(M), compose(S.couplings, {1: M}, 4)
    for k in range(1, 5):
        np.testing.assert_allclose(found[k].packed, expected.couplings[k].packed, rtol=1e-10, atol=1e-12)


def test_a_cut_in_absolute_coordinates_is_wrong_in_every_order():
    """x ↦ S(g(f(x))) with f, g quadratic with constants: expanding g around f(0) is right, dropping orders of S∘g around 0 is not."""
    S = ft.theories.gaussian([[0.5]])
    chi, bias = 0.4, 0.7  # f(u) = g(u) = bias + u + χ u²
    u = sympy.symbols("u")
    f = bias + u + chi * u**2
    g = bias + f + chi * f**2
    exact = sympy.Poly(sympy.expand(-(g**2) / (2 * 0.5)), u).all_coeffs()[::-1]
    at_image = bias + bias + chi * bias**2
    series_f = {1: np.array([[1.0]]), 2: np.array([[[chi]]])}
    series_g = {1: np.array([[1 + 2 * chi * bias]]), 2: np.array([[[chi]]])}
    right = compose(compose(S.recenter([at_image]).couplings, series_g, 4), series_f, 4)
    outer = ft.Action(compose(S.recenter([bias]).couplings, {1: np.array([[1.0]]), 2: np.array([[[chi]]])}, 4)).truncate(3)
    naive = compose(ft.Action(outer.couplings).recenter([bias]).couplings, series_f, 4)  # a cut polynomial passed off as exact
    for k in (1, 2, 3, 4):
        assert right[k].packed[0] == pytest.approx(float(exact[k]), rel=1e-12)
        assert abs(naive[k].packed[0] / float(exact[k]) - 1) > 0.01


def test_only_the_symmetric_part_of_a_map_counts():
    couplings, series = random_couplings(2, 3, 0), random_map(2, 2, 2, 1)
    turned = {1: series[1], 2: series[2].swapaxes(1, 2)}
    for k, T in compose(couplings, series, 4).items():
        np.testing.assert_allclose(T.packed, compose(couplings, turned, 4)[k].packed, rtol=1e-12, atol=1e-12)


REFUSED = {
    "constant part": ({0: np.ones(2), 1: np.eye(2)}, r"got degrees \[0, 1\]; expand the map around the base point"),
    "no linear part": ({2: np.ones((2, 2, 2))}, r"got degrees \[2\]"),
    "shape": ({1: np.eye(2), 2: np.ones((2, 2))}, r"the part of degree 2 must have shape \(2, 2, 2\), got \(2, 2\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    series, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        compose(random_couplings(2, 2, 0), series, 2)
