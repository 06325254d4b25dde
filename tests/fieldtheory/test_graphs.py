"""Actions and their interaction graphs: there and back bit for bit, graphs of others, refusals."""

import io

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fieldtheory as ft
from fieldtheory import memory
from fieldtheory.errors import GaugeError, InputError
from fieldtheory.tensors import packed_size

finite = st.floats(allow_nan=False, allow_infinity=False, width=64)


@st.composite
def actions(draw):
    """Any action: some orders, many zeros, any numbers, names, base point and gauge."""
    n_dim, orders = draw(st.integers(1, 4)), draw(st.sets(st.integers(0, 4), min_size=1).filter(lambda orders: orders != {0}))
    value = st.one_of(st.just(0.0), finite)
    couplings = {}
    for k in orders:
        size = packed_size(n_dim, k)
        couplings[k] = ft.SymmetricTensor.from_packed(draw(st.lists(value, min_size=size, max_size=size)), n_dim, k)
    gauge = draw(st.sampled_from(["exact", "taylor", "normal_ordered", "projection"]))
    covariance = np.diag(np.arange(1.0, n_dim + 1)) + 0.1 if gauge == "normal_ordered" else None
    names = draw(st.none() | st.lists(st.text(max_size=3), min_size=n_dim, max_size=n_dim))
    return ft.Action(couplings, draw(st.lists(finite, min_size=n_dim, max_size=n_dim)), gauge, covariance, names)


def assert_same(R, S):
    assert R.couplings.keys() == S.couplings.keys() and (R.n_dim, R.gauge, R.names) == (S.n_dim, S.gauge, S.names)
    for k in S.couplings:
        np.testing.assert_array_equal(R.couplings[k].values, S.couplings[k].values)
        np.testing.assert_array_equal(R.couplings[k].indices, S.couplings[k].indices)
    np.testing.assert_array_equal(R.at, S.at)
    assert (R.covariance is None) == (S.covariance is None)
    if S.covariance is not None:
        np.testing.assert_array_equal(R.covariance, S.covariance)


@given(actions())
@settings(deadline=None)
def test_there_and_back_is_bit_exact(S):
    assert_same(ft.Action.from_graph(S.to_graph()), S)


THEORIES = {
    "gaussian": ft.theories.gaussian([[2, 0.3], [0.3, 1]], [1, -1]),
    "phi4": ft.theories.phi4(ft.theories.lattice((3, 4)), -1, 2),
    "two components": ft.theories.vector_phi4(nx.path_graph(3), -1, 2),
    "p-spin": ft.theories.p_spin(6),
    "random": ft.theories.random_interactions(5),
    "one site": ft.theories.one_site(0.3, 0.4),
    "named by numbers": ft.Action({1: [1.0, 2]}, names=["0", "1"]),
}


@pytest.mark.parametrize("case", THEORIES)
def test_there_and_back_for_theories_and_through_a_file(case):
    S = THEORIES[case]
    assert_same(ft.Action.from_graph(S.to_graph()), S)
    file = io.BytesIO()
    nx.write_graphml(S.to_graph(), file)
    file.seek(0)
    assert_same(ft.Action.from_graph(nx.read_graphml(file)), S)


def test_every_coupling_has_its_place():
    rng = np.random.default_rng(0)
    S = ft.Action({k: ft.SymmetricTensor.from_packed(rng.normal(size=packed_size(3, k)), 3, k) for k in range(5)}, names="abc")
    graph = S.to_graph()
    assert list(graph)[:3] == [0, 1, 2] and graph.graph["constant"] == S[()]
    assert graph[0][2]["weight"] == S[0, 2]
    assert graph.nodes[1] == {"kind": "variable", "name": "b", "at": 0.0, **{f"coupling_{k}": S[(1,) * k] for k in range(1, 5)}}
    assert graph.nodes[0, 1, 1] == {"kind": "hyperedge", "order": 3, "value": S[0, 1, 1]}
    assert graph[0, 1, 1][1] == {"multiplicity": 2, "weight": S[0, 1, 1]} and graph.degree((0, 0, 2, 2)) == 2
    assert graph.number_of_nodes() == 3 + (10 - 3) + (15 - 3)
    assert all(graph.has_edge(node, i) for node in list(graph)[3:] for i in node)


def test_strength_of_a_variable_as_networkx_counts_it():
    S = ft.Action({2: [[-1, 0.2, 0], [0.2, -1, 0], [0, 0, -1]], 3: ft.SymmetricTensor.from_entries([(0, 1, 2)], [0.5], 3)})
    assert dict(S.to_graph().degree([0, 1, 2], weight="weight")) == {0: 0.7, 1: 0.7, 2: 0.5}


def test_threshold_spares_what_is_on_site():
    S = ft.Action({2: [[-0.1, 0.2], [0.2, -1]], 3: ft.SymmetricTensor.from_entries([(0, 0, 1), (0, 0, 0)], [-0.3, 0.01], 2)})
    assert list(S.to_graph(0.25)) == [0, 1, (0, 0, 1)] and not S.to_graph(0.25).has_edge(0, 1)
    bare = ft.Action.from_graph(S.to_graph(0.3))
    assert bare[0, 1] == bare[0, 0, 1] == 0 and bare[0, 0] == -0.1 and bare[0, 0, 0] == 0.01


def test_a_weighted_graph_is_an_action():
    graph = nx.Graph()
    graph.add_weighted_edges_from([("b", "a", 0.5), ("b", "c", -0.2)])
    nx.set_node_attributes(graph, -1.0, "coupling_2")
    graph.nodes["c"]["coupling_4"] = -0.1
    S, (b, a, c) = ft.Action.from_graph(graph), (0.3, -0.2, 0.7)
    assert S.names == ("b", "a", "c") and S.gauge == "exact"
    np.testing.assert_allclose(S([b, a, c]), -(a**2 + b**2 + c**2) - 0.1 * c**4 + 2 * (0.5 * a * b - 0.2 * b * c), rtol=1e-14)
    assert ft.Action.from_graph(nx.relabel_nodes(S.to_graph(), dict(enumerate("bac")))).names == ("b", "a", "c")


def test_a_hyperedge_needs_its_value_and_legs_alone():
    graph = nx.Graph([("h", 0), ("h", 1), ("h", 2)])
    graph.add_node("h", kind="hyperedge", value=0.25)
    graph["h"][2]["multiplicity"] = 2
    S = ft.Action.from_graph(graph)
    assert (S.n_dim, S[0, 1, 2, 2], S.names) == (3, 0.25, None)


def weighted(*edges, **attributes):
    graph = nx.Graph(**attributes)
    graph.add_weighted_edges_from(edges)
    return graph


def changed(change, **attributes):
    """The graph of a small action, with one thing changed."""
    entries = ft.SymmetricTensor.from_entries([(0, 1, 2)], [0.5], 3)
    graph = ft.Action({2: -np.eye(3), 3: entries}).to_graph()
    change(graph)
    graph.graph.update(attributes)
    return graph


REFUSED = {
    "negative threshold": (lambda: THEORIES["phi4"].to_graph(-1), InputError, "threshold must not be negative, got -1"),
    "nan threshold": (lambda: THEORIES["phi4"].to_graph(np.nan), InputError, "threshold must be a finite number"),
    "not a graph": (lambda: ft.Action.from_graph(np.eye(2)), InputError, "must be a simple undirected networkx graph"),
    "directed": (lambda: ft.Action.from_graph(nx.DiGraph([(0, 1)])), InputError, "must be a simple undirected"),
    "several edges": (lambda: ft.Action.from_graph(nx.MultiGraph([(0, 1)])), InputError, "must be a simple undirected"),
    "self-loop": (lambda: ft.Action.from_graph(weighted((0, 0, 1.0))), InputError, "without self-loops"),
    "empty": (lambda: ft.Action.from_graph(nx.Graph()), InputError, "at least one node"),
    "no couplings": (lambda: ft.Action.from_graph(nx.empty_graph(2)), InputError, "must have a coupling of order 1 or more"),
    "no weight": (lambda: ft.Action.from_graph(nx.path_graph(2)), InputError, r"weight of edge \(0, 1\) must be a finite number, got None"),
    "nan weight": (lambda: ft.Action.from_graph(weighted((0, 1, np.nan))), InputError, "must be a finite number, got nan"),
    "kind": (lambda: changed(lambda g: g.add_node("x", kind="gene")), InputError, "kind of node 'x' must be 'variable' or 'hyperedge'"),
    "order of a site": (lambda: changed(lambda g: g.nodes[1].update(coupling_0=1.0)), InputError,
                        "must be called coupling_1 … coupling_64 by their order, node 1 has 'coupling_0'"),
    "endless order": (lambda: changed(lambda g: g.nodes[1].update(coupling_999999999999=1.0)), InputError, "must be called coupling_1"),
    "word on a site": (lambda: changed(lambda g: g.nodes[1].update(coupling_1="x")), InputError, "coupling_1 of node 1 must be a finite"),
    "base point": (lambda: changed(lambda g: g.nodes[1].update(at=np.inf)), InputError, "base point of node 1 must be a finite number"),
    "value": (lambda: changed(lambda g: g.nodes[0, 1, 2].pop("value")), InputError, r"value of hyperedge \(0, 1, 2\) must be a finite"),
    "order": (lambda: changed(lambda g: g.nodes[0, 1, 2].update(order=4)), InputError, "got 3 legs on 3 variables at order 4; pairs are"),
    "pair": (lambda: changed(lambda g: g.remove_node(2)), InputError, "3 … 64, got 2 legs on 2 variables at order 3"),
    "on-site": (lambda: changed(lambda g: g.remove_nodes_from([1, 2])), InputError, "got 1 legs on 1 variables"),
    "multiplicity": (lambda: changed(lambda g: g[0, 1, 2][1].update(multiplicity=0)), InputError, "must be a whole number of at least 1"),
    "endless legs": (lambda: changed(lambda g: g[0, 1, 2][1].update(multiplicity=10**12)), InputError, "got 1000000000002 legs"),
    "scaled legs": (lambda: changed(lambda g: g[0, 1, 2][1].update(weight=1.0)), InputError, "weigh its value 0.5 if anything; change"),
    "hyperedge of hyperedges": (lambda: changed(lambda g: g.add_edge((0, 1, 2), (3,)) or g.add_node((3,), kind="hyperedge", value=1.0)),
                                InputError, "must end at variables"),
    "twice": (lambda: changed(lambda g: g.add_edges_from([("h", i) for i in range(3)]) or g.add_node("h", kind="hyperedge", value=1.0)),
              InputError, "must name each entry once"),
    "gauge": (lambda: changed(lambda g: None, gauge="axial"), InputError, "gauge must be one of exact"),
    "constant": (lambda: changed(lambda g: None, constant="x"), InputError, "constant of the graph must be a finite number, got 'x'"),
    "covariance": (lambda: changed(lambda g: None, gauge="normal_ordered"), InputError, "covariance must be given for a normal_ordered"),
    "recentred": (lambda: ft.Action.from_graph(THEORIES["phi4"].truncate(2).to_graph()).recenter(np.ones(12)), GaugeError, "only an exact"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    request, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        found = request()
        ft.Action.from_graph(found)


def test_a_graph_that_would_not_fit_is_refused_beforehand(monkeypatch):
    monkeypatch.setattr(memory, "physical_memory", lambda: 1e6)
    with pytest.raises(InputError, match=r"the graph of 1330 couplings must fit in memory, .*; raise the threshold, or truncate"):
        ft.theories.p_spin(20).to_graph()


def test_a_lattice_of_many_sites_goes_there_and_back():
    S = ft.theories.phi4(ft.theories.lattice((40, 40)), -1, 2)
    S = S + ft.Action({3: ft.SymmetricTensor.from_entries([(0, 1, 2)], [0.5], S.n_dim)})
    assert_same(ft.Action.from_graph(S.to_graph()), S)
    assert S.couplings[4].storage == "sparse" and len(S.couplings[2].values) == 3 * 1600
