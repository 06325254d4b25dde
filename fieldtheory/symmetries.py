"""Averages of couplings over the symmetries of a theory.

If S(x) = S(gx) for permutations g of the variables, entries whose index tuples are images of each other are equal, A_{gI} = A_I. They
form *orbits*; one number per orbit is all there is to learn, and averaging over an orbit is the estimate that uses all of it. A
single quartic entry of a lattice theory is often below its noise where the average over 72 symmetries is not.
"""

from __future__ import annotations

from collections.abc import Iterable

import networkx as nx
import numpy as np

from .errors import InputError
from .tensors import colex_indices, colex_rank


def automorphisms(graph: nx.Graph) -> np.ndarray:
    """All permutations of the nodes that keep the edges, shape (n_symmetries, n_nodes), in the order of the graph's nodes.

    Meant for small graphs: a periodic 3×3 lattice has 72.
    """
    place = {node: i for i, node in enumerate(graph.nodes)}
    matcher = nx.algorithms.isomorphism.GraphMatcher(graph, graph)
    return np.array([[place[mapping[node]] for node in graph.nodes] for mapping in matcher.isomorphisms_iter()])


def orbits(n_dim: int, order: int, permutations: Iterable) -> np.ndarray:
    """Label of the orbit of every unique entry, shape (packed_size,): the smallest rank among its images.

    Parameters
    ----------
    n_dim, order : int
    permutations : array_like of int, shape (n_symmetries, n_dim)
        A group, or generators of one: images are followed until nothing changes.
    """
    permutations = np.atleast_2d(np.asarray(permutations, dtype=np.intp))
    if permutations.shape[1] != n_dim or any(sorted(g) != list(range(n_dim)) for g in permutations.tolist()):
        raise InputError(f"permutations must each name the {n_dim} variables once, got an array of shape {permutations.shape}.")
    indices = colex_indices(n_dim, order)
    images = [colex_rank(np.sort(g[indices], axis=1)) for g in permutations]
    label = np.arange(len(indices))
    while True:
        lower = label.copy()
        for image in images:
            np.minimum.at(lower, image, label)
            lower = np.minimum(lower, lower[image])
        if np.array_equal(lower, label):
            return label
        label = lower


def orbit_weights(label: np.ndarray, member: int) -> np.ndarray:
    """Weights that average packed entries over the orbit of one of them; for `Estimate.combination` and the like."""
    inside = label == label[member]
    return inside / inside.sum()
