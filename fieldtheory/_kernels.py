"""Kernels that evaluate a polynomial, its gradient and its second derivatives.

Points are *lanes*: x has shape (n_dim, n_lanes), so that innermost loops run over points or chains and vectorize; with one lane they
run along couplings instead. A polynomial is split into four parts, each for what it is good at.

*On-site*: S = Σ_i Σ_a c_ai x_i^a, by Horner's rule; the potential of a lattice theory needs no index at all.

*Bonds*: S = Σ_{i<j} c_ij x_i x_j, site by site j, where the pairs are few.

*Fibers*, for couplings of order 3 and above with few entries. Entries c x_{i1} ⋯ x_{ik} that share all indices but the first have the head
P = x_{i2} ⋯ x_{ik} and the sum s = Σ c x_{i1} along the fiber,

    S += P s,    ∂_{i1} S += c P,    ∂_h S += s Π_{other heads} x.

*Squares*, for couplings with most of their entries. An entry (i ≤ j ≤ h ≤ …) belongs to the square matrix B, of size q = h + 1, of its
head, the indices after the first two:

    y = B x_{<q},    s = x_{<q}·y,    P = Π_{head} x,    S += P s,    ∂_{<q} S += 2 P y,    ∂_h S += s Π_{other heads} x.

Heads with the same smallest index h share one matrix product, which is where nearly all the arithmetic is. Squares hold twice the
unique entries, and in colexicographic order the entries of a head lie together. Everything compiled lives in this file, because
a cached kernel does not notice changes in a callee elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from .packing import colex_indices, multiplicity
from .tensors import SymmetricTensor

_DENSE = 0.15  # share of non-zero entries that are not on-site above which squares beat fibers, measured on 64 lanes
_BLOCK = 512  # sites whose running values stay in the cache
_SMALL = 1024  # entries of a matrix below which plain loops beat a call of BLAS for a single lane


class Polynomial(NamedTuple):
    """A polynomial without its constant, as the kernels read it.

    Attributes
    ----------
    onsite : ndarray, shape (highest power, n_dim)
        c_ai, the coefficient of x_i^a, in row a − 1.
    neighbours, bonds, bond_ptr : arrays
        i < j and c_ij for the bonds of site j, in bond_ptr[j]:bond_ptr[j + 1]; bond_ptr is empty where there are none.
    heads, head_ptr : int arrays
        The k − 1 head indices of fiber f are heads[head_ptr[f]:head_ptr[f + 1]].
    tails, weights, entry_ptr : arrays
        First index and coefficient of the entries of fiber f, in entry_ptr[f]:entry_ptr[f + 1].
    sizes, group_ptr : int arrays
        q of group g, and its heads group_ptr[g]:group_ptr[g + 1] among those of all squares.
    square_heads, square_head_ptr : int arrays
        As heads and head_ptr.
    squares, square_ptr : arrays
        The matrices of group g below each other, shape (n_heads q, q), in square_ptr[g]:square_ptr[g + 1].
    """

    onsite: np.ndarray
    neighbours: np.ndarray
    bonds: np.ndarray
    bond_ptr: np.ndarray
    heads: np.ndarray
    head_ptr: np.ndarray
    tails: np.ndarray
    weights: np.ndarray
    entry_ptr: np.ndarray
    sizes: np.ndarray
    group_ptr: np.ndarray
    square_heads: np.ndarray
    square_head_ptr: np.ndarray
    squares: np.ndarray
    square_ptr: np.ndarray


def polynomial(couplings: dict[int, SymmetricTensor], n_dim: int) -> Polynomial:
    """Sort the non-zero entries of all couplings of order ≥ 1 into the four parts."""
    onsite, few, many = np.zeros((max([1, *couplings]), n_dim)), {}, []
    for k, T in sorted(couplings.items()):
        if k > 1 and T.storage == "packed" and np.count_nonzero(T.values) - n_dim > _DENSE * T.values.size:
            many.append(T)
        elif k > 0:
            few[k] = _split_onsite(T, onsite)
    pairs = few.pop(2, None)
    return Polynomial(onsite[: _highest(onsite)], *_bonds(pairs, n_dim), *_fibers(few.values()), *_squares(many, n_dim))


def _highest(onsite: np.ndarray) -> int:
    return int(np.flatnonzero(onsite.any(axis=1)).max(initial=0)) + 1


def _split_onsite(T: SymmetricTensor, onsite: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move pure powers into `onsite`; indices and coefficients of what is left."""
    chosen = np.flatnonzero(T.values)
    indices, values = T.indices[chosen], T.values[chosen]
    pure = indices[:, 0] == indices[:, -1]
    onsite[T.order - 1, indices[pure, 0]] = values[pure]
    mixed = indices[~pure]
    return mixed, values[~pure] * multiplicity(mixed)


def _bonds(pairs, n_dim: int) -> tuple:
    if pairs is None or not len(pairs[1]):
        return np.empty(0, dtype=np.uint32), np.empty(0), _ints()
    indices, weights = pairs  # colexicographic: sorted by the larger site
    return indices[:, 0].astype(np.uint32), weights, _pointers(np.bincount(indices[:, 1], minlength=n_dim))


def _fibers(parts) -> tuple:
    grouped = [_fibers_of(indices, weights) for indices, weights in parts if len(weights)]
    if not grouped:
        return (_ints(), _ints(0), _ints(), np.empty(0), _ints(0))
    heads, tails, weights, counts = zip(*grouped)
    head_counts = np.concatenate([np.full(len(h), h.shape[1]) for h in heads])
    return (np.concatenate([h.ravel() for h in heads]).astype(np.int64), _pointers(head_counts),
            np.concatenate(tails).astype(np.int64), np.concatenate(weights), _pointers(np.concatenate(counts)))


def _fibers_of(indices: np.ndarray, weights: np.ndarray) -> tuple:
    heads = indices[:, 1:]
    starts = np.flatnonzero(np.concatenate([[True], np.any(heads[1:] != heads[:-1], axis=1)]))
    return heads[starts], indices[:, 0], weights, np.diff(np.append(starts, len(heads)))


def _squares(tensors: list[SymmetricTensor], n_dim: int) -> tuple:
    """Heads of all tensors, grouped by their smallest index, and their matrices."""
    found = [(h[0] if len(h) else n_dim - 1, T, row) for T in tensors for row, h in enumerate(colex_indices(n_dim, T.order - 2))]
    found.sort(key=lambda head: head[0])
    sizes = np.unique([h + 1 for h, *_ in found]).astype(np.int64)
    per_group = np.bincount([h for h, *_ in found], minlength=1)[sizes - 1] if found else _ints()
    heads = [colex_indices(n_dim, T.order - 2)[row] for _, T, row in found]
    square_ptr = _pointers(per_group * sizes**2)
    squares, starts = np.empty(square_ptr[-1]), _pointers(np.array([(h + 1) ** 2 for h, *_ in found], dtype=np.int64))
    for T in tensors:
        mine = [i for i, (_, other, _) in enumerate(found) if other is T]
        rows = np.array([found[i][2] for i in mine])
        places = np.empty(len(rows), dtype=np.int64)
        places[rows] = starts[mine]
        _unpack(T.values, colex_indices(n_dim, T.order - 2), n_dim, places, squares)
    flat = np.concatenate([_ints(), *heads]).astype(np.int64)
    return sizes, _pointers(per_group), flat, _pointers(np.array([len(h) for h in heads], dtype=np.int64)), squares, square_ptr


def _ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def _pointers(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


@njit(cache=True, error_model="numpy")
def _unpack(packed, heads, n_dim, places, squares):
    """Fill the matrix of every head, at places[head], from its run of packed entries, with multiplicities."""
    order = heads.shape[1] + 2
    total = 1.0
    for a in range(2, order + 1):
        total *= a
    e = 0
    for f in range(heads.shape[0]):
        h = heads[f, 0] if order > 2 else n_dim - 1
        q = h + 1
        repeats, run = 1.0, 1
        leading = 1  # how often the smallest head index is repeated
        for a in range(1, order - 2):
            run = run + 1 if heads[f, a] == heads[f, a - 1] else 1
            repeats *= run
            if run == a + 1:
                leading = run
        if order == 2:
            leading = 0
        for j in range(q):
            for i in range(j + 1):
                same = repeats
                if i == j:
                    same *= 2.0
                if j == h and order > 2:
                    same *= leading + 1
                    if i == j:
                        same *= (leading + 2) / 2.0
                weight = packed[e] * total / same
                e += 1
                squares[places[f] + i * q + j] = weight if i == j else 0.5 * weight
                squares[places[f] + j * q + i] = weight if i == j else 0.5 * weight


@njit(cache=True, error_model="numpy")
def value_and_score(poly, x, value, score):
    """Add S(x) without its constant to `value` (n_lanes,) and overwrite `score` (n_dim, n_lanes)."""
    if x.shape[1] == 1:
        _single(poly, x.reshape(x.size), value, score.reshape(score.size))
        return
    _onsite_lanes(poly.onsite, x, value, score)
    _bond_lanes(poly, x, value, score)
    _fiber_lanes(poly, x, value, score)
    _square_lanes(poly, x, value, score)


@njit(cache=True, error_model="numpy")
def _onsite_lanes(onsite, x, value, score):
    """Horner's rule for value and slope; overwrites `score`."""
    n_lanes = x.shape[1]
    for i in range(x.shape[0]):
        for c in range(n_lanes):
            S, slope = 0.0, 0.0
            for a in range(onsite.shape[0] - 1, -1, -1):
                slope = slope * x[i, c] + S
                S = S * x[i, c] + onsite[a, i]
            score[i, c] = slope * x[i, c] + S
            value[c] += S * x[i, c]


@njit(cache=True, error_model="numpy")
def _bond_lanes(poly, x, value, score):
    """Adds the bonds to `score`, and x·(what they add)/2 to `value`."""
    n_lanes = x.shape[1]
    pull = np.empty(n_lanes)
    for j in range(poly.bond_ptr.size - 1):
        pull[:] = 0.0
        for e in range(poly.bond_ptr[j], poly.bond_ptr[j + 1]):
            i, w = poly.neighbours[e], poly.bonds[e]
            for c in range(n_lanes):
                pull[c] += w * x[i, c]
                score[i, c] += w * x[j, c]
        for c in range(n_lanes):
            score[j, c] += pull[c]
            value[c] += pull[c] * x[j, c]


@njit(cache=True, error_model="numpy")
def _fiber_lanes(poly, x, value, score):
    n_lanes = x.shape[1]
    P, s = np.empty(n_lanes), np.empty(n_lanes)
    for f in range(poly.head_ptr.size - 1):
        head = poly.heads[poly.head_ptr[f] : poly.head_ptr[f + 1]]
        _product(head, -1, x, P)
        s[:] = 0.0
        for e in range(poly.entry_ptr[f], poly.entry_ptr[f + 1]):
            t, w = poly.tails[e], poly.weights[e]
            for c in range(n_lanes):
                score[t, c] += w * P[c]
                s[c] += w * x[t, c]
        _close(head, x, P, s, value, score)


@njit(cache=True, error_model="numpy")
def _square_lanes(poly, x, value, score):
    n_dim, n_lanes = x.shape
    P, s, V = np.empty(n_lanes), np.empty(n_lanes), np.empty((n_dim, n_lanes))
    room = np.empty(_most_rows(poly) * n_lanes)
    for g in range(poly.sizes.size):
        q, first, last = poly.sizes[g], poly.group_ptr[g], poly.group_ptr[g + 1]
        rows = (last - first) * q
        y = room[: rows * n_lanes].reshape(rows, n_lanes)
        np.dot(poly.squares[poly.square_ptr[g] : poly.square_ptr[g + 1]].reshape(rows, q), x[:q], y)
        V[:q] = 0.0
        for f in range(first, last):
            head = poly.square_heads[poly.square_head_ptr[f] : poly.square_head_ptr[f + 1]]
            _product(head, -1, x, P)
            s[:] = 0.0
            for i in range(q):
                for c in range(n_lanes):
                    s[c] += x[i, c] * y[(f - first) * q + i, c]
                    V[i, c] += P[c] * y[(f - first) * q + i, c]
            _close(head, x, P, s, value, score)
        for i in range(q):
            for c in range(n_lanes):
                score[i, c] += 2.0 * V[i, c]


@njit(cache=True, error_model="numpy")
def _most_rows(poly):
    rows = 0
    for g in range(poly.sizes.size):
        rows = max(rows, (poly.group_ptr[g + 1] - poly.group_ptr[g]) * poly.sizes[g])
    return rows


@njit(cache=True, error_model="numpy")
def _product(head, left_out, x, P):
    """P = Π x over the head, without the position left out."""
    P[:] = 1.0
    for a in range(head.size):
        if a != left_out:
            h = head[a]
            for c in range(P.size):
                P[c] *= x[h, c]


@njit(cache=True, error_model="numpy")
def _close(head, x, P, s, value, score):
    """S += P s and ∂_h S += s Π_{other heads} x; P is overwritten."""
    if head.size == 2:  # order 4 of a dense theory: one pass instead of seven
        h, k = head[0], head[1]
        for c in range(P.size):
            value[c] += P[c] * s[c]
            score[h, c] += x[k, c] * s[c]
            score[k, c] += x[h, c] * s[c]
        return
    for c in range(P.size):
        value[c] += P[c] * s[c]
    for a in range(head.size):
        _product(head, a, x, P)
        h = head[a]
        for c in range(P.size):
            score[h, c] += P[c] * s[c]


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _single(poly, x, value, score):
    """All parts for one lane, vectorized along sites and couplings."""
    value[0] += _onsite_single(poly.onsite, x, score)
    for j in range(poly.bond_ptr.size - 1):
        pull, here = 0.0, x[j]
        for e in range(poly.bond_ptr[j], poly.bond_ptr[j + 1]):
            pull += poly.bonds[e] * x[poly.neighbours[e]]
            score[poly.neighbours[e]] += poly.bonds[e] * here
        score[j] += pull
        value[0] += pull * here
    for f in range(poly.head_ptr.size - 1):
        head = poly.heads[poly.head_ptr[f] : poly.head_ptr[f + 1]]
        P, s = _product_single(head, -1, x), 0.0
        for e in range(poly.entry_ptr[f], poly.entry_ptr[f + 1]):
            score[poly.tails[e]] += poly.weights[e] * P
            s += poly.weights[e] * x[poly.tails[e]]
        _close_single(head, x, P * s, s, value, score)
    room = np.empty(_most_rows(poly))
    for g in range(poly.sizes.size):
        q, first, last = poly.sizes[g], poly.group_ptr[g], poly.group_ptr[g + 1]
        y = room[: (last - first) * q]
        _rows_times(poly.squares[poly.square_ptr[g] : poly.square_ptr[g + 1]], x[:q], y)
        for f in range(first, last):
            head = poly.square_heads[poly.square_head_ptr[f] : poly.square_head_ptr[f + 1]]
            P, s = _product_single(head, -1, x), 0.0
            for i in range(q):
                s += x[i] * y[(f - first) * q + i]
                score[i] += 2.0 * P * y[(f - first) * q + i]
            _close_single(head, x, P * s, s, value, score)


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _onsite_single(onsite, x, score):
    """Horner's rule in blocks of sites, power by power; overwrites `score` and returns S."""
    S, total = np.empty(_BLOCK), 0.0
    for start in range(0, x.size, _BLOCK):
        here, slope = x[start : start + _BLOCK], score[start : start + _BLOCK]
        S[:], slope[:] = 0.0, 0.0
        for a in range(onsite.shape[0] - 1, -1, -1):
            c = onsite[a, start : start + _BLOCK]
            for i in range(here.size):
                slope[i] = slope[i] * here[i] + S[i]
                S[i] = S[i] * here[i] + c[i]
        for i in range(here.size):
            slope[i] = slope[i] * here[i] + S[i]
            total += S[i] * here[i]
    return total


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _rows_times(matrix, x, y):
    if matrix.size > _SMALL:
        np.dot(matrix.reshape(y.size, x.size), x, y)
        return
    for r in range(y.size):
        s = 0.0
        for i in range(x.size):
            s += matrix[r * x.size + i] * x[i]
        y[r] = s


@njit(cache=True, error_model="numpy")
def _product_single(head, left_out, x):
    P = 1.0
    for a in range(head.size):
        if a != left_out:
            P *= x[head[a]]
    return P


@njit(cache=True, error_model="numpy")
def _close_single(head, x, Ps, s, value, score):
    value[0] += Ps
    for a in range(head.size):
        score[head[a]] += s * _product_single(head, a, x)


@njit(cache=True, error_model="numpy")
def hessian_vector(poly, x, v, out):
    """Overwrite `out` (n_dim, n_lanes) with the second derivatives at x contracted with v, both (n_dim, n_lanes).

    It is the slope of the score along v; slopes are primed: s' and P' follow from the product rule.
    """
    n_lanes = x.shape[1]
    P, slope, s, s_slope = np.empty(n_lanes), np.empty(n_lanes), np.empty(n_lanes), np.empty(n_lanes)
    _onsite_slope(poly.onsite, x, v, out)
    _bond_lanes(poly, v, P, out)
    for f in range(poly.head_ptr.size - 1):
        head = poly.heads[poly.head_ptr[f] : poly.head_ptr[f + 1]]
        _product_slope(head, -1, x, v, P, slope)
        s[:], s_slope[:] = 0.0, 0.0
        for e in range(poly.entry_ptr[f], poly.entry_ptr[f + 1]):
            t, w = poly.tails[e], poly.weights[e]
            for c in range(n_lanes):
                out[t, c] += w * slope[c]
                s[c] += w * x[t, c]
                s_slope[c] += w * v[t, c]
        _close_slope(head, x, v, P, slope, s, s_slope, out)
    room = np.empty((2, _most_rows(poly) * n_lanes))
    for g in range(poly.sizes.size):
        q, first, last = poly.sizes[g], poly.group_ptr[g], poly.group_ptr[g + 1]
        rows = (last - first) * q
        matrix = poly.squares[poly.square_ptr[g] : poly.square_ptr[g + 1]].reshape(rows, q)
        y, y_slope = room[0, : rows * n_lanes].reshape(rows, n_lanes), room[1, : rows * n_lanes].reshape(rows, n_lanes)
        np.dot(matrix, x[:q], y)
        np.dot(matrix, v[:q], y_slope)
        for f in range(first, last):
            head = poly.square_heads[poly.square_head_ptr[f] : poly.square_head_ptr[f + 1]]
            _product_slope(head, -1, x, v, P, slope)
            s[:], s_slope[:] = 0.0, 0.0
            for i in range(q):
                r = (f - first) * q + i
                for c in range(n_lanes):
                    s[c] += x[i, c] * y[r, c]
                    s_slope[c] += 2.0 * v[i, c] * y[r, c]
                    out[i, c] += 2.0 * (slope[c] * y[r, c] + P[c] * y_slope[r, c])
            _close_slope(head, x, v, P, slope, s, s_slope, out)


@njit(cache=True, error_model="numpy")
def _onsite_slope(onsite, x, v, out):
    """Horner's rule for the second derivative times v; overwrites `out`."""
    for i in range(x.shape[0]):
        for c in range(x.shape[1]):
            S, slope, bend = 0.0, 0.0, 0.0
            for a in range(onsite.shape[0] - 1, -1, -1):
                bend = bend * x[i, c] + slope
                slope = slope * x[i, c] + S
                S = S * x[i, c] + onsite[a, i]
            out[i, c] = 2.0 * (bend * x[i, c] + slope) * v[i, c]


@njit(cache=True, error_model="numpy")
def _product_slope(head, left_out, x, v, P, slope):
    """P = Π x over the head without the position left out, and its slope along v."""
    P[:], slope[:] = 1.0, 0.0
    for a in range(head.size):
        if a != left_out:
            h = head[a]
            for c in range(P.size):
                slope[c] = slope[c] * x[h, c] + P[c] * v[h, c]
                P[c] *= x[h, c]


@njit(cache=True, error_model="numpy")
def _close_slope(head, x, v, P, slope, s, s_slope, out):
    """Slope of ∂_h S = s Π_{other heads} x; P and slope are overwritten."""
    for a in range(head.size):
        _product_slope(head, a, x, v, P, slope)
        h = head[a]
        for c in range(P.size):
            out[h, c] += s_slope[c] * P[c] + s[c] * slope[c]


@njit(cache=True, error_model="numpy")
def hessian(poly, x, out):
    """Overwrite `out` (n_dim, n_dim, n_lanes) with the second derivatives at x (n_dim, n_lanes)."""
    n_dim, n_lanes = x.shape
    P, s, ones, diagonal = np.empty(n_lanes), np.empty(n_lanes), np.ones_like(x), np.empty_like(x)
    _onsite_slope(poly.onsite, x, ones, diagonal)
    out[:] = 0.0
    for i in range(n_dim):
        out[i, i] = diagonal[i]
    P[:] = 1.0
    for j in range(poly.bond_ptr.size - 1):
        for e in range(poly.bond_ptr[j], poly.bond_ptr[j + 1]):
            _add_pair(poly.neighbours[e], j, poly.bonds[e], P, out)
    for f in range(poly.head_ptr.size - 1):
        head = poly.heads[poly.head_ptr[f] : poly.head_ptr[f + 1]]
        s[:] = 0.0
        for e in range(poly.entry_ptr[f], poly.entry_ptr[f + 1]):
            for c in range(n_lanes):
                s[c] += poly.weights[e] * x[poly.tails[e], c]
        for a in range(head.size):
            _product(head, a, x, P)
            for e in range(poly.entry_ptr[f], poly.entry_ptr[f + 1]):
                _add_pair(poly.tails[e], head[a], poly.weights[e], P, out)
        _add_head_pairs(head, x, s, out)
    for g in range(poly.sizes.size):
        _square_hessian(poly, g, x, out)


@njit(cache=True, error_model="numpy")
def _square_hessian(poly, g, x, out):
    n_lanes = x.shape[1]
    q, first, last = poly.sizes[g], poly.group_ptr[g], poly.group_ptr[g + 1]
    rows = (last - first) * q
    matrix = poly.squares[poly.square_ptr[g] : poly.square_ptr[g + 1]]
    y, P, s = np.dot(matrix.reshape(rows, q), x[:q]), np.empty((last - first, n_lanes)), np.empty(n_lanes)
    for f in range(first, last):
        _product(poly.square_heads[poly.square_head_ptr[f] : poly.square_head_ptr[f + 1]], -1, x, P[f - first])
    within = np.dot(matrix.reshape(last - first, q * q).T, P)
    for i in range(q):
        for j in range(q):
            for c in range(n_lanes):
                out[i, j, c] += 2.0 * within[i * q + j, c]
    for f in range(first, last):
        head = poly.square_heads[poly.square_head_ptr[f] : poly.square_head_ptr[f + 1]]
        for a in range(head.size):
            _product(head, a, x, s)
            for i in range(q):
                for c in range(n_lanes):
                    P[0, c] = s[c] * y[(f - first) * q + i, c]
                _add_pair(i, head[a], 2.0, P[0], out)
        s[:] = 0.0
        for i in range(q):
            for c in range(n_lanes):
                s[c] += x[i, c] * y[(f - first) * q + i, c]
        _add_head_pairs(head, x, s, out)


@njit(cache=True, error_model="numpy")
def _add_pair(i, j, weight, P, out):
    """Both orders of the derivative by x_i and x_j of weight P x_i x_j."""
    for c in range(P.size):
        out[i, j, c] += weight * P[c]
    for c in range(P.size):
        out[j, i, c] += weight * P[c]


@njit(cache=True, error_model="numpy")
def _add_head_pairs(head, x, s, out):
    """s Π_{other heads} x to every ordered pair of head positions."""
    P = np.empty(s.size)
    for a in range(head.size):
        for b in range(head.size):
            if a != b:
                P[:] = s
                for d in range(head.size):
                    if d != a and d != b:
                        for c in range(s.size):
                            P[c] *= x[head[d], c]
                for c in range(s.size):
                    out[head[a], head[b], c] += P[c]


@njit(cache=True, error_model="numpy")
def leapfrog(poly, x, p, value, score, inverse_mass, step, n_steps):
    """Advance all lanes by `n_steps` leapfrog steps in place, and leave value and score at the end point.

    inverse_mass is (n_dim, 1) for a diagonal and (n_dim, n_dim) for a dense mass; `score` must be that of x.
    """
    diagonal = inverse_mass.shape[1] == 1
    for _ in range(n_steps):
        p += 0.5 * step * score
        if diagonal:
            x += step * inverse_mass * p
        else:
            x += step * np.dot(inverse_mass, p)
        value[:] = 0.0
        value_and_score(poly, x, value, score)
        p += 0.5 * step * score
