"""Kernels that evaluate a polynomial on many points at once.

The unique entries A_{i1 ≤ … ≤ ik} ≠ 0, times their multiplicity w, are grouped into *fibers*: entries that share all
indices but the first. With the head P = x_{i2} ⋯ x_{ik} and the sum s = Σ w x_{i1} along the fiber,

    S += P s,    ∂_{i1} S += w P,    ∂_{h} S += s Π_{other heads} x     for each head position h,

so an entry of a long fiber (dense couplings) costs two multiply-adds and an entry alone in its fiber (local couplings) a
few more: one scheme for both. Arrays hold points in *lanes*, x of shape (n_dim, n_lanes): the innermost loop runs over points
or chains and vectorizes. Everything compiled lives in this file, because a cached kernel does not notice changes in a callee
elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from .tensors import SymmetricTensor, multiplicity


class Fibers(NamedTuple):
    """The non-zero entries of a polynomial without its constant, grouped by head.

    Attributes
    ----------
    heads, head_ptr : int arrays
        The k − 1 head indices of fiber f are heads[head_ptr[f]:head_ptr[f + 1]].
    tails, weights, entry_ptr : arrays
        First index and multiplicity-weighted value of the entries of fiber f, in entry_ptr[f]:entry_ptr[f + 1].
    """

    heads: np.ndarray
    head_ptr: np.ndarray
    tails: np.ndarray
    weights: np.ndarray
    entry_ptr: np.ndarray


def fibers(couplings: dict[int, SymmetricTensor]) -> Fibers:
    """Group the non-zero entries of all couplings of order ≥ 1."""
    parts = [_fibers_of(T) for k, T in sorted(couplings.items()) if k > 0]
    heads = [h.ravel() for h, *_ in parts]
    head_counts = np.concatenate([np.full(len(h), h.shape[1]) for h, *_ in parts])
    entry_counts = np.concatenate([c for *_, c in parts])
    return Fibers(
        np.concatenate(heads).astype(np.int64),
        _pointers(head_counts),
        np.concatenate([t for _, t, _, _ in parts]).astype(np.int64),
        np.concatenate([w for _, _, w, _ in parts]),
        _pointers(entry_counts),
    )


def _fibers_of(T: SymmetricTensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    indices = T.indices[T.packed != 0]
    weights = T.packed[T.packed != 0] * multiplicity(indices)
    heads = indices[:, 1:]
    starts = np.flatnonzero(np.concatenate([[True], np.any(heads[1:] != heads[:-1], axis=1)])[: len(heads)])
    return heads[starts], indices[:, 0], weights, np.diff(np.append(starts, len(heads)))


def _pointers(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


@njit(cache=True, error_model="numpy")
def value_and_score(heads, head_ptr, tails, weights, entry_ptr, x, value, score):
    """Add S(x) without its constant to `value` (n_lanes,) and overwrite `score` (n_dim, n_lanes)."""
    n_lanes = x.shape[1]
    P, s = np.empty(n_lanes), np.empty(n_lanes)
    score[:] = 0.0
    for f in range(head_ptr.size - 1):
        first, last = head_ptr[f], head_ptr[f + 1]
        for c in range(n_lanes):
            P[c] = 1.0
            s[c] = 0.0
        for a in range(first, last):
            h = heads[a]
            for c in range(n_lanes):
                P[c] *= x[h, c]
        for e in range(entry_ptr[f], entry_ptr[f + 1]):
            t, w = tails[e], weights[e]
            for c in range(n_lanes):
                score[t, c] += w * P[c]
                s[c] += w * x[t, c]
        for c in range(n_lanes):
            value[c] += P[c] * s[c]
        for a in range(first, last):
            for c in range(n_lanes):
                P[c] = s[c]
            for b in range(first, last):
                if b != a:
                    h = heads[b]
                    for c in range(n_lanes):
                        P[c] *= x[h, c]
            h = heads[a]
            for c in range(n_lanes):
                score[h, c] += P[c]


@njit(cache=True, error_model="numpy")
def hessian(heads, head_ptr, tails, weights, entry_ptr, x, out):
    """Overwrite `out` (n_dim, n_dim, n_lanes) with the second derivatives at x (n_dim, n_lanes)."""
    n_lanes = x.shape[1]
    out[:] = 0.0
    for f in range(head_ptr.size - 1):
        first, last = head_ptr[f], head_ptr[f + 1]
        for c in range(n_lanes):
            for a in range(first, last):
                others = 1.0
                for b in range(first, last):
                    if b != a:
                        others *= x[heads[b], c]
                s = 0.0
                for e in range(entry_ptr[f], entry_ptr[f + 1]):
                    out[tails[e], heads[a], c] += weights[e] * others
                    out[heads[a], tails[e], c] += weights[e] * others
                    s += weights[e] * x[tails[e], c]
                for b in range(first, last):
                    if b != a:
                        others = s
                        for d in range(first, last):
                            if d != a and d != b:
                                others *= x[heads[d], c]
                        out[heads[a], heads[b], c] += others


@njit(cache=True, error_model="numpy")
def leapfrog(heads, head_ptr, tails, weights, entry_ptr, x, p, value, score, inverse_mass, step, n_steps):
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
        value_and_score(heads, head_ptr, tails, weights, entry_ptr, x, value, score)
        p += 0.5 * step * score
