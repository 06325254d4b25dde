"""Actions as graphs: who interacts with whom, and how strongly.

Every coupling A^(k)_I of an action has one place in its interaction graph, a networkx graph whose nodes are

* the variables ``0 … n_dim − 1``, with ``kind="variable"``, the on-site couplings ``coupling_k`` = A^(k)_{i…i} of every order k ≥ 1 that
  the action has, the base point ``at``, and ``name`` where variables have names;
* the hyperedges, one per coupling of order k ≥ 3 between two or more variables, with ``kind="hyperedge"``, ``order`` = k and ``value`` =
  A^(k)_I. The node is the ascending index tuple I itself: ``graph.nodes[0, 1, 1]["value"]`` is ``S[0, 1, 1]``.

Its edges are the pairs i, j, with ``weight`` = A^(2)_ij, and the legs that join a hyperedge to its variables, with ``multiplicity``, how
often the variable occurs in I, and ``weight``, the hyperedge's value once more: algorithms of networkx count an edge without it as 1.
On the graph itself stand ``gauge``, ``constant`` = A^(0) where the action has one, and ``covariance`` where it is normal-ordered. Values
are entries of the tensors, not multiplied, without 1/k!.

All attributes but ``covariance`` are numbers and words, so that ``networkx.write_graphml`` takes the graph to other programs. And little
of this is needed for a graph to be an action: any graph with weights is one with pair couplings, see `from_graph`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import chain

import networkx as nx
import numpy as np

from . import memory
from .action import Action
from .arrays import as_count, as_number
from .errors import InputError
from .tensors import SymmetricTensor

_BYTES_PER_LEG = 420  # of a hyperedge in networkx, the node shared out among its legs; measured
_ON_SITE = "coupling_"
_ORDERS = tuple(map(str, range(1, 65)))  # what a graph from elsewhere may ask for


def to_graph(action: Action, threshold: float = 0.0) -> nx.Graph:
    """The interaction graph of an action; see the module for its nodes, edges and attributes.

    Parameters
    ----------
    action : Action
    threshold : float
        Couplings between different variables are left out where |A^(k)_I| ≤ threshold, on-site ones never. At 0 only zeros are left
        out, and `from_graph` gives the action back bit for bit.

    Raises
    ------
    InputError
        A threshold that is negative or not a number, or a graph that would not fit in memory.
    """
    if as_number(threshold, "threshold") < 0:
        raise InputError(f"threshold must not be negative, got {threshold!r}; it is compared with absolute values.")
    mixed = {k: _mixed(T, threshold) for k, T in action.couplings.items() if k >= 2}
    _require_room(mixed)
    graph = nx.Graph(**_whole(action))
    graph.add_nodes_from(enumerate(_variables(action)))
    for k, (indices, values) in mixed.items():
        add = _add_pair if k == 2 else _add_hyperedge
        for I, value in zip(indices.tolist(), values.tolist()):
            add(graph, tuple(I), value)
    return graph


def from_graph(graph: nx.Graph) -> Action:
    """The action of an interaction graph, or of any graph with weights.

    Every node that is not a hyperedge is a variable, in the graph's order; what is missing is zero: on-site couplings, base point,
    constant. Hence a graph of yours whose edges carry ``weight`` is the action Σ_<ij> 2 weight_ij x_i x_j, A^(2)_ij = weight_ij; put
    ``coupling_2`` = A^(2)_ii and the like on its nodes to confine it. Variables are named by ``name``, else by their nodes unless those
    are 0 … n_dim − 1. Of a hyperedge, ``value`` and the legs with their ``multiplicity``, 1 where missing, are read.

    Parameters
    ----------
    graph : networkx.Graph
        Undirected, without self-loops.

    Raises
    ------
    InputError
        Not such a graph, an edge without weight, a hyperedge that is not one, a number that is not finite.
    """
    require_simple(graph)
    place = {node: i for i, node in enumerate(_of_kind(graph, "variable"))}
    at = [as_number(graph.nodes[node].get("at", 0.0), f"base point of node {node!r}") for node in place]
    entries = defaultdict(list)
    for index, value in chain(_read_on_site(graph, place), _read_pairs(graph, place), _read_hyperedges(graph, place)):
        entries[len(index)].append((index, value))
    couplings = {k: _tensor(k, found, len(place)) for k, found in sorted(entries.items())}
    if "constant" in graph.graph:
        couplings[0] = as_number(graph.graph["constant"], "constant of the graph")
    return Action(couplings, at, graph.graph.get("gauge", "exact"), graph.graph.get("covariance"), _read_names(graph, place))


def require_simple(graph) -> None:
    """Raise `InputError` unless this is a simple undirected graph with nodes."""
    if not isinstance(graph, nx.Graph) or graph.is_directed() or graph.is_multigraph() or nx.number_of_selfloops(graph):
        raise InputError(f"graph must be a simple undirected networkx graph without self-loops, got {graph}.")
    if graph.number_of_nodes() == 0:
        raise InputError("graph must have at least one node, it is empty.")


def pair_weight(edge: tuple) -> float:
    """``weight`` of an edge (node, node, attributes); raises `InputError` where it is missing or not a finite number."""
    a, b, attributes = edge
    return as_number(attributes.get("weight"), f"weight of edge ({a!r}, {b!r})")


def node_label(node) -> str:
    """What the variable on a node is called: lattice sites by their coordinates."""
    return ",".join(map(str, node)) if isinstance(node, tuple) else str(node)


def _whole(action: Action) -> dict:
    constant = {"constant": action[()]} if 0 in action.couplings else {}
    covariance = {} if action.covariance is None else {"covariance": action.covariance.copy()}
    return {"gauge": action.gauge, **constant, **covariance}


def _variables(action: Action) -> list[dict]:
    """Attributes of the nodes that are variables."""
    columns = {"kind": ["variable"] * action.n_dim, "at": action.at.tolist()}
    columns |= {f"{_ON_SITE}{k}": _on_site(T).tolist() for k, T in action.couplings.items() if k >= 1}
    if action.names is not None:
        columns["name"] = action.names
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def _on_site(T: SymmetricTensor) -> np.ndarray:
    alone = T.indices[:, 0] == T.indices[:, -1]
    c = np.zeros(T.n_dim)
    c[T.indices[alone, 0]] = T.values[alone]
    return c


def _mixed(T: SymmetricTensor, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    kept = (T.indices[:, 0] < T.indices[:, -1]) & (np.abs(T.values) > threshold)
    return T.indices[kept], T.values[kept]


def _require_room(mixed: dict) -> None:
    n_legs = sum(indices.size for indices, _ in mixed.values())
    n_couplings = sum(len(values) for _, values in mixed.values())
    memory.require(_BYTES_PER_LEG * n_legs, f"the graph of {n_couplings} couplings", "raise the threshold, or truncate the action")


def _add_pair(graph: nx.Graph, pair: tuple, value: float) -> None:
    graph.add_edge(*pair, weight=value)


def _add_hyperedge(graph: nx.Graph, index: tuple, value: float) -> None:
    graph.add_node(index, kind="hyperedge", order=len(index), value=value)
    for i in set(index):
        graph.add_edge(index, i, multiplicity=index.count(i), weight=value)


def _of_kind(graph: nx.Graph, wanted: str) -> list:
    for node, kind in graph.nodes(data="kind", default="variable"):
        if kind not in ("variable", "hyperedge"):
            raise InputError(f"kind of node {node!r} must be 'variable' or 'hyperedge', got {kind!r}; rename that attribute if it "
                             "means something else.")
    return [node for node, kind in graph.nodes(data="kind", default="variable") if kind == wanted]


def _tensor(order: int, found: list[tuple[tuple, float]], n_dim: int) -> SymmetricTensor:
    present = [entry for entry in found if entry[1] != 0.0]
    indices = np.array([index for index, _ in present], dtype=np.intp).reshape(-1, order)
    return SymmetricTensor.from_entries(indices, [value for _, value in present], n_dim)


def _read_on_site(graph: nx.Graph, place: dict) -> Iterator[tuple[tuple, float]]:
    for node, i in place.items():
        for key, value in graph.nodes[node].items():
            if str(key).startswith(_ON_SITE):
                order = key.removeprefix(_ON_SITE)
                if order not in _ORDERS:
                    raise InputError(f"on-site couplings must be called {_ON_SITE}1 … {_ON_SITE}{len(_ORDERS)} by their order, node "
                                     f"{node!r} has {str(key)[:40]!r}.")
                yield (i,) * int(order), as_number(value, f"{key} of node {node!r}")


def _read_pairs(graph: nx.Graph, place: dict) -> Iterator[tuple[tuple, float]]:
    for a, b, attributes in graph.edges(data=True):
        if a in place and b in place:
            yield (place[a], place[b]), pair_weight((a, b, attributes))


def _read_hyperedges(graph: nx.Graph, place: dict) -> Iterator[tuple[tuple, float]]:
    for node in _of_kind(graph, "hyperedge"):
        attributes, legs = graph.nodes[node], graph.adj[node]
        value = as_number(attributes.get("value"), f"value of hyperedge {node!r}")
        if not all(other in place and leg.get("weight", value) == value for other, leg in legs.items()):
            raise InputError(f"legs of hyperedge {node!r} must end at variables and weigh its value {value:g} if anything; change both.")
        counts = {place[other]: as_count(leg.get("multiplicity", 1), f"multiplicity in hyperedge {node!r}") for other, leg in legs.items()}
        order = sum(counts.values())
        if len(counts) < 2 or not 3 <= order <= len(_ORDERS) or attributes.get("order", order) != order:
            raise InputError(f"hyperedge {node!r} must join two or more variables with as many legs as its order, 3 … {len(_ORDERS)}, got "
                             f"{order} legs on {len(counts)} variables at order {attributes.get('order')}; pairs are edges and on-site "
                             "couplings are attributes of nodes.")
        yield tuple(i for i, count in counts.items() for _ in range(count)), value


def _read_names(graph: nx.Graph, place: dict) -> list[str] | None:
    given = dict(graph.nodes(data="name"))
    names = [node_label(node) if given[node] is None else str(given[node]) for node in place]
    counted = all(given[node] is None for node in place) and names == list(map(str, range(len(place))))
    return None if counted else names
