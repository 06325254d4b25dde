"""Named theories against their formulas, symmetries and limits."""

from itertools import combinations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, multivariate_normal

import fieldtheory as ft
from fieldtheory.errors import InputError, NotNormalizableError
from fieldtheory.normalizability import normalizability
from fieldtheory.theories import (
    from_text,
    lattice,
    mean_field_ferromagnet,
    on_site,
    one_site,
    p_spin,
    phi4,
    random_interactions,
    soft_ising,
    vector_phi4,
)
from fieldtheory.theories.local import Entries, _is_negative_definite


def test_gaussian_is_the_normalized_density():
    C, mu, x = np.array([[2, 0.3], [0.3, 1]]), np.array([1.0, -1]), np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_allclose(ft.theories.gaussian(C, mu)(x), multivariate_normal(mu, C).logpdf(x), rtol=1e-12)


WHEEL = nx.wheel_graph(5)
WEIGHTS = dict(zip(WHEEL.edges, [0.5, -0.2, 0.9, 0.1, 1.3, -0.7, 0.4, 0.8]))
nx.set_edge_attributes(WHEEL, WEIGHTS, "weight")
FIELD = np.array([0.3, -0.1, 0.2, 0.0, -0.4])
QUIET = np.array([0.0, -0.3, 0.0, -0.2, -0.1])  # sites 0 and 2 are Gaussian


def bond_sum(graph, strength, of_bond):
    """Σ over edges of strength · of_bond(i, j), for a number or a mapping of edges."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    return sum((strength[a, b] if isinstance(strength, dict) else strength) * of_bond(place[a], place[b]) for a, b in graph.edges)


def field_action(graph, x, m2, lam, hopping):
    """φ⁴ of vectors, x of shape (n_nodes, n_components)."""
    gradients = bond_sum(graph, hopping, lambda i, j: np.sum((x[i] - x[j]) ** 2) / 2)
    lengths = np.sum(x**2, axis=1)
    return -gradients - np.sum(m2 / 2 * lengths + lam / 24 * lengths**2)


def spin_action(x, pairs, lam, h):
    return pairs + np.sum(h * x - lam * (x**2 - 1) ** 2 + lam)


def p_spin_action(S, p, x, kappa):
    n = len(x)
    disorder = sum(p_spin_coupling(S, I) * np.prod(x[list(I)]) for I in combinations(range(n), p))
    return disorder - kappa / (4 * n) * (x @ x - n) ** 2 + kappa * n / 4


def p_spin_coupling(S, I):
    return [1, 1, 2, 6, 24][len(I)] * S[I]


P_SPINS = {p: p_spin(6, order=p, strength=0.7, confinement=9.0, seed=p) for p in (2, 3, 4)}
FORMULAS = {  # name: (theory, S(x) written with sums)
    **{f"phi4 on {graph}": (phi4(graph, 0.7, 2.0, hopping=1.3), lambda x, g=graph: field_action(g, x[:, None], 0.7, 2.0, 1.3))
       for graph in (nx.path_graph(3), lattice((3, 3)), nx.star_graph(4), nx.empty_graph(2))},
    "phi4, massless": (phi4(nx.empty_graph(2), 0.0, 2.0), lambda x: -np.sum(x**4) / 12),
    "phi4 on weights": (phi4(WHEEL, -0.5, 1.0, hopping=None), lambda x: field_action(WHEEL, x[:, None], -0.5, 1.0, WEIGHTS)),
    "free field": (phi4(lattice((4,)), 0.3, 0.0), lambda x: field_action(lattice((4,)), x[:, None], 0.3, 0.0, 1.0)),
    "two components": (vector_phi4(WHEEL, -1.0, 2.0, 0.6), lambda x: field_action(WHEEL, x.reshape(5, 2), -1.0, 2.0, 0.6)),
    "three on weights": (vector_phi4(WHEEL, 0.4, 1.0, None, n_components=3),
                         lambda x: field_action(WHEEL, x.reshape(5, 3), 0.4, 1.0, WEIGHTS)),
    "one component": (vector_phi4(WHEEL, 0.4, 1.0, 0.7, n_components=1), lambda x: field_action(WHEEL, x[:, None], 0.4, 1.0, 0.7)),
    "on-site": (on_site(WHEEL, {1: FIELD, 2: 0.4, 3: -0.2, 6: -0.05}, hopping=0.8),
                lambda x: np.sum(FIELD * x + 0.4 * x**2 - 0.2 * x**3 - 0.05 * x**6)
                - bond_sum(WHEEL, 0.8, lambda i, j: (x[i] - x[j]) ** 2 / 2)),
    "on-site, some sites Gaussian": (on_site(WHEEL, {2: 0.1, 4: QUIET}, hopping=0.8),
                                     lambda x: np.sum(0.1 * x**2 + QUIET * x**4)
                                     - bond_sum(WHEEL, 0.8, lambda i, j: (x[i] - x[j]) ** 2 / 2)),
    "one site": (one_site(0.7, 0.4, 1.5), lambda x: -0.75 * x[0] ** 2 + 0.7 / 6 * x[0] ** 3 - 0.4 / 24 * x[0] ** 4),
    "soft Ising": (soft_ising(lattice((3, 2)), -0.4, 1.5, 0.2),
                   lambda x: spin_action(x, bond_sum(lattice((3, 2)), -0.4, lambda i, j: x[i] * x[j]), 1.5, 0.2)),
    "soft spin glass": (soft_ising(WHEEL, field=FIELD),
                        lambda x: spin_action(x, bond_sum(WHEEL, WEIGHTS, lambda i, j: x[i] * x[j]), 1.0, FIELD)),
    "mean field": (mean_field_ferromagnet(5, 1.4, 0.6, FIELD), lambda x: spin_action(x, 1.4 / 10 * np.sum(x) ** 2, 0.6, FIELD)),
    "mean field of one": (mean_field_ferromagnet(1, 1.4), lambda x: spin_action(x, 0.7 * x[0] ** 2, 1.0, 0.0)),
    **{f"p = {p}": (S, lambda x, p=p, S=S: p_spin_action(S, p, x, 9.0)) for p, S in P_SPINS.items()},
}


@pytest.mark.parametrize("case", FORMULAS)
def test_theories_are_their_formulas(case):
    S, formula = FORMULAS[case]
    points = np.random.default_rng(0).normal(size=(4, S.n_dim))
    np.testing.assert_allclose(S(points), [formula(x) for x in points], rtol=1e-12, atol=1e-12)
    step = 1e-5 * np.eye(S.n_dim)
    slopes = [[(formula(x + e) - formula(x - e)) / 2e-5 for e in step] for x in points]
    np.testing.assert_allclose(S.score(points), slopes, rtol=1e-6, atol=1e-7)
    assert S[()] == 0 and S.gauge == "exact" and normalizability(S).normalizable
    assert S.names is None or len(S.names) == S.n_dim


def test_lattice_sites_are_called_by_their_coordinates():
    assert phi4(lattice((1, 2)), 1, 1).names == ("0,0", "0,1")
    assert vector_phi4(nx.path_graph(2), 1, 1).names == ("0:0", "0:1", "1:0", "1:1")


@given(st.integers(0, 99), st.integers(2, 4))
@settings(deadline=None, max_examples=20)
def test_vector_phi4_is_invariant_under_global_rotations(seed, n_components):
    """And infinitesimally: Σ_i (φ_ia ∂_ib − φ_ib ∂_ia) S = 0, the Ward identity."""
    rng, S = np.random.default_rng(seed), vector_phi4(WHEEL, -1.0, 2.0, n_components=n_components)
    x, (Q, _) = rng.normal(size=(5, n_components)), np.linalg.qr(rng.normal(size=(n_components,) * 2))
    np.testing.assert_allclose(S((x @ Q).ravel()), S(x.ravel()), rtol=1e-11, atol=1e-11)
    torque = x.T @ S.score(x.ravel()).reshape(x.shape)
    np.testing.assert_allclose(torque, torque.T, atol=1e-11)


@pytest.mark.parametrize("stiffness", [20.0, 40.0])
def test_hard_spins_are_those_of_ising(stiffness):
    """Two spins: ⟨x_0 x_1⟩ → tanh J, up to O(1/λ), by quadrature."""
    S = soft_ising(nx.path_graph(2), 0.8, stiffness)
    x = np.linspace(-2.5, 2.5, 801)
    points = np.stack(np.meshgrid(x, x), -1)
    weight = np.exp(S(points) - S(points).max())
    correlation = np.sum(weight * points.prod(axis=-1)) / weight.sum()
    assert 0 < abs(correlation - np.tanh(0.8)) < 0.7 / stiffness


def test_mean_field_spins_are_independent_in_a_fluctuating_field():
    """exp(J X²/2n) = √(nJ/2π) ∫dm exp(−nJm²/2 + J m X), X = Σ_i x_i, so that Z is an integral of a product of one-spin integrals."""
    n, J, h, lam = 2, 1.7, 0.3, 0.5
    x = np.linspace(-6, 6, 1201)
    direct = np.exp(mean_field_ferromagnet(n, J, lam, h)(np.stack(np.meshgrid(x, x), -1))).sum() * (x[1] - x[0]) ** 2
    single = np.exp((h + J * x[:, None]) * x - lam * (x**2 - 1) ** 2 + lam).sum(axis=1) * (x[1] - x[0])
    through = np.sqrt(n * J / (2 * np.pi)) * np.sum(np.exp(-n * J * x**2 / 2) * single**n) * (x[1] - x[0])
    np.testing.assert_allclose(direct, through, rtol=1e-10)


@pytest.mark.parametrize("p", [2, 3, 4])
def test_disorder_of_p_spins_has_its_variance(p):
    """E (Σ J x⋯x)² = β² p!/(2 n^{p−1}) e_p(x_1², …, x_n²), over 200 draws, a χ² variable; false alarms 1e-6 for each p."""
    x, beta, n, draws = np.linspace(0.5, 1.5, 6), 0.8, 6, 200
    symmetric = abs(np.poly(x**2)[p])
    expected = beta**2 * [0, 0, 2, 6, 24][p] / (2 * n ** (p - 1)) * symmetric
    sphere = p_spin(n, p, 0.0, 50.0)(x)
    total = sum((p_spin(n, p, beta, 50.0, seed)(x) - sphere) ** 2 for seed in range(draws)) / expected
    low, high = chi2.ppf([5e-7, 1 - 5e-7], draws)
    assert low < total < high


def test_disorder_is_a_matter_of_the_seed():
    assert p_spin(5, seed=1)[0, 1, 2] == p_spin(5, seed=1)[0, 1, 2] != p_spin(5, seed=2)[0, 1, 2]


def judged_by_pivots(matrix, kept):
    i, j = np.triu_indices(len(matrix), 1)
    return _is_negative_definite(np.diag(matrix), Entries(np.column_stack([i, j]), matrix[i, j]), kept)


def test_a_vanishing_pivot_is_not_exchanged_for_a_better_one():
    indefinite = np.array([[1.0, 0.5, -1, -1], [0.5, 1, 1, 1], [-1, 1, 1, 0.5], [-1, 1, 0.5, 1]])
    assert np.linalg.eigvalsh(indefinite)[0] < -1 and not judged_by_pivots(-indefinite, np.ones(4, dtype=bool))


@given(st.integers(1, 8), st.integers(0, 10**6), st.floats(-3, 3))
@settings(deadline=None, max_examples=200)
def test_pivots_know_a_negative_definite_matrix(n, seed, shift):
    """Against eigenvalues, in units far apart, on some of the sites and with vanishing entries."""
    rng = np.random.default_rng(seed)
    full = np.round(rng.normal(size=(n, n)) * (rng.random((n, n)) < 0.6), 1)
    full = full + full.T - shift * np.eye(n)
    unit, kept = 10.0 ** rng.integers(-6, 7, size=n), np.append(True, rng.random(n - 1) < 0.8)
    largest = np.linalg.eigvalsh(full[np.ix_(kept, kept)])[-1]
    assert judged_by_pivots(full * np.outer(unit, unit), kept) == (largest < 0) or abs(largest) < 1e-9


@pytest.mark.parametrize(("c", "normalizable"), [(-0.01, True), (0.01, False)])
def test_a_gaussian_site_beside_a_quartic_one_needs_its_own_curvature(c, normalizable):
    """Bonds to the quartic site do not matter, however strong: far out S is far below its maximum, or not."""
    graph = nx.Graph([(0, 1, {"weight": 3.0})])
    couplings = {2: [1.5 + c, 1.5], 4: [0.0, -1.0]}  # A^(2)_00 = c
    if not normalizable:
        with pytest.raises(NotNormalizableError, match="negative definite on the 1 sites without"):
            on_site(graph, couplings, None)
    quartic = ft.SymmetricTensor.from_entries([(1,) * 4], [-1.0], 2)
    S = on_site(graph, couplings, None) if normalizable else ft.Action({2: [[c, 1.5], [1.5, 0]], 4: quartic})
    x, y = np.meshgrid(np.arange(-4e4, 4e4, 2.0), np.linspace(-40, 40, 81), indexing="ij")
    S0 = S(np.stack([x, y], -1))
    inner = np.abs(x) < 2e4
    assert (S0[~inner].max() < S0[inner].max() - 50) == normalizable


@pytest.mark.parametrize(("shape", "bonds"), [((3, 3), 18), ((8, 8), 128), ((5,), 5), ((2, 3), 9), ((1,), 0), ((3, 3, 3), 81)])
def test_lattice_counts_its_bonds(shape, bonds):
    graph = lattice(shape)
    assert graph.number_of_nodes() == np.prod(shape)
    assert graph.number_of_edges() == bonds and nx.number_of_selfloops(graph) == 0


@pytest.mark.parametrize("n_dim", [1, 2, 3, 5, 10, 20])
def test_random_interactions_are_concave_mixed_and_of_the_strength_asked(n_dim):
    S = random_interactions(n_dim, seed=n_dim)
    assert S.couplings[3].norm() == pytest.approx(0.1) and S.couplings[4].norm() == pytest.approx(0.05)
    np.testing.assert_array_equal(S.couplings[2].dense(), -0.5 * np.eye(n_dim))
    x = np.random.default_rng(0).normal(size=(300, n_dim)) * np.logspace(-1, 1.5, 300)[:, None]
    assert np.linalg.eigvalsh(S.hessian(x)).max() < 0
    if n_dim > 2:
        assert abs(S[0, 1, 2]) > 1e-5


def test_the_bound_on_the_hessian_is_sufficient_where_it_is_almost_reached():
    with pytest.raises(NotNormalizableError, match=r"bound on the cubic part is .* Lower the strength of order 3 to") as refusal:
        random_interactions(4, {3: 5.0, 4: 0.05}, seed=0)
    allowed = float(str(refusal.value).split("order 3 to ")[1].split(" or")[0])
    S = random_interactions(4, {3: allowed, 4: 0.05}, seed=0)
    x = np.random.default_rng(0).normal(size=(4000, 4)) * np.linspace(0.1, 6, 4000)[:, None]
    assert -0.9 < np.linalg.eigvalsh(S.hessian(x)).max() < 0  # the cubic part is felt, and held


TEXTS = {
    "phi4:shape=2x3,mass_squared=1,coupling=2": phi4(lattice((2, 3)), 1, 2),
    "phi4:shape=4,mass_squared=-1,coupling=2,hopping=0.5": phi4(lattice((4,)), -1, 2, 0.5),
    "gaussian:n_dim=2,variance=4": ft.theories.gaussian(4 * np.eye(2)),
    "random_interactions:n_dim=3,seed=5000": random_interactions(3, seed=5000),
    "random_interactions:n_dim=3,cubic=0": random_interactions(3, {4: 0.05}),
    "vector_phi4:shape=2x2,mass_squared=1,coupling=2": vector_phi4(lattice((2, 2)), 1, 2),
    "vector_phi4:shape=2x2,mass_squared=1,coupling=2,n_components=3": vector_phi4(lattice((2, 2)), 1, 2, n_components=3),
    "on_site:shape=3,c1=0.5,c2=1,c6=-1,hopping=2": on_site(lattice((3,)), {1: 0.5, 2: 1, 6: -1}, 2),
    "one_site:cubic=0.3,quartic=0.4": one_site(0.3, 0.4),
    "soft_ising:shape=3x3,coupling=0.4,field=0.1": soft_ising(lattice((3, 3)), 0.4, field=0.1),
    "mean_field_ferromagnet:n_dim=4,coupling=1,stiffness=2": mean_field_ferromagnet(4, 1, 2),
    "p_spin:n_dim=5,order=2,strength=0.5,confinement=2,seed=3": p_spin(5, 2, 0.5, 2, 3),
}


@pytest.mark.parametrize("text", TEXTS)
def test_from_text_is_the_theory(text):
    S, T = from_text(text), TEXTS[text]
    assert S.couplings.keys() == T.couplings.keys() and S.names == T.names
    for k in T.couplings:
        np.testing.assert_array_equal(S.couplings[k].values, T.couplings[k].values)


REFUSED = {
    "unknown": (lambda: from_text("ising:n=3"), InputError, "theory must be one of phi4, gaussian.* p_spin, got 'ising'; write it as"),
    "code": (lambda: from_text("gaussian:n_dim=__import__('os').getpid()"), InputError, "n_dim must be a number"),
    "key": (lambda: from_text("gaussian:n_dim=3,mean=2"), InputError, "gaussian takes n_dim=, variance= once each, got 'mean=2'"),
    "twice": (lambda: from_text("gaussian:n_dim=3,n_dim=3"), InputError, "once each"),
    "missing": (lambda: from_text("phi4:shape=3"), InputError, "phi4 needs mass_squared=, coupling="),
    "infinite": (lambda: from_text("gaussian:n_dim=1,variance=inf"), InputError, "must be finite"),
    "large": (lambda: from_text("phi4:shape=999x999,mass_squared=1,coupling=1"), InputError, "fits in memory"),
    "many axes": (lambda: from_text("phi4:shape=2x2x2x2x2,mass_squared=1,coupling=1"), InputError, "8x8, of up to 4 axes, got '2x2x2x2x2'"),
    "no sites": (lambda: from_text("phi4:shape=0x3,mass_squared=1,coupling=1"), InputError, "sites along an axis must be a whole number"),
    "no axis": (lambda: lattice(()), InputError, "at least one axis, such as \\(8, 8\\), it is empty"),
    "fraction": (lambda: from_text("p_spin:n_dim=3.5"), InputError, "n_dim must be a number without decimals, got '3.5'"),
    "negative size": (lambda: from_text("gaussian:n_dim=-1"), InputError, "n_dim must be a whole number of at least 1, got -1"),
    "negative seed": (lambda: from_text("random_interactions:n_dim=3,seed=-1"), InputError, "seed must be a whole number of at least 0"),
    "directed": (lambda: phi4(nx.DiGraph([(0, 1)]), 1, 1), InputError, "simple undirected"),
    "loop": (lambda: phi4(nx.Graph([(0, 0)]), 1, 1), InputError, "without self-loops"),
    "empty": (lambda: phi4(nx.Graph(), 1, 1), InputError, "at least one node"),
    "nan": (lambda: phi4(nx.path_graph(2), np.nan, 1), InputError, "mass_squared must be a finite number"),
    "a word": (lambda: phi4(nx.path_graph(2), 1, "strong"), InputError, "coupling must be a finite number, got 'strong'"),
    "yes": (lambda: phi4(nx.path_graph(2), 1, True), InputError, "coupling must be a finite number, got True"),
    "too large for a float": (lambda: one_site(0, 10**400), InputError, "quartic must be a finite number"),
    "hopping": (lambda: phi4(nx.path_graph(2), 1, 1, np.inf), InputError, "hopping must be a finite number, got inf"),
    "no weights": (lambda: soft_ising(nx.path_graph(2)), InputError, r"weight of edge \(0, 1\) must be a finite number, got None"),
    "unconfined": (lambda: phi4(nx.path_graph(2), 0.0, 0.0), NotNormalizableError,
                   r"coupling must confine the field on every site, but A\^\(2\) is not negative definite on the 2 sites without an order "
                   "above 2; take λ > 0"),
    "negative": (lambda: phi4(lattice((2, 2)), 1.0, -1.0), NotNormalizableError, "at site 0,0 the highest order 4 has the coefficient "
                 r"\+0.0417; take λ > 0"),
    "vector, unconfined": (lambda: vector_phi4(nx.path_graph(2), -1, 0), NotNormalizableError, "negative definite on the 4 sites"),
    "vector, negative": (lambda: vector_phi4(nx.path_graph(2), -1, -1), NotNormalizableError, "at site 0:0 the highest order 4"),
    "components": (lambda: vector_phi4(nx.path_graph(2), 1, 1, n_components=0), InputError, "n_components must be a whole number"),
    "odd": (lambda: on_site(nx.path_graph(2), {2: -1, 3: [0, 0.1]}), NotNormalizableError,
            "at site 1 the highest order 3 .* even order and a negative coefficient"),
    "nothing on sites": (lambda: on_site(nx.path_graph(2), {}), NotNormalizableError, "on-site couplings must confine"),
    "no mapping": (lambda: on_site(nx.path_graph(2), [1]), InputError, r"must be a mapping \{order: number\}, got list"),
    "constant on sites": (lambda: on_site(nx.path_graph(2), {0: 1}), InputError, "order of an on-site coupling must be a whole number"),
    "sites": (lambda: on_site(nx.path_graph(2), {2: [-1, -1, -1]}), InputError, "on-site coupling of order 2 must have shape"),
    "cubic, alone": (lambda: one_site(0.1, 0.0), NotNormalizableError, "quartic must .* site 0 the highest order 3 .* take λ > 0"),
    "cubic, negative": (lambda: one_site(0.1, -0.1), NotNormalizableError, "take λ > 0"),
    "soft": (lambda: soft_ising(nx.path_graph(2), 1, 0.0), NotNormalizableError, "stiffness must confine .* take λ > 0"),
    "field": (lambda: soft_ising(nx.path_graph(2), 1, field=[1, np.nan]), InputError, "field must be finite"),
    "mean field": (lambda: mean_field_ferromagnet(3, 1, -1.0), NotNormalizableError, "site 0 the highest order 4 has the coefficient .1"),
    "p": (lambda: p_spin(9, 5), InputError, "order must be 2, 3 or 4, which a quartic confinement can hold, .* got 5 for n_dim 9"),
    "few spins": (lambda: p_spin(2, 3), InputError, "at most n_dim, got 3 for n_dim 2"),
    "loose sphere": (lambda: p_spin(6, 3, confinement=0.0), NotNormalizableError, "confinement must confine"),
    "strong disorder": (lambda: p_spin(6, 4, strength=9.0), NotNormalizableError, "confinement must hold the disorder: the leading order 4 "
                        "is positive along .*; raise κ or lower β"),
    "cubic alone": (lambda: random_interactions(3, {3: 0.1}), NotNormalizableError, "an order 4 that confines"),
    "orders": (lambda: random_interactions(3, {5: 0.1}), InputError, "orders 3 and 4"),
    "covariance": (lambda: ft.theories.gaussian([[1, 2], [2, 1]]), InputError, "positive definite, its smallest eigenvalue is -1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    request, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        request()
