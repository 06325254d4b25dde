"""Named theories against their formulas."""

import networkx as nx
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import fieldtheory as ft
from fieldtheory.errors import InputError, NotNormalizableError
from fieldtheory.theories import from_text, lattice, phi4, random_interactions


def test_gaussian_is_the_normalized_density():
    C, mu, x = np.array([[2, 0.3], [0.3, 1]]), np.array([1.0, -1]), np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_allclose(ft.theories.gaussian(C, mu)(x), multivariate_normal(mu, C).logpdf(x), rtol=1e-12)


@pytest.mark.parametrize("graph", [nx.path_graph(3), lattice((3, 3)), nx.star_graph(4), nx.empty_graph(2)])
def test_phi4_is_its_formula(graph):
    S, x = phi4(graph, 0.7, 2.0, hopping=1.3), np.random.default_rng(0).normal(size=graph.number_of_nodes())
    place = {node: i for i, node in enumerate(graph.nodes)}
    bonds = sum(1.3 / 2 * (x[place[a]] - x[place[b]]) ** 2 for a, b in graph.edges)
    np.testing.assert_allclose(S(x), -bonds - np.sum(0.35 * x**2 + 2.0 / 24 * x**4), rtol=1e-12)
    assert len(S.names) == S.n_dim


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


def test_from_text_is_the_theory():
    x = np.ones(6)
    np.testing.assert_allclose(from_text("phi4:shape=2x3,mass_squared=1,coupling=2")(x), phi4(lattice((2, 3)), 1, 2)(x))
    assert from_text("gaussian:n_dim=2,variance=4")[0, 0] == -0.125
    assert from_text("random_interactions:n_dim=3,seed=5")[0, 1, 2] == random_interactions(3, seed=5)[0, 1, 2]


REFUSED = {
    "unknown": (lambda: from_text("ising:n=3"), InputError, "theory must be one of phi4, gaussian"),
    "code": (lambda: from_text("gaussian:n_dim=__import__('os').getpid()"), InputError, "n_dim must be a number"),
    "key": (lambda: from_text("gaussian:n_dim=3,mean=2"), InputError, "gaussian takes n_dim=, variance= once each, got 'mean=2'"),
    "twice": (lambda: from_text("gaussian:n_dim=3,n_dim=3"), InputError, "once each"),
    "missing": (lambda: from_text("phi4:shape=3"), InputError, "phi4 needs mass_squared=, coupling="),
    "infinite": (lambda: from_text("gaussian:n_dim=1,variance=inf"), InputError, "must be finite"),
    "large": (lambda: from_text("phi4:shape=999x999,mass_squared=1,coupling=1"), InputError, "fits in memory"),
    "directed": (lambda: phi4(nx.DiGraph([(0, 1)]), 1, 1), InputError, "simple undirected"),
    "loop": (lambda: phi4(nx.Graph([(0, 0)]), 1, 1), InputError, "without self-loops"),
    "empty": (lambda: phi4(nx.Graph(), 1, 1), InputError, "at least one node"),
    "nan": (lambda: phi4(nx.path_graph(2), np.nan, 1), InputError, "mass_squared must be a finite number"),
    "unconfined": (lambda: phi4(nx.path_graph(2), 0.0, 0.0), NotNormalizableError, "coupling must confine"),
    "negative": (lambda: phi4(nx.path_graph(2), 1.0, -1.0), NotNormalizableError, "take λ > 0"),
    "cubic alone": (lambda: random_interactions(3, {3: 0.1}), NotNormalizableError, "an order 4 that confines"),
    "orders": (lambda: random_interactions(3, {5: 0.1}), InputError, "orders 3 and 4"),
    "covariance": (lambda: ft.theories.gaussian([[1, 2], [2, 1]]), InputError, "positive definite, its smallest eigenvalue is -1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    request, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        request()
