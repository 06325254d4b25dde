"""Local theories: a polynomial on every site, and couplings between few sites that it holds.

    S = Σ_i Σ_k c_k,i x_i^k + Σ_<ij> J_ij x_i x_j + …,    A^(k)_{i…i} = c_k,i,    A^(2)_ij = J_ij/2.

Whether exp S can be integrated is decided exactly. A site whose highest order is above 2 is confined if and only if that order is
even and its coefficient negative: it outgrows every bond that ends there. All other sites are Gaussian once those are held fixed, so
A^(2) restricted to them must be negative definite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import networkx as nx
import numpy as np

from ..action import Action
from ..arrays import as_number, as_vector
from ..errors import NotNormalizableError
from ..graphs import pair_weight, require_simple
from ..tensors import SymmetricTensor, colex_indices

_SMALLEST_PIVOT = 1e-12  # of a matrix with unit diagonal


class Entries(NamedTuple):
    """Some entries A^(k)_I of a coupling, not multiplied: indices (n_entries, k) and values (n_entries,)."""

    indices: np.ndarray
    values: np.ndarray


def bonds(graph: nx.Graph, strength, name: str) -> Entries:
    """Σ_<ij> J_ij x_i x_j as entries A^(2)_ij = J_ij/2, with J from a number or, where that is None, from each edge's ``weight``."""
    require_simple(graph)
    place = {node: i for i, node in enumerate(graph.nodes)}
    ends = np.array([(place[a], place[b]) for a, b in graph.edges], dtype=np.intp).reshape(-1, 2)
    if strength is None:
        J = np.fromiter(map(pair_weight, graph.edges(data=True)), float, len(ends))
    else:
        J = np.full(len(ends), as_number(strength, name))
    return Entries(ends, 0.5 * J)


def distinct(n_dim: int, order: int) -> np.ndarray:
    """All index tuples i1 < … < ik in colexicographic order, shape (C(n_dim, order), order)."""
    if order > n_dim:
        return np.empty((0, order), dtype=np.intp)
    return colex_indices(n_dim - order + 1, order) + np.arange(order)


def squared_lengths(groups: np.ndarray) -> Entries:
    """Σ_groups (Σ_{a in group} x_a²)² without its x_a⁴, for groups of shape (n_groups, n_members): A^(4)_aabb = 1/3."""
    first, second = distinct(groups.shape[1], 2).T
    a, b = groups[:, first].ravel(), groups[:, second].ravel()
    return Entries(np.column_stack([a, a, b, b]), np.full(a.size, 1 / 3))


def per_site(values, n_sites: int, name: str) -> np.ndarray:
    """A number for all sites, or one per site, as an array of shape (n_sites,)."""
    if np.isscalar(values):
        return np.full(n_sites, as_number(values, name))
    return as_vector(values, n_sites, name)


def local_action(on_site: Mapping[int, np.ndarray], mixed: Sequence[Entries], name: str, way_out: str, names=None) -> Action:
    """The action of a local theory.

    Parameters
    ----------
    on_site : mapping of int to ndarray, shape (n_dim,)
        c_k by order k.
    mixed : sequence of Entries
        Couplings between different sites: bonds, and others that the on-site couplings hold because they are nowhere positive or of
        lower order.
    name, way_out : str
        For the refusal: the parameter that should confine the field, and what to do.
    names : sequence of str, optional
        Of the variables.

    Raises
    ------
    NotNormalizableError
        exp S cannot be integrated.
    """
    n_dim = len(next(iter(on_site.values())))
    reason = _unconfined(on_site, _of_order(2, {}, mixed), range(n_dim) if names is None else names)
    if reason:
        raise NotNormalizableError(f"{name} must confine the field on every site, but {reason}; {way_out}.")
    orders = sorted({*on_site, *(part.indices.shape[1] for part in mixed)})
    entries = {k: _of_order(k, on_site, mixed) for k in orders}
    return Action({k: SymmetricTensor.from_entries(*I, n_dim) for k, I in entries.items() if I.values.any()}, names=names)


def _of_order(order: int, on_site: Mapping[int, np.ndarray], mixed: Sequence[Entries]) -> Entries:
    """On-site entries that do not vanish, then the mixed ones."""
    c = on_site.get(order, np.zeros(0))
    sites = np.flatnonzero(c)
    own = Entries(np.repeat(sites[:, None], order, axis=1), c[sites])
    return Entries(*map(np.concatenate, zip(own, *(part for part in mixed if part.indices.shape[1] == order))))


def _unconfined(on_site: Mapping[int, np.ndarray], pairs: Entries, labels) -> str:
    """Why exp S cannot be integrated, empty if it can."""
    n_dim = len(labels)
    top, leading = np.zeros(n_dim, dtype=int), np.zeros(n_dim)
    for k, c in sorted(on_site.items()):
        top, leading = np.where(c != 0, k, top), np.where(c != 0, c, leading)
    wrong = np.flatnonzero((top > 2) & ((top % 2 == 1) | (leading > 0)))
    if wrong.size:
        return f"at site {labels[wrong[0]]} the highest order {top[wrong[0]]} has the coefficient {leading[wrong[0]]:+.3g}"
    rest = top <= 2
    if rest.any() and not _is_negative_definite(on_site.get(2, np.zeros(n_dim)), pairs, rest):
        return f"A^(2) is not negative definite on the {rest.sum()} sites without an order above 2"
    return ""


def _is_negative_definite(diagonal: np.ndarray, pairs: Entries, kept: np.ndarray) -> bool:
    """By the pivots of −A^(2) on the kept sites, each in its own unit; no dense array is formed."""
    from scipy.sparse import coo_array, diags_array
    from scipy.sparse.linalg import splu

    if diagonal[kept].max() >= 0:
        return False
    upper = coo_array((-pairs.values, pairs.indices.T), shape=(len(kept), len(kept)))
    negative = (upper + upper.T - diags_array(diagonal)).tocsc()[kept][:, kept]
    unit = diags_array(1 / np.sqrt(negative.diagonal()))
    scaled = (unit @ negative @ unit).tocsc()
    if abs(scaled).sum(axis=1).max() < 2 - _SMALLEST_PIVOT:  # the diagonal alone dominates
        return True
    try:
        factors = splu(scaled, "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    except RuntimeError:  # exactly singular
        return False
    symmetric = np.array_equal(factors.perm_r, factors.perm_c)  # rows are exchanged only where a pivot vanishes
    return bool(symmetric and factors.U.diagonal().min() > _SMALLEST_PIVOT)
