"""Kernels that evaluate a polynomial, its gradient and its second derivatives.

Points are *lanes*: x has shape (n_dim, n_lanes), so that innermost loops run over points or chains and vectorize; with one lane they
run along sites and couplings instead. On-site potentials go by Horner's rule and bonds site by site. The entries c x_{i1} ⋯ x_{ik} of a
fiber have in common the head P = x_{i2} ⋯ x_{ik}; with s = Σ c x_{i1} along the fiber,

    S += P s,    ∂_{i1} S += c P,    ∂_h S += s Π_{other heads} x.

A head with most of its entries has a quadratic form; its symmetric matrix B, of size q, gives

    y = B x_{<q},    s = x_{<q}·y,    P = Π_{head} x,    S += P s,    ∂_{<q} S += 2 P y,    ∂_h S += s Π_{other heads} x,

and heads of the same size share one matrix product, which is where nearly all the arithmetic is.
"""

from __future__ import annotations

import numpy as np

from ._jit import borrowed, njit, spliced

_SUMS = {"reassoc", "contract", "nsz"}  # for sums along sites and couplings, which may go in any order
_BLOCK = 128  # sites whose running values stay in the cache
_LANES = 64  # lanes of one product of pairs, few enough that it is not spread over threads up to 10 variables


@spliced
def value_and_score(poly, x, value, score):
    """Add S(x) without its constant to `value` (n_lanes,) and overwrite `score` (n_dim, n_lanes)."""
    poly, x, value, score = borrowed((poly, x, value, score))
    if x.shape[1] == 1:  # along sites and couplings instead
        point, slope = x.reshape(x.size), score.reshape(score.size)
        _onsite_single(poly, point, value, slope)
        _bonds_single(poly, point, value, slope)
        _fibers_single(poly, point, value, slope)
        _squares_single(poly, point, value, slope)
    else:
        _onsite_lanes(poly.onsite, x, value, score)
        _bond_lanes(poly, x, value, score)
        _fiber_lanes(poly, x, value, score)
        if poly.pair_matrix.size:
            _pair_lanes(poly.pair_matrix, x, value, score)
        else:
            _square_lanes(poly, x, value, score)


@njit
def _onsite_lanes(onsite, x, value, score):
    """Horner's rule for value and slope, power by power; overwrites `score`."""
    top, n_lanes = onsite.shape[0] - 1, x.shape[1]
    S = np.empty(n_lanes)
    for i in range(x.shape[0]):
        here, slope = x[i], score[i]
        for c in range(n_lanes):
            S[c], slope[c] = onsite[top, i], 0.0
        for a in range(top - 1, -1, -1):
            below = onsite[a, i]
            for c in range(n_lanes):
                slope[c] = slope[c] * here[c] + S[c]
                S[c] = S[c] * here[c] + below
        for c in range(n_lanes):
            slope[c] = slope[c] * here[c] + S[c]
            value[c] += S[c] * here[c]


@njit
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


@njit
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


@njit
def _square_lanes(poly, x, value, score):
    n_dim, n_lanes = x.shape
    P, s, V = np.empty(n_lanes), np.empty(n_lanes), np.empty((n_dim, n_lanes))
    room, filled = np.empty(_most_rows(poly) * n_lanes), np.empty(_most_entries(poly))
    for g in range(poly.sizes.size):
        q, first, last = poly.sizes[g], poly.group_ptr[g], poly.group_ptr[g + 1]
        rows = (last - first) * q
        y = room[: rows * n_lanes].reshape(rows, n_lanes)
        np.dot(_matrices(poly.coefficients, poly.starts[first:last], q, filled), x[:q], y)
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


@njit
def _pair_lanes(matrix, x, value, score):
    """A⁽⁴⁾_ij·· x x and A⁽³⁾_i·· x x of some lanes at a time in one product; the gradient is k times A⁽ᵏ⁾ x ⋯ x, and S is x·that/k."""
    n, n_pairs, size = x.shape[0], matrix.shape[1], min(_LANES, x.shape[1])
    room = np.empty((2 * n_pairs + n) * size)
    for start in range(0, x.shape[1], size):
        n_lanes = min(size, x.shape[1] - start)
        pairs = room[: n_pairs * n_lanes].reshape(n_pairs, n_lanes)
        contracted = room[n_pairs * n_lanes : (2 * n_pairs + n) * n_lanes].reshape(n_pairs + n, n_lanes)
        _multiply_pairs(x, start, pairs)
        np.dot(matrix[:-1], pairs, contracted)
        _close_pairs(matrix[-1], x, start, pairs, contracted, value[start : start + n_lanes], score)


@njit
def _multiply_pairs(x, start, pairs):
    e = 0
    for j in range(x.shape[0]):
        for i in range(j + 1):
            for c in range(pairs.shape[1]):
                pairs[e, c] = x[i, start + c] * x[j, start + c]
            e += 1


@njit
def _close_pairs(quadratic, x, start, pairs, contracted, value, score):
    """Add to S and ∇S."""
    e, lanes, stop = 0, range(value.size), start + value.size
    for j in range(x.shape[0]):
        cubic, here, slope = contracted[quadratic.size + j], x[j, start:stop], score[j, start:stop]
        for c in lanes:
            value[c] += cubic[c] * here[c]
            slope[c] += 3.0 * cubic[c]
        for i in range(j):
            a, quartic, other, other_slope = quadratic[e], contracted[e], x[i, start:stop], score[i, start:stop]
            for c in lanes:
                value[c] += 2.0 * pairs[e, c] * (quartic[c] + a)
                other_slope[c] += (4.0 * quartic[c] + 2.0 * a) * here[c]
                slope[c] += (4.0 * quartic[c] + 2.0 * a) * other[c]
            e += 1
        a, quartic = quadratic[e], contracted[e]
        for c in lanes:
            value[c] += pairs[e, c] * (quartic[c] + a)
            slope[c] += (4.0 * quartic[c] + 2.0 * a) * here[c]
        e += 1


@njit
def _most_rows(poly):
    rows = 0
    for g in range(poly.sizes.size):
        rows = max(rows, (poly.group_ptr[g + 1] - poly.group_ptr[g]) * poly.sizes[g])
    return rows


@njit
def _most_entries(poly):
    entries = 0
    for g in range(poly.sizes.size):
        entries = max(entries, (poly.group_ptr[g + 1] - poly.group_ptr[g]) * poly.sizes[g] ** 2)
    return entries


@njit
def _matrices(coefficients, starts, q, filled):
    """The symmetric matrices B of some heads below each other, shape (n_heads q, q); `filled` is room for them."""
    for f in range(starts.size):
        e, B = starts[f], filled[f * q * q : (f + 1) * q * q].reshape(q, q)
        for j in range(q):
            for i in range(j):
                B[i, j] = B[j, i] = 0.5 * coefficients[e + i]
            B[j, j] = coefficients[e + j]
            e += j + 1
    return filled[: starts.size * q * q].reshape(starts.size * q, q)


@njit
def _product(head, left_out, x, P):
    """P = Π x over the head, without the position left out."""
    P[:] = 1.0
    for a in range(head.size):
        if a != left_out:
            h = head[a]
            for c in range(P.size):
                P[c] *= x[h, c]


@njit
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


@njit(fastmath=_SUMS)
def _onsite_single(poly, x, value, score):
    """Horner's rule in blocks of sites, power by power; overwrites `score`."""
    onsite = poly.onsite
    top, size, total = onsite.shape[0] - 1, min(_BLOCK, x.size), 0.0
    S = np.empty(size)
    for start in range(0, x.size, size):
        here, slope, c = x[start : start + size], score[start : start + size], onsite[top, start : start + size]
        for i in range(here.size):
            S[i], slope[i] = c[i], 0.0
        for a in range(top - 1, -1, -1):
            c = onsite[a, start : start + size]
            for i in range(here.size):
                slope[i] = slope[i] * here[i] + S[i]
                S[i] = S[i] * here[i] + c[i]
        for i in range(here.size):
            slope[i] = slope[i] * here[i] + S[i]
            total += S[i] * here[i]
    value[0] += total


@njit(fastmath=_SUMS)
def _bonds_single(poly, x, value, score):
    total = 0.0
    for j in range(poly.bond_ptr.size - 1):
        pull, here = 0.0, x[j]
        for e in range(poly.bond_ptr[j], poly.bond_ptr[j + 1]):
            i, w = poly.neighbours[e], poly.bonds[e]
            pull += w * x[i]
            score[i] += w * here
        score[j] += pull
        total += pull * here
    value[0] += total


@njit(fastmath=_SUMS)
def _fibers_single(poly, x, value, score):
    for f in range(poly.head_ptr.size - 1):
        P, s, head = 1.0, 0.0, poly.heads[poly.head_ptr[f] : poly.head_ptr[f + 1]]
        for h in head:
            P *= x[h]
        for e in range(poly.entry_ptr[f], poly.entry_ptr[f + 1]):
            t, w = poly.tails[e], poly.weights[e]
            score[t] += w * P
            s += w * x[t]
        _close_single(head, x, P, s, value, score)


@njit(fastmath=_SUMS)
def _squares_single(poly, x, value, score):
    """s = Σ c_ij x_i x_j of each head, and Σ P c over all of them, from which the gradient follows: two passes along each run of pairs."""
    if poly.sizes.size == 0:
        return
    n = poly.sizes[-1]
    pairs, weighted, e = np.empty(n * (n + 1) // 2), np.zeros(n * (n + 1) // 2), 0
    for j in range(n):
        for i in range(j + 1):
            pairs[e + i] = x[i] * x[j]
        e += j + 1
    for g in range(poly.sizes.size):
        n_pairs = poly.sizes[g] * (poly.sizes[g] + 1) // 2
        for f in range(poly.group_ptr[g], poly.group_ptr[g + 1]):
            head = poly.square_heads[poly.square_head_ptr[f] : poly.square_head_ptr[f + 1]]
            P, s, c = 1.0, 0.0, poly.coefficients[poly.starts[f] : poly.starts[f] + n_pairs]
            for h in head:
                P *= x[h]
            for e in range(n_pairs):
                s += c[e] * pairs[e]
                weighted[e] += P * c[e]
            _close_single(head, x, P, s, value, score)
    e = 0
    for j in range(n):
        pull = 0.0
        for i in range(j + 1):
            pull += weighted[e + i] * x[i]
            score[i] += weighted[e + i] * x[j]
        score[j] += pull
        e += j + 1


@njit(fastmath=_SUMS)
def _close_single(head, x, P, s, value, score):
    """S += P s and ∂_h S += s Π_{other heads} x."""
    value[0] += P * s
    if head.size == 2:  # order 4 of a dense theory, nearly all heads of most theories
        score[head[0]] += s * x[head[1]]
        score[head[1]] += s * x[head[0]]
        return
    for a in range(head.size):
        others = s
        for b in range(head.size):
            if b != a:
                others *= x[head[b]]
        score[head[a]] += others


@njit
def hessian_vector(poly, x, v, out):
    """Overwrite `out` (n_dim, n_lanes) with the second derivatives at x contracted with v, both (n_dim, n_lanes).

    It is the slope of the score along v; slopes are primed: s' and P' follow from the product rule.
    """
    poly, x, v, out = borrowed((poly, x, v, out))
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
    room, filled = np.empty((2, _most_rows(poly) * n_lanes)), np.empty(_most_entries(poly))
    for g in range(poly.sizes.size):
        q, first, last = poly.sizes[g], poly.group_ptr[g], poly.group_ptr[g + 1]
        rows = (last - first) * q
        matrix = _matrices(poly.coefficients, poly.starts[first:last], q, filled)
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


@njit
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


@njit
def _product_slope(head, left_out, x, v, P, slope):
    """P = Π x over the head without the position left out, and its slope along v."""
    P[:], slope[:] = 1.0, 0.0
    for a in range(head.size):
        if a != left_out:
            h = head[a]
            for c in range(P.size):
                slope[c] = slope[c] * x[h, c] + P[c] * v[h, c]
                P[c] *= x[h, c]


@njit
def _close_slope(head, x, v, P, slope, s, s_slope, out):
    """Slope of ∂_h S = s Π_{other heads} x; P and slope are overwritten."""
    for a in range(head.size):
        _product_slope(head, a, x, v, P, slope)
        h = head[a]
        for c in range(P.size):
            out[h, c] += s_slope[c] * P[c] + s[c] * slope[c]


@njit
def hessian(poly, x, out):
    """Overwrite `out` (n_dim, n_dim, n_lanes) with the second derivatives at x (n_dim, n_lanes)."""
    poly, x, out = borrowed((poly, x, out))
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


@njit
def _square_hessian(poly, g, x, out):
    n_lanes = x.shape[1]
    q, first, last = poly.sizes[g], poly.group_ptr[g], poly.group_ptr[g + 1]
    rows = (last - first) * q
    matrix = _matrices(poly.coefficients, poly.starts[first:last], q, np.empty(rows * q))
    y, P, s = np.dot(matrix, x[:q]), np.empty((last - first, n_lanes)), np.empty(n_lanes)
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


@njit
def _add_pair(i, j, weight, P, out):
    """Both orders of the derivative by x_i and x_j of weight P x_i x_j."""
    for c in range(P.size):
        out[i, j, c] += weight * P[c]
    for c in range(P.size):
        out[j, i, c] += weight * P[c]


@njit
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
