"""Magnets of soft spins: real variables that a double well on every site keeps near ±1,

    S = Σ_<ij> J_ij x_i x_j + Σ_i h_i x_i − λ Σ_i (x_i² − 1)².

J and h are in units of the temperature, S = −H/T. For λ → ∞ the spins are those of Ising; at finite λ they are a φ⁴ field with m² =
−4λ and quartic coupling 4! λ (Amit and Martin-Mayor, *Field Theory, the Renormalization Group, and Critical Phenomena*). The
constant −λ of every site is left out: A^(0) = 0.
"""

from __future__ import annotations

import networkx as nx
import numpy as np

from ..action import Action
from ..arrays import as_count, as_number
from ..graphs import node_label
from .local import Entries, bonds, distinct, local_action, per_site


def soft_ising(graph: nx.Graph, coupling: float | None = None, stiffness: float = 1.0, field=0.0) -> Action:
    """The soft-spin Ising model on a graph, S = Σ_<ij> J_ij x_i x_j + Σ_i (h_i x_i − λ (x_i² − 1)² + λ).

    Hence A^(1)_i = h_i, A^(2)_ii = 2λ, A^(2)_ij = J_ij/2 on edges, A^(4)_iiii = −λ. Random signs of J make it a spin glass of soft
    spins (H. Sompolinsky and A. Zippelius, Phys. Rev. B 25, 6860 (1982)).

    Parameters
    ----------
    graph : networkx.Graph
        Undirected, without self-loops; its nodes, in their order, are the variables.
    coupling : float, optional
        J on every edge; each edge's ``weight`` by default.
    stiffness : float
        λ > 0, the height of the barrier at J = h = 0.
    field : float or array_like, shape (n_nodes,)
        h, everywhere or per site.

    Raises
    ------
    InputError
        Not a simple undirected graph with nodes, or a number that is missing or not finite.
    NotNormalizableError
        λ ≤ 0.
    """
    pairs = bonds(graph, coupling, "coupling")
    return _double_wells(pairs, graph.number_of_nodes(), stiffness, field, 0.0, list(map(node_label, graph)))


def mean_field_ferromagnet(n_dim: int, coupling: float, stiffness: float = 1.0, field=0.0) -> Action:
    """Soft spins that all see their mean, S = (J/2n) (Σ_i x_i)² + Σ_i (h_i x_i − λ (x_i² − 1)² + λ), n = n_dim.

    Hence A^(1)_i = h_i, A^(2)_ij = J/2n + 2λ δ_ij, A^(4)_iiii = −λ. Mean-field theory is exact for n → ∞: Curie–Weiss for λ → ∞, with a
    transition at J = 1, and the model of R. C. Desai and R. Zwanzig, J. Stat. Phys. 19, 1 (1978), at finite λ.

    Parameters
    ----------
    n_dim : int
        Number of spins.
    coupling : float
        J; ferromagnetic where positive.
    stiffness, field
        As in `soft_ising`.

    Raises
    ------
    InputError, NotNormalizableError
        As in `soft_ising`.
    """
    n_dim, J = as_count(n_dim, "n_dim"), as_number(coupling, "coupling")
    ends = distinct(n_dim, 2)
    pairs = Entries(ends, np.full(len(ends), J / (2 * n_dim)))
    return _double_wells(pairs, n_dim, stiffness, field, J / (2 * n_dim))


def _double_wells(pairs: Entries, n_dim: int, stiffness, field, own_coupling: float, names=None) -> Action:
    well, h = as_number(stiffness, "stiffness"), per_site(field, n_dim, "field")
    powers = {1: h, 2: np.full(n_dim, 2 * well + own_coupling), 4: np.full(n_dim, -well)}
    return local_action(powers, [pairs], "stiffness", "take λ > 0", names)
