"""Stationary points in closed form, the propagator, and Laplace's approximation against quadrature."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fieldtheory as ft
from fieldtheory.calculus import direct_sum
from fieldtheory.errors import GaugeError, InputError, NotNormalizableError, RegimeWarning
from fieldtheory.stationary import _sunset, _two_loops
from fieldtheory.tensors import packed_size

DOUBLE_WELL = ft.Action({0: 0.5, 2: [[1.0]], 4: [[[[-0.25]]]]})  # ½ + x² − x⁴/4: maxima ±√2 with S = 3/2, S'' = −4
CUBIC_SITE = ft.Action({2: [[-0.5]], 3: [[[0.1]]]})


def hat(n_dim, height=1.0):
    """height · (|x|² − |x|⁴/2): a sphere of maxima."""
    i, j = np.indices((n_dim, n_dim)).reshape(2, -1)
    pairs = np.zeros((n_dim,) * 4)
    pairs[i, i, j, j] = 1.0
    return ft.Action({2: height * np.eye(n_dim), 4: -0.5 * height * ft.SymmetricTensor.symmetrized(pairs, n_dim)})


def kinds(points):
    return [(p.kind, p.n_unstable) for p in points]


def test_double_well():
    points = DOUBLE_WELL.modes()
    assert kinds(points) == [("maximum", 0), ("maximum", 0), ("minimum", 1)]
    np.testing.assert_allclose(sorted(p.x[0] for p in points), [-np.sqrt(2), 0, np.sqrt(2)], atol=1e-10)
    np.testing.assert_allclose([p.value for p in points], [1.5, 1.5, 0.5], rtol=1e-12)
    np.testing.assert_allclose([p.eigenvalues[0] for p in points], [-4, -4, 2], rtol=1e-9)
    assert sum(p.n_found for p in points) == 64
    assert repr(points[2]).startswith("<minimum at (0), S=0.5, 1 unstable directions, found ")


def test_cubic_site():
    """−x²/2 + g x³ has a maximum at 0 and a minimum at 1/(3g) with S = −1/(54 g²)."""
    points = CUBIC_SITE.modes()
    assert kinds(points) == [("maximum", 0), ("minimum", 1)]
    np.testing.assert_allclose([p.x[0] for p in points], [0, 1 / 0.3], atol=1e-10)
    np.testing.assert_allclose(points[1].value, -1 / (54 * 0.01), rtol=1e-12)


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (1e3, 1.0), (5.0, 1e-6), (0.0, 1e6)])
def test_a_gaussian_has_its_mean(mean, scale):
    C = scale**2 * np.array([[2, 0.3, 0], [0.3, 1, -0.4], [0, -0.4, 0.5]])
    (point,) = ft.theories.gaussian(C, np.full(3, mean)).recenter(np.zeros(3)).modes(20)
    assert (point.kind, point.n_found) == ("maximum", 20)
    np.testing.assert_allclose(point.x, mean, atol=1e-8 * scale, rtol=1e-9)
    np.testing.assert_allclose(np.sort(-1 / point.eigenvalues), np.linalg.eigvalsh(C), rtol=1e-8)


def test_independent_double_wells_have_all_products_of_their_points():
    points = direct_sum(DOUBLE_WELL, DOUBLE_WELL, DOUBLE_WELL).modes(400)
    assert len(points) == 27
    for p in points:
        at_top = np.isclose(np.abs(p.x), np.sqrt(2), atol=1e-9)
        assert np.all(at_top | np.isclose(p.x, 0, atol=1e-9))
        assert p.n_unstable == np.sum(~at_top) and p.value == pytest.approx(1.5 + at_top.sum())
        assert p.kind == ["maximum", "saddle", "saddle", "minimum"][p.n_unstable]
    assert sorted(p.value for p in points)[::-1] == [p.value for p in points]


@pytest.mark.parametrize("hopping", [0.1, 0.3, 0.6, 3.0])
def test_coupled_double_wells_are_counted_right(hopping):
    """Points merge in pairs as the coupling grows, and Σ (−1)^{n_unstable} stays 1 (Poincaré and Hopf)."""
    S = ft.theories.phi4(nx.path_graph(3), -1.0, 1.0, hopping)
    points = S.modes(400)
    assert sum((-1) ** p.n_unstable for p in points) == 1 and "degenerate" not in dict(kinds(points))
    assert len(points) == {0.1: 27, 3.0: 3}.get(hopping, len(points))
    for p in points:
        assert np.abs(S.score(p.x)).max() < 1e-9
        mirrored = [q for q in points if np.abs(q.x + p.x).max() < 1e-6]
        assert len(mirrored) == 1 and mirrored[0].n_unstable == p.n_unstable


def test_every_second_start_climbs():
    """In a broken lattice saddles are everywhere; the two ordered states are found all the same."""
    S = ft.theories.phi4(ft.theories.lattice((6, 6)), -2.0, 6.0, 1.0)
    points = S.modes(16)
    assert sum(p.n_found for p in points if p.kind == "maximum") >= 8
    for p in points[:2]:
        np.testing.assert_allclose(np.abs(p.x), np.sqrt(2), rtol=1e-9)


@given(st.integers(1, 3), st.integers(0, 99))
@settings(deadline=None, max_examples=15)
def test_points_move_with_the_coordinates(n_dim, seed):
    rng = np.random.default_rng(seed)
    S = ft.theories.random_interactions(n_dim, {4: 0.2}, seed) + ft.Action({1: rng.normal(size=n_dim)})
    M, b = np.diag(10.0 ** rng.uniform(-1, 1, n_dim)) @ np.linalg.qr(rng.normal(size=(n_dim, n_dim)))[0], rng.normal(size=n_dim)
    (here,), (there,) = S.modes(8), S.pullback(M, b).modes(8)
    np.testing.assert_allclose(M @ there.x + b, here.x, rtol=1e-6, atol=1e-6)
    assert here.kind == there.kind == "maximum"


def test_flat_places_are_degenerate():
    assert kinds(ft.Action({4: [[[[-1.0]]]]}).modes()) == [("degenerate", 0)]
    assert kinds(ft.Action({3: [[[-1.0]]]}).modes()) == [("degenerate", 0)]
    circle = hat(2).modes(12)
    assert all(p.kind == "degenerate" and np.linalg.norm(p.x) == pytest.approx(1) for p in circle[:-1])
    assert (circle[-1].kind, circle[-1].n_unstable) == ("minimum", 2)


def test_nowhere_stationary():
    assert ft.Action({1: [1.0, 0]}).modes() == ()
    assert ft.Action({1: [1.0], 3: [[[1.0]]]}).modes() == ()  # x + x³ rises everywhere


def test_a_cut_action_has_the_points_of_its_polynomial():
    cut = DOUBLE_WELL.recenter([1.0]).truncate(2)
    (point,) = cut.modes()
    np.testing.assert_allclose(point.x, 1 - DOUBLE_WELL.score([1.0]) / DOUBLE_WELL.hessian([1.0])[0], rtol=1e-10)
    averaged = DOUBLE_WELL.normal_order([0.3], [[0.2]])
    np.testing.assert_allclose([p.value for p in averaged.modes()], [p.value for p in DOUBLE_WELL.modes()], rtol=1e-9)


def test_propagator_of_a_gaussian_is_its_covariance():
    C = np.array([[2, 3e-4], [3e-4, 1e-6]])
    np.testing.assert_allclose(ft.theories.gaussian(C, [1, 2]).propagator(), C, rtol=1e-10)
    S = ft.theories.random_interactions(3)
    np.testing.assert_allclose(S.propagator(at=[0.1, 0.2, 0.3]), np.linalg.inv(-S.hessian([0.1, 0.2, 0.3])), rtol=1e-10)


def test_propagator_away_from_a_maximum():
    with pytest.warns(RegimeWarning, match="here S curves upwards in 1 directions: it is formal"):
        assert DOUBLE_WELL.propagator()[0, 0] == pytest.approx(-0.5)
    with pytest.raises(InputError, match=r"must be invertible to have a propagator, its eigenvalue closest to 0 is 0"):
        hat(2).propagator(at=[1.0, 0])
    with pytest.raises(GaugeError, match="may be recentred"):
        DOUBLE_WELL.truncate(2).propagator(at=[1.0])


def log_partition_by_quadrature(S, half_width, n_points):
    line = np.linspace(-half_width, half_width, n_points)
    x = np.stack(np.meshgrid(*[line] * S.n_dim, indexing="ij"), -1).reshape(-1, S.n_dim)
    value = S(x)
    return value.max() + np.log(np.exp(value - value.max()).sum()) + S.n_dim * np.log(line[1] - line[0])


THEORIES = {  # and the half-width of the box that holds exp(40 S)
    "quartic site": (ft.Action({0: 0.7, 2: [[-0.5]], 4: [[[[-0.2]]]]}), 2.0),
    "cubic and quartic site": (ft.Action({1: [0.3], 2: [[-0.5]], 3: [[[0.1]]], 4: [[[[-0.05]]]]}), 3.0),
    "double well": (DOUBLE_WELL, 2.5),
    "tilted double well": (DOUBLE_WELL + ft.Action({1: [0.05]}), 2.5),
    "two sites": (ft.theories.random_interactions(2, {3: 0.25, 4: 0.2}, seed=3) + ft.Action({1: [0.4, -0.2]}), 2.5),
    "two sites, broken": (ft.theories.phi4(nx.path_graph(2), -2.0, 6.0, 1.0) + ft.Action({1: [0.05, 0.0]}), 2.5),
}


@pytest.mark.filterwarnings("ignore::fieldtheory.errors.RegimeWarning")
@pytest.mark.parametrize("case", THEORIES)
def test_laplace_and_its_correction_become_exact_at_the_right_rate(case):
    """Z of exp(N S): the error of Laplace falls like 1/N and is the two-loop term, that of the corrected value like 1/N²."""
    S, half_width = THEORIES[case]
    first, second = [], []
    for N in (40, 80, 160):
        exact = log_partition_by_quadrature(N * S, half_width, 3001 if S.n_dim == 1 else 401)
        found = (N * S).laplace()
        first.append(abs(found.log_partition - exact))
        second.append(abs(found.corrected - exact))
    np.testing.assert_allclose(np.array(first[:-1]) / first[1:], 2, rtol=0.15)
    np.testing.assert_allclose(np.array(second[:-1]) / second[1:], 4, rtol=0.35)
    assert second[-1] < 0.1 * first[-1]


def test_laplace_is_exact_for_a_gaussian_in_any_units():
    C = np.diag([1e-12, 4, 1e8]) + 0.0
    found = ft.theories.gaussian(C, [1, -2, 3]).laplace()
    np.testing.assert_allclose([found.log_partition, found.corrected, found.neglected], 0, atol=1e-9)
    assert found.weights == [1.0]


def test_both_wells_count():
    deep = 20 * DOUBLE_WELL
    found = deep.laplace()
    np.testing.assert_allclose(found.weights, 0.5, rtol=1e-9)
    np.testing.assert_allclose(found.log_partition, 30 + np.log(2) + 0.5 * np.log(2 * np.pi / 80), rtol=1e-12)
    # V³ = −6√2·20, V⁴ = −6·20, Δ = 1/80: ⅛V⁴Δ² + (⅛ + 1/12)(V³)²Δ³
    np.testing.assert_allclose([found.figure_eight[0], found.dumbbell[0], found.sunset[0]],
                               [-120 / 8 / 6400, 28800 / 8 / 512000, 28800 / 12 / 512000], rtol=1e-9)
    averaged = deep.normal_order([0.1], [[0.3]]).laplace()
    np.testing.assert_allclose([averaged.log_partition, averaged.corrected], [found.log_partition, found.corrected], rtol=1e-9)
    np.testing.assert_allclose(found.neglected, (120 / 8 / 6400) + 28800 * (1 / 8 + 1 / 12) / 512000, rtol=1e-9)


@pytest.mark.parametrize("n_dim", [1, 2, 3, 6])
def test_diagrams_against_full_sums_over_all_legs(n_dim):
    rng = np.random.default_rng(n_dim)
    V3 = ft.SymmetricTensor.from_packed(rng.normal(size=packed_size(n_dim, 3)), n_dim, 3)
    V4 = ft.SymmetricTensor.from_packed(rng.normal(size=packed_size(n_dim, 4)), n_dim, 4)
    root = rng.normal(size=(n_dim, n_dim))
    D = root @ root.T + np.eye(n_dim)
    S = ft.Action({2: -0.5 * np.linalg.inv(D), 3: V3 * (1 / 6), 4: V4 * (1 / 24)})
    expected = (np.einsum("ijkl,ij,kl", V4.dense(), D, D) / 8, np.einsum("ijk,ij,kl,lmn,mn", V3.dense(), D, D, V3.dense(), D) / 8,
                np.einsum("ijk,lmn,il,jm,kn", V3.dense(), V3.dense(), D, D, D, optimize=True) / 12)
    np.testing.assert_allclose(_two_loops(S), expected, rtol=1e-9)
    few = ft.SymmetricTensor.from_entries([[0] * 3, [0, 0, n_dim - 1]][: n_dim], [1.0, 2.0][: n_dim], n_dim)
    np.testing.assert_allclose(_sunset(few, D), few.inner(few.transform(D)) / 12, rtol=1e-12)


def test_a_broken_lattice_by_its_local_couplings():
    """Uniform field: per site the sums of diagrams follow from the propagator at one site."""
    S = ft.theories.phi4(ft.theories.lattice((4, 4)), -3.0, 6.0, 1.0)
    S = S + ft.Action({1: np.full(16, 1e-3)})
    with pytest.warns(RegimeWarning):
        found = S.laplace(16)
    top = found.modes[0]
    D = np.linalg.inv(-S.hessian(top.x))
    V3, V4 = -6 * top.x[0], -6.0
    assert len(found.modes) == 2 and top.x[0] > 0 and np.ptp(top.x) < 1e-9
    np.testing.assert_allclose(found.figure_eight[0], 16 * V4 * D[0, 0] ** 2 / 8, rtol=1e-8)
    np.testing.assert_allclose(found.dumbbell[0], V3**2 * D[0, 0] ** 2 * D.sum() / 8, rtol=1e-8)
    np.testing.assert_allclose(found.sunset[0], V3**2 * (D**3).sum() / 12, rtol=1e-8)


def test_laplace_says_when_it_should_not_be_trusted():
    with pytest.warns(RegimeWarning, match=r"its two-loop diagrams are 0\.\d+ nats; trust neither it nor the correction"):
        DOUBLE_WELL.laplace()


REFUSED = {
    "unbounded": (lambda: CUBIC_SITE.laplace(), NotNormalizableError, "leading order 3 is odd"),
    "flat": (lambda: ft.Action({4: [[[[-1.0]]]]}).laplace(), InputError, r"isolated quadratic maxima, .* <degenerate at \(0\)"),
    "circle": (lambda: hat(2).laplace(8), InputError, "the highest stationary point found is <degenerate"),
    "maxima missed": (lambda: (20 * DOUBLE_WELL).laplace(n_starts=1), InputError, "found is <minimum at .*; raise n_starts"),
    "no starts": (lambda: DOUBLE_WELL.modes(0), InputError, "n_starts must be a whole number of at least 1"),
    "seed": (lambda: DOUBLE_WELL.modes(seed=-1), InputError, "seed must be a whole number"),
    "large": (lambda: ft.Action({1: np.ones(30000)}).modes(), InputError, "dense Hessians of 30000 variables must fit in memory, 36 GB"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    request, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        request()
