"""A scalar field on the nodes of a graph: gradients along its edges, any polynomial on its sites,

    S = −Σ_<ij> (hopping/2) (x_i − x_j)² + Σ_i Σ_k c_k x_i^k,

hence A^(2)_ij = hopping/2 on edges, A^(2)_ii = c_2 − hopping·degree/2, and A^(k)_{i…i} = c_k otherwise. φ⁴ theory has c_2 = −m²/2 and
c_4 = −λ/4!: D. J. Amit and V. Martin-Mayor, *Field Theory, the Renormalization Group, and Critical Phenomena*; J. Zinn-Justin,
*Quantum Field Theory and Critical Phenomena*.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import networkx as nx
import numpy as np

from ..action import Action
from ..arrays import as_count, as_number
from ..errors import InputError
from ..graphs import node_label
from .local import Entries, bonds, local_action, per_site, squared_lengths


def lattice(shape) -> nx.Graph:
    """A periodic hypercubic lattice; an axis of length 2 has one bond, not two, between its sites.

    Parameters
    ----------
    shape : sequence of int
        Sites along each axis, such as (8, 8).
    """
    shape = tuple(as_count(n, "sites along an axis") for n in np.atleast_1d(shape).tolist())
    if not shape:
        raise InputError("shape must hold the sites along at least one axis, such as (8, 8), it is empty.")
    place = np.arange(np.prod(shape)).reshape(shape)
    sites = list(range(shape[0]) if len(shape) == 1 else product(*map(range, shape)))
    graph = nx.Graph()
    graph.add_nodes_from(sites)
    for axis in np.flatnonzero(np.greater(shape, 1)):  # an axis of length 1 would close on itself
        graph.add_edges_from(zip(sites, (sites[i] for i in np.roll(place, -1, axis).ravel().tolist())))
    return graph


def on_site(graph: nx.Graph, couplings: Mapping, hopping: float | None = 1.0) -> Action:
    """Any on-site couplings on a graph, S = −Σ_<ij> (hopping/2) (x_i − x_j)² + Σ_i Σ_k c_k x_i^k.

    The c_k are couplings, A^(k)_{i…i} = c_k for k ≠ 2: with the sign of S, without 1/k!. A potential V enters as −V.

    Parameters
    ----------
    graph : networkx.Graph
        Undirected, without self-loops; its nodes, in their order, are the variables.
    couplings : mapping of int to float or array_like of shape (n_nodes,)
        c_k by order k ≥ 1, the same on all sites or one per site.
    hopping : float or None
        Strength of the bonds; None takes each edge's ``weight``.

    Raises
    ------
    InputError
        Not a simple undirected graph with nodes, or a number that is not finite.
    NotNormalizableError
        A site whose highest order is above 2 and odd or positive, or a Gaussian rest that the bonds do not confine. Decided exactly.

    Examples
    --------
    >>> S = on_site(nx.path_graph(2), {2: -1.0, 6: -0.1}, hopping=0.5)
    >>> S[0, 0], S[0, 1], S[1, 1, 1, 1, 1, 1]
    (-1.25, 0.25, -0.1)
    """
    if not isinstance(couplings, Mapping):
        raise InputError(f"couplings must be a mapping {{order: number}}, got {type(couplings).__name__}.")
    return _gradient_theory(graph, couplings, hopping, "on-site couplings", "end with an even order and a negative coefficient")


def phi4(graph: nx.Graph, mass_squared: float, coupling: float, hopping: float | None = 1.0) -> Action:
    """φ⁴ theory on a graph,

        S = −Σ_<ij> (hopping/2) (x_i − x_j)² − Σ_i (m²/2 x_i² + λ/4! x_i⁴).

    Hence A^(2)_ii = −(m² + hopping·degree)/2, A^(2)_ij = hopping/2 on edges, A^(4)_iiii = −λ/4!. The sign of λ decides whether exp S
    can be integrated, and the eigenvalues of A^(2) where λ = 0.

    Parameters
    ----------
    graph : networkx.Graph
        Undirected, without self-loops; its nodes, in their order, are the variables.
    mass_squared : float
        m², negative in the broken phase.
    coupling : float
        λ ≥ 0; positive where m² ≤ 0.
    hopping : float or None
        Strength of the bonds; None takes each edge's ``weight``.

    Raises
    ------
    InputError
        Not a simple undirected graph with nodes, or a parameter that is not finite.
    NotNormalizableError
        λ < 0, or λ = 0 with a mass that does not confine.
    """
    powers = {2: -as_number(mass_squared, "mass_squared") / 2, 4: -as_number(coupling, "coupling") / 24}
    return _gradient_theory(graph, powers, hopping, "coupling", "take λ > 0")


def vector_phi4(graph: nx.Graph, mass_squared: float, coupling: float, hopping: float | None = 1.0, n_components: int = 2) -> Action:
    """φ⁴ theory of a vector φ_i on every node, symmetric under one rotation of all of them, O(n_components),

        S = −Σ_<ij> (hopping/2) |φ_i − φ_j|² − Σ_i (m²/2 |φ_i|² + λ/4! |φ_i|⁴).

    Two components are in the universality class of the XY model and three in that of the Heisenberg model (Zinn-Justin, see the
    module). As |φ|⁴ = Σ_a φ_a⁴ + 2 Σ_{a<b} φ_a² φ_b², A^(4)_aaaa = −λ/4! and A^(4)_aabb = −λ/72. Variables are ordered node by
    node: ``x.reshape(..., n_nodes, n_components)``.

    Parameters
    ----------
    graph, mass_squared, coupling, hopping
        As in `phi4`.
    n_components : int
        Of φ; 1 is `phi4`.

    Raises
    ------
    InputError, NotNormalizableError
        As in `phi4`.
    """
    n = as_count(n_components, "n_components")
    scale, powers = as_number(coupling, "coupling") / 24, {2: -as_number(mass_squared, "mass_squared") / 2}
    pairs = bonds(graph, hopping, "hopping")
    copies = Entries(np.concatenate([n * pairs.indices + a for a in range(n)]), np.tile(pairs.values, n))
    cross = squared_lengths(np.arange(n * graph.number_of_nodes()).reshape(-1, n))
    names = [node_label(node) if n == 1 else f"{node_label(node)}:{a}" for node in graph for a in range(n)]
    mixed = [copies, Entries(cross.indices, -scale * cross.values)]
    return local_action(_with_gradients({**powers, 4: -scale}, copies, len(names)), mixed, "coupling", "take λ > 0", names)


def one_site(cubic: float, quartic: float, mass_squared: float = 1.0) -> Action:
    """One variable, S = −m²/2 x² + g/3! x³ − λ/4! x⁴: the field theory in zero dimensions that diagrams are learned on.

    Hence A^(2) = −m²/2, A^(3) = g/3!, A^(4) = −λ/4!; the vertices are −m², g, −λ. See M. Helias and D. Dahmen, *Statistical Field Theory
    for Neural Networks* (Springer 2020).

    Parameters
    ----------
    cubic : float
        g, of either sign.
    quartic : float
        λ > 0, or 0 where g = 0 and m² > 0.
    mass_squared : float
        m², negative for a double well.

    Raises
    ------
    InputError
        A parameter that is not a finite number.
    NotNormalizableError
        λ < 0, or λ = 0 with g ≠ 0 or m² ≤ 0.
    """
    powers = {2: -as_number(mass_squared, "mass_squared") / 2, 3: as_number(cubic, "cubic") / 6, 4: -as_number(quartic, "quartic") / 24}
    return local_action({k: np.array([c]) for k, c in powers.items()}, [], "quartic", "take λ > 0")


def _gradient_theory(graph: nx.Graph, couplings: Mapping, hopping, name: str, way_out: str) -> Action:
    pairs = bonds(graph, hopping, "hopping")
    powers = _with_gradients(couplings, pairs, graph.number_of_nodes())
    return local_action(powers, [pairs], name, way_out, list(map(node_label, graph)))


def _with_gradients(couplings: Mapping, pairs: Entries, n_sites: int) -> dict[int, np.ndarray]:
    """c_k per site, with −(hopping/2)(x_i² + x_j²) of every bond in c_2."""
    powers = {as_count(k, "order of an on-site coupling"): per_site(c, n_sites, f"on-site coupling of order {k}")
              for k, c in couplings.items()}
    ends = np.bincount(pairs.indices.ravel(), weights=pairs.values.repeat(2), minlength=n_sites)
    return {**powers, 2: powers.get(2, np.zeros(n_sites)) - ends}
