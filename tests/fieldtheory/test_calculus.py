"""Actions of other variables: every change of variables is the same function of the new ones, and the laws between them."""

import warnings

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import fieldtheory as ft
from fieldtheory.calculus import direct_sum
from fieldtheory.errors import GaugeError, InputError
from fieldtheory.tensors import packed_size

seeds, sizes = st.integers(0, 999), st.integers(1, 4)


def random_action(n_dim=3, order=4, seed=0, **options):
    rng = np.random.default_rng(seed)
    couplings = {k: ft.SymmetricTensor.from_packed(rng.normal(size=packed_size(n_dim, k)), n_dim, k) for k in range(order + 1)}
    return ft.Action(couplings, **options)


def local_action(n_dim=6, seed=0, **options):
    """Entries on the sites and bonds of a ring, in orders 1 to 4."""
    rng, site = np.random.default_rng(seed), np.arange(n_dim)
    bonds = np.column_stack([site, (site + 1) % n_dim])
    pairs = np.concatenate([bonds, np.column_stack([site, site])])
    couplings = {1: rng.normal(size=n_dim), 2: entries(pairs, rng, n_dim), 3: entries(bonds[:, [0, 0, 1]], rng, n_dim),
                 4: entries(site[:, None].repeat(4, axis=1), rng, n_dim)}
    return ft.Action(couplings, **options)


def entries(indices, rng, n_dim):
    return ft.SymmetricTensor.from_entries(indices, rng.normal(size=len(indices)), n_dim)


def same(first, second, rtol=1e-9, constant=True):
    """The two actions have the same couplings at the same base point."""
    assert (first.n_dim, first.gauge) == (second.n_dim, second.gauge)
    np.testing.assert_allclose(first.at, second.at, rtol=rtol, atol=rtol)
    for k in range(0 if constant else 1, max(first.order, second.order) + 1):
        a, b = first._coupling(k).dense() if k else first[()], second._coupling(k).dense() if k else second[()]
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * (1 + np.abs(b).max()))


def close(found, expected, rtol=1e-9):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * (1 + np.abs(expected).max()))


def points(n_dim, seed=9):
    return np.random.default_rng(seed).normal(size=(5, n_dim))


@given(sizes, st.integers(1, 4), seeds)
@settings(deadline=None, max_examples=50)
def test_pullback_is_the_function_of_the_new_variables(n_dim, n_new, seed):
    n_new, rng = min(n_new, n_dim), np.random.default_rng(seed)
    S, M, b = random_action(n_dim, seed=seed, at=rng.normal(size=n_dim)), rng.normal(size=(n_dim, n_new)), rng.normal(size=n_dim)
    y = points(n_new)
    density = np.log(abs(np.linalg.det(M))) if n_new == n_dim else 0.0
    T = S.pullback(M, b)
    close(T(y), S(y @ M.T + b) + density)
    close(T.score(y), S.score(y @ M.T + b) @ M, 1e-8)
    assert T.gauge == "exact" and not T.at.any()


@given(st.integers(1, 3), st.integers(0, 2), st.integers(0, 2), seeds)
@settings(deadline=None, max_examples=50)
def test_pullback_of_a_pullback_is_the_pullback_of_the_product(n_inner, more, most, seed):
    rng, n_middle, n_outer = np.random.default_rng(seed), n_inner + more, n_inner + more + most
    S, M, N = random_action(n_outer, seed=seed), rng.normal(size=(n_outer, n_middle)), rng.normal(size=(n_middle, n_inner))
    b, c = rng.normal(size=n_outer), rng.normal(size=n_middle)
    both_square = more == most == 0  # the determinant of a square factor has no counterpart in a rectangular product
    same(S.pullback(M, b).pullback(N, c), S.pullback(M @ N, M @ c + b), 1e-8, constant=both_square)


@pytest.mark.parametrize("shape", [(5, 5), (5, 2)])
def test_pullback_at_a_base_point_of_a_cut_action(shape):
    rng = np.random.default_rng(1)
    whole, M, b, y0 = random_action(5), rng.normal(size=shape), rng.normal(size=5), rng.normal(size=shape[1])
    cut = whole.recenter(M @ y0 + b).truncate(3)
    T = cut.pullback(M, b)
    np.testing.assert_allclose(T.at, y0, rtol=1e-9)
    same(T, whole.pullback(M, b).recenter(y0).truncate(3))


def ring_maps(n):
    site, rng = np.arange(n), np.random.default_rng(3)
    blocks = sparse.csr_array((np.ones(n), (site, site // 2)), shape=(n, (n + 1) // 2))
    return {"scales": sparse.diags_array(rng.uniform(0.5, 2, n)), "permutation": sparse.eye_array(n).tocsr()[rng.permutation(n)],
            "blocks": blocks, "stencil": sparse.diags_array([np.full(n - 1, 0.3), np.ones(n)], offsets=[1, 0]),
            "repeated entries": sparse.csr_array((np.ones(n + 1), np.append(0, site), np.append(0, site + 2)), shape=(n, n))}


@pytest.mark.parametrize("case", ring_maps(6))
@pytest.mark.parametrize("gauge", ["exact", "taylor", "normal_ordered"])
def test_sparse_maps_do_what_their_full_matrices_do(case, gauge):
    M, b = ring_maps(6)[case], np.random.default_rng(0).normal(size=6)
    before = M.copy()
    if gauge == "normal_ordered" and case == "blocks":
        return
    options = {"covariance": np.eye(6) + 0.2} if gauge == "normal_ordered" else {}
    at = b + M @ np.linspace(-1, 1, M.shape[1])
    for S in (local_action(at=at, gauge=gauge, **options), random_action(6, 3, at=at, gauge=gauge, **options)):
        same(S.pullback(M, b), S.pullback(M.toarray(), b))
        if options:
            np.testing.assert_allclose(S.pullback(M, b).covariance, S.pullback(M.toarray(), b).covariance, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(M.data, before.data)


def test_scales_keep_local_couplings_local():
    S = local_action(20)
    T = S.pullback(sparse.diags_array(np.linspace(1, 2, 20)))
    assert [np.count_nonzero(T.couplings[k].values) for k in (2, 3, 4)] == [40, 20, 20]


@pytest.mark.parametrize("gauge", ["taylor", "normal_ordered", "projection"])
def test_an_invertible_map_keeps_every_gauge(gauge):
    options = {"covariance": np.diag([1.0, 2, 3])} if gauge == "normal_ordered" else {}
    S, M, b = random_action(at=[1.0, 0, -1], gauge=gauge, **options), np.random.default_rng(0).normal(size=(3, 3)), np.ones(3)
    T, y = S.pullback(M, b), points(3)
    assert T.gauge == gauge
    close(M @ T.at + b, S.at)
    close(T(y), S(y @ M.T + b) + np.log(abs(np.linalg.det(M))), 1e-8)
    same(T.pullback(np.linalg.inv(M), -np.linalg.solve(M, b)), S, 1e-8)


@given(sizes.filter(lambda n: n > 1), seeds, st.sampled_from(["dense", "local"]))
@settings(deadline=None, max_examples=40)
def test_restriction_holds_variables_fixed(n_dim, seed, kind):
    rng = np.random.default_rng(seed)
    S = (random_action if kind == "dense" else local_action)(n_dim + 2, seed=seed, at=rng.normal(size=n_dim + 2))
    held = rng.permutation(n_dim + 2)[: rng.integers(1, n_dim + 1)]
    values, free = rng.normal(size=held.size), np.setdiff1d(np.arange(n_dim + 2), held)
    T = S.restrict(dict(zip(held.tolist(), values)))
    x = rng.normal(size=(4, n_dim + 2))
    x[:, held] = values
    close(T(x[:, free]), S(x))
    close(T.score(x[:, free]), S.score(x)[:, free])
    in_two_steps = S.restrict({int(held[0]): values[0]})
    for place, value in sorted(zip(held[1:].tolist(), values[1:]), reverse=True):
        in_two_steps = in_two_steps.restrict({place - (place > held[0]): value})
    same(in_two_steps, T)
    selection = np.eye(n_dim + 2)[:, free]
    same(S.pullback(selection, np.where(np.isin(np.arange(n_dim + 2), held), x[0], 0.0)).recenter(T.at), T)


def test_restriction_of_a_gaussian_is_its_conditional_density():
    rng = np.random.default_rng(0)
    root, mean, seen = rng.normal(size=(5, 5)), rng.normal(size=5), np.array([0.3, -1.2])
    C = root @ root.T + np.eye(5)
    given_them = ft.theories.gaussian(C, mean).restrict({1: seen[0], 4: seen[1]})
    free, held = [0, 2, 3], [1, 4]
    gain = C[np.ix_(free, held)] @ np.linalg.inv(C[np.ix_(held, held)])
    np.testing.assert_allclose(np.linalg.inv(-2 * given_them.couplings[2].dense()),
                               C[np.ix_(free, free)] - gain @ C[np.ix_(held, free)], rtol=1e-10)
    np.testing.assert_allclose(given_them.score(mean[free] + gain @ (seen - mean[held])), 0, atol=1e-12)


def test_restriction_by_name_at_the_base_point_of_a_cut_action():
    S = random_action(at=[1.0, 2, 3], names=["a", "b", "c"])
    cut = S.truncate(3)
    same(cut.restrict({"b": 2.0}), S.restrict({1: 2.0}).truncate(3))
    assert cut.restrict({"b": 2}).names == ("a", "c") and S.restrict({"c": 0.0, 0: 1.0}).names == ("b",)


def test_restriction_may_leave_a_constant():
    S = ft.Action({1: [1.0, 0.0], 2: [[0, 0.5], [0.5, 0]]}).restrict({0: 0.0})
    assert S([3.0]) == 0 and S.n_dim == 1


@given(sizes, sizes, seeds)
@settings(deadline=None, max_examples=30)
def test_direct_sum_is_the_sum_over_independent_variables(n, m, seed):
    S, T = random_action(n, 3, seed, at=np.ones(n)), local_action(m + 2, seed + 1, at=np.arange(m + 2.0))
    both, x, y = direct_sum(S, T), points(n), points(m + 2)
    close(both(np.hstack([x, y])), S(x) + T(y))
    close(both.score(np.hstack([x, y])), np.hstack([S.score(x), T.score(y)]))
    same(both.restrict({n + i: 0.7 for i in range(m + 2)}), S + ft.Action({0: float(T(np.full(m + 2, 0.7))), 1: np.zeros(n)}))
    same(direct_sum(both, S), direct_sum(S, T, S))


def test_direct_sum_of_averaged_actions_is_averaged_over_the_product():
    S, T = random_action(2, seed=1), random_action(3, 3, seed=2)
    C, D = np.array([[2, 0.5], [0.5, 1]]), np.eye(3) + 0.3
    apart = direct_sum(S.normal_order(np.ones(2), C), T.normal_order(np.zeros(3), D))
    together = direct_sum(S, T).normal_order([1, 1, 0, 0, 0], np.block([[C, np.zeros((2, 3))], [np.zeros((3, 2)), D]]))
    same(apart, together)
    np.testing.assert_array_equal(apart.covariance, together.covariance)


def test_a_direct_sum_of_lattices_is_the_lattice_of_both():
    first, second = nx.path_graph(3), nx.cycle_graph(4)
    S, T = (ft.theories.phi4(g, -0.5, 2.0, 1.3) for g in (first, second))
    same(direct_sum(S, T), ft.theories.phi4(nx.disjoint_union(first, second), -0.5, 2.0, 1.3))
    assert direct_sum(S, T).names == ("0", "1", "2", "0", "1", "2", "3")


def random_map(n_dim, n_new, degree, seed):
    rng = np.random.default_rng(seed)
    return {d: rng.normal(size=(n_dim,) + (n_new,) * d) for d in range(degree + 1)}


def image(f, y):
    """Σ_d f_d[y, …, y] at one point."""
    total = 0.0
    for d, part in f.items():
        for _ in range(d):
            part = part @ y
        total = total + part
    return total


MAPS = {"one variable": (1, 1, 4, 3), "parabola in the plane": (2, 1, 4, 2), "more variables than before": (1, 3, 3, 2),
        "quadratic": (3, 3, 3, 2), "cubic": (2, 2, 4, 3)}  # n_dim, n_new, order of S, degree of the map


@pytest.mark.parametrize("case", MAPS)
def test_composition_and_what_it_dropped_are_the_composed_function(case):
    n_dim, n_new, order, degree = MAPS[case]
    S, f = random_action(n_dim, order, at=np.ones(n_dim)), random_map(n_dim, n_new, degree, 1)
    y = points(n_new)
    expected = S([image(f, point) for point in y])
    for cut in (1, 3, order * degree, order * degree + 2):
        composed = S.compose(f, cut)
        close(composed.action(y) + composed.dropped(y), expected, 1e-9)
        assert composed.known_order == order * degree
        assert composed.action.gauge == ("exact" if cut >= order * degree else "taylor")
        assert composed.action.order == min(cut, order * degree)
    assert not composed.dropped.score(y).any() and composed.dropped.gauge == "exact"


@given(st.integers(1, 3), st.integers(1, 3), seeds)
@settings(deadline=None, max_examples=20)
def test_a_cut_action_composes_like_the_whole_up_to_its_order(n_dim, n_new, seed):
    S, f = random_action(n_dim, 4, seed), random_map(n_dim, n_new, 2, seed + 1)
    cut = S.recenter(f[0]).truncate(3)
    composed, whole = cut.compose(f, 2), S.compose(f, 3)
    same(composed.action, whole.action.truncate(2))
    assert (composed.known_order, composed.dropped.order, composed.dropped.gauge) == (3, 3, "taylor")
    np.testing.assert_allclose(composed.dropped.couplings[3].dense(), whole.action.couplings[3].dense(), rtol=1e-9, atol=1e-9)


def test_composition_with_an_affine_map_is_the_pullback():
    S, M, b = random_action(3), np.random.default_rng(0).normal(size=(3, 2)), np.ones(3)
    same(S.compose({0: b, 1: M}, 4).action, S.pullback(M, b))


def test_a_map_without_linear_part():
    S = ft.Action({2: [[-0.5]], 3: [[[1.0]]]})
    composed = S.compose({0: [1.0], 2: [[[2.0]]]}, 4)  # x = 1 + 2y²
    assert [composed.action._coupling(k).packed[0] for k in range(5)] == [0.5, 0, 4, 0, 10]  # −½x² + x³ = ½ + 4y² + 10y⁴ + 8y⁶
    assert composed.dropped[(0,) * 6] == 8 and composed.dropped[(0,) * 5] == 0


OPERATIONS = {
    "recentre": lambda S: S.recenter(np.full(S.n_dim, 0.3)), "restrict": lambda S: S.restrict({0: 0.5}),
    "pull back": lambda S: S.pullback(np.array([[1, 0.5], [-1, 2], [0.3, 0]]), np.ones(3)),
    "compose": lambda S: S.compose(random_map(S.n_dim, 2, 2, 3), 5).action,
    "average": lambda S: S.normal_order(np.ones(S.n_dim), 0.3 * np.eye(S.n_dim)),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@given(seed=seeds, c=st.floats(-3, 3))
@settings(deadline=None, max_examples=15)
def test_operations_are_linear(operation, seed, c):
    change, S, T = OPERATIONS[operation], random_action(3, 4, seed), random_action(3, 4, seed + 1)
    same(change(c * S + T), c * change(S) + change(T), 1e-8)


@given(sizes, st.integers(1, 4), seeds)
@settings(deadline=None, max_examples=40)
def test_couplings_do_not_care_for_the_order_of_variables(n_dim, order, seed):
    rng = np.random.default_rng(seed)
    S, turn = random_action(n_dim, order, seed), rng.permutation(n_dim)
    T = S.pullback(np.eye(n_dim)[:, turn])  # y = x[turn]
    x = points(n_dim)
    close(T(x[:, turn]), S(x))
    for k in range(1, order + 1):
        np.testing.assert_allclose(T.couplings[k].dense(), S.couplings[k].dense()[np.ix_(*[turn] * k)], rtol=1e-12)
        dense = S.couplings[k].dense()
        np.testing.assert_array_equal(dense, dense.transpose(rng.permutation(k)))


@given(sizes, st.integers(1, 5), seeds)
@settings(deadline=None, max_examples=40)
def test_score_and_hessian_are_the_differences_of_the_action(n_dim, order, seed):
    S, x, h = random_action(n_dim, order, seed, at=np.full(n_dim, 0.2)), points(n_dim, seed), 1e-4
    steps = h * np.eye(n_dim)
    forward, backward = x[:, None] + steps, x[:, None] - steps
    scale = 1 + np.abs(S.hessian(x)).max() + np.abs(S(x)).max()
    np.testing.assert_allclose((S(forward) - S(backward)) / (2 * h), S.score(x), atol=1e-5 * scale)
    np.testing.assert_allclose((S.score(forward) - S.score(backward)) / (2 * h), S.hessian(x), atol=1e-5 * scale)


cut = random_action(at=[1.0, 0, 0]).truncate(3)
averaged = random_action().normal_order(np.zeros(3), np.eye(3))
named = random_action(names=["a", "b", "a"])
REFUSED = {
    "wide": (lambda: random_action(2).pullback(np.ones((2, 3))), InputError, r"shape \(2, n_new\) with n_new from 1 to 2, got \(2, 3\)"),
    "empty": (lambda: random_action(2).pullback(np.ones((2, 0))), InputError, r"got \(2, 0\)"),
    "vector": (lambda: random_action(2).pullback(np.ones(2)), InputError, r"got \(2,\)"),
    "dependent": (lambda: random_action().pullback(np.ones((3, 2))), InputError, "full column rank"),
    "zero column": (lambda: random_action().pullback(np.eye(3)[:, :2] * [1, 0]), InputError, "full column rank"),
    "singular": (lambda: random_action().pullback(np.diag([1.0, 1, 0])), InputError, "must be invertible"),
    "sparse singular": (lambda: random_action().pullback(sparse.csr_array(np.ones((3, 3)))), InputError, "must be invertible"),
    "sparse dependent": (lambda: random_action().pullback(sparse.csr_array(np.ones((3, 2)))), InputError, "full column rank"),
    "nan": (lambda: random_action().pullback(np.full((3, 3), np.nan)), InputError, "matrix must be finite"),
    "sparse nan": (lambda: random_action().pullback(sparse.diags_array([1, np.nan, 1])), InputError, "matrix must be finite"),
    "sparse complex": (lambda: random_action().pullback(sparse.eye_array(3) * 1j), InputError, "matrix must be real"),
    "off the image": (lambda: cut.pullback(np.eye(3)[:, 1:]), GaugeError, "base point only, which lies 1 off the image of the map"),
    "averaged": (lambda: averaged.pullback(np.eye(3)[:, :2]), GaugeError, "only an exact or a taylor action may be pulled back by a rect"),
    "held off": (lambda: cut.restrict({0: 0.0}), GaugeError, "which lies 1 off the values it is held at; extract it anew"),
    "held average": (lambda: averaged.restrict({0: 0.0}), GaugeError, "may be restricted, this one is normal_ordered"),
    "no mapping": (lambda: cut.restrict([0]), InputError, "fixed must be a mapping"),
    "none left": (lambda: random_action(2).restrict({0: 1.0, 1: 1.0}), InputError, "leave a variable free, it names all 2"),
    "no name": (lambda: random_action().restrict({"a": 1.0}), InputError, "name of just one, such as none here, got 'a'"),
    "name twice": (lambda: named.restrict({"a": 1.0}), InputError, "name of just one, such as b, got 'a'"),
    "twice": (lambda: named.restrict({"b": 1.0, 1: 2.0}), InputError, "name each variable once, got b, 1"),
    "index": (lambda: named.restrict({3: 1.0}), InputError, r"must lie in 0 … 2, got 3"),
    "negative": (lambda: named.restrict({-1: 1.0}), InputError, "whole number of at least 0, got -1"),
    "value": (lambda: named.restrict({1: np.inf}), InputError, "values of fixed must be finite"),
    "nothing to sum": (lambda: direct_sum(), InputError, "at least one action, got none"),
    "mixed sum": (lambda: direct_sum(cut, averaged), GaugeError, "share their gauge, got taylor, normal_ordered"),
    "no map": (lambda: random_action().compose([1], 2), InputError, r"as \{degree: array\} with a degree of 1 or more, got \[1\]"),
    "constant map": (lambda: random_action().compose({0: np.ones(3)}, 2), InputError, "with a degree of 1 or more"),
    "map's shape": (lambda: random_action().compose({1: np.eye(3), 2: np.eye(3)}, 2), InputError,
                    r"part of degree 2 must have shape \(3, 3, 3\), got \(3, 3\)"),
    "map's n_dim": (lambda: random_action().compose({1: np.eye(2)}, 2), InputError, r"degree 1 must have shape \(3, 2\), got \(2, 2\)"),
    "map's number": (lambda: random_action().compose({1: 2.0}, 2), InputError, r"degree 1 must have shape \(3, 0\), got \(\)"),
    "map's nan": (lambda: random_action().compose({1: np.eye(3) * np.nan}, 2), InputError, "part of degree 1 must be finite"),
    "order": (lambda: random_action().compose({1: np.eye(3)}, 0), InputError, "order must be a whole number of at least 1"),
    "image of 0": (lambda: cut.compose({1: np.eye(3)}, 2), GaugeError, "which lies 1 off the map's value at y = 0"),
    "unknown order": (lambda: cut.compose({0: cut.at, 1: np.eye(3)}, 4), InputError, "order must be at most 3"),
    "averaged map": (lambda: averaged.compose({1: np.eye(3)}, 2), GaugeError, "may be composed with a map"),
    "dropped too much": (lambda: random_action(1, 9).compose({1: np.ones((1, 30)), 2: np.ones((1, 30, 30))}, 2).dropped, InputError,
                         "packed couplings of order 12 in 30 variables must fit in memory"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    request, error, message = REFUSED[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error, match=message):
            request()
